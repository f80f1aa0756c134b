"""The grid of departures: accuracy and phases for each choice of the text or the released code."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from circuit_phases.evidence import Trained, trained
from circuit_phases.figure_data import FigureData
from circuit_phases.figures.panels import (
    accuracy_axis,
    legend_above,
    new_figure,
    phase_handles,
    seed_curves,
    shade_phases,
    step_axes,
)
from circuit_phases.figures.style import PAGE, SMALL, styled

ROWS = ("label_tables", "label_vectors")
COLUMNS = ("positions", "output_projection")
NAMES = {
    "label_tables": "{} tables",
    "label_vectors": "{} vectors",
    "positions": "{} positions",
    "output_projection": "{} $W_O$",
}


@styled
def figure(data: FigureData) -> Figure:
    """A panel per cell: accuracy of every seed, the first listed dark and with its phases."""
    cells: dict[tuple[str, str], list[Trained]] = {}
    for run in trained(data):
        cells.setdefault((_name(run, ROWS), _name(run, COLUMNS)), []).append(run)
    rows, columns = (list(dict.fromkeys(names)) for names in zip(*cells, strict=True)) if cells else ([""], [""])
    drawn = new_figure(PAGE, 0.9 + 0.95 * len(rows))
    grid = drawn.subplots(len(rows), len(columns), sharex=True, sharey=True, squeeze=False)
    curves = [run.accuracy for runs in cells.values() for run in runs]
    for row, row_axes in zip(rows, grid, strict=True):
        for column, axes in zip(columns, row_axes, strict=True):
            _draw(axes, cells.get((row, column), []))
        row_axes[0].set_ylabel(row)
    accuracy_axis(grid[0, 0], grid[0, 0].get_ylabel())
    for column, top in zip(columns, grid[0], strict=True):
        top.set_title(column, pad=11)
    step_axes(grid, curves)
    # Of all panels, which share it; they are too small for more than the powers of ten.
    grid[0, 0].xaxis.set_minor_locator(NullLocator())
    found = [phase for runs in cells.values() for phase in runs[0].plateaus]
    legend_above(drawn, [[handle] for handle in phase_handles(found)], "at the lower right: last accuracy of each seed")
    return drawn


def _name(run: Trained, parameters: tuple[str, str]) -> str:
    words = {True: "with", False: "no"}
    values = {name: run.parameters[name] for name in parameters}
    separator = "\n" if parameters is ROWS else ", "
    return separator.join(NAMES[name].format(words.get(value, value)) for name, value in values.items())


def _draw(axes: Axes, runs: list[Trained]) -> None:
    seed_curves(axes, [run.accuracy for run in runs])
    shade_phases(axes, runs[0].plateaus if runs else [])
    text = ", ".join(f"{run.last_accuracy:.2f}" for run in runs)
    axes.annotate(text, (0.98, 0.04), xycoords="axes fraction", ha="right", va="bottom", fontsize=SMALL)
