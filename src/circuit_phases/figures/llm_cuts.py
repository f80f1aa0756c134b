"""Accuracy of language models when attention edges are cut in top heads, and in random ones."""

from __future__ import annotations

import re

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from circuit_phases.figure_data import FigureData
from circuit_phases.figures.language_models import (
    accuracy_legend,
    accuracy_panel,
    every_asked,
    row_of_panels,
    with_gold_labels,
)
from circuit_phases.figures.style import GREY, INK, RED, styled
from circuit_phases.readings import METRICS

COLOURS = {"none": INK, "top": RED, "random": GREY}
NAMES = {"none": "attention whole", "top": "edges of the top heads cut", "random": "as many random heads cut"}


@styled
def figure(data: FigureData) -> Figure:
    """A panel per model and data set, a line per cut; gold labels and the most demonstrations."""
    table = with_gold_labels(data.tables["llm_accuracy"])
    asked = every_asked(table[table["shots"] == table["shots"].max()])
    most = max((each.rows["cut"].nunique() for each in asked), default=1)
    drawn, rows = row_of_panels(len(asked), 1, 0.75 + 0.17 * most, [each.title for each in asked])
    for (axes,), each in zip(rows, asked, strict=False):
        cuts = each.rows.reset_index(drop=True)
        for kind, colour in COLOURS.items():
            chosen = cuts[cuts["cut"].map(_kind) == kind]
            accuracy_panel(axes, chosen, [_name(cut) for cut in cuts["cut"]], np.array(chosen.index), colour)
    handles = [
        Line2D([], [], marker="o", markersize=3, linestyle="none", color=colour, label=NAMES[kind])
        for kind, colour in COLOURS.items()
    ]
    accuracy_legend(drawn, handles, "heads are found on one half of the queries and cut on the other")
    return drawn


def _kind(cut: str) -> str:
    return next(kind for kind in ("none", "random", "top") if kind in cut)


def _name(cut: str) -> str:
    """E.g. `Label Attention: top 10 heads`."""
    metric, colon, heads = cut.partition(": ")
    return METRICS[metric] + colon + re.sub(r", draw 1$", "", heads) if colon else "nothing cut"
