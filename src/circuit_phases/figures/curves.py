"""A sweep: accuracy, the phases of every seed, and the circuit metrics of every layer, per series."""

from __future__ import annotations

from itertools import chain

import pandas as pd
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

LEGEND_COLUMNS = 6
"""Series beside each other in the legend, at most."""


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
    rows = -(-len(colours) // LEGEND_COLUMNS)
    legend_above(
        drawn,
        [colours[i : i + rows] for i in range(0, len(colours), rows or 1)],
        "dark: median over seeds, light: each seed" * several_seeds,
    )
    return drawn


def _accuracy(part: FigureBase, data: FigureData) -> None:
    accuracy, strip = part.subplots(2, 1, sharex=True, height_ratios=[1.5, 0.16 * max(len(data.series), 1)])
    for series, colour, line in _looks(data):
        median_of_seeds(accuracy, splits(data, series), colour, line)
    accuracy_axis(accuracy)
    found = [[phases(data, series.run, seed) for seed in series.seeds] for series in data.series]
    phase_strip(strip, [(series.label, seeds) for series, seeds in zip(data.series, found, strict=True)])
    step_axis(strip, _every_curve(data))
    legend_above(part, [[handle] for handle in phase_handles(chain(*chain(*found)), CIRCUIT_COLOURS)])


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
        step_axis(axes, _every_curve(data))


def _every_curve(data: FigureData) -> list[pd.Series[float]]:
    return [curve for series in data.series for curve in splits(data, series)]


def _looks(data: FigureData) -> list[tuple[Series, str, LineStyleType]]:
    looks = series_looks([series.label for series in data.series])
    return [(series, *look) for series, look in zip(data.series, looks, strict=True)]
