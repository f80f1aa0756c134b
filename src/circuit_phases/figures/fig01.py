"""Figure 1: the task, on a real sequence of each world (copy beside ICML), and the network."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from circuit_phases.figure_data import FigureData, Series
from circuit_phases.figures.panels import new_figure, token_labels
from circuit_phases.figures.style import CIRCUIT_TINTS, GREY, INK, PAGE, RED, SMALL, inches, styled, wrapped
from circuit_phases.figures.tokens import Example, bare, draw_tokens, first_example, token_axes

CLEAR = {"facecolor": "white", "edgecolor": "none", "pad": 1}
"""The ground of a text that lies over lines."""


@styled
def figure(data: FigureData) -> Figure:
    """A panel per series: the first evaluation sequence of its first seed, with the labels of every task below."""
    examples = [(series, first_example(data, series.run, series.seeds[0])) for series in data.series]
    tables = {series.run: _label_tables(data, series) for series, example in examples if example}
    rows = [_height(example, len(tables[series.run])) if example else 2.4 for series, example in examples] or [2.4]
    drawn = new_figure(PAGE, 0.42 * sum(rows))
    left, right = drawn.subfigures(1, 2, width_ratios=[2.25, 1], squeeze=False)[0]
    panels = left.subplots(len(rows), 1, squeeze=False, height_ratios=rows)[:, 0]
    for axes, (series, example) in zip(panels, examples, strict=False):
        if example:
            _draw_task(axes, example, tables[series.run])
            axes.set_title(wrapped(series.label, inches(left), rcParams["axes.titlesize"]))
    held = [example for _, example in examples if example]
    network = right.subplots()
    bare(network)
    for example in held[:1]:
        _draw_network(network, example.N)
    return drawn


def _label_tables(data: FigureData, series: Series) -> Int64[np.ndarray, "T K"]:
    rows = data.table("label_tables", series.run, series.seeds[0]).sort_values(["task", "class"])
    return rows["label"].to_numpy(dtype=np.int64).reshape(rows["task"].nunique(), -1)


def _height(example: Example, tasks: int) -> float:
    """Of a panel, in tokens: an arc above the tokens, and a line per task below."""
    return _top(example) + 1.75 + 0.5 * tasks


def _top(example: Example) -> float:
    return 0.65 if example.answering_pair is None else 1.15


def _draw_task(axes: Axes, example: Example, tables: Int64[np.ndarray, "T K"]) -> None:
    """The sequence, the label that every task would give to each item, and where the answer comes from."""
    top = _top(example)
    token_axes(axes, 2 * example.N + 2.1, top - _height(example, len(tables)), top)
    draw_tokens(axes, example, 0)
    for row, labels in enumerate(tables, start=1):
        y = -0.75 - 0.5 * row
        governs = row == example.task
        if governs:
            axes.axhspan(y - 0.24, y + 0.24, color=CIRCUIT_TINTS[3], linewidth=0)
        axes.text(-0.5, y, f"task {row}", va="center", fontsize=SMALL, color=INK if governs else GREY)
        for place, number in enumerate(example.classes):
            axes.text(
                2 * place + 1, y, str(labels[number - 1]), ha="center", va="center", fontsize=SMALL + 0.5,
                color=INK if governs else GREY, weight="bold" if governs and place == example.N else "normal",
            )  # fmt: skip
    pair = example.answering_pair
    words = "which task governs the pairs? its label of the query"
    if pair is not None:
        words = f"the query's class stands in pair {pair + 1}: copy its label"
        arc = FancyArrowPatch(
            (2 * example.N, 0.45), (2 * pair, 0.45), connectionstyle="arc3,rad=0.12", arrowstyle="-|>",
            mutation_scale=6, color=RED, linewidth=0.8,
        )  # fmt: skip
        axes.add_patch(arc)
    axes.text(2 * example.N + 1.5, -1.0 - 0.5 * (len(tables) + 0.75), words, ha="right", va="center", fontsize=SMALL)


def _draw_network(axes: Axes, N: int) -> None:
    """Tokens, two layers of causal attention over the residual stream, and the classifier at the query."""
    S = 2 * N + 1
    rows = {"tokens": 0.0, "attention layer 1": 2.0, "attention layer 2": 4.0}
    for (low, high), keys in zip(((0.0, 2.0), (2.0, 4.0)), (range(S), [S - 1]), strict=True):
        for query in keys:
            for key in range(query + 1):
                axes.plot([key, query], [low + 0.25, high - 0.25], color=GREY, alpha=0.45, linewidth=0.5)
    for name, y in rows.items():
        axes.plot(range(S), [y] * S, "o", color=INK, markersize=3)
        if y:
            axes.text(-0.4, y + 0.3, name, va="bottom", fontsize=SMALL, bbox=CLEAR, zorder=5)
    for position, name in enumerate(token_labels(S)):
        axes.text(position, -0.55, name, ha="center", va="center")
    box = FancyBboxPatch(
        (S - 3.6, 5.1), 3.2, 0.9, boxstyle="round,pad=0.1", facecolor="#ececec", edgecolor=INK, linewidth=0.7
    )
    axes.add_patch(box)
    axes.text(S - 2, 5.55, "classifier", ha="center", va="center")
    axes.plot([S - 1] * 2, [4.15, 5.0], color=INK, linewidth=0.7)
    axes.text(S - 2, 6.45, "logits of the labels", ha="center", va="center", fontsize=SMALL)
    axes.set(xlim=(-0.6, S + 0.1), ylim=(-1.0, 6.9))
    axes.set_title("the network")
