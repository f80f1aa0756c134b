"""The phases of a training run, read off its accuracy curve by two rules.

- `paper`: jumps are the steps t with Acc(t + dt) - Acc(t) above a threshold (paper, Fig. 3),
  clustered; the stretches between them are the phases, numbered in order, 0 before the first jump.
- `plateau`: phases are the stretches where accuracy is flat on a logarithmic step axis, above
  that of the best constant answer; each takes the number of the circuit whose exact ceiling it lies at.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float
from pydantic import Field

from circuit_phases.settings import LARGEST, Positive, Settings
from circuit_phases.stopping import SOLVED

CIRCUITS = ("ncc", "scc", "fcc")
"""The circuits of phases 1, 2 and 3."""
DECADES_AT_MOST = 10
"""No training is longer."""
COLUMNS = ["rule", "phase", "start_step", "end_step", "accuracy", "ceiling"]


class PhaseSettings(Settings):
    """How phases are told apart."""

    dt: Positive = Field(100, description="rule paper: steps between the accuracies compared")
    threshold: float = Field(0.025, gt=0, le=1, description="rule paper: gain of accuracy over dt that marks a jump")
    cluster: float = Field(
        0.1, gt=0, le=DECADES_AT_MOST, description="rule paper: decades of steps within which marks are one jump"
    )
    slope: float = Field(
        0.5,
        gt=0,
        le=LARGEST,
        description="rule plateau: most change of accuracy, relative to it, per decade of steps on a plateau",
    )
    window: float = Field(
        0.08, gt=0, le=DECADES_AT_MOST, description="rule plateau: decades of steps over which the slope is taken"
    )
    width: float = Field(
        0.05,
        gt=0,
        le=DECADES_AT_MOST,
        description="rule plateau: least decades of steps on a plateau; half of it where training ends",
    )
    tolerance: float = Field(0.08, gt=0, le=1, description="rule plateau: most distance of a plateau from its ceiling")
    chance: float = Field(
        0.015,
        gt=0,
        le=1,
        description="rule plateau: least height of a plateau above the best answer that looks at nothing",
    )


def find_phases(
    accuracy: pd.Series, levels: Mapping[str, float], settings: PhaseSettings | None = None
) -> pd.DataFrame:
    """Rows (rule, phase, start_step, end_step, accuracy, ceiling) of one run.

    `accuracy` is the iid accuracy, 0 to 1, indexed by step; `levels` the exact best accuracies of `ncc`,
    `scc` and `fcc`, and of `constant`, an answer that looks at nothing, as far as they are known
    (`iid_levels`).
    """
    settings = settings or PhaseSettings()
    accuracy = accuracy[accuracy.index > 0].sort_index()
    if accuracy.empty:
        return pd.DataFrame(columns=COLUMNS)
    rows = _stretches_between_jumps(accuracy, settings) + _plateaus(accuracy, levels, settings)
    return pd.DataFrame(rows, columns=COLUMNS)


def iid_accuracy(table: pd.DataFrame) -> pd.Series[float]:
    """The `accuracy` of `find_phases`, from a run's rows of the table `training`."""
    rows = table[(table["split"] == "iid") & table["task"].isna()]
    return rows.set_index("step")["accuracy"].astype(float)


def iid_levels(table: pd.DataFrame) -> dict[str, float]:
    """The `levels` of `find_phases`, from a run's rows of the table `ability_levels`."""
    rows = table[(table["split"] == "iid") & (table["measure"] == "accuracy")]
    return {str(level): float(value) for level, value in zip(rows["level"], rows["value"], strict=True)}


def _stretches_between_jumps(accuracy: pd.Series, settings: PhaseSettings) -> list[dict[str, object]]:
    steps = accuracy.index.to_numpy()
    later = accuracy.reindex(steps + settings.dt).to_numpy()
    marks = steps[later - accuracy.to_numpy() > settings.threshold]
    jumps: list[list[int]] = []
    for mark in marks:
        if jumps and np.log10(mark / jumps[-1][1]) <= settings.cluster:
            jumps[-1][1] = mark
        else:
            jumps.append([mark, mark])
    starts = [steps[0], *(last + settings.dt for _, last in jumps)]
    ends = [*(first for first, _ in jumps), steps[-1]]
    return [
        _row("paper", phase, accuracy.loc[start:end], None)
        for phase, (start, end) in enumerate(zip(starts, ends, strict=True))
        if start <= end
    ]


