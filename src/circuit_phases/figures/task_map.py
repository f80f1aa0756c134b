"""Where the task stands: how often the answer moves when the residual stream comes from another task's sequence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure, FigureBase

from circuit_phases.figure_data import FigureData, Series
from circuit_phases.figures.causes import moved_answers, places
from circuit_phases.figures.panels import (
    accuracy_axis,
    dark_note,
    legend_above,
    per_series,
    phase_handles,
    seed_curves,
    shade_phases,
    splits,
    step_axis,
    words_instead,
)
from circuit_phases.figures.style import PAGE, styled
from circuit_phases.readings import phases


@styled
def figure(data: FigureData) -> Figure:
    """Accuracy; below, a row per layer and kind of token and in it a line per seed, dark where answers move."""
    return per_series(data, PAGE, 3.0, _draw)


def _draw(part: FigureBase, data: FigureData, series: Series) -> None:
    rows = places(data, series.run)
    if not any(len(moved_answers(data, series.run, seed, *row)) > 1 for row in rows for seed in series.seeds):
        words_instead(part, "no interventions made, or at one checkpoint alone")
        return
    found = phases(data, series.run, series.seeds[0])
    accuracy = splits(data, series)
    above, below = part.subplots(2, 1, sharex=True, height_ratios=[1, 0.35 * len(rows)])
    seed_curves(above, accuracy)
    accuracy_axis(above)
    shade_phases(above, found, numbers=False)
    for number, (layer, position) in enumerate(rows):
        height = 0.9 / len(series.seeds)
        for line, seed in enumerate(series.seeds):
            moved = moved_answers(data, series.run, seed, layer, position)
            if len(moved) > 1:
                mesh = _strip(below, moved, number - 0.45 + line * height, height)
    below.set_ylim(len(rows) - 0.5, -0.5)
    below.set_yticks(range(len(rows)), [_place(layer, position) for layer, position in rows])
    below.tick_params(axis="y", length=0)
    below.spines[:].set_visible(False)
    part.colorbar(
        mesh, ax=[above, below], shrink=0.7, aspect=25, pad=0.02, ticks=[0, 0.5, 1],
        label="answers moved to the\nother task's label",
    ).outline.set_visible(False)  # fmt: skip
    step_axis(below, accuracy)
    seeds = f"; rows: seeds {', '.join(map(str, series.seeds))} from above" if len(series.seeds) > 1 else ""
    legend_above(part, [[handle] for handle in phase_handles(found)], dark_note(series) + seeds)


def _place(layer: int, position: str) -> str:
    return f"{position}, " + (f"after layer {layer}" if layer else "before layer 1")


def _strip(axes: Axes, moved: pd.Series[float], low: float, height: float) -> QuadMesh:
    edges = _edges_between(moved.index.to_numpy())
    return axes.pcolormesh(
        edges, [low, low + height], moved.to_numpy()[None], cmap="Purples", vmin=0, vmax=1, rasterized=True
    )


def _edges_between(steps: Sequence[int] | np.ndarray) -> Float64[np.ndarray, " n+1"]:
    """Boundaries halfway, on a log axis, between steps."""
    logs = np.log(np.asarray(steps, dtype=np.float64))
    middle = (logs[1:] + logs[:-1]) / 2
    return np.exp(np.concatenate([logs[:1], middle, logs[-1:]]))
