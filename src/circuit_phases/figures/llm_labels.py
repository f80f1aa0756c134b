"""Accuracy of language models by the labels that their demonstrations carry."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from circuit_phases.figure_data import FigureData
from circuit_phases.figures.language_models import accuracy_legend, accuracy_panel, every_asked, row_of_panels
from circuit_phases.figures.style import GREY, SERIES_COLOURS, styled

KINDS = {
    "none": "no demonstrations",
    "gold": "gold labels",
    "permuted": "labels permuted",
    "random": "random labels",
    "flipped": "labels flipped",
}


@styled
def figure(data: FigureData) -> Figure:
    """A panel per model and data set; attention is whole."""
    table = data.tables["llm_accuracy"]
    table = table[table["cut"] == "none"]
    kinds = [kind for kind in KINDS if kind in set(table["demonstration_labels"])]
    shots = sorted(set(table["shots"]) - {0})
    colours = {0: GREY} | dict(zip(shots, SERIES_COLOURS, strict=False))
    asked = every_asked(table)
    drawn, rows = row_of_panels(len(asked), 1, 0.75 + 0.17 * len(kinds), [each.title for each in asked])
    for (axes,), each in zip(rows, asked, strict=False):
        for number, count in enumerate(colours):
            group = each.rows[each.rows["shots"] == count]
            place = np.array([kinds.index(kind) for kind in group["demonstration_labels"]], dtype=float)
            shift = 0.0 if count == 0 or len(shots) == 1 else 0.5 * (number / len(shots) - 0.5)
            accuracy_panel(axes, group, [KINDS[kind] for kind in kinds], place + shift, colours[count])
    handles = [
        Line2D(
            [], [], marker="o", markersize=3, linestyle="none", color=colours[count], label=f"{count} demonstrations"
        )
        for count in shots
    ]
    accuracy_legend(drawn, handles, "share of queries whose label word is the more likely one; bars: 95 % intervals")
    return drawn
