"""What a figure is drawn from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd

from circuit_phases.phases import PhaseSettings

CIRCUITS = {1: "NCC", 2: "SCC", 3: "FCC"}
"""The circuit of each phase (paper, Sec. 4)."""

ALL = 0
"""Stands for all tasks together, which have numbers from 1."""

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

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Series:
        """From plain values, as a rule hands them on."""
        return cls(entry["label"], entry["run"], tuple(entry["seeds"]), tuple(entry.get("maps", ())))


@dataclass(frozen=True)
class FigureData:
    """The series of a figure, and its tables restricted to their runs and seeds.

    `tables` maps a table's name (`training`, `circuits`, ...) to a data frame with the columns of
    its schema in `circuit_phases.schemas`; `rules` tells how the phases were found. Figures of the
    language models have no series.
    """

    series: tuple[Series, ...]
    tables: dict[str, pd.DataFrame]
    rules: PhaseSettings = field(default_factory=PhaseSettings)

    def table(self, name: str, run: str, seed: int | None = None) -> pd.DataFrame:
        """The rows of one run, or of one run and seed."""
        if seed is None:
            table = self.tables[name]
            return table[table["run"] == run]
        if name not in self._by_run:
            self._by_run[name] = _grouped(self.tables[name])
        table, places = self._by_run[name]
        return table.iloc[places.get((run, seed), slice(0))]

    def training_curve(
        self, run: str, seed: int, split: str = "iid", column: str = "accuracy", task: int | None = None
    ) -> pd.Series[float]:
        """A column of the table `training` by step, of one task or of all together.

        It begins with step 1: step 0 has no place on a log axis.
        """
        places = self._training_places.get((run, seed, split, task or ALL), [])
        steps = self.tables["training"]["step"].to_numpy()[places].astype(np.int64)
        values = self.tables["training"][column].to_numpy()[places].astype(np.float64)
        order = np.argsort(steps, kind="stable")
        order = order[steps[order] > 0]
        return pd.Series(values[order], index=steps[order], name=column)

    def trainings(self) -> set[tuple[str, int]]:
        """The runs and seeds of which the table `training` has rows."""
        return {(run, seed) for run, seed, *_ in self._training_places}

    def effects(self, run: str, seed: int, intervention: str, layer: int, place: str) -> pd.DataFrame:
        """The rows of the table `attribution` of one intervention, from step 1 on.

        They are those on sequences drawn as in training; `place` is its edge family or position.
        """
        return self.tables["attribution"].iloc[self._effect_places.get((run, seed, intervention, layer, place), [])]

    @cached_property
    def _effect_places(self) -> dict[Any, Any]:
        rows = self.tables["attribution"]
        kept = np.flatnonzero((rows["split"] == "iid") & (rows["step"] > 0))
        rows = rows.iloc[kept]
        keys = [rows["run"], rows["seed"], rows["intervention"], rows["layer"], rows["edge"].fillna(rows["position"])]
        places = rows.groupby(keys, sort=False, observed=True).indices
        return {key: kept[each] for key, each in places.items()}

    @cached_property
    def _training_places(self) -> dict[Any, Any]:
        rows = self.tables["training"]
        keys = [rows["run"], rows["seed"], rows["split"], rows["task"].fillna(ALL)]
        return dict(rows.groupby(keys, sort=False, observed=True).indices)

    @cached_property
    def _by_run(self) -> dict[str, tuple[pd.DataFrame, dict[Any, slice]]]:
        """What was made by `_grouped` so far, by the table's name."""
        return {}


def _grouped(table: pd.DataFrame) -> tuple[pd.DataFrame, dict[Any, slice]]:
    """A table with the rows of a run and seed together, and where they stand."""
    places = table.groupby(["run", "seed"], sort=False).indices
    ends = np.cumsum([len(rows) for rows in places.values()]).tolist()
    slices = {key: slice(end - len(rows), end) for (key, rows), end in zip(places.items(), ends, strict=True)}
    return table.iloc[np.concatenate([*places.values(), np.array([], dtype=int)])], slices
