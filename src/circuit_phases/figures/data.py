"""What a figure is drawn from."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import pandas as pd

from circuit_phases.phases import PhaseSettings

CIRCUITS = {1: "NCC", 2: "SCC", 3: "FCC"}
"""The circuit of each phase (paper, Sec. 4)."""

Moment = Literal["early", "full"]
"""A moment of training whose attention maps can be shown; `readings.moment_step` finds it."""


@dataclass(frozen=True)
class Series:
    """One configuration of a figure, with its label and seeds in the order of config.yaml.

    `maps` names the moments at which its attention maps are drawn, by figures that draw them.
    """

    label: str
    run: str
    seeds: tuple[int, ...]
    maps: tuple[Moment, ...] = ()


@dataclass(frozen=True)
class FigureData:
    """The series of a figure, and its tables restricted to their runs and seeds.

    `tables` maps a table's name (`training`, `circuits`, ...) to a data frame with the columns of
    its schema in `circuit_phases.tables`; `rules` tells how the phases were found. Figures of the
    language models have no series.
    """

    series: tuple[Series, ...]
    tables: dict[str, pd.DataFrame]
    rules: PhaseSettings = field(default_factory=PhaseSettings)

    def table(self, name: str, run: str, seed: int | None = None) -> pd.DataFrame:
        """The rows of one run, or of one run and seed."""
        table = self.tables[name]
        if seed is None:
            return table[table["run"] == run]
        return table.iloc[self._places[name].get((run, seed), [])]

    @cached_property
    def _places(self) -> dict[str, dict[Any, Any]]:
        return {name: dict(table.groupby(["run", "seed"]).indices) for name, table in self.tables.items()}
