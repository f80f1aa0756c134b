"""What one finished training shows, read from its tables; claims, census and comparisons start here."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from circuit_phases.figure_data import FigureData, Series
from circuit_phases.readings import Phase, ceilings, circuit_curve, nearest, phases
from circuit_phases.settings import PARAMETERS, RunSettings

LAST = 10
"""Evaluations whose median is the last accuracy: single evaluations dip and recover."""
LEARNED = 0.99
"""Accuracy from which the task counts as learned: within 0.01 of the FCC's ceiling of 1."""
RISE = 0.004
"""Least gain of accuracy that is a rise: two standard errors at 0.98 on 4,096 sequences."""


@dataclass(frozen=True)
class Trained:
    """One run and seed of a series; steps are in gradient steps, accuracies in 0 to 1."""

    data: FigureData
    series: Series
    seed: int

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """Its row of the table `runs`: all parameters by name, and `steps`."""
        row = self.data.table("runs", self.series.run, self.seed).iloc[0]
        return {str(name): value for name, value in row.items()}

    @cached_property
    def settings(self) -> RunSettings:
        """What it was trained with, but for the seed of its world."""
        values = {name: _plain(self.parameters[name]) for name in PARAMETERS}
        for name in ("masks", "forbidden"):
            values[name] = values[name] and json.loads(values[name])
        return RunSettings.from_parameters(**values)

    @cached_property
    def accuracy(self) -> pd.Series[float]:
        """Accuracy on the evaluation sequences, by step."""
        return self.data.training_curve(self.series.run, self.seed)

    @cached_property
    def random_label_accuracy(self) -> pd.Series[float]:
        """Accuracy with the context's labels permuted (RLA; paper, Sec. 4), by step."""
        return self.data.training_curve(self.series.run, self.seed, "random_label")

    @cached_property
    def last_accuracy(self) -> float:
        """The median accuracy of the last evaluations."""
        return float(self.accuracy.iloc[-LAST:].median())

    @cached_property
    def rising(self) -> bool:
        """Whether training ran out of steps while accuracy rose: by `RISE` or more from its last tenth but one on."""
        last, before = (self.accuracy.loc[share * self.accuracy.index[-1] :] for share in (0.9, 0.8))
        earlier = before.drop(last.index)
        return self.parameters["steps"] >= self.parameters["max_steps"] and last.median() - earlier.median() >= RISE

    @cached_property
    def solved_step(self) -> int | None:
        """The first step with accuracy 0.99 or more; None if there is none."""
        solved = self.accuracy.index[self.accuracy >= LEARNED]
        return int(solved[0]) if len(solved) else None

    @cached_property
    def plateaus(self) -> list[Phase]:
        """Its plateaus in the order in which they came, those at no known ceiling included."""
        return phases(self.data, self.series.run, self.seed)

    @cached_property
    def path(self) -> tuple[int, ...]:
        """The phases that it went through, such as (1, 3) where Phase 2 was skipped."""
        return tuple(sorted({phase.number for phase in self.plateaus if phase.number}))

    @cached_property
    def jumps(self) -> list[tuple[int, int]]:
        """First and last step of each jump by the paper's dAcc rule."""
        stretches = phases(self.data, self.series.run, self.seed, "paper")
        return [(before.end, after.start) for before, after in pairwise(stretches)]

    @cached_property
    def ceilings(self) -> dict[int, float]:
        """The best accuracy of each phase's circuit in its world."""
        return ceilings(self.data, self.series.run, self.seed)

    def phase(self, number: int) -> Phase | None:
        """Its first plateau of a phase, or None."""
        return next((phase for phase in self.plateaus if phase.number == number), None)

    @cached_property
    def circuits(self) -> pd.DataFrame:
        """Its rows of the table `circuits`."""
        return self.data.table("circuits", self.series.run, self.seed)

    def metric(self, name: str, layer: int, head: int | None = None) -> pd.Series[float]:
        """A circuit metric by step: of one head, or the largest over heads."""
        return circuit_curve(self.data, self.series.run, self.seed, name, layer, head)

    def metric_at(self, name: str, layer: int, step: float, head: int | None = None) -> float:
        """A circuit metric at the checkpoint nearest to a step; NaN where there is none."""
        curve = self.metric(name, layer, head)
        return float(curve[nearest(list(curve.index), step)]) if len(curve) else np.nan

    @property
    def heads(self) -> int:
        """Heads per layer."""
        return int(self.parameters["heads"])


def trained(data: FigureData) -> list[Trained]:
    """Every run and seed of the series whose training is in the tables, in order."""
    found = data.trainings()
    return [
        Trained(data, series, seed) for series in data.series for seed in series.seeds if (series.run, seed) in found
    ]


def path_name(path: tuple[int, ...]) -> str:
    """The phases of a path in words, such as `1, 3`."""
    return ", ".join(map(str, path)) or "none"


def _plain(value: Any) -> Any:
    """A value of a table as Python has it; None where it is missing."""
    if pd.isna(value):
        return None
    return value.item() if isinstance(value, np.generic) else value
