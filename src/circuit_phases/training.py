"""Training runs to their end: evaluated, saved as they go, continued where they were stopped (paper, Sec. 3)."""

from __future__ import annotations

import itertools
import json
import logging
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

from circuit_phases.checkpoints import saved_checkpoints
from circuit_phases.code_digest import code_digest
from circuit_phases.files import UserError, locked, remove_leftovers
from circuit_phases.interruption import StopRequest
from circuit_phases.paths import PARTIAL
from circuit_phases.run_in_progress import RunInProgress, State
from circuit_phases.schemas import RUNS, TRAINING
from circuit_phases.settings import RunSettings, TrainingSettings
from circuit_phases.splits import EvaluationSet
from circuit_phases.stopping import SOLVED
from circuit_phases.tables import table_from_rows, write_table
from circuit_phases.trainer import Device, Trainer, TrainerOfSeeds
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
        for member in members:
            locks.enter_context(locked(member.folder))
            for name in ("checkpoints", "training.parquet", "run.parquet", PARTIAL):
                remove_leftovers(member.folder / name)
        runs = [_Run(settings, member, device) for member in members]
        left = [run for run in runs if not run.done]
        between_saves = SECONDS_BETWEEN_SAVES if seconds_between_saves is None else seconds_between_saves
        # A seed that was added later begins by itself: the others lose nothing to it.
        for group in ([run for run in left if run.resumable], [run for run in left if not run.resumable]):
            if group:
                _stand_at_one_step(group)
                _train(group, stop, progress, between_saves)
        for run in runs:
            run.finish()


def _stand_at_one_step(runs: Sequence[_Run]) -> None:
    """Bring runs to the newest step that all of them can continue from."""
    common = set.intersection(*(set(run.resumable) for run in runs))
    if not common:
        for run in runs:
            run.start()
        return
    step = max(common)
    for run in runs:
        run.continue_from(step)
    logger.info("Continuing from step %d", step)


def _train(runs: Sequence[_Run], stop: StopRequest, progress: bool, seconds_between_saves: float) -> None:
    """Take every step that is left to runs that stand at the same step."""
    take = runs[0].trainer.step if len(runs) == 1 else TrainerOfSeeds([run.trainer for run in runs]).step
    step = first = runs[0].step
    started = last_save = last_line = time.monotonic()
    while not all(run.done for run in runs):
        step += 1
        losses, corrects = (values.reshape(-1) for values in take(step))
        diverged = []
        for run, loss, correct in zip(runs, losses, corrects, strict=True):
            if not run.done:
                try:
                    run.stepped(step, loss, correct)
                except Diverged as error:
                    run.done = True
                    diverged.append(error)
        if diverged:
            _save(runs)
            raise diverged[0]
        if stop.signal:
            _save(runs)
            logger.warning("Stopped by %s; saved at step %d. Run again to continue.", stop.signal.name, step)
            raise SystemExit(stop.exit_code)
        now = time.monotonic()
        if now - last_save > seconds_between_saves:
            _save(runs)
            last_save = time.monotonic()
        if progress and now - last_line > SECONDS_BETWEEN_LINES:
            for run in runs:
                logger.info(run.progress_line(now - started, first))
            last_line = now


def _save(runs: Sequence[_Run]) -> None:
    for run in runs:
        if not run.done:
            run.save()


