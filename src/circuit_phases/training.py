"""Training runs to their end: evaluated, saved as they go, continued where they were stopped (paper, Sec. 3)."""

from __future__ import annotations

import json
import logging
import math
import time
from bisect import bisect_left
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from circuit_phases.checkpoints import load_tensors, saved_checkpoints
from circuit_phases.code_digest import code_digest, library_versions
from circuit_phases.compilation import MIXED
from circuit_phases.files import DamagedFile, UserError, locked, remove_leftovers
from circuit_phases.interruption import StopRequest
from circuit_phases.paths import PARTIAL, checkpoint_file
from circuit_phases.run_in_progress import RunInProgress, State
from circuit_phases.schemas import RUNS, TRAINING
from circuit_phases.settings import Device, RunSettings, TrainingSettings
from circuit_phases.splits import EvaluationSet
from circuit_phases.stopping import SOLVED
from circuit_phases.tables import read_table, table_from_rows, write_table
from circuit_phases.trainer import Trainer, TrainerOfSeeds
from circuit_phases.world import World

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_SAVES = 30.0
SECONDS_BETWEEN_LINES = 10


class Diverged(UserError):
    """A run whose loss is not finite any more."""


@dataclass(frozen=True)
class Member:
    """One seed of a configuration: its world, its evaluation sequences, and the folder of its results."""

    seed: int
    world: World
    evaluation: EvaluationSet
    folder: Path


