"""The parts of figures that compare series: a colour each, panels over steps, the phases, the ceilings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import median_low

import pandas as pd
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.lines import Line2D
from matplotlib.typing import LineStyleType

from circuit_phases.figure_data import CIRCUITS, FigureData, Series
from circuit_phases.figures.panels import (
    LEGEND_ROW,
    accuracy_axis,
    draw_ceilings,
    legend_above,
    legend_lines,
    legend_of_names,
    median_of_seeds,
    new_figure,
    phase_handles,
    phase_strip,
    splits,
    step_axis,
)
from circuit_phases.figures.style import CIRCUIT_COLOURS, COLUMN, inches, lighter, series_looks, text_width
from circuit_phases.readings import ceilings, phases

STRIP_ROW = 0.16
"""Inches of a row of the strip of phases."""
NAMES_SHARE = 0.25
"""Names that take more of a sweep's width stand in the legend alone, and not beside the strip of phases too."""
KEY_LENGTH = 0.2
"""Inches of the line that stands for a series beside the strip."""
LEGEND_ROOM = 2
"""The lines of the legend that the height of every drawing has room for."""

Curves = Callable[[FigureData, Series], "list[pd.Series[float]]"]
"""The curve of every seed of a series."""


@dataclass(frozen=True)
class Panel:
    """A panel over steps; shares, unlike losses, go from 0 to 1."""

    label: str
    curves: Curves
    shares: bool = True


ACCURACY = Panel("accuracy", splits)


def looks(data: FigureData) -> list[tuple[Series, str, LineStyleType]]:
    """Every series with its colour and line style."""
    found = series_looks([series.label for series in data.series])
    return [(series, *look) for series, look in zip(data.series, found, strict=True)]


def sweep_figure(data: FigureData, panels: Sequence[Panel] = (ACCURACY,)) -> Figure:
    """A figure of a column's width with nothing but panels, strip and legend."""
    drawn = new_figure(COLUMN, sweep_height(data, panels) + legend_height(data, COLUMN))
    draw_sweep(drawn.subfigures(1, 1, squeeze=False)[0, 0], data, panels)
    series_legend(drawn, data, COLUMN)
    return drawn


def sweep_height(data: FigureData, panels: Sequence[Panel] = (ACCURACY,)) -> float:
    """Inches of `draw_sweep` with a legend of `LEGEND_ROOM` lines above."""
    return 1.45 + 0.95 * len(panels) + STRIP_ROW * len(data.series)


def draw_sweep(part: FigureBase, data: FigureData, panels: Sequence[Panel] = (ACCURACY,)) -> None:
    """Panels over steps, the exact ceilings in or beside the first, and the phases of every seed."""
    shared = _shared_ceilings(data)
    columns = 1 if shared else 2
    grid = part.subplots(
        len(panels) + 1, columns, sharex="col", squeeze=False, width_ratios=[6, 1][:columns],
        height_ratios=[1.5, *[1.0] * (len(panels) - 1), STRIP_ROW * max(len(data.series), 1)],
    )  # fmt: skip
    for axes, panel in zip(grid[:, 0], panels, strict=False):
        draw_panel(axes, data, panel)
    if shared:
        _draw_shared_ceilings(grid[0, 0], shared)
    else:
        _draw_ceilings_beside(grid[0, 1], data)
        for axes in grid[1:, 1]:
            axes.set_axis_off()
    found = [[phases(data, series.run, seed) for seed in series.seeds] for series in data.series]
    phase_strip(grid[-1, 0], [(series.label, seeds) for series, seeds in zip(data.series, found, strict=True)])
    longest = max((text_width(series.label, rcParams["ytick.labelsize"]) for series in data.series), default=0)
    if longest > NAMES_SHARE * inches(part):
        _lines_for_names(grid[-1, 0], data, KEY_LENGTH / inches(part))
    step_axis(grid[-1, 0], every_accuracy(data))
    handles = phase_handles(chain(*chain(*found)), CIRCUIT_COLOURS)
    legend_above(part, [[handle] for handle in handles] if len(handles) < 4 else [handles[:2], handles[2:]])


