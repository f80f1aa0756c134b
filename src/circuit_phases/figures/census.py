"""The phase census: the phases of every run by world, how often each path is taken, when, and what foretells it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float64
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter
from seaborn import heatmap

from circuit_phases.figure_data import FigureData
from circuit_phases.figures.panels import (
    legend_above,
    legend_of_names,
    new_figure,
    phase_handles,
    phase_strip,
    step_axis,
)
from circuit_phases.figures.style import CIRCUIT_COLOURS, PAGE, SMALL, series_looks, styled, wrapped
from circuit_phases.figures.sweeps import every_accuracy
from circuit_phases.readings import TIME_NAMES, Phase, phases

OUTCOME_NAMES = {
    "all_phases": "all three phases",
    "skips_1": "skips Phase 1",
    "skips_2": "skips Phase 2",
    "no_phase_3": "no Phase 3 in time",
}
FEATURE_NAMES = {
    "ncc_ceiling": "NCC's ceiling",
    "scc_ceiling": "SCC's ceiling",
    "scc_gain": "SCC's over NCC's",
    "fcc_gain": "FCC's over SCC's",
    "labels_per_task": "labels per task",
    "shared_labels": "labels shared by tasks",
    "count_distance": "label counts apart",
    "shared_pairs": "pairs shared by tasks",
}
PANELS_SHARE = 0.7
"""How much of the page panels beside each other take, without their labels."""
FORETOLD_NAMES = {"all_phases": "all three", "skips_2": "skips 2", "solved_step": "step of 0.99"}


@styled
def figure(data: FigureData) -> Figure:
    """A strip of phases per run, worlds in the order of their SCC's ceiling; then statistics with 95 % intervals."""
    table = data.tables["census"]
    names = list(dict.fromkeys(table["configuration"]))
    looks = {name: colour for name, (colour, _) in zip(names, series_looks(names), strict=True)}
    worlds = [_worlds(data, table[table["configuration"] == name]) for name in names] or [[]]
    heights = [0.7 + 0.3 * max(map(len, worlds)), 1.7, 1.9]
    drawn = new_figure(PAGE, sum(heights))
    above, middle, below = drawn.subfigures(3, 1, height_ratios=heights, squeeze=False)[:, 0]
    _strips(above, data, names, worlds)
    rates, times = middle.subplots(1, 2)
    _intervals(rates, table[table["statistic"] == "rate"], OUTCOME_NAMES, looks)
    rates.set(xlim=(-0.02, 1.02), xlabel="share of runs")
    _intervals(times, table[table["statistic"] == "median"], TIME_NAMES, looks)
    times.set(xscale="log", xlabel="median training step")
    times.margins(x=0.05)
    times.xaxis.set_minor_formatter(NullFormatter())
    dots = [
        Line2D([], [], color=colour, marker="o", markersize=3, label=_spaced(name)) for name, colour in looks.items()
    ]
    legend_of_names(middle, dots, PAGE, "with 95 % intervals: Wilson's of shares, bootstrap of medians")
    _foretold(below, table, names)
    return drawn


def _spaced(configuration: str) -> str:
    """The name of a configuration, with spaces where a line may break."""
    return configuration.replace(",", ", ")


def _title(configuration: str, columns: int) -> str:
    """The name of a configuration over one of so many panels beside each other."""
    return wrapped(_spaced(configuration), PANELS_SHARE * PAGE / columns, rcParams["axes.titlesize"])


def _worlds(data: FigureData, rows: pd.DataFrame) -> list[tuple[str, list[list[Phase]]]]:
    """The label of each world of a configuration, by the SCC's ceiling, and the phases of its runs."""
    values = rows[(rows["statistic"] == "value") & (rows["quantity"] == "all_phases")]
    ceilings = rows[(rows["statistic"] == "value") & (rows["quantity"] == "scc_ceiling")]
    best = ceilings.groupby("world_seed")["estimate"].first().sort_values()
    runs = values.groupby("world_seed")[["run", "seed"]]
    return [
        (
            f"world {world}, SCC {ceiling:.2f}",
            [phases(data, run, seed) for run, seed in runs.get_group(world).itertuples(index=False)],
        )
        for world, ceiling in best.items()
    ]


def _strips(
    part: FigureBase,
    data: FigureData,
    names: Sequence[str],
    worlds: Sequence[list[tuple[str, list[list[Phase]]]]],
) -> None:
    panels = part.subplots(1, max(len(names), 1), squeeze=False)[0]
    for axes, name, groups in zip(panels, names, worlds, strict=False):
        phase_strip(axes, groups)
        step_axis(axes, every_accuracy(data))
        axes.set_title(_title(name, len(names)))
    found = [phase for groups in worlds for _, runs in groups for run in runs for phase in run]
    handles = [[handle] for handle in phase_handles(found, CIRCUIT_COLOURS)]
    legend_above(part, handles, "a line per run, grouped by world")


def _intervals(axes: Axes, rows: pd.DataFrame, names: Mapping[str, str], looks: Mapping[str, str]) -> None:
    """A dot and its interval per quantity and configuration."""
    for shift, (configuration, colour) in zip(_offsets(len(looks)), looks.items(), strict=True):
        mine = rows[rows["configuration"] == configuration].set_index("quantity")
        for row, name in enumerate(names):
            if name in mine.index:
                estimate, low, high = mine.loc[[name], ["estimate", "low", "high"]].to_numpy(dtype=float)[0]
                axes.plot([low, high], [row + shift] * 2, color=colour, linewidth=1)
                axes.plot(estimate, row + shift, "o", color=colour, markersize=3)
    axes.set_yticks(range(len(names)), list(names.values()))
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)


def _offsets(count: int) -> Float64[np.ndarray, " count"]:
    return 0.25 * (np.arange(count) - (count - 1) / 2)


def _foretold(part: FigureBase, table: pd.DataFrame, names: Sequence[str]) -> None:
    """A matrix per configuration: the rank correlation of each feature of the world with each outcome, and its p."""
    rows = table[table["statistic"] == "rank_correlation"]
    panels = part.subplots(1, max(len(names), 1), squeeze=False)[0]
    for axes, name in zip(panels, names, strict=False):
        mine = rows[rows["configuration"] == name].set_index(["predictor", "quantity"])
        rho, p = (
            mine[column].unstack().reindex(index=list(FEATURE_NAMES), columns=list(FORETOLD_NAMES)).astype(float)
            for column in ("estimate", "p_value")
        )
        texts = rho.map("{:.2f}".format) + p.map(" ({:.2f})".format)
        names_of_axes = {"xticklabels": list(FORETOLD_NAMES.values()), "yticklabels": list(FEATURE_NAMES.values())}
        look = {"cmap": "PuOr", "vmin": -1.4, "vmax": 1.4, "linewidths": 1, "cbar": False}
        heatmap(rho, ax=axes, annot=texts, fmt="", annot_kws={"size": SMALL}, **names_of_axes, **look)
        axes.tick_params(length=0, rotation=0)
        axes.set(title=_title(name, len(names)), xlabel="", ylabel="")
    legend_above(part, [], "what in the world foretells it: rank correlation over worlds (p by permutation)")
