"""A sweep with the circuit metrics of every layer: what an experiment that no figure names gets."""

from __future__ import annotations

from functools import partial

import pandas as pd
from matplotlib.figure import Figure, FigureBase

from circuit_phases.figure_data import FigureData, Series
from circuit_phases.figures.panels import LEGEND_ROW, new_figure, step_axes
from circuit_phases.figures.style import PAGE, styled
from circuit_phases.figures.sweeps import (
    Panel,
    draw_panel,
    draw_sweep,
    every_accuracy,
    series_legend,
    series_legend_lines,
    sweep_height,
)
from circuit_phases.readings import METRICS, circuit_curve, layers_and_heads

METRICS_HEIGHT = 0.4 + 1.0 * len(METRICS)
"""Inches of the metrics: a row is longer than its label."""
TITLE_HEIGHT = 0.2


@styled
def figure(data: FigureData) -> Figure:
    """A colour per series: the median over seeds dark, each seed light. Metrics are the largest over heads."""
    heads = layers_and_heads(data.tables["circuits"])
    layers = sorted({layer for layer, _ in heads})
    several = any(head > 1 for _, head in heads)
    heights = [sweep_height(data), METRICS_HEIGHT + TITLE_HEIGHT * several][: 1 + bool(layers)]
    drawn = new_figure(PAGE, sum(heights) + LEGEND_ROW * series_legend_lines(data, PAGE))
    parts = drawn.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    draw_sweep(parts[0], data)
    for part in parts[1:]:
        _metrics(part, data, layers)
        if several:
            part.suptitle("Metrics: the largest over heads", fontsize="medium")
    series_legend(drawn, data, PAGE)
    return drawn


def _metrics(part: FigureBase, data: FigureData, layers: list[int]) -> None:
    grid = part.subplots(len(METRICS), len(layers), sharex=True, sharey=True, squeeze=False)
    for row, (metric, name) in zip(grid, METRICS.items(), strict=True):
        for axes, layer in zip(row, layers, strict=True):
            draw_panel(axes, data, Panel(name * (axes is row[0]), partial(_metric_curves, metric=metric, layer=layer)))
    for axes, layer in zip(grid[0], layers, strict=True):
        axes.set_title(f"Layer {layer}")
    step_axes(grid, every_accuracy(data))


def _metric_curves(data: FigureData, series: Series, metric: str, layer: int) -> list[pd.Series[float]]:
    return [circuit_curve(data, series.run, seed, metric, layer) for seed in series.seeds]
