"""Figure 12: the copy task T = 1, p_B = 1, B = 1: one phase, and the attention of an induction head."""

from __future__ import annotations

from matplotlib.figure import Figure, FigureBase
from matplotlib.patches import Patch

from circuit_phases.figure_data import FigureData, Series
from circuit_phases.figures.panels import (
    MAP_HEIGHT,
    accuracy_axis,
    attention_grid,
    legend_above,
    per_series,
    phase_handles,
    seed_curves,
    seed_handles,
    shade_phases,
    splits,
    step_axis,
)
from circuit_phases.figures.style import CIRCUIT_TINTS, PAGE, styled
from circuit_phases.readings import checkpoints, layers_and_heads, phases

HEIGHT = 3.1
"""Inches of accuracy, and of two rows of maps beside it."""


@styled
def figure(data: FigureData) -> Figure:
    """Accuracy of every seed; maps of the first seed listed, at its first and its last checkpoint."""
    return per_series(data, PAGE, HEIGHT, _draw, more=_more_maps)


def _more_maps(data: FigureData, series: Series) -> float:
    rows = layers_and_heads(data.table("attention", series.run, series.seeds[0]))
    return MAP_HEIGHT * max(len(rows) - 2, 0)


def _draw(part: FigureBase, data: FigureData, series: Series) -> None:
    seed = series.seeds[0]
    left, right = part.subfigures(1, 2, width_ratios=[2.7, 4], squeeze=False)[0]
    more = _more_maps(data, series)
    heights = [HEIGHT, more][: 1 + bool(more)]
    left = left.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[0, 0]
    axes = left.subplots()
    curves = splits(data, series)
    seed_curves(axes, curves)
    found = phases(data, series.run, seed)
    shade_phases(axes, found)
    step_axis(axes, curves)
    accuracy_axis(axes)
    # With one task the weights alone could answer all, so accuracy cannot tell which circuit does.
    only = [Patch(color=CIRCUIT_TINTS[1], label="the only phase")]
    legend_above(
        left, [seed_handles(series), only if {phase.number for phase in found} == {1} else phase_handles(found)]
    )
    saved = checkpoints(data, series.run, seed)
    attention_grid(
        right, data, series.run, seed, [("at the start", saved[0]), ("at the end", saved[-1])] if saved else []
    )
