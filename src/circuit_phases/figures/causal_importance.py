"""How much accuracy hangs on each circuit and each edge family over training, beside the attention paid to it."""

from __future__ import annotations

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.typing import LineStyleType

from circuit_phases.figure_data import CIRCUITS, FigureData, Series
from circuit_phases.figures.causes import KNOCK_OUTS, circuit_importance, disagreements, knocked_layers, lost_accuracy
from circuit_phases.figures.panels import (
    accuracy_axis,
    dark_note,
    draw_curve,
    legend_above,
    per_series,
    phase_handles,
    seed_curves,
    shade_phases,
    splits,
    step_axes,
    words_instead,
)
from circuit_phases.figures.style import CIRCUIT_COLOURS, INK, PAGE, RED, styled
from circuit_phases.readings import METRICS, Phase, circuit_curve, phases

AREA = "#bdbdbd"
LINES: dict[str, LineStyleType] = {"zero": "-", "mean": "--", "resample": ":"}
MARKS = {
    "not needed": ("v", "#0077aa", 0.93, "looked at, not needed"),
    "hardly looked at": ("^", RED, 0.85, "needed, hardly looked at"),
}
"""Marker, colour, height and name of each kind of disagreement."""


@styled
def figure(data: FigureData) -> Figure:
    """Above, accuracy and what hangs on each circuit; below, a row per edge family and a column per layer."""
    drawn = per_series(data, PAGE / 2 if len(data.series) > 2 else PAGE, 4.6, _draw)
    found = [phase for series in data.series for phase in phases(data, series.run, series.seeds[0])]
    most = max(data.series, key=lambda series: len(series.seeds), default=None)
    legend_above(drawn, _legend(found), dark_note(most) if most else "")
    return drawn


def _draw(part: FigureBase, data: FigureData, series: Series) -> None:
    layers = knocked_layers(data, series.run)
    if not layers:
        words_instead(part, "no interventions made")
        return
    found = phases(data, series.run, series.seeds[0])
    accuracy = splits(data, series)
    grid = part.subplots(1 + len(METRICS), len(layers), sharex=True, sharey=True, squeeze=False)
    seed_curves(grid[0, 0], accuracy)
    grid[0, 0].set_title("Accuracy")
    for axes in grid[0, 2:]:
        axes.set_axis_off()
    if len(layers) > 1:
        importance = [circuit_importance(data, series.run, seed) for seed in series.seeds]
        for phase in CIRCUITS:
            seed_curves(grid[0, 1], [of_seed[phase] for of_seed in importance if of_seed], CIRCUIT_COLOURS[phase])
        grid[0, 1].set_title("On each circuit, at most")
    for row, (edge, name) in zip(grid[1:], METRICS.items(), strict=True):
        for axes, layer in zip(row, layers, strict=True):
            _edges(axes, data, series, edge, layer)
            axes.set_title(f"{name}, layer {layer}")
    for axes in grid.flat:
        shade_phases(axes, found, numbers=False)
    step_axes(grid, accuracy)
    accuracy_axis(grid[0, 0], "")
    grid[0, 0].set_ylim(bottom=-0.08)


def _edges(axes: Axes, data: FigureData, series: Series, edge: str, layer: int) -> None:
    """Attention as an area, accuracy lost as lines, and marks where the two disagree."""
    first = series.seeds[0]
    metric = circuit_curve(data, series.run, first, edge, layer)
    axes.fill_between(metric.index, 0, metric, color=AREA, linewidth=0, zorder=1)
    curves = [lost_accuracy(data, series.run, seed, edge, layer)["lost"] for seed in series.seeds]
    seed_curves(axes, curves)
    for knock_out in ("mean", "resample"):
        lost = lost_accuracy(data, series.run, first, edge, layer, knock_out)["lost"]
        draw_curve(axes, lost, color=INK, linestyle=LINES[knock_out], linewidth=0.8, zorder=3)
    for kind, steps in disagreements(data, series.run, first, edge, layer).items():
        marker, colour, height, _ = MARKS[kind]
        axes.plot(steps, [height] * len(steps), marker, color=colour, markersize=2.2, linestyle="none", zorder=4)


def _legend(found: list[Phase]) -> list[list[Artist]]:
    lines: list[Artist] = [
        Line2D([], [], color=INK, linestyle=LINES[kind], label=f"accuracy lost, {name}")
        for kind, name in KNOCK_OUTS.items()
    ]
    marks: list[Artist] = [
        Line2D([], [], color=colour, marker=marker, markersize=3, linestyle="none", label=name)
        for marker, colour, _, name in MARKS.values()
    ]
    circuits: list[Artist] = [
        Line2D([], [], color=CIRCUIT_COLOURS[phase], label=name) for phase, name in CIRCUITS.items()
    ]
    return [lines, [Patch(color=AREA, label="attention paid"), *marks], circuits, phase_handles(found)]
