"""Figure 11: the induction circuit, with the attention of a trained induction head on a real sequence."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from circuit_phases.figure_data import FigureData
from circuit_phases.figures.panels import new_figure
from circuit_phases.figures.style import GREY, INK, LAYER_COLOURS, PAGE, RED, SMALL, styled
from circuit_phases.figures.tokens import bare, draw_tokens, first_example, token_axes
from circuit_phases.readings import attention_map, layers_and_heads

RISE = 1.9
"""Height from one layer to the next, in tokens."""
FAINT = 0.05
"""Least attention weight that is drawn."""


@styled
def figure(data: FigureData) -> Figure:
    """The first seed of the first series at its last checkpoint: a line per attention weight, as wide as it is."""
    drawn = new_figure(PAGE, 3.1)
    axes = drawn.subplots()
    bare(axes)
    for series in data.series[:1]:
        run, seed = series.run, series.seeds[0]
        example, rows = first_example(data, run, seed), data.table("example_attention", run, seed)
        if example is None or rows.empty:
            continue
        step = int(rows["step"].max())
        layers = sorted({layer for layer, _ in layers_and_heads(rows)})[:2]
        S = 2 * example.N + 1
        token_axes(axes, S + 4.4, -1.4, RISE * len(layers) + 0.7)
        draw_tokens(axes, example, 0, answer=False)
        for layer in layers:
            weights = attention_map(data, run, seed, step, layer, 1, "example_attention")
            _draw_layer(axes, weights, RISE * layer, layer)
        pair = example.answering_pair
        answer = f"to predict: {example.labels[-1]}" + (f", the label of pair {pair + 1}" if pair is not None else "")
        axes.text(S - 0.6, RISE * len(layers) + 0.45, answer, ha="right", va="center")
        note = f"width of a line: attention weight\non this sequence at step {step:,}"
        axes.text(S + 0.1, 0.3, note, va="top", fontsize=SMALL, color=GREY)
        if pair is not None:
            axes.text(S / 2 + pair - 0.5, -1.25, "same class", ha="center", va="center", color=RED, fontsize=SMALL)
            axes.add_patch(
                FancyArrowPatch((S - 1, -0.8), (2 * pair, -0.8), connectionstyle="arc3,rad=-0.05", arrowstyle="<|-|>",
                                mutation_scale=5, color=RED, linewidth=0.7)
            )  # fmt: skip
    return drawn


def _draw_layer(axes: Axes, weights: Float64[np.ndarray, "S S"], y: float, layer: int) -> None:
    """The edges from the tokens below to those of a layer, and what its part in the circuit is."""
    S = len(weights)
    labels, items = np.arange(1, S - 1, 2), np.arange(0, S - 1, 2)
    circuit = set(zip(labels, items, strict=True)) if layer == 1 else {(S - 1, label) for label in labels}
    bottom = y - RISE + (0.48 if layer == 1 else 0.12)
    for query in range(S):
        for key in range(query + 1):
            if weights[query, key] >= FAINT:
                own = (query, key) in circuit
                axes.plot(
                    [key, query], [bottom, y - 0.12], color=LAYER_COLOURS[layer - 1] if own else GREY,
                    linewidth=3 * weights[query, key], alpha=1 if own else 0.25, zorder=3 if own else 2,
                    solid_capstyle="butt",
                )  # fmt: skip
    axes.plot(range(S), [y] * S, "o", color=INK, markersize=3, zorder=4)
    value = weights[labels, items].mean() if layer == 1 else weights[-1, labels].sum()
    what, metric = {
        1: ("each label attends to its item:\nthe pair is chunked", "Chunk Example"),
        2: ("the query attends to the label\nwhose item is like it", "Label Attention"),
    }[layer]
    axes.text(
        S + 0.1, y - RISE / 2 + 0.35, f"Layer {layer}", weight="bold", va="bottom", color=LAYER_COLOURS[layer - 1]
    )
    axes.text(S + 0.1, y - RISE / 2 + 0.25, f"{what}\n{metric} {value:.2f}", va="top", fontsize=SMALL + 0.5)
