"""One seed of a configuration while it trains: its rows, and what is saved of it (paper, Sec. 3)."""

from __future__ import annotations

import json
import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from circuit_phases.checkpoint_schedule import checkpoint_steps, spaced_steps
from circuit_phases.checkpoints import saved_checkpoints
from circuit_phases.code_digest import code_digest, library_versions
from circuit_phases.files import UserError
from circuit_phases.interruption import StopRequest
from circuit_phases.run_in_progress import RunInProgress, State
from circuit_phases.schemas import RUNS, TRAINING
from circuit_phases.settings import Device, RunSettings
from circuit_phases.splits import EvaluationSet
from circuit_phases.stopping import SOLVED
from circuit_phases.tables import table_from_rows, write_table
from circuit_phases.trainer import Trainer
from circuit_phases.world import World

logger = logging.getLogger(__name__)


class Diverged(UserError):
    """A run whose loss is not finite any more."""


@dataclass(frozen=True)
class Member:
    """One seed of a configuration: its world, its evaluation sequences, and the folder of its results."""

    seed: int
    world: World
    evaluation: EvaluationSet
    folder: Path


class TrainingRun:
    """A member of a job from where it was left to its end."""

    def __init__(self, settings: RunSettings, member: Member, device: Device, stop: StopRequest) -> None:
        self.trainer = Trainer(settings, member.world, member.evaluation, member.seed, device, stop)
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
        self._parameters_count = sum(tensor.numel() for tensor in self.trainer.parameters.values())
        self._checkpoint_at = checkpoint_steps(settings.training, self._parameters_count)
        kept, spaced = len(self._checkpoint_at), len(spaced_steps(settings.training))
        if kept < spaced:
            room = settings.training.checkpoint_megabytes
            logger.info("Weights are saved at %d of %d steps, as checkpoint_megabytes = %d asks", kept, spaced, room)
        found = self._saved.found(self._interval)
        self.points, self._checkpoints, self._rows = found.points, found.checkpoints, found.rows
        newest = max(found.states.values(), key=lambda state: state.step, default=None)
        self._end = newest.step if newest and newest.ended else math.inf
        self.form_before = newest.form if newest else None
        self.together = newest.together if newest else (self.seed,)
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
            self.step,
            self.trainer.parameters,
            losses,
            corrects,
            self._seconds,
            self.done,
            # Until a job has taken a step, it is what an earlier one left.
            self.form_before or self.trainer.compiler.form,
            self.together,
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
            "parameters_count": self._parameters_count,
            "steps": self.step,
            "seconds": round(self._seconds, 1),
        }
