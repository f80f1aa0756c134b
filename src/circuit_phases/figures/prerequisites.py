"""Training with edges forbidden for a while: when each phase comes, in steps and against the free run."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from circuit_phases.figure_data import FigureData
from circuit_phases.figures.panels import legend_above, new_figure
from circuit_phases.figures.style import GREY, PAGE, styled
from circuit_phases.figures.sweeps import draw_sweep, legend_height, looks, series_legend, sweep_height
from circuit_phases.prerequisites import QUANTITIES
from circuit_phases.readings import TIME_NAMES

NEVER = 30.0
"""Where on the axis of ratios stands what did not come."""


@styled
def figure(data: FigureData) -> Figure:
    """The sweep as in `sweep`; below, a dot per seed: the step of each phase over that of the free run."""
    heights = [sweep_height(data), 1.9]
    drawn = new_figure(PAGE, sum(heights) + legend_height(data, PAGE))
    above, below = drawn.subfigures(2, 1, height_ratios=heights, squeeze=False)[:, 0]
    draw_sweep(above, data)
    _ratios(below.subplots(), data)
    marks = [("o", "came, as a ratio to the free run"), ("x", "did not come, though it did in the free run")]
    marks += [("+", "came, though it did not in the free run")]
    legend_above(
        below, [[Line2D([], [], color=GREY, marker=m, markersize=3, linestyle="none", label=t)] for m, t in marks]
    )
    series_legend(drawn, data, PAGE)
    return drawn


def _ratios(axes: Axes, data: FigureData) -> None:
    table = data.tables["prerequisites"]
    bound = [(series, colour) for series, colour, _ in looks(data) if series.run in set(table["run"])]
    for place, (series, colour) in enumerate(bound):
        shift = 0.6 * ((place + 0.5) / len(bound) - 0.5)
        mine = table[table["run"] == series.run]
        for row, quantity in enumerate(QUANTITIES):
            of_quantity = mine[mine["quantity"] == quantity]
            came, free = of_quantity["step"].notna(), of_quantity["free_step"].notna()
            ratios = of_quantity.loc[came & free, "ratio"]
            for marker, values in (
                ("o", list(ratios)),
                ("+", _beside(int((came & ~free).sum()))),
                ("x", _beside(int((free & ~came).sum()))),
            ):
                axes.plot(values, [row + shift] * len(values), marker, color=colour, markersize=3)
    axes.axvline(1, color=GREY, linewidth=0.6, zorder=0)
    axes.set_yticks(range(len(QUANTITIES)), [TIME_NAMES[quantity] for quantity in QUANTITIES])
    axes.set_ylim(len(QUANTITIES) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.set(xscale="log", xlim=(0.2, NEVER * 1.4), xlabel="step over that of the free run of the same seed")
    ticks = [0.25, 0.5, 1, 2, 4, 8]
    axes.set_xticks([*ticks, NEVER], [*(f"{tick:g}" for tick in ticks), "one\nonly"])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.minorticks_off()


def _beside(count: int) -> list[float]:
    """Places around `NEVER`, so that each seed is seen."""
    return [NEVER * 1.09 ** (place - (count - 1) / 2) for place in range(count)]