def _plateaus(accuracy: pd.Series, levels: Mapping[str, float], settings: PhaseSettings) -> list[dict[str, object]]:
    ceilings = {circuit: levels[circuit] for circuit in CIRCUITS if circuit in levels}
    curve = accuracy[accuracy.index >= _first_dense_step(accuracy, settings)]
    if len(curve) < 2:
        return []
    decades = np.log10(curve.index.to_numpy(dtype=float))
    known, values = _continued(decades, curve.to_numpy(), settings.window)
    grid = np.arange(known[0], known[-1], 0.01)
    if len(grid) < 2:
        return []
    smooth = _smoothed(known, values, grid, settings.window)
    # At either end half the window is missing, and the curve would seem to flatten there.
    whole = (grid >= known[0] + settings.window / 2) & (grid <= known[-1] - settings.window / 2)
    if not whole.any():
        return []
    slope = np.interp(grid, grid[whole], np.gradient(smooth, grid)[whole])
    flat = (np.abs(slope) <= settings.slope * smooth) & (smooth >= levels.get("constant", 0) + settings.chance)
    rows: list[dict[str, object]] = []
    for start, end in _stretches(flat):
        cut_off = end == len(grid) - 1
        if grid[end] - grid[start] < settings.width / (2 if cut_off else 1):
            continue
        stretch = curve[(decades >= grid[start]) & (decades <= grid[end] + 0.01)]
        if stretch.empty:
            continue
        phase = _circuit_at(float(stretch.median()), ceilings, settings.tolerance)
        if rows and rows[-1]["phase"] == phase and phase is not None:
            stretch = curve.loc[rows[-1]["start_step"] : stretch.index[-1]]
            rows.pop()
        rows.append(_row("plateau", phase, stretch, ceilings.get(CIRCUITS[phase - 1]) if phase else None))
    return rows


def _first_dense_step(accuracy: pd.Series, settings: PhaseSettings) -> float:
    """The first step from which evaluations are closer together than the slope's window."""
    interval = float(np.diff(accuracy.index.to_numpy(dtype=float)).min(initial=np.inf))
    return interval / (10**settings.window - 1)


def _continued(
    decades: Float[np.ndarray, " n"], values: Float[np.ndarray, " n"], window: float
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """The curve and, where it ends solved, how it would go on: training stops there before a plateau is long enough."""
    if values[-1] < SOLVED:
        return decades, values
    further = np.arange(0, window, decades[-1] - decades[-2])[1:]
    return np.concatenate([decades, decades[-1] + further]), np.pad(values, (0, len(further)), mode="edge")


def _smoothed(
    decades: Float[np.ndarray, " n"], values: Float[np.ndarray, " n"], grid: Float[np.ndarray, " m"], window: float
) -> Float[np.ndarray, " m"]:
    """The median of the values within half a window of each grid point, so that single dips do not count."""
    low = np.searchsorted(decades, grid - window / 2, side="left")
    high = np.maximum(np.searchsorted(decades, grid + window / 2, side="right"), low + 1)
    return np.array([np.median(values[start:end]) for start, end in zip(low, high, strict=True)])


def _stretches(flags: np.ndarray) -> list[tuple[int, int]]:
    """First and last index of every run of true flags."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(int)))
    return [(int(start), int(end) - 1) for start, end in zip(edges[::2], edges[1::2], strict=True)]


def _circuit_at(level: float, ceilings: Mapping[str, float], tolerance: float) -> int | None:
    """The number of the circuit whose ceiling is nearest; the simplest of those that are equally near."""
    distances = {CIRCUITS.index(circuit) + 1: round(abs(level - ceiling), 3) for circuit, ceiling in ceilings.items()}
    if not distances:
        return None
    nearest = min(distances, key=lambda phase: (distances[phase], phase))
    return nearest if distances[nearest] <= tolerance else None


def _row(rule: str, phase: int | None, stretch: pd.Series, ceiling: float | None) -> dict[str, object]:
    return {
        "rule": rule,
        "phase": phase,
        "start_step": int(stretch.index[0]),
        "end_step": int(stretch.index[-1]),
        "accuracy": float(stretch.median()),
        "ceiling": ceiling,
    }
