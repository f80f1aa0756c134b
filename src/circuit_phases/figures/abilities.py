"""The abilities over training: memory apart from inference, and accuracy on every frozen split (beyond the paper)."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from circuit_phases.figure_data import CIRCUITS, FigureData, Series
from circuit_phases.figures.panels import accuracy_axis, draw_curve, legend_above, new_figure, splits, step_axes
from circuit_phases.figures.style import CIRCUIT_COLOURS, GREY, INK, PAGE, lighter, styled
from circuit_phases.figures.sweeps import draw_curves, every_accuracy, legend_height, looks, series_legend
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
    drawn = new_figure(PAGE, 5.6 + legend_height(data, PAGE))
    part = drawn.subfigures(1, 1, squeeze=False)[0, 0]
    grid = part.subplots(3, 3, sharex=True, sharey=True)
    levels = _levels(data).groupby(["split", "measure"])
    for axes, (title, split, measure) in zip(grid.flat, PANELS, strict=True):
        draw_curves(axes, data, partial(splits, split=split, column=measure))
        axes.set_title(title)
        if (split, measure) in levels.groups:
            _draw_levels(axes, data, levels.get_group((split, measure)))
        if split == "conflict":
            _draw_other_tasks(axes, data)
    step_axes(grid, every_accuracy(data))
    accuracy_axis(grid[0, 0], "share")
    for axes in grid[1:, 0]:
        axes.set_ylabel("accuracy")
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


def _levels(data: FigureData) -> pd.DataFrame:
    """The rows of the table `ability_levels` of every series' first seed."""
    levels = data.tables["ability_levels"]
    firsts = pd.MultiIndex.from_tuples([(series.run, series.seeds[0]) for series in data.series], names=["run", "seed"])
    return levels[pd.MultiIndex.from_frame(levels[["run", "seed"]]).isin(firsts)].astype({"value": float})


def _draw_levels(axes: Axes, data: FigureData, levels: pd.DataFrame) -> None:
    """Chance of any series; the ceilings where there is one series, of its first seed."""
    for value in dict.fromkeys(levels.loc[levels["level"] == "chance", "value"]):
        axes.axhline(value, color=GREY, linestyle=":", linewidth=0.7, zorder=1)
    if len(data.series) == 1:
        best = dict(zip(levels["level"], levels["value"], strict=True))
        for phase, name in CIRCUITS.items():
            if name.lower() in best:
                axes.axhline(best[name.lower()], color=CIRCUIT_COLOURS[phase], linewidth=0.7, dashes=(4, 2.5), zorder=1)


def _draw_other_tasks(axes: Axes, data: FigureData) -> None:
    """Behind the curves, one of each series: that of its median over seeds."""
    for series, colour, _ in looks(data):
        curve = median_curve([_by_other_tasks(data, series, seed) for seed in series.seeds])
        draw_curve(axes, curve, color=lighter(colour), linestyle="--", linewidth=0.9, zorder=1.5)


def _by_other_tasks(data: FigureData, series: Series, seed: int) -> pd.Series[float]:
    """How often the answer is the label of another task than the context's, per task."""
    rows = data.table("training", series.run, seed)
    rows = rows[(rows["split"] == "conflict") & rows["task"].notna() & (rows["step"] > 0)]
    hits = rows["accuracy"].to_numpy(float) * rows["sequences"].to_numpy(float)
    sums = pd.DataFrame({"hits": hits, "sequences": rows["sequences"].to_numpy(float)}, index=rows["step"].astype(int))
    totals = sums.groupby(level=0).sum()
    return totals["hits"] / totals["sequences"].replace(0, np.nan)
