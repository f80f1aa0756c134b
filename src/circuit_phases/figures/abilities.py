"""The abilities over training: memory apart from inference, and accuracy on every frozen split (beyond the paper)."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from circuit_phases.figure_data import CIRCUITS, FigureData, Series
from circuit_phases.figures.panels import legend_above, new_figure, splits, step_axis
from circuit_phases.figures.style import CIRCUIT_COLOURS, GREY, INK, PAGE, lighter, styled
from circuit_phases.figures.sweeps import Panel, draw_panel, every_accuracy, looks, series_legend
from circuit_phases.readings import median_curve

PANELS: tuple[tuple[str, str, str], ...] = (
    ("as in training (iid)", "iid", "accuracy"),
    ("memory, iid", "iid", "memory"),
    ("inference, iid", "iid", "inference"),
    ("query in the context (copy)", "copy", "accuracy"),
    ("fresh labels (novel_task)", "novel_task", "accuracy"),
    ("unseen classes (novel_class)", "novel_class", "accuracy"),
    ("context labels permuted (RLA)", "random_label", "accuracy"),
    ("context of one task (conflict)", "conflict", "accuracy"),
    ("uniform labels (no_context)", "no_context", "accuracy"),
)
"""Title, split and measure of each panel, row by row."""


@styled
def figure(data: FigureData) -> Figure:
    """A colour per series: the median over seeds dark, each seed light; chance, and of one series the ceilings."""
    drawn = new_figure(PAGE, 5.6)
    part = drawn.subfigures(1, 1, squeeze=False)[0, 0]
    grid = part.subplots(3, 3, sharex=True, sharey=True)
    for axes, (title, split, measure) in zip(grid.flat, PANELS, strict=True):
        draw_panel(axes, data, Panel("", partial(splits, split=split, column=measure)))
        axes.set_title(title)
        _draw_levels(axes, data, split, measure)
        if split == "conflict":
            _draw_other_tasks(axes, data)
        step_axis(axes, every_accuracy(data), label=axes in grid[-1])
    for axes, label in zip(grid[:, 0], ("share", "accuracy", "accuracy"), strict=True):
        axes.set_ylabel(label)
    handles = [Line2D([], [], color=GREY, linestyle=":", label="a label drawn uniformly")]
    if len(data.series) == 1:
        handles += [
            Line2D([], [], color=CIRCUIT_COLOURS[phase], linewidth=0.7, dashes=(4, 2.5), label=f"{name} at best")
            for phase, name in CIRCUITS.items()
        ]
    handles.append(Line2D([], [], color=lighter(INK), linestyle="--", label="conflict: the other tasks' labels"))
    legend_above(part, [[handle] for handle in handles])
    series_legend(drawn, data, PAGE)
    return drawn


def _draw_levels(axes: Axes, data: FigureData, split: str, measure: str) -> None:
    """Chance for every series; the ceilings where there is one series, of its first seed."""
    phase_of = {name.lower(): phase for phase, name in CIRCUITS.items()}
    for series in data.series:
        levels = data.table("ability_levels", series.run, series.seeds[0])
        levels = levels[(levels["split"] == split) & (levels["measure"] == measure)]
        for level, value in zip(levels["level"], levels["value"].astype(float), strict=True):
            if level == "chance":
                axes.axhline(value, color=GREY, linestyle=":", linewidth=0.7, zorder=1)
            elif len(data.series) == 1 and level in phase_of:
                axes.axhline(value, color=CIRCUIT_COLOURS[phase_of[level]], linewidth=0.7, dashes=(4, 2.5), zorder=1)


def _draw_other_tasks(axes: Axes, data: FigureData) -> None:
    """Behind the curves, one of each series: that of its median over seeds."""
    for series, colour, _ in looks(data):
        curve = median_curve([_by_other_tasks(data, series, seed) for seed in series.seeds])
        axes.plot(curve.index, curve, color=lighter(colour), linestyle="--", linewidth=0.9, zorder=1.5)


def _by_other_tasks(data: FigureData, series: Series, seed: int) -> pd.Series[float]:
    """How often the answer is the label of another task than the context's, per task."""
    rows = data.table("training", series.run, seed)
    rows = rows[(rows["split"] == "conflict") & rows["task"].notna() & (rows["step"] > 0)]
    hits = rows["accuracy"].to_numpy(float) * rows["sequences"].to_numpy(float)
    sums = pd.DataFrame({"hits": hits, "sequences": rows["sequences"].to_numpy(float)}, index=rows["step"].astype(int))
    totals = sums.groupby(level=0).sum()
    return totals["hits"] / totals["sequences"].replace(0, np.nan)
