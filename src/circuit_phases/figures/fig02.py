"""Figure 2: accuracy and loss over steps, and the attention maps of each phase."""

from __future__ import annotations

from matplotlib.figure import Figure, FigureBase

from circuit_phases.figure_data import CIRCUITS, FigureData, Series
from circuit_phases.figures.panels import (
    MAP_HEIGHT,
    accuracy_axis,
    attention_grid,
    draw_ceilings,
    legend_above,
    per_series,
    phase_handles,
    seed_curves,
    seed_handles,
    shade_phases,
    splits,
    step_axis,
)
from circuit_phases.figures.style import PAGE, styled
from circuit_phases.readings import ceilings, checkpoints, layers_and_heads, nearest, phases

CURVES_HEIGHT = 2.0
"""Inches of accuracy and loss; each row of maps adds to it."""


@styled
def figure(data: FigureData) -> Figure:
    """Accuracy and loss of every seed; phases, ceilings and maps are those of the first seed listed."""
    return per_series(data, PAGE, CURVES_HEIGHT, _draw, more=_maps_height)


def _maps_height(data: FigureData, series: Series) -> float:
    rows = layers_and_heads(data.table("attention", series.run, series.seeds[0]))
    shown = any(phase.number for phase in phases(data, series.run, series.seeds[0]))
    return 0.3 + MAP_HEIGHT * len(rows) if shown else 0.3


def _draw(part: FigureBase, data: FigureData, series: Series) -> None:
    seed = series.seeds[0]
    found = phases(data, series.run, seed)
    above, below = part.subfigures(2, 1, height_ratios=[CURVES_HEIGHT, _maps_height(data, series)], squeeze=False)[:, 0]
    accuracy, loss = above.subplots(1, 2)
    for axes, column in ((accuracy, "accuracy"), (loss, "loss")):
        seed_curves(axes, splits(data, series, column=column))
        shade_phases(axes, found)
        step_axis(axes, splits(data, series))
    accuracy_axis(accuracy)
    draw_ceilings(accuracy, ceilings(data, series.run, seed))
    loss.set_ylim(bottom=0)
    loss.set_ylabel("loss (nats)")
    legend_above(above, [[handle] for handle in (*seed_handles(series), *phase_handles(found))])
    saved = checkpoints(data, series.run, seed)
    numbered = [(phase.name, nearest(saved, phase.middle)) for phase in found if phase.number and saved]
    attention_grid(below, data, series.run, seed, numbered, room=len(CIRCUITS))
