"""Tables of made-up runs, for tests of what is read from them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from circuit_phases.figure_data import FigureData, Series
from circuit_phases.schemas import RUN_TABLES
from circuit_phases.settings import RunSettings
from circuit_phases.tables import to_frame

CEILINGS = {"ncc": 0.36, "scc": 0.78, "fcc": 1.0}
LEVELS = {1: 0.35, 2: 0.75, 3: 1.0}
STEPS = np.arange(100, 100_001, 100)


@dataclass
class Made:
    """A run that stands on a plateau at the level of each phase of `phases`, {phase: (first step, last step)}."""

    settings: RunSettings
    seed: int = 0
    phases: Mapping[int, tuple[int, int]] = field(default_factory=lambda: {1: (2_000, 12_000), 3: (60_000, 100_000)})
    metrics: Mapping[tuple[str, int, int], Mapping[int, float]] = field(default_factory=dict)
    jumps: Sequence[tuple[int, int]] = ()
    ceilings: Mapping[str, float] = field(default_factory=lambda: CEILINGS)
    levels: Mapping[int, float] = field(default_factory=lambda: LEVELS)
    random_label: Mapping[int, float] = field(default_factory=dict)
    last: float | None = None

    def accuracy(self) -> np.ndarray:
        """Straight lines over log steps between the plateaus."""
        edges = [(np.log10(STEPS[0]), 1 / 32)]
        for phase, (start, end) in self.phases.items():
            edges += [(np.log10(start), self.levels[phase]), (np.log10(end), self.levels[phase])]
        values = np.interp(np.log10(STEPS), *zip(*edges, strict=True))
        if self.last is not None:
            values[-STEPS.size // 5 :] = self.last
        return values

    def tables(self) -> dict[str, pd.DataFrame]:
        """Its rows of every table that claims, census, departures and comparison read."""
        values = self.accuracy()
        permuted = np.array(
            [next((v for phase, v in self.random_label.items() if s <= self.phases[phase][1]), 0.0) for s in STEPS]
        )
        training = [
            {"split": split, "step": STEPS, "accuracy": curve, "loss": 1.0, "sequences": 4096, "task": None}
            | {"memory": None, "inference": None}
            for split, curve in {"iid": values, "random_label": permuted}.items()
        ]
        plateaus = [
            {"rule": "plateau", "phase": phase, "start_step": start, "end_step": end,
             "accuracy": self.levels[phase], "ceiling": list(self.ceilings.values())[phase - 1]}
            for phase, (start, end) in self.phases.items()
        ]  # fmt: skip
        edges = [100, *(edge for jump in self.jumps for edge in jump), int(STEPS[-1])]
        stretches = [
            {"rule": "paper", "phase": number, "start_step": start, "end_step": end, "accuracy": 0.5, "ceiling": None}
            for number, (start, end) in enumerate(zip(edges[::2], edges[1::2], strict=True))
        ]
        circuits = [
            {"metric": name, "layer": layer, "head": head, "step": list(curve), "value": list(curve.values())}
            for (name, layer, head), curve in self.metrics.items()
        ]
        theory = {"circuit": list(self.ceilings), "accuracy": list(self.ceilings.values())}
        parameters = self.settings.parameters
        row = parameters | {
            "dataset": "d", "world_seed": self.settings.resolved_world_seed(self.seed), "parameters_count": 1,
            "steps": int(STEPS[-1]), "seconds": 1.0, "masks": None,
            "forbidden": json.dumps(parameters["forbidden"]) if parameters["forbidden"] else None,
        }  # fmt: skip
        return {
            "runs": self._rows("runs", [row]),
            "training": self._rows("training", training),
            "phases": self._rows("phases", plateaus + stretches),
            "circuits": self._rows("circuits", circuits),
            "theory": self._rows("theory", [theory | {"standard_error": 0.0, "method": "enumeration"}]),
        }

    def _rows(self, table: str, columns: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
        schema = RUN_TABLES[table]
        frames = [
            pd.DataFrame({name: value for name, value in row.items() if name in schema.names}
                         if any(isinstance(value, list | np.ndarray) for value in row.values()) else [dict(row)])
            for row in columns
        ]  # fmt: skip
        frame = pd.concat(frames) if frames else pd.DataFrame(columns=schema.names)
        frame = frame.assign(run=self.settings.name, seed=self.seed)[schema.names]
        return to_frame(pa.Table.from_pandas(frame, schema=schema, preserve_index=False))


def together(runs: Sequence[Made]) -> dict[str, pd.DataFrame]:
    """The tables over all runs."""
    made = [run.tables() for run in runs]
    return {name: pd.concat([one[name] for one in made], ignore_index=True) for name in RUN_TABLES if name in made[0]}


def series_of(runs: Sequence[Made]) -> tuple[Series, ...]:
    """A series per configuration, with the seeds in the order given."""
    seeds: dict[str, list[int]] = {}
    for run in runs:
        seeds.setdefault(run.settings.name, []).append(run.seed)
    return tuple(Series(name, name, tuple(numbers)) for name, numbers in seeds.items())


def data_of(runs: Sequence[Made]) -> FigureData:
    """What a figure of all runs would be drawn from."""
    return FigureData(series_of(runs), together(runs))
