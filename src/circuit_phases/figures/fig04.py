"""Figure 4: the three circuit metrics of every layer over steps."""

from __future__ import annotations

from matplotlib.figure import Figure, FigureBase
from matplotlib.lines import Line2D
from matplotlib.typing import LineStyleType

from circuit_phases.figure_data import FigureData, Series
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
)
from circuit_phases.figures.style import COLUMN, GREY, HEAD_STYLES, LAYER_COLOURS, styled
from circuit_phases.readings import METRICS, circuit_curve, layers_and_heads, phases


@styled
def figure(data: FigureData) -> Figure:
    """Accuracy, then a panel per metric; a colour per layer, a line style per head."""
    return per_series(data, COLUMN, 4.6, _draw)


def _draw(part: FigureBase, data: FigureData, series: Series) -> None:
    found = phases(data, series.run, series.seeds[0])
    heads = layers_and_heads(data.table("circuits", series.run))
    panels = part.subplots(1 + len(METRICS), 1, sharex=True, height_ratios=[0.6, 1, 1, 1])
    accuracy = splits(data, series)
    seed_curves(panels[0], accuracy, GREY)
    accuracy_axis(panels[0])
    for axes, (metric, name) in zip(panels[1:], METRICS.items(), strict=True):
        for layer, head in heads:
            curves = [circuit_curve(data, series.run, seed, metric, layer, head) for seed in series.seeds]
            seed_curves(axes, curves, *_look(layer, head))
        accuracy_axis(axes, name)
    for axes in panels:
        shade_phases(axes, found, numbers=axes is panels[0])
    step_axis(panels[-1], accuracy)
    several_heads = any(head > 1 for _, head in heads)
    lines = [
        Line2D([], [], color=colour, linestyle=style, label=f"layer {layer}" + f", head {head}" * several_heads)
        for layer, head in heads
        for colour, style in [_look(layer, head)]
    ]
    legend_above(part, [lines, phase_handles(found)], dark_note(series))


def _look(layer: int, head: int) -> tuple[str, LineStyleType]:
    return LAYER_COLOURS[(layer - 1) % len(LAYER_COLOURS)], HEAD_STYLES[(head - 1) % len(HEAD_STYLES)]