def checkpoint_steps(settings: TrainingSettings) -> list[int]:
    """The steps at which weights are saved: 0, then spaced as set, up to the last step.

    From the first evaluation on they are steps of evaluations, so that weights and accuracy belong together.
    """
    steps, interval = settings.max_steps, settings.evaluation_interval
    count = min(settings.checkpoints, interval + steps // interval + 1)

    def chosen(spaced: np.ndarray) -> list[int]:
        whole = np.where(spaced < interval, spaced.round(), (spaced / interval).round() * interval)
        return sorted({0, steps, *(int(step) for step in whole)})

    if settings.checkpoint_spacing == "linear":
        return chosen(np.linspace(0, steps, count))

    def log_spaced(asked: int) -> list[int]:
        return chosen(np.geomspace(1, steps, asked))

    # Rounding merges steps; ask for more until the asked number is left.
    candidates = range(count - 2, 8 * count)
    return log_spaced(candidates[0] + bisect_left(candidates, count, key=lambda asked: len(log_spaced(asked))))


def require_trained(settings: RunSettings, seed: int, folder: Path) -> None:
    """Check that a run's results are all there and whole.

    Raises:
        UserError: if one is missing.
        DamagedFile: if one is damaged, or another run's.
    """
    tables = {}
    for name, schema in {"training": TRAINING, "run": RUNS}.items():
        tables[name] = read_table(path := folder / f"{name}.parquet", schema)
        if set(zip(*(tables[name][key].to_pylist() for key in ("run", "seed")), strict=True)) != {
            (settings.name, seed)
        }:
            raise DamagedFile(path, "it holds another run")
    steps = tables["run"]["steps"][0].as_py()
    for step in {*checkpoint_steps(settings.training), steps}:
        if step <= steps:
            _, metadata = load_tensors(path := folder / "checkpoints" / checkpoint_file(step))
            if not {"run": settings.name, "seed": str(seed), "step": str(step)}.items() <= metadata.items():
                raise DamagedFile(path, "it holds another run, or another step")


def train(
    settings: RunSettings,
    world: World,
    evaluation: EvaluationSet,
    seed: int,
    folder: Path,
    progress: bool = True,
    device: Device = "cpu",
) -> Path:
    """Train to the end and leave `training.parquet`, `run.parquet` and `checkpoints/` in `folder`.

    Work in progress lies in `folder/partial`; a run that was stopped continues from there and ends
    with the same numbers as one that was not.

    Raises:
        UserError: if the loss becomes NaN or infinite, a file cannot be written, or another job trains this run.
        SystemExit: after SIGTERM or SIGINT, with all saved.
    """
    train_together(settings, [Member(seed, world, evaluation, folder)], progress, device)
    return folder


def train_together(
    settings: RunSettings,
    members: Sequence[Member],
    progress: bool = True,
    device: Device = "cpu",
    seconds_between_saves: float | None = None,
) -> None:
    """Train several seeds of one configuration as one batched model; each leaves what `train` would.

    A job that dies loses at most `seconds_between_saves`.

    Raises:
        UserError, SystemExit: as `train` does.
    """
    with ExitStack() as locks, StopRequest() as stop:
        for folder in [member.folder for member in members]:
            locks.enter_context(locked(folder))
            for name in ("checkpoints", "training.parquet", "run.parquet", PARTIAL):
                remove_leftovers(folder / name)
        runs = [_Run(settings, member, device) for member in members]
        # The sequences stand in batches now; with N = 32 they are 45 MB.
        del members
        between_saves = SECONDS_BETWEEN_SAVES if seconds_between_saves is None else seconds_between_saves
        # A seed that was added later begins by itself: the others lose nothing to it.
        for group in ([run for run in runs if run.begun], [run for run in runs if not run.begun]):
            if group:
                _Job(group, stop, progress, between_saves).run()
        for run in runs:
            run.finish()


class _Job:
    """Runs that take their steps together, from where they were left to their ends."""

    def __init__(self, runs: Sequence[_Run], stop: StopRequest, progress: bool, seconds_between_saves: float) -> None:
        self.runs = runs
        self._take = runs[0].trainer.step if len(runs) == 1 else TrainerOfSeeds([run.trainer for run in runs]).step
        self._stop, self._progress, self._between_saves = stop, progress, seconds_between_saves

    def run(self) -> None:
        """Make again what is missing, then take all steps that are left."""
        for run in self.runs:
            run.takes_its_share(len(self.runs))
        for first, last in self._stretches():
            for run in self.runs:
                run.stand_at(first)
            if last is not None:
                logger.info("Again from step %d to %d, for what is missing there", first, last)
            elif first:
                logger.info("Continuing from step %d", first)
            self._train(first, last)

    def _stretches(self) -> list[tuple[int, int | None]]:
        """Where to stand and up to which step to go on from there, in order; the last goes on to the end.

        All start where every run can stand. Those before the last make again what is missing before that place.
        """
        points = [step for step in sorted({0}.union(*(run.points for run in self.runs))) if self._can_stand_at(step)]
        newest = points[-1]
        stretches: dict[int, int | None] = {}
        for step in sorted(set().union(*(run.missing(newest) for run in self.runs))):
            stretches[points[max(0, bisect_left(points, step) - 1)]] = step
        if newest not in stretches.values():
            stretches[newest] = newest
        *before, (start, _) = stretches.items()
        return [*before, (start, None)]

    def _can_stand_at(self, step: int) -> bool:
        return step == 0 or all(run.can_stand_at(step) for run in self.runs)

    def _train(self, step: int, last: int | None) -> None:
        """Take the steps after one at which all runs stand."""
        first = step
        started = last_save = last_line = time.monotonic()
        while step != last and not all(run.done for run in self.runs):
            step += 1
            losses, corrects = (values.reshape(-1) for values in self._take(step))
            if step == first + 1:
                self._compare_forms()
            diverged = []
            for run, loss, correct in zip(self.runs, losses, corrects, strict=True):
                if not run.done:
                    try:
                        run.stepped(step, loss, correct)
                    except Diverged as error:
                        run.done = True
                        diverged.append(error)
            if diverged:
                self._save()
                raise diverged[0]
            if self._stop.signal:
                self._save()
                logger.warning("Stopped by %s; saved at step %d. Run again to continue.", self._stop.signal.name, step)
                raise SystemExit(self._stop.exit_code)
            now = time.monotonic()
            if now - last_save > self._between_saves:
                self._save()
                last_save = time.monotonic()
            if self._progress and now - last_line > SECONDS_BETWEEN_LINES:
                for run in self.runs:
                    logger.info(run.progress_line(now - started, first))
                last_line = now

    def _compare_forms(self) -> None:
        """Say so where a run goes on in another form than it had."""
        for run in self.runs:
            before, now = run.form_before, run.trainer.compiler.form
            run.form_before = None
            if before not in (None, now):
                logger.warning("%s: it was %s so far and is %s from here. %s", run.folder, before, now, MIXED)

    def _save(self) -> None:
        for run in self.runs:
            if not run.done:
                run.save()


class _Run:
    """One seed of a configuration while it trains: its rows, and what is saved of it."""

    def __init__(self, settings: RunSettings, member: Member, device: Device) -> None:
        self.trainer = Trainer(settings, member.world, member.evaluation, member.seed, device)
        self.settings, self.seed, self.folder = settings, member.seed, member.folder
        self.step, self.done = 0, False
        identity = {
            "run": settings.name,
            "seed": str(self.seed),
            "code": code_digest("training"),
            "libraries": json.dumps(library_versions("training"), sort_keys=True),
        }
        self._saved = RunInProgress(member.folder, identity)
        self._interval = settings.training.evaluation_interval
        self._checkpoint_at = checkpoint_steps(settings.training)
        found = self._saved.found(self._interval)
        self.points, self._checkpoints, self._rows = found.points, found.checkpoints, found.rows
        newest = max(found.states.values(), key=lambda state: state.step, default=None)
        self._end = newest.step if newest and newest.ended else math.inf
        self.form_before = newest.form if newest else None
        self._seconds = newest.seconds if newest else 0.0
        for step, state in found.states.items():
            if (step in self._checkpoint_at or state.ended) and step not in self._checkpoints:
                self._saved.save_checkpoint(step, state.parameters)
                self._checkpoints |= {step}
        self._losses: list[Tensor] = []
        self._corrects: list[Tensor] = []

    @property
    def begun(self) -> bool:
        """Whether an earlier job trained it to its first evaluation; what came before is no loss."""
        return max(self.points, default=0) >= self._interval

    def takes_its_share(self, of: int) -> None:
        """Count the time from now on, as one of so many runs that share it."""
        self._since, self._sharing = time.monotonic(), of

    def can_stand_at(self, step: int) -> bool:
        """Whether the run can continue from a step, or has ended before it."""
        return step in self.points or step >= self._end

    def missing(self, until: int) -> set[int]:
        """The steps up to one, or to its end, whose weights or evaluation it lacks."""
        until = int(min(until, self._end))
        weights = {step for step in self._checkpoint_at if step <= until} | ({until} if until == self._end else set())
        evaluations = range(0, until + 1, self._interval)
        return (weights - self._checkpoints) | (set(evaluations) - self._rows.keys())

    def stand_at(self, step: int) -> None:
        """Take the state of a step that it can stand at, or of its end before that; at step 0, begin."""
        step = int(min(step, self._end))
        if step in self.points:
            state = self._saved.state_at(step)
            for name, tensor in state.parameters.items():
                self.trainer.parameters[name].copy_(tensor)
            self._losses, self._corrects = (
                list(each.to(self.trainer.device)) for each in (state.losses, state.corrects)
            )
        self.step = step
        if step == 0 and self.missing(0):
            self._keep(self.trainer.evaluate(0))
            self._save_checkpoint()
        # A full disk may have kept the state of the end from being saved.
        self.done = step == self._end or (0 < step == self._evaluated and self._nothing_left())

    def stepped(self, step: int, loss: Tensor, correct: Tensor) -> None:
        """Note a step that was taken; evaluate and save weights where that is due."""
        self.step = step
        self._losses.append(loss)
        self._corrects.append(correct)
        if step in self._checkpoint_at:
            self._save_checkpoint()
        if step % self._interval == 0:
            self._record()
            self.done = self._nothing_left()
            if self.done:
                # Of seeds trained together, those that are left go on changing the weights of all.
                self._end = step
                self._save_checkpoint()
                self.save()

    def save(self) -> None:
        """Save all that is needed to continue from this step."""
        now = time.monotonic()
        self._seconds, self._since = self._seconds + (now - self._since) / self._sharing, now
        losses = torch.stack(self._losses) if self._losses else torch.empty(0)
        corrects = torch.stack(self._corrects) if self._corrects else torch.empty(0, dtype=torch.long)
        state = State(
            self.step, self.trainer.parameters, losses, corrects, self._seconds, self.done, self.trainer.compiler.form
        )
        self._saved.save(state, self._rows)

    def finish(self) -> None:
        """Put the finished run into its place."""
        rows = [row for step in sorted(self._rows) for row in self._rows[step]]
        write_table(self.folder / "training.parquet", table_from_rows(rows, TRAINING), TRAINING)
        write_table(self.folder / "run.parquet", table_from_rows([self._summary()], RUNS), RUNS)
        self._saved.publish_checkpoints(self.folder / "checkpoints")
        self._saved.put_away()

    def progress_line(self, elapsed: float, first: int) -> str:
        """How far the run is, how fast, how long it will take, and its accuracy."""
        return tqdm.format_meter(
            self.step,
            self.settings.training.max_steps,
            elapsed,
            bar_format="{desc}: {n_fmt}/{total_fmt} steps [{elapsed}<{remaining}, {rate_fmt}{postfix}]",
            prefix=f"{self.settings.name} seed {self.seed}",
            unit="step",
            initial=first,
            postfix=f"accuracy {self._latest('accuracy'):.3f}",
        )

    def _record(self) -> None:
        losses, corrects = torch.stack(self._losses), torch.stack(self._corrects)
        if not bool(losses.isfinite().all()):
            self._stop_diverged(self.step - len(losses) + 1 + int((~losses.isfinite()).nonzero()[0]))
        count = len(losses) * self.settings.training.batch_size
        means = {"loss": float(losses.double().mean()), "accuracy": float(corrects.sum() / count)}
        train = {"step": self.step, "split": "train", "task": None, "sequences": count} | means
        train |= {"memory": None, "inference": None}
        self._keep([train, *self.trainer.evaluate(self.step)])
        self._losses, self._corrects = [], []
        if not np.isfinite(self._latest("loss")):
            self._stop_diverged(self.step)

    def _keep(self, rows: list[dict[str, Any]]) -> None:
        self._rows[self.step] = [{"run": self.settings.name, "seed": self.seed} | row for row in rows]

    def _latest(self, quantity: str, evaluations_ago: int = 0) -> float:
        """Accuracy or loss on the iid split at the last evaluation, or at one before it."""
        step = self._evaluated - evaluations_ago * self._interval
        return next(row[quantity] for row in self._rows[step] if row["split"] == "iid" and row["task"] is None)

    @property
    def _evaluated(self) -> int:
        """The step of the last evaluation."""
        return self.step - self.step % self._interval

    def _nothing_left(self) -> bool:
        """Whether the run, just evaluated, is at its end, or has been solved for as long as is asked for.

        A run whose masks are still to change is not.
        """
        training = self.settings.training
        if self.step < min(self.settings.model.mask_changes[-1], training.max_steps):
            return False
        evaluations = min(training.stop_after, 1 + self.step // self._interval)
        solved = 0 < training.stop_after == evaluations and all(
            self._latest("accuracy", ago) >= SOLVED for ago in range(evaluations)
        )
        return self.step == training.max_steps or solved

    def _stop_diverged(self, first: int) -> NoReturn:
        saved = saved_checkpoints(self._saved.checkpoints)
        # The loss of a step is that of the weights before it.
        good = max((step for step in saved if step < first - 1), default=0)
        raise Diverged(
            f"{self.settings.name} seed {self.seed}: the loss is not finite at step {first}. "
            f"Lower learning_rate (now {self.settings.training.learning_rate}); last weights: {saved[good]}."
        )

    def _save_checkpoint(self) -> None:
        self._saved.save_checkpoint(self.step, self.trainer.parameters)

    def _summary(self) -> dict[str, Any]:
        settings, seed = self.settings, self.seed
        parameters = settings.parameters | {"world_seed": settings.resolved_world_seed(seed)}
        for name in ("masks", "forbidden"):
            if parameters[name] is not None:
                parameters[name] = json.dumps(parameters[name])
        return parameters | {
            "run": settings.name,
            "seed": seed,
            "dataset": settings.dataset_name(seed),
            "parameters_count": sum(tensor.numel() for tensor in self.trainer.parameters.values()),
            "steps": self.step,
            "seconds": round(self._seconds, 1),
        }
