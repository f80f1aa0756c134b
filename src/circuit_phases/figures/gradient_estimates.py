"""Effects of interventions as gradients foretell them against what they are, phase by phase."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.lines import Line2D

from circuit_phases.figure_data import CIRCUITS, FigureData, Series
from circuit_phases.figures.panels import legend_above, per_series
from circuit_phases.figures.style import GREY, PAGE, SERIES_COLOURS, styled
from circuit_phases.gradient_estimates import BETWEEN, INTERVENTIONS, phased_effects

COLOURS = dict(zip(INTERVENTIONS, (SERIES_COLOURS[0], "#0077aa", SERIES_COLOURS[1], SERIES_COLOURS[3]), strict=True))
LINEAR = 1.0
"""Logits up to which the axes are linear, and beyond which they are logarithmic."""


@styled
def figure(data: FigureData) -> Figure:
    """A panel per phase; a dot per intervention, checkpoint and seed; on the line, estimate and effect agree."""
    return per_series(data, PAGE, 2.4, _draw)


def _draw(part: FigureBase, data: FigureData, series: Series) -> None:
    effects = phased_effects(data, series)
    table = data.table("gradient_estimates", series.run)
    table = table[table["intervention"].isna()]
    names = {**{phase: f"Phase {phase} ({name})" for phase, name in CIRCUITS.items()}, BETWEEN: "between phases"}
    row = part.subplots(1, len(names), sharex=True, sharey=True)
    for axes, (phase, name) in zip(row, names.items(), strict=True):
        _panel(axes, effects[effects["phase"] == phase])
        axes.text(0.04, 0.96, _told(table, phase), transform=axes.transAxes, va="top", ha="left")
        axes.set_title(name)
        axes.set_xlabel("estimate (logits)")
    row[0].set_ylabel("effect (logits)")
    dots = [
        [Line2D([], [], color=colour, marker="o", markersize=3, linestyle="none", label=name)]
        for name, colour in COLOURS.items()
    ]
    legend_above(part, dots)


def _told(table: pd.DataFrame, phase: int) -> str:
    """The correlations of a phase in words, or nothing where there are too few effects."""
    rows = table[table["phase"].isna() if phase == BETWEEN else table["phase"] == phase]
    return "".join(
        f"r = {row.correlation:.2f}\nrank {row.rank_correlation:.2f}\nn = {row.observations:,}"
        for row in rows[rows["correlation"].notna()].itertuples()
    )


def _panel(axes: Axes, effects: pd.DataFrame) -> None:
    largest = max(float(effects[["logit_change", "logit_estimate"]].abs().max().max()), LINEAR) if len(effects) else 1.0
    for name, colour in COLOURS.items():
        mine = effects[effects["intervention"] == name]
        axes.plot(mine["logit_estimate"], mine["logit_change"], "o", color=colour, markersize=1.5, markeredgewidth=0)
    axes.plot([-largest, largest], [-largest, largest], color=GREY, linewidth=0.6, zorder=0)
    axes.set_xscale("symlog", linthresh=LINEAR)
    axes.set_yscale("symlog", linthresh=LINEAR)
    axes.set(xticks=[-10, -1, 0, 1, 10], yticks=[-10, -1, 0, 1, 10])
    axes.minorticks_off()
