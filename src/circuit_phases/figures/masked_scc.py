"""Figure 5: training with the SCC's attention alone, against the paper's closed form, over K."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from circuit_phases.closed_form import paper_formula
from circuit_phases.figure_data import FigureData, Series
from circuit_phases.figures.panels import legend_above, new_figure, step_axis
from circuit_phases.figures.style import CIRCUIT_COLOURS, GREY, INK, PAGE, styled
from circuit_phases.figures.sweeps import ACCURACY, draw_panel, every_accuracy, legend_height, looks, series_legend
from circuit_phases.readings import ceilings, final_accuracy


@styled
def figure(data: FigureData) -> Figure:
    """Left: accuracy over steps, the closed form dashed. Right: the last accuracy of every seed over K."""
    drawn = new_figure(PAGE, 2.6 + legend_height(data, PAGE))
    left, right = drawn.subfigures(1, 2, width_ratios=[1.25, 1], squeeze=False)[0]
    worlds = {series: world for series in data.series if (world := _world(data, series))}
    over_steps = left.subplots()
    draw_panel(over_steps, data, ACCURACY)
    for series, colour, _ in looks(data):
        if series in worlds:
            over_steps.axhline(paper_formula(*worlds[series]), color=colour, linewidth=0.7, dashes=(4, 2.5), zorder=1)
    step_axis(over_steps, every_accuracy(data))
    legend_above(left, [[Line2D([], [], color=GREY, linewidth=0.7, dashes=(4, 2.5), label="closed form of the paper")]])
    over_K = right.subplots()
    over_K.set(xscale="log", xlabel="item classes $K$", ylabel="accuracy at the end")
    over_K.set_xticks([K for K, _ in worlds.values()], [str(K) for K, _ in worlds.values()])
    over_K.set_xticks([], minor=True)
    if worlds:
        legend_above(right, [[handle] for handle in _draw_over_K(over_K, data, worlds)])
    series_legend(drawn, data, PAGE)
    return drawn


def _draw_over_K(axes: Axes, data: FigureData, worlds: dict[Series, tuple[int, int]]) -> list[Line2D]:
    """The closed form as a line, the exact ceilings as squares, what was trained as dots; gives one line of each."""
    most, N = max(worlds.values())
    classes = np.arange(N + 1, 2 * most)
    form = axes.plot(classes, [paper_formula(int(K), N) for K in classes], color=GREY, label="closed form", zorder=1)
    for series, (K, _) in worlds.items():
        best = {ceilings(data, series.run, seed)[2] for seed in series.seeds}
        last = [final_accuracy(data.training_curve(series.run, seed)) for seed in series.seeds]
        exact = axes.plot(
            [K] * len(best),
            [*best],
            "s",
            color=CIRCUIT_COLOURS[2],
            markersize=7,
            fillstyle="none",
            label="exact ceiling",
        )
        trained = axes.plot([K] * len(last), last, "o", color=INK, markersize=2.5, label="trained, each seed")
    axes.set_ylim(bottom=min(0.45, axes.get_ylim()[0]), top=1.03)
    return [*form, *exact, *trained]


def _world(data: FigureData, series: Series) -> tuple[int, int] | None:
    rows = data.table("runs", series.run)
    return (int(rows["K"].iloc[0]), int(rows["N"].iloc[0])) if len(rows) else None
