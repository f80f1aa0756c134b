"""Figure 3: accuracy, its change dAcc, and the phases by the paper's rule and by plateaus."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pandas as pd
from matplotlib.figure import Figure, FigureBase
from matplotlib.lines import Line2D

from circuit_phases.figure_data import FigureData, Series
from circuit_phases.figures.panels import (
    accuracy_axis,
    dark_note,
    draw_curve,
    legend_above,
    per_series,
    phase_handles,
    phase_strip,
    seed_curves,
    shade_phases,
    splits,
    step_axis,
)
from circuit_phases.figures.style import COLUMN, INK, RED, styled
from circuit_phases.readings import phases


@styled
def figure(data: FigureData) -> Figure:
    """The first seed listed of each series dark, with its changes and phases; of the others the curves, light."""
    return per_series(data, COLUMN, 3.4, _draw)


def _draw(part: FigureBase, data: FigureData, series: Series) -> None:
    seed = series.seeds[0]
    curves = splits(data, series, "iid")
    curve = data.training_curve(series.run, seed)
    dt, threshold = data.rules.dt, data.rules.threshold
    change = accuracy_change(curve, dt)
    by_paper, by_plateau = (phases(data, series.run, seed, rule) for rule in ("paper", "plateau"))
    accuracy, difference, strip = part.subplots(3, 1, sharex=True, height_ratios=[1.2, 1, 0.4])
    seed_curves(accuracy, curves)
    accuracy_axis(accuracy)
    draw_curve(difference, change, color=INK, linewidth=0.7)
    difference.axhline(threshold, color=RED, linewidth=0.7, dashes=(4, 2.5))
    difference.set_ylabel(f"dAcc, dt = {dt:,}")
    difference.set_yscale("symlog", linthresh=threshold, linscale=1)
    ticks = (-0.5, -0.1, -threshold, 0, threshold, 0.1, 0.5)
    difference.set_yticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
    difference.set_yticks([], minor=True)
    difference.set_ylim(-max(4 * threshold, -1.3 * change.min()), max(4 * threshold, 1.3 * change.max()))
    for axes in (accuracy, difference):
        shade_phases(axes, by_plateau, numbers=axes is accuracy)
        for before, after in pairwise(by_paper):
            for step in (before.end, after.start):
                axes.axvline(step, color=RED, linewidth=0.7, linestyle=":")
    phase_strip(
        strip, [("dAcc rule", [[replace(phase, number=None) for phase in by_paper]]), ("plateaus", [by_plateau])]
    )
    step_axis(strip, curves)
    limit = Line2D([], [], color=RED, linewidth=0.7, dashes=(4, 2.5), label=f"threshold {threshold:g}")
    edge = Line2D([], [], color=RED, linewidth=0.7, linestyle=":", label="edge of a jump")
    bands = phase_handles(by_plateau)
    legend_above(part, [[limit, edge], bands[:2], bands[2:]], dark_note(series))


def accuracy_change(accuracy: pd.Series[float], dt: int) -> pd.Series[float]:
    """dAcc(t) = Acc(t + dt) - Acc(t), indexed by step t (paper, Sec. 4)."""
    later = accuracy.reindex(accuracy.index + dt).to_numpy()
    return pd.Series(later - accuracy.to_numpy(), index=accuracy.index).dropna()
