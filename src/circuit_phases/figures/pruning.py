"""Figure 13: training with only one circuit's attention left from the start, against the full model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import rcParams
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure, FigureBase

from circuit_phases.figure_data import FigureData
from circuit_phases.figures.panels import new_figure, token_labels, words_instead
from circuit_phases.figures.style import PAGE, SMALL, styled, wrapped
from circuit_phases.figures.sweeps import draw_sweep, legend_height, looks, series_legend, sweep_height
from circuit_phases.readings import attention_map, checkpoints, layers_and_heads

EDGES_HEIGHT = 2.5
NAME_ROW = 0.125
"""Inches of each further line of a column's name."""
SIDES = 0.5
"""Inches of the page beside the columns."""


@styled
def figure(data: FigureData) -> Figure:
    """The sweep as in `sweep`; below, which edges attention keeps in each layer, of the first seed listed."""
    names = _names(data)
    heights = [sweep_height(data), EDGES_HEIGHT + NAME_ROW * max((name.count("\n") for name in names), default=0)]
    drawn = new_figure(PAGE, sum(heights) + legend_height(data, PAGE))
    above, below = drawn.subfigures(2, 1, height_ratios=heights, squeeze=False)[:, 0]
    draw_sweep(above, data)
    _draw_edges(below, data, names)
    series_legend(drawn, data, PAGE)
    return drawn


def _names(data: FigureData) -> list[str]:
    """The names of all series, in lines that do not run into the next column."""
    room = (PAGE - SIDES) / max(len(data.series), 1)
    return [wrapped(series.label, room, rcParams["axes.titlesize"]) for series in data.series]


def _draw_edges(part: FigureBase, data: FigureData, names: Sequence[str]) -> None:
    """A square per attending token (row) and token attended to (column): dark where attention is not cut off."""
    layers = sorted({layer for layer, _ in layers_and_heads(data.tables["attention"])})
    if not layers:
        words_instead(part, "no attention saved")
        return
    part.suptitle("Edges kept: attending token (rows), token attended to (columns)", fontsize="medium")
    grid = part.subplots(len(layers), len(data.series), squeeze=False)
    for place, (column, name, (series, colour, _)) in enumerate(zip(grid.T, names, looks(data), strict=True)):
        seed = series.seeds[0]
        start = checkpoints(data, series.run, seed)[0]
        column[0].set_title(name, color=colour, loc="center")
        for axes, layer in zip(column, layers, strict=True):
            # Softmax gives every edge that is left some weight, however small.
            kept = np.nan_to_num(attention_map(data, series.run, seed, start, layer, head=1)) > 0
            S = len(kept)
            shown = np.ma.masked_array(kept, np.triu(np.ones((S, S), dtype=bool), 1))
            axes.pcolormesh(
                shown, cmap=ListedColormap(["#ececec", colour]), vmin=0, vmax=1, edgecolors="white", linewidth=0.5
            )
            axes.set(aspect="equal", ylim=(S, 0))
            axes.set_xticks(np.arange(S) + 0.5, token_labels(S), fontsize=SMALL)
            axes.set_yticks(np.arange(S) + 0.5, token_labels(S), fontsize=SMALL)
            axes.tick_params(length=0, pad=1, labelleft=place == 0, labelbottom=layer == layers[-1])
            axes.spines[:].set_visible(False)
    for axes, layer in zip(grid[:, 0], layers, strict=True):
        axes.set_ylabel(f"Layer {layer}")
