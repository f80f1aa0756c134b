"""What the figures read from their tables: curves over steps, phases, ceilings, attention maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log, nan, sqrt

import numpy as np
import pandas as pd
from jaxtyping import Float64

from circuit_phases.figure_data import CIRCUITS, FigureData, Moment

FULL = 0.99
"""Full accuracy is reached at this share of the highest."""
METRICS = {"bigram": "Bigram", "label_attention": "Label Attention", "chunk_example": "Chunk Example"}
"""The metrics of the table `circuits` and their names (paper, Table 2)."""
TIME_NAMES = {
    "phase_1_start": "Phase 1 starts",
    "phase_1_end": "Phase 1 ends",
    "phase_2_start": "Phase 2 starts",
    "phase_2_end": "Phase 2 ends",
    "phase_3_start": "Phase 3 starts",
    "solved_step": "accuracy 0.99",
}
"""The steps that runs are compared by, and their names."""


@dataclass(frozen=True)
class Phase:
    """A row of the table `phases`; `number` is None for a plateau at no known ceiling."""

    number: int | None
    start: int
    end: int
    accuracy: float = nan
    ceiling: float = nan

    @property
    def middle(self) -> float:
        """The middle on a logarithmic step axis."""
        return sqrt(max(self.start, 1) * max(self.end, 1))

    @property
    def name(self) -> str:
        """E.g. `Phase 1 (NCC)`."""
        return f"Phase {self.number} ({CIRCUITS[self.number]})" if self.number in CIRCUITS else "plateau"


def circuit_curve(
    data: FigureData, run: str, seed: int, metric: str, layer: int, head: int | None = None
) -> pd.Series[float]:
    """A circuit metric indexed by step: of one head, or the largest over heads."""
    rows = data.table("circuits", run, seed)
    rows = rows[(rows["metric"] == metric) & (rows["layer"] == layer) & (rows["step"] > 0)]
    if head is not None:
        rows = rows[rows["head"] == head]
    return rows.groupby("step")["value"].max()


def median_curve(curves: Sequence[pd.Series[float]]) -> pd.Series[float]:
    """The median over seeds at every step of any seed; of an even number, the lower of the middle two.

    So it is always the value of a run, and shows no plateau halfway between two runs. A run that has
    ended keeps its last value, since only a solved run ends before the others.
    """
    steps = np.unique(np.concatenate([curve.index for curve in curves]))
    known = [curve.dropna() for curve in curves]
    together = [np.interp(steps, curve.index, curve, left=nan) for curve in known if len(curve)]
    values = np.sort([*together, np.full(len(steps), nan)], axis=0)  # NaN last
    lower = np.maximum((~np.isnan(values)).sum(axis=0) - 1, 0) // 2
    return pd.Series(np.take_along_axis(values, lower[None], axis=0)[0], index=steps)


def layers_and_heads(table: pd.DataFrame) -> list[tuple[int, int]]:
    """Every (layer, head) of a table, in order, from 1."""
    found = table[["layer", "head"]].drop_duplicates()
    return sorted((int(layer), int(head)) for layer, head in found.itertuples(index=False))


def phases(data: FigureData, run: str, seed: int, rule: str = "plateau") -> list[Phase]:
    """The phases of one run by one rule, in the order in which they came."""
    rows = data.table("phases", run, seed)
    rows = rows[rows["rule"] == rule].sort_values("start_step")
    columns = ["phase", "start_step", "end_step", "accuracy", "ceiling"]
    return [
        Phase(None if pd.isna(number) else int(number), int(start), int(end), float(accuracy), float(ceiling))
        for number, start, end, accuracy, ceiling in rows[columns].itertuples(index=False)
    ]


def ceilings(data: FigureData, run: str, seed: int) -> dict[int, float]:
    """The best accuracy of each phase's circuit in the run's world, where it is known."""
    rows = data.table("theory", run, seed)
    known = dict(zip(rows["circuit"], rows["accuracy"], strict=True))
    return {phase: float(known[name.lower()]) for phase, name in CIRCUITS.items() if name.lower() in known}


def checkpoints(data: FigureData, run: str, seed: int) -> list[int]:
    """The steps with attention maps, in order."""
    return sorted(int(step) for step in data.table("attention", run, seed)["step"].unique())


def nearest(steps: Sequence[int], target: float) -> int:
    """The step that is nearest to `target` on a log axis."""
    return min(steps, key=lambda step: abs(log(max(step, 0.5) / target)))


def final_accuracy(curve: pd.Series[float]) -> float:
    """The median accuracy over the last tenth of training."""
    return float(curve[curve.index >= 0.9 * curve.index[-1]].median())


def step_reaching(curve: pd.Series[float], share: float = FULL) -> int:
    """The first step at which accuracy has come to this share of its highest."""
    return int(curve.index[curve >= share * curve.max()][0])


def moment_step(data: FigureData, run: str, seed: int, moment: Moment) -> int:
    """The checkpoint of a moment.

    early: the middle of the first plateau; if there is none, the first checkpoint from which accuracy
    has come half the way to its highest. full: the first from which it has come to 0.99 of its highest.
    """
    saved = checkpoints(data, run, seed)
    found = phases(data, run, seed)
    if moment == "early" and found:
        return nearest(saved, found[0].middle)
    curve = data.training_curve(run, seed)
    reached = step_reaching(curve, 0.5 if moment == "early" else FULL)
    return next((step for step in saved if step >= reached), saved[-1])


def attention_map(
    data: FigureData, run: str, seed: int, step: int, layer: int, head: int, table: str = "attention"
) -> Float64[np.ndarray, "S S"]:
    """Attention weights [query, key] over the tokens x1 l1 ... xN lN xq; NaN where key > query."""
    rows = data.table(table, run, seed)
    rows = rows[(rows["step"] == step) & (rows["layer"] == layer) & (rows["head"] == head)]
    query, key = (rows[name].to_numpy(dtype=np.int64) - 1 for name in ("query", "key"))
    S = int(query.max(initial=0)) + 1
    weights = np.where(np.tri(S, dtype=bool), 0.0, np.nan)
    weights[query, key] = rows["weight"]
    return weights
