"""Figure 5: training with the SCC's attention alone, against the paper's closed form, over K."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from circuit_phases.closed_form import paper_formula
from circuit_phases.figures.data import FigureData, Series
from circuit_phases.figures.panels import legend_above, new_figure, step_axis
from circuit_phases.figures.readings import ceilings, final_accuracy, training_curve
from circuit_phases.figures.style import CIRCUIT_COLOURS, GREY, INK, PAGE, styled
from circuit_phases.figures.sweeps import ACCURACY, draw_panel, every_accuracy, looks, series_legend


@styled
def figure(data: FigureData) -> Figure:
    """Left: accuracy over steps, the closed form dashed. Right: the last accuracy of every seed over K."""
    drawn = new_figure(PAGE, 2.6)
    left, right = drawn.subfigures(1, 2, width_ratios=[1.25, 1])
    over_steps = left.subplots()
    draw_panel(over_steps, data, ACCURACY)
    for series, colour, _ in looks(data):
        K, N = _world(data, series)
        over_steps.axhline(paper_formula(K, N), color=colour, linewidth=0.7, dashes=(4, 2.5), zorder=1)
    step_axis(over_steps, every_accuracy(data))
    form = Line2D([], [], color=GREY, linewidth=0.7, dashes=(4, 2.5), label="closed form")
    legend_above(left, [[form]])
    over_K = right.subplots()
    _draw_over_K(over_K, data)
    legend_above(right, [[handle] for handle in over_K.get_legend_handles_labels()[0]])
    series_legend(drawn, data, PAGE)
    return drawn


def _draw_over_K(axes: Axes, data: FigureData) -> None:
    worlds = [_world(data, series) for series in data.series]
    N = worlds[0][1]
    classes = np.arange(N + 1, 2 * max(K for K, _ in worlds) + 1)
    axes.plot(classes, [paper_formula(int(K), N) for K in classes], color=GREY, label="closed form", zorder=1)
    exact = [(K, ceilings(data, series.run, series.seeds[0])[2]) for series, (K, _) in zip(data.series, worlds)]
    axes.plot(*zip(*exact, strict=True), "s", color=CIRCUIT_COLOURS[2], markersize=7, fillstyle="none", label="exact")
    for series, (K, _) in zip(data.series, worlds, strict=True):
        last = [final_accuracy(training_curve(data, series.run, seed)) for seed in series.seeds]
        axes.plot(
            [K] * len(last), last, "o", color=INK, markersize=2.5, label="trained, each seed" * (K == worlds[0][0])
        )
    axes.set(xscale="log", ylim=(0.45, 1.02), xlabel="item classes $K$", ylabel="accuracy at the end")
    axes.set_xticks([K for K, _ in worlds], [str(K) for K, _ in worlds])
    axes.set_xticks([], minor=True)


def _world(data: FigureData, series: Series) -> tuple[int, int]:
    row = data.table("runs", series.run).iloc[0]
    return int(row["K"]), int(row["N"])