class _Run:
    """One seed of a configuration while it trains: its rows, and what is saved of it."""

    def __init__(self, settings: RunSettings, member: Member, device: Device) -> None:
        self.trainer = Trainer(settings, member.world, member.evaluation, member.seed, device)
        self.settings, self.seed, self.folder = settings, member.seed, member.folder
        self.step, self.done = 0, False
        self._seconds, self._since = 0.0, time.monotonic()
        self._losses: list[Tensor] = []
        self._corrects: list[Tensor] = []
        identity = {"run": settings.name, "seed": str(self.seed), "code": code_digest("trainer")}
        self._saved = RunInProgress(member.folder, identity)
        self._checkpoint_at = checkpoint_steps(settings.training)
        self.resumable, self._rows = self._saved.resumable(self._checkpoint_at, settings.training.evaluation_interval)
        if self.resumable and self._nothing_left(self.resumable[-1]):
            self.continue_from(self.resumable[-1])

    def start(self) -> None:
        """Begin at step 0, with nothing kept."""
        self._saved.clear()
        self._rows = self._with_identity(self.trainer.evaluate(0))
        self._save_checkpoint()

    def continue_from(self, step: int) -> None:
        """Stand at a saved step."""
        state = self._saved.go_to(step, self._rows)
        self._rows = [row for row in self._rows if row["step"] <= state.evaluated]
        for name, tensor in state.parameters.items():
            self.trainer.parameters[name].copy_(tensor)
        self.step, self.done = step, self._nothing_left(step)
        self._seconds, self._since = state.seconds, time.monotonic()
        self._losses, self._corrects = (list(each.to(self.trainer.device)) for each in (state.losses, state.corrects))

    def stepped(self, step: int, loss: Tensor, correct: Tensor) -> None:
        """Note a step that was taken; evaluate and save weights where that is due."""
        self.step = step
        self._losses.append(loss)
        self._corrects.append(correct)
        if step in self._checkpoint_at:
            self._save_checkpoint()
        if step % self.settings.training.evaluation_interval == 0:
            self._record()
            self.done = self._nothing_left(step)
            if self.done:
                # Of seeds trained together, those that are left go on changing the weights of all.
                self._save_checkpoint()
                self.save()

    def save(self) -> None:
        """Save all that is needed to continue from this step."""
        now = time.monotonic()
        self._seconds, self._since = self._seconds + now - self._since, now
        losses = torch.stack(self._losses) if self._losses else torch.empty(0)
        corrects = torch.stack(self._corrects) if self._corrects else torch.empty(0, dtype=torch.long)
        self._saved.save(State(self.step, self._seconds, self.trainer.parameters, losses, corrects), self._rows)

    def finish(self) -> None:
        """Put the finished run into its place."""
        write_table(self.folder / "training.parquet", table_from_rows(self._rows, TRAINING), TRAINING)
        write_table(self.folder / "run.parquet", table_from_rows([self._summary()], RUNS), RUNS)
        self._saved.publish_checkpoints(self.folder / "checkpoints")
        self._saved.clear()

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
            postfix=f"accuracy {self._latest('iid')['accuracy']:.3f}",
        )

    def _record(self) -> None:
        losses, corrects = torch.stack(self._losses), torch.stack(self._corrects)
        if not bool(losses.isfinite().all()):
            self._stop_diverged(self.step - len(losses) + 1 + int((~losses.isfinite()).nonzero()[0]))
        count = len(losses) * self.settings.training.batch_size
        means = {"loss": float(losses.double().mean()), "accuracy": float(corrects.sum() / count)}
        train = {"step": self.step, "split": "train", "task": None, "sequences": count} | means
        train |= {"memory": None, "inference": None}
        self._rows += self._with_identity([train, *self.trainer.evaluate(self.step)])
        self._losses, self._corrects = [], []
        if not np.isfinite(self._latest("iid")["loss"]):
            self._stop_diverged(self.step)

    def _latest(self, split: str) -> dict[str, Any]:
        return next(row for row in reversed(self._rows) if row["split"] == split and row["task"] is None)

    def _nothing_left(self, step: int) -> bool:
        """Whether a run at this step is at its end, or has been solved for as long as is asked for.

        A run whose masks are still to change is not.
        """
        training = self.settings.training
        if step < min(self.settings.model.mask_changes[-1], training.max_steps):
            return False
        accuracies = (
            row["accuracy"]
            for row in reversed(self._rows)
            if row["split"] == "iid" and row["task"] is None and row["step"] <= step
        )
        solved = sum(1 for _ in itertools.takewhile(lambda accuracy: accuracy >= SOLVED, accuracies))
        return step == training.max_steps or 0 < training.stop_after <= solved

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

    def _with_identity(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{"run": self.settings.name, "seed": self.seed} | row for row in rows]
