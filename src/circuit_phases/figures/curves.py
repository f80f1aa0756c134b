"""A sweep: accuracy, the phases of every seed, and the circuit metrics of every layer, per series."""

from __future__ import annotations

from itertools import chain

from matplotlib.figure import Figure, FigureBase
from matplotlib.lines import Line2D
from matplotlib.typing import LineStyleType

from circuit_phases.figures.data import FigureData, Series
from circuit_phases.figures.panels import (
    accuracy_axis,
    legend_above,
    median_of_seeds,
    new_figure,
    phase_handles,
    phase_strip,
    splits,
    step_axis,
)
from circuit_phases.figures.readings import METRICS, circuit_curve, layers_and_heads, phases
from circuit_phases.figures.style import CIRCUIT_COLOURS, PAGE, series_looks, styled


@styled
def figure(data: FigureData) -> Figure:
    """A colour per series: the median over seeds dark, each seed light. Metrics are the largest over heads."""
    heads = layers_and_heads(data.tables["circuits"])
    layers = sorted({layer for layer, _ in heads})
    heights = [1.9 + 0.16 * len(data.series), 2.9 if layers else 0]
    drawn = new_figure(PAGE, 0.5 + sum(heights))
    parts = drawn.subfigures(1 + bool(layers), 1, height_ratios=heights[: 1 + bool(layers)], squeeze=False)[:, 0]
    _accuracy(parts[0], data)
    for part in parts[1:]:
        _metrics(part, data, layers, " (largest over heads)" * any(head > 1 for _, head in heads))
    colours = [Line2D([], [], color=colour, linestyle=line, label=one.label) for one, colour, line in _looks(data)]
    several_seeds = any(len(series.seeds) > 1 for series in data.series)
    legend_above(drawn, colours, min(len(colours), 6), "dark: median over seeds, light: each seed" * several_seeds)
    return drawn


def _accuracy(part: FigureBase, data: FigureData) -> None:
    accuracy, strip = part.subplots(2, 1, sharex=True, height_ratios=[1.5, 0.16 * max(len(data.series), 1)])
    curves = {series.label: splits(data, series) for series in data.series}
    for series, colour, line in _looks(data):
        median_of_seeds(accuracy, curves[series.label], colour, line)
    accuracy_axis(accuracy)
    found = [[phases(data, series.run, seed) for seed in series.seeds] for series in data.series]
    phase_strip(strip, list(zip(curves, found, strict=True)))
    step_axis(strip, [curve for seeds in curves.values() for curve in seeds])
    legend_above(part, phase_handles(chain(*chain(*found)), CIRCUIT_COLOURS))


def _metrics(part: FigureBase, data: FigureData, layers: list[int], note: str) -> None:
    grid = part.subplots(len(METRICS), len(layers), sharex=True, sharey=True, squeeze=False)
    for row, (metric, name) in zip(grid, METRICS.items(), strict=True):
        for axes, layer in zip(row, layers, strict=True):
            for series, colour, line in _looks(data):
                curves = [circuit_curve(data, series.run, seed, metric, layer) for seed in series.seeds]
                median_of_seeds(axes, curves, colour, line)
            accuracy_axis(axes, "")
        row[0].set_ylabel(name)
    for axes, layer in zip(grid[0], layers, strict=True):
        axes.set_title(f"Layer {layer}{note}")
    for axes in grid[-1]:
        step_axis(axes, [curve for series in data.series for curve in splits(data, series)])


def _looks(data: FigureData) -> list[tuple[Series, str, LineStyleType]]:
    looks = series_looks([series.label for series in data.series])
    return [(series, *look) for series, look in zip(data.series, looks, strict=True)]
