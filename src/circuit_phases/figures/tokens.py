"""A real sequence of a world as a row of tokens: items as small pictures of their content, labels as numbers."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from circuit_phases.figure_data import FigureData
from circuit_phases.figures.panels import token_labels
from circuit_phases.figures.style import GREY, INK, SMALL

TILE = 0.8
"""Side of an item's picture; tokens stand 1 apart."""


@dataclass(frozen=True)
class Example:
    """One evaluation sequence; task, classes and labels count from 1, the query's are the last."""

    task: int
    classes: tuple[int, ...]
    labels: tuple[int, ...]
    items: Float64[np.ndarray, "N+1 D"]

    @property
    def N(self) -> int:
        """Pairs in the context."""
        return len(self.classes) - 1

    @property
    def answering_pair(self) -> int | None:
        """The first pair, from 0, with the query's class; None if the class is not in the context."""
        context = self.classes[:-1]
        return context.index(self.classes[-1]) if self.classes[-1] in context else None


def first_example(data: FigureData, run: str, seed: int) -> Example | None:
    """The first evaluation sequence of a run's world."""
    rows = data.table("evaluation_sequences", run, seed)
    rows = rows[rows["split"] == "iid"]
    if rows.empty:
        return None
    row = rows.sort_values("sequence").iloc[0]
    classes = tuple(int(number) for number in row["classes"])
    items = np.asarray(row["items"], dtype=np.float64).reshape(len(classes), -1)
    return Example(int(row["task"]), classes, tuple(int(number) for number in row["labels"]), items)


def token_axes(axes: Axes, width: float, low: float, high: float) -> None:
    """Bare axes in units of one token, the first token at 0."""
    axes.set(xlim=(-0.6, width), ylim=(low, high), aspect="equal")
    bare(axes)


def bare(axes: Axes) -> None:
    """Axes without ticks and edges."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def draw_tokens(axes: Axes, example: Example, y: float, answer: bool = True) -> None:
    """The tokens x1 l1 ... xN lN xq at height y and, if wanted, what is to be predicted in a dashed box."""
    largest = float(np.abs(example.items).max()) or 1.0
    for pair, item in enumerate(example.items):
        _draw_item(axes, item / largest, 2 * pair, y)
    for pair, label in enumerate(example.labels):
        asked = pair == example.N
        if answer or not asked:
            draw_label(axes, str(label), 2 * pair + 1, y, asked)
    for position, name in enumerate(token_labels(2 * example.N + 1)):
        axes.text(position, y - 0.62, name, ha="center", va="center", color=GREY)


def draw_label(axes: Axes, text: str, x: float, y: float, asked: bool = False) -> None:
    """A label in a box; dashed if it is to be predicted."""
    side = 0.6
    box = FancyBboxPatch(
        (x - side / 2, y - side / 2), side, side, boxstyle="round,pad=0.05,rounding_size=0.15", edgecolor=INK,
        facecolor="white" if asked else "#ececec", linewidth=0.7, linestyle=(0, (3, 2)) if asked else "-",
    )  # fmt: skip
    axes.add_patch(box)
    axes.text(x, y - 0.02, text, ha="center", va="center", fontsize=SMALL + 0.5, zorder=4)


def _draw_item(axes: Axes, content: Float64[np.ndarray, " D"], x: float, y: float) -> None:
    """The D content entries as a picture, row by row; equal classes look alike."""
    rows = next(side for side in range(isqrt(len(content)), 0, -1) if len(content) % side == 0)
    half = TILE / 2
    left, right, bottom, top = x - half, x + half, y - half, y + half
    picture = content.reshape(rows, -1)
    axes.pcolormesh(
        np.linspace(left, right, picture.shape[1] + 1), np.linspace(top, bottom, rows + 1), picture,
        cmap="PuOr", vmin=-1, vmax=1,
    )  # fmt: skip
    axes.plot([left, right, right, left, left], [bottom, bottom, top, top, bottom], color=INK, linewidth=0.5)
