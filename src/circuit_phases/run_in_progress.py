"""What is kept on disk of a run while it trains, so that a job that dies costs little."""

from __future__ import annotations

import itertools
import logging
import math
import os
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from circuit_phases.checkpoints import checkpoint_file, load_tensors, save_tensors
from circuit_phases.files import UserError, replacing_folder
from circuit_phases.paths import PARTIAL, ROWS, STATE
from circuit_phases.schemas import TRAINING
from circuit_phases.tables import read_table, table_from_rows, write_table

logger = logging.getLogger(__name__)

Rows = list[dict[str, Any]]
PREFIX = "parameters."
"""Before the names of parameters in a saved state."""


@dataclass(frozen=True)
class State:
    """A run at one step: its parameters, and the losses and numbers correct since the last evaluation."""

    step: int
    seconds: float
    parameters: dict[str, Tensor]
    losses: Tensor
    corrects: Tensor

    @property
    def evaluated(self) -> int:
        """The step of the last evaluation."""
        return self.step - len(self.losses)


class RunInProgress:
    """The folder `partial` of one run: the last saved state, checkpoints, and evaluated rows in segments.

    Every file is whole or absent. One that turns out damaged is named, and the run goes back to the
    newest state after which everything can be made again.
    """

    def __init__(self, folder: Path, identity: dict[str, str]) -> None:
        self.folder = folder / PARTIAL
        self.identity = identity
        self.checkpoints = self.folder / "checkpoints"
        self._folder_of_rows = self.folder / ROWS
        self._state = self.folder / STATE
        self._last = (0, time.monotonic())

    def save_checkpoint(self, step: int, parameters: dict[str, Tensor]) -> None:
        """Save the weights at a step."""
        save_tensors(self.checkpoints / checkpoint_file(step), parameters, self.identity | {"step": str(step)})

    def save(self, state: State, rows: Rows) -> None:
        """Save a state, and before it those rows up to its last evaluation that are not saved yet."""
        saved = max((until for _, until in map(_span, self._segments())), default=-1)
        self._save_segment([row for row in rows if saved < row["step"] <= state.evaluated], saved + 1, state.evaluated)
        tensors = {PREFIX + name: tensor for name, tensor in state.parameters.items()}
        tensors |= {"losses": state.losses, "corrects": state.corrects}
        metadata = {
            "step": str(state.step),
            "seconds": str(round(state.seconds, 1)),
            "speed": f"{self._speed(state.step):.3g}",
        }
        save_tensors(self._state, tensors, self.identity | metadata)

    def resumable(self, checkpoint_steps: list[int], interval: int) -> tuple[list[int], Rows]:
        """The steps that the run can continue from, and the rows that are whole.

        They are those of the last save and of checkpoints at evaluations, as far as every row and
        every checkpoint before them is good. What is damaged is named.
        """
        rows = self._rows()
        last_row = max((row["step"] for row in rows), default=-1)
        good = list(itertools.takewhile(lambda step: self._load(self._checkpoint(step)), checkpoint_steps))
        next_checkpoint = checkpoint_steps[len(good)] if len(good) < len(checkpoint_steps) else math.inf
        steps = [step for step in good if step % interval == 0 and step <= last_row]
        state = self._saved_state()
        if state and state.evaluated <= last_row and state.step < next_checkpoint:
            steps.append(state.step)
        return sorted(set(steps)), rows

    def go_to(self, step: int, rows: Rows) -> State:
        """The state at a step that the run can continue from; of the rows, those up to it stay saved."""
        self._last = (step, time.monotonic())
        state = self._saved_state()
        if state is None or state.step != step:
            tensors, _ = load_tensors(self._checkpoint(step))
            # Checkpoints know no time: their share of that of the last save stands for it.
            seconds = state.seconds * step / state.step if state and state.step else 0.0
            state = State(step, seconds, tensors, torch.empty(0), torch.empty(0, dtype=torch.long))
        before = self._segments()
        kept = self._save_segment([row for row in rows if row["step"] <= state.evaluated], 0, state.evaluated)
        for path in before:
            if path != kept:
                path.unlink(missing_ok=True)
        return state

    def publish_checkpoints(self, folder: Path) -> None:
        """Show the checkpoints under another name, whole or not at all; they stay here too."""
        with replacing_folder(folder) as temporary:
            for path in self.checkpoints.glob("*.safetensors"):
                _link(path, temporary / path.name)

    def clear(self) -> None:
        """Remove everything: all of it is out of sight before any of it goes, so that a kill leaves no half of it."""
        away = self.folder.with_name(f".{self.folder.name}.removing")
        shutil.rmtree(away, ignore_errors=True)
        with suppress(OSError):
            self.folder.rename(away)
        for folder in (away, self.folder):
            shutil.rmtree(folder, ignore_errors=True)

    def _speed(self, step: int) -> float:
        """Steps a second since the save before, or since the run was begun or continued; for those who watch."""
        before, then = self._last
        self._last = (step, time.monotonic())
        passed = self._last[1] - then
        return (step - before) / passed if passed else 0.0

    def _rows(self) -> Rows:
        rows: Rows = []
        last = -1
        for path in self._segments():
            first, until = _span(path)
            if first > last + 1:
                logger.warning("%s: the rows before it are missing.", path)
                break
            try:
                found = read_table(path, TRAINING).to_pylist()
            except UserError as reason:
                logger.warning("%s", reason)
                break
            rows += [row for row in found if row["step"] > last]
            last = until
        return rows

    def _save_segment(self, rows: Rows, first: int, until: int) -> Path:
        path = self._folder_of_rows / f"{first:08d}-{until:08d}.parquet"
        if rows:
            write_table(path, table_from_rows(rows, TRAINING), TRAINING)
        return path

    def _segments(self) -> list[Path]:
        return sorted(self._folder_of_rows.glob("*.parquet"), key=lambda path: _span(path)[1])

    def _checkpoint(self, step: int) -> Path:
        return self.checkpoints / checkpoint_file(step)

    def _saved_state(self) -> State | None:
        found = self._load(self._state)
        if found is None:
            return None
        tensors, metadata = found
        losses, corrects = tensors.pop("losses"), tensors.pop("corrects")
        parameters = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
        return State(int(metadata["step"]), float(metadata["seconds"]), parameters, losses, corrects)

    def _load(self, path: Path) -> tuple[dict[str, Tensor], dict[str, str]] | None:
        """A file of this run, or nothing; one that is damaged or of another run is named and removed."""
        if not path.exists():
            return None
        try:
            tensors, metadata = load_tensors(path)
            if self.identity.items() <= metadata.items():
                return tensors, metadata
            logger.warning("%s holds another run, or was made by other code.", path)
        except UserError as reason:
            logger.warning("%s", reason)
        path.unlink()
        return None


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        # Some file systems know no second names.
        shutil.copyfile(source, target)


def _span(path: Path) -> tuple[int, int]:
    """The first and the last step whose rows a segment holds."""
    first, until = path.stem.split("-")
    return int(first), int(until)
