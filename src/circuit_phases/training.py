"""Training runs to their end: evaluated, saved as they go, continued where they were stopped (paper, Sec. 3)."""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

from circuit_phases.checkpoint_schedule import checkpoint_steps
from circuit_phases.checkpoints import load_tensors
from circuit_phases.compilation import MIXED
from circuit_phases.files import DamagedFile, locked, remove_leftovers
from circuit_phases.interruption import Stopped, StopRequest
from circuit_phases.paths import PARTIAL, checkpoint_file
from circuit_phases.schemas import RUNS, TRAINING
from circuit_phases.settings import Device, RunSettings
from circuit_phases.splits import EvaluationSet
from circuit_phases.tables import read_table
from circuit_phases.trainer import TrainerOfSeeds
from circuit_phases.training_run import Diverged, Member, TrainingRun
from circuit_phases.world import World

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_SAVES = 30.0
SECONDS_BETWEEN_LINES = 10


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
    parameters_count = tables["run"]["parameters_count"][0].as_py()
    for step in {*checkpoint_steps(settings.training, parameters_count), steps}:
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
        Stopped: after SIGTERM or SIGINT, with all saved, or all up to the last save where a compiler was at work.
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
        UserError, Stopped: as `train` does.
    """
    with ExitStack() as locks, StopRequest() as stop:
        for folder in [member.folder for member in members]:
            locks.enter_context(locked(folder))
            for name in ("checkpoints", "training.parquet", "run.parquet", PARTIAL):
                remove_leftovers(folder / name)
        runs = [TrainingRun(settings, member, device, stop) for member in members]
        # The sequences stand in batches now; with N = 32 they are 45 MB.
        del members
        between_saves = SECONDS_BETWEEN_SAVES if seconds_between_saves is None else seconds_between_saves
        for group in _groups(runs):
            _Job(group, stop, progress, between_saves).run()
        for run in runs:
            run.finish()


def _groups(runs: Sequence[TrainingRun]) -> Iterable[list[TrainingRun]]:
    """The runs that take their steps together: those that did before, and all that begin now.

    So a seed that is added later goes its own way, and the others lose nothing to it however often it is stopped.
    """
    begun = {run.together for run in runs if run.begun}
    groups: dict[tuple[int, ...], list[TrainingRun]] = defaultdict(list)
    for run in runs:
        groups[run.together if run.together in begun else ()].append(run)
    return groups.values()


class _Job:
    """Runs that take their steps together, from where they were left to their ends."""

    def __init__(
        self, runs: Sequence[TrainingRun], stop: StopRequest, progress: bool, seconds_between_saves: float
    ) -> None:
        self.runs = runs
        self._take = runs[0].trainer.step if len(runs) == 1 else TrainerOfSeeds([run.trainer for run in runs]).step
        self._stop, self._progress, self._between_saves = stop, progress, seconds_between_saves

    def run(self) -> None:
        """Make again what is missing, then take all steps that are left."""
        for run in self.runs:
            run.takes_its_share(len(self.runs))
            run.together = tuple(each.seed for each in self.runs)
        for first, last in self._stretches():
            for run in self.runs:
                run.stand_at(first)
            if not first:
                # Who began together is known from the first moment on.
                self._save()
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
            try:
                losses, corrects = (values.reshape(-1) for values in self._take(step))
            except Stopped:
                # Not taken, since it is not compiled.
                if step - 1 > first:
                    self._save()
                raise
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
                self._stop.obey(f"; saved at step {step}")
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