def _lines_for_names(axes: Axes, data: FigureData, length: float) -> None:
    """Beside each row of the strip the line that its series has in the legend, of a length in widths of the axes."""
    axes.set_yticks([])
    for row, (_, colour, line) in enumerate(looks(data)):
        axes.add_artist(
            Line2D(
                [-1.3 * length, -0.3 * length], [row, row], color=colour, linestyle=line,
                transform=axes.get_yaxis_transform(), clip_on=False,
            )
        )  # fmt: skip


def draw_panel(axes: Axes, data: FigureData, panel: Panel) -> None:
    """The curves of every series on the panel's scale."""
    draw_curves(axes, data, panel.curves)
    if panel.shares:
        accuracy_axis(axes, panel.label)
    else:
        axes.set_ylim(bottom=0)
        axes.set_ylabel(panel.label)


def draw_curves(axes: Axes, data: FigureData, curves: Curves) -> None:
    """Every series' median over seeds dark, and each seed light."""
    for series, colour, line in looks(data):
        median_of_seeds(axes, curves(data, series), colour, line)


def every_accuracy(data: FigureData) -> list[pd.Series[float]]:
    """The accuracy of every series and seed, from which the axis of steps is set."""
    return [curve for series in data.series for curve in splits(data, series)]


def _shared_ceilings(data: FigureData) -> list[dict[int, float]]:
    """The ceilings of every seed if all series have the same, as in the same worlds; else nothing."""
    found = [[ceilings(data, series.run, seed) for seed in series.seeds] for series in data.series]
    return found[0] if found and all(each == found[0] for each in found) else []


def _draw_shared_ceilings(axes: Axes, seeds: list[dict[int, float]]) -> None:
    """A dashed line at the median over seeds of each circuit's best accuracy, a light one at that of each seed."""
    for best in seeds[: len(seeds) * (len(seeds) > 1)]:
        for phase, accuracy in best.items():
            axes.axhline(accuracy, color=lighter(CIRCUIT_COLOURS[phase]), linewidth=0.5, dashes=(4, 2.5), zorder=0)
    draw_ceilings(axes, {phase: median_low([best[phase] for best in seeds]) for phase in seeds[0]})


def _draw_ceilings_beside(axes: Axes, data: FigureData) -> None:
    """A short line per series and seed at the best accuracy of each circuit, on the curves' own scale."""
    for series, colour, _ in looks(data):
        for seed in series.seeds:
            for phase, best in ceilings(data, series.run, seed).items():
                axes.plot([phase - 0.35, phase + 0.35], [best, best], color=colour)
    accuracy_axis(axes, "")
    axes.tick_params(labelleft=False)
    axes.set_xlim(0.4, 3.6)
    axes.set_xticks(list(CIRCUITS), list(CIRCUITS.values()), rotation=90)
    axes.tick_params(axis="x", length=0, labelbottom=True)
    axes.set_title("ceilings", loc="center")


def series_legend_lines(data: FigureData, width: float) -> int:
    """The lines of `series_legend`."""
    return legend_lines([series.label for series in data.series], width)


def legend_height(data: FigureData, width: float) -> float:
    """Inches of `series_legend` beyond `LEGEND_ROOM`."""
    return LEGEND_ROW * max(series_legend_lines(data, width) - LEGEND_ROOM, 0)


def series_legend(drawn: Figure, data: FigureData, width: float) -> None:
    """The colour of every series, in as many columns as `width` inches hold."""
    handles = [Line2D([], [], color=colour, linestyle=line, label=one.label) for one, colour, line in looks(data)]
    several_seeds = any(len(series.seeds) > 1 for series in data.series)
    legend_of_names(drawn, handles, width, "dark: median over seeds, light: each seed" * several_seeds)
