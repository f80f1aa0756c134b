"""What is kept on disk of a run while it trains, so that a job that dies costs little."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from circuit_phases.checkpoints import load_tensors, save_tensors
from circuit_phases.files import DamagedFile, link, move, remove_whole, replacing_folder
from circuit_phases.paths import (
    CHECKPOINTS,
    FINISHED,
    PARTIAL,
    ROWS,
    checkpoint_file,
    saved_states,
    state_file,
    step_of,
)
from circuit_phases.schemas import TRAINING
from circuit_phases.tables import read_table, table_from_rows, write_table

logger = logging.getLogger(__name__)

Rows = list[dict[str, Any]]
Content = TypeVar("Content")
PREFIX = "parameters."
"""Before the names of parameters in a saved state."""


@dataclass(frozen=True)
class State:
    """A run at one step: its parameters, and the losses and numbers correct since the last evaluation."""

    step: int
    parameters: dict[str, Tensor]
    losses: Tensor = field(default_factory=lambda: torch.empty(0))
    corrects: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    seconds: float = 0.0
    ended: bool = False
    form: str = ""
    """Whether what computed it was compiled."""
    together: tuple[int, ...] = ()
    """The seeds that took their steps together, this run's among them."""

    @property
    def evaluated(self) -> int:
        """The step of the last evaluation."""
        return self.step - len(self.losses)


@dataclass(frozen=True)
class Found:
    """What a run left that is good."""

    points: frozenset[int] = frozenset()
    """The steps that it can continue from: those of saved states, and of checkpoints at evaluations."""
    checkpoints: frozenset[int] = frozenset()
    rows: dict[int, Rows] = field(default_factory=dict)
    """By the step of their evaluation."""
    states: dict[int, State] = field(default_factory=dict)


