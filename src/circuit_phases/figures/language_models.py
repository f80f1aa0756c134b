"""What the figures of the language models share: which evaluations a table holds, and a row of panels for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from circuit_phases.figures.panels import legend_above, new_figure
from circuit_phases.figures.style import GREY, PAGE

CHANCE = 0.5
"""Accuracy of guessing one of two labels."""


@dataclass(frozen=True)
class Asked:
    """One model asked about one data set, with its rows of a table."""

    model: str
    revision: str
    dataset: str
    rows: pd.DataFrame

    @property
    def title(self) -> str:
        """E.g. `gpt2-xl (15ea56d) on sst2`."""
        revision = self.revision[:7] if len(self.revision) == 40 else self.revision
        return f"{self.model} ({revision}) on {self.dataset}"


def every_asked(table: pd.DataFrame) -> list[Asked]:
    """The last revision of each model, on each data set, in the table's order."""
    last = {(model, dataset): revision for model, revision, dataset in _distinct(table)}
    return [
        Asked(model, revision, dataset, _of(table, model, dataset, revision))
        for (model, dataset), revision in last.items()
    ]


def every_revision(table: pd.DataFrame) -> list[list[Asked]]:
    """The revisions of each model on each data set, in order, where there are several."""
    pairs = dict.fromkeys((model, dataset) for model, _, dataset in _distinct(table))
    found = [
        [Asked(m, revision, d, _of(table, m, d, revision)) for revision in _of(table, m, d)["revision"].unique()]
        for m, d in pairs
    ]
    return [revisions for revisions in found if len(revisions) > 1]


def _distinct(table: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    rows = table[["model", "revision", "dataset"]].drop_duplicates()
    return zip(*(rows[name].astype(str) for name in rows), strict=True)


def _of(table: pd.DataFrame, model: str, dataset: str, revision: str | None = None) -> pd.DataFrame:
    rows = table[(table["model"] == model) & (table["dataset"] == dataset)]
    return rows if revision is None else rows[rows["revision"] == revision]


def with_gold_labels(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of prompts with demonstrations whose labels are their own."""
    return table[(table["shots"] > 0) & (table["demonstration_labels"] == "gold")]


def row_of_panels(count: int, columns: int, height: float, titles: Sequence[str]) -> tuple[Figure, list[list[Axes]]]:
    """A titled part per evaluation, each with a row of panels; without any, one empty part."""
    figure = new_figure(PAGE, height * max(count, 1) + 0.3)
    parts = figure.subfigures(max(count, 1), 1, squeeze=False)[:, 0]
    for part, title in zip(parts, titles, strict=False):
        part.suptitle(title)
    return figure, [list(part.subplots(1, columns, squeeze=False)[0]) for part in parts]


def accuracy_panel(axes: Axes, rows: pd.DataFrame, names: Sequence[str], place: np.ndarray, colour: str) -> None:
    """Accuracies as dots with their intervals, one under another, beside chance."""
    accuracy = rows["accuracy"].to_numpy(dtype=float)
    low, high = (rows[name].to_numpy(dtype=float) for name in ("low", "high"))
    axes.errorbar(
        accuracy, place, xerr=[accuracy - low, high - accuracy], fmt="o", markersize=3, color=colour, elinewidth=0.9
    )
    axes.axvline(CHANCE, color=GREY, linewidth=0.7, dashes=(4, 2.5), zorder=1)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("accuracy")


def accuracy_legend(figure: Figure, handles: Sequence[Line2D], note: str) -> None:
    """The legend of accuracy panels."""
    chance = Line2D([], [], color=GREY, linewidth=0.7, dashes=(4, 2.5), label="chance")
    legend_above(figure, [[handle] for handle in (*handles, chance)], note)
