"""What the answers to the frozen splits say: accuracy, and memory apart from inference.

Memory is how often the answer is one of the labels that the query's class has under the T tasks;
inference is how often, then, it is the right one, whichever of the tasks share that label.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int64

from circuit_phases.sequences import Sequences
from circuit_phases.world import World

BY_TASK = ("iid", "random_label")
"""The splits that are read for each task too."""


class SplitReading:
    """Turns the answers to one split into rows of the table `training`."""

    def __init__(self, split: str, sequences: Sequences, world: World) -> None:
        self.split = split
        self._right = sequences.labels[:, -1].numpy()
        self._tasks = sequences.tasks.numpy()
        self._T = world.settings.T
        self._known: Int64[np.ndarray, "T n"] | None = None
        query = sequences.classes[:, -1].numpy()
        if query.max() < world.settings.K:
            self._known = world.label_tables[:, query]

    def rows(
        self, log_probabilities: Float32[np.ndarray, "L n"], answers: Int64[np.ndarray, " n"]
    ) -> list[dict[str, Any]]:
        """Loss (nats), accuracy, memory and inference: over all tasks, and by task where that is asked for."""
        losses = -np.take_along_axis(log_probabilities, self._right[None], axis=0)[0].astype(float)
        right = answers == self._right
        remembered = None if self._known is None else (answers == self._known).any(axis=0)
        rows = [
            _row(task, losses[members], right[members], None if remembered is None else remembered[members])
            for task, members in self._groups()
        ]
        if self.split == "conflict":
            rows += self._held_against_other_tasks(log_probabilities, answers)
        return [{"split": self.split} | row for row in rows if row["sequences"]]

    def _groups(self) -> Iterator[tuple[int | None, Any]]:
        yield None, slice(None)
        if self.split in BY_TASK:
            for task in range(self._T):
                yield task + 1, self._tasks == task

    def _held_against_other_tasks(
        self, log_probabilities: Float32[np.ndarray, "L n"], answers: Int64[np.ndarray, " n"]
    ) -> Iterator[dict[str, Any]]:
        assert self._known is not None
        for task, labels in enumerate(self._known):
            other = (self._tasks != task) & (labels != self._right)
            losses = -np.take_along_axis(log_probabilities, labels[None], axis=0)[0].astype(float)
            yield _row(task + 1, losses[other], (answers == labels)[other], None)


def _row(
    task: int | None,
    losses: Float32[np.ndarray, " n"],
    right: Bool[np.ndarray, " n"],
    remembered: Bool[np.ndarray, " n"] | None,
) -> dict[str, Any]:
    if not len(losses):
        return {"sequences": 0}
    row = {"task": task, "sequences": len(losses), "loss": float(losses.mean()), "accuracy": float(right.mean())}
    if remembered is None:
        return row | {"memory": None, "inference": None}
    memory, both = float(remembered.mean()), float((right & remembered).mean())
    return row | {"memory": memory, "inference": both / memory if memory else None}