class RunInProgress:
    """The folder `partial` of one run: the last two saved states, checkpoints, and evaluated rows in segments.

    Every file is whole or absent. One that turns out damaged is named and removed; what is missing then can be
    made again from the good step before it, while all that came later stays.
    """

    def __init__(self, folder: Path, identity: dict[str, str]) -> None:
        self.folder = folder / PARTIAL
        self.identity = identity
        self.checkpoints = self.folder / "checkpoints"
        self._finished = folder / FINISHED
        self._rows_saved: set[int] = set()
        self._linked = False
        self._last = (0, time.monotonic())

    def save_checkpoint(self, step: int, parameters: dict[str, Tensor]) -> None:
        """Save the weights at a step."""
        save_tensors(self._checkpoint(step), parameters, self.identity | {"step": str(step)})

    def save(self, state: State, rows: dict[int, Rows]) -> None:
        """Save a state, and before it the rows that are not saved yet.

        The state before stays: of seeds that train together, a kill may leave some without their newest.
        States from later on stay too, for a run that goes back for what is missing.

        Raises:
            UserError: if a folder may not be written to, or the disk is full.
        """
        new = sorted(rows.keys() - self._rows_saved)
        if new:
            segment = self.folder / ROWS / f"{new[0]:08d}-{new[-1]:08d}.parquet"
            write_table(segment, table_from_rows([row for step in new for row in rows[step]], TRAINING), TRAINING)
            self._rows_saved |= set(new)
        tensors = {PREFIX + name: tensor for name, tensor in state.parameters.items()}
        tensors |= {"losses": state.losses, "corrects": state.corrects}
        before, then = self._last
        self._last = (state.step, time.monotonic())
        speed = (state.step - before) / max(self._last[1] - then, 1e-9)
        metadata = {
            "step": str(state.step),
            "seconds": str(round(state.seconds, 1)),
            "ended": str(state.ended),
            "form": state.form,
            "together": " ".join(map(str, state.together)),
            "speed": f"{speed:.3g}",
        }
        save_tensors(self.folder / state_file(state.step), tensors, self.identity | metadata)
        for path in saved_states(self.folder):
            if step_of(path) < state.step and step_of(path) != before:
                remove_whole(path)

    def found(self, interval: int) -> Found:
        """What an earlier job left; what is damaged in it, or another run's, is named.

        A folder with something by other code, or with no step to continue from, is cleared.

        Raises:
            UserError: if a file cannot be read, or what must go may not be removed.
        """
        if self._finished.exists() and not self.folder.exists():
            move(self._finished, self.folder)
        for left_by_a_killed_write in filter(Path.is_file, self.folder.rglob(".*")):
            remove_whole(left_by_a_killed_write)
        try:
            states = {state.step: state for _, state in _good(saved_states(self.folder), self._state)}
            checkpoints = frozenset(
                step_of(path) for path, _ in _good(self.checkpoints.glob(CHECKPOINTS), self._weights)
            )
        except _OtherCode:
            reached = max(map(step_of, (*saved_states(self.folder), *self.checkpoints.glob(CHECKPOINTS))))
            logger.warning(
                "%s: other code or other versions of libraries trained it to step %d. Numbers of both must not mix, "
                "so it begins anew.",
                self.folder,
                reached,
            )
            states, checkpoints = {}, frozenset()
        points = states.keys() | {step for step in checkpoints if step % interval == 0}
        if not points:
            self.clear()
            return Found()
        rows: dict[int, Rows] = {}
        for _, segment in _good((self.folder / ROWS).glob("*.parquet"), self._read_rows):
            rows |= {step: list(those) for step, those in groupby(segment, itemgetter("step"))}
        self._rows_saved = set(rows)
        return Found(frozenset(points), checkpoints, rows, states)

    def state_at(self, step: int) -> State:
        """The state at one of the steps that the run can continue from."""
        self._last = (step, time.monotonic())
        path = self.folder / state_file(step)
        return self._state(path) if path.exists() else State(step, self._weights(self._checkpoint(step)))

    def publish_checkpoints(self, folder: Path) -> None:
        """Show the checkpoints under another name, whole or not at all."""
        with replacing_folder(folder) as temporary:
            linked = [link(path, temporary / path.name) for path in self.checkpoints.glob(CHECKPOINTS)]
        self._linked = all(linked)

    def put_away(self) -> None:
        """Out of sight, but there: Snakemake, once it was killed, removes what its last jobs finished without it.

        The checkpoints are second names of those shown, so they take no room; where there are no
        second names, nothing stays.

        Raises:
            UserError: if a folder may not be written to.
        """
        if not self._linked:
            self.clear()
            return
        for path in saved_states(self.folder)[:-1]:
            remove_whole(path)
        shutil.rmtree(self._finished, ignore_errors=True)
        move(self.folder, self._finished)

    def clear(self) -> None:
        """Remove everything: all of it is out of sight before any of it goes, so that a kill leaves no half of it."""
        away = self.folder.with_name(f".{self.folder.name}.removing")
        shutil.rmtree(away, ignore_errors=True)
        with suppress(OSError):
            self.folder.rename(away)
        for folder in (away, self.folder):
            shutil.rmtree(folder, ignore_errors=True)

    def _checkpoint(self, step: int) -> Path:
        return self.checkpoints / checkpoint_file(step)

    def _state(self, path: Path) -> State:
        tensors, metadata = self._tensors(path)
        if "losses" not in tensors:
            raise DamagedFile(path, "it holds no state")
        return State(
            step=int(metadata["step"]),
            losses=tensors.pop("losses"),
            corrects=tensors.pop("corrects"),
            parameters={name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()},
            seconds=float(metadata["seconds"]),
            ended=metadata["ended"] == "True",
            form=metadata["form"],
            together=tuple(map(int, metadata["together"].split())),
        )

    def _weights(self, path: Path) -> dict[str, Tensor]:
        tensors, _ = self._tensors(path)
        if "losses" in tensors:
            raise DamagedFile(path, "it holds a state")
        return tensors

    def _read_rows(self, path: Path) -> Rows:
        rows: Rows = read_table(path, TRAINING).to_pylist()
        if any((row["run"], str(row["seed"])) != (self.identity["run"], self.identity["seed"]) for row in rows):
            raise DamagedFile(path, "it holds another run")
        return rows

    def _tensors(self, path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
        tensors, metadata = load_tensors(path)
        if any(metadata.get(key) != self.identity[key] for key in ("run", "seed")):
            raise DamagedFile(path, "it holds another run")
        if not self.identity.items() <= metadata.items():
            raise _OtherCode
        if int(metadata["step"]) != step_of(path):
            raise DamagedFile(path, f"it holds step {metadata['step']}")
        return tensors, metadata


class _OtherCode(Exception):
    """A file of this run that other code made, or the same code with other libraries."""


def _good(paths: Iterable[Path], read: Callable[[Path], Content]) -> Iterator[tuple[Path, Content]]:
    """Files with their content; one that is damaged is named and removed, to be made again."""
    for path in sorted(paths):
        try:
            content = read(path)
        except DamagedFile as damage:
            logger.warning("%s; it is made again.", damage.told)
            remove_whole(path)
        else:
            yield path, content


def forget_finished(run: Path) -> None:
    """Remove what a finished run could be put back from, once it is known to have been taken over."""
    shutil.rmtree(run / FINISHED, ignore_errors=True)
