"""Every seed on its own: accuracy, the phases that it went through, and the ceilings of its world."""

from __future__ import annotations

from math import ceil

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Annotation
from matplotlib.transforms import Transform

from circuit_phases.figure_data import FigureData, Series
from circuit_phases.figures.panels import (
    ELSEWHERE,
    accuracy_axis,
    draw_ceilings,
    legend_above,
    name_part,
    new_figure,
    seed_curves,
    shade_phases,
    splits,
    step_axis,
    step_range,
    title_height,
)
from circuit_phases.figures.style import CIRCUIT_COLOURS, CIRCUIT_TINTS, GREY, INK, PAGE, SMALL, styled
from circuit_phases.readings import Phase, ceilings, phases

COLUMNS = 4
"""Panels beside each other, at most."""
MEANING = {
    1: "NCC, from the weights alone",
    2: "SCC, from the set of labels",
    3: "FCC, from the full context",
}
"""What each phase's circuit answers from (paper, Sec. 4)."""


@styled
def figure(data: FigureData) -> Figure:
    """A panel per seed, a block of panels per series, all over the same steps."""
    most = max((len(series.seeds) for series in data.series), default=1)
    # As full as they can be, rows of one length: five panels stand as three and two.
    columns = ceil(most / ceil(most / COLUMNS))
    rows = [ceil(len(series.seeds) / columns) for series in data.series] or [1]
    titles = [title_height(series.label, PAGE) for series in data.series] or [0.0]
    heights = [0.35 + title + 1.5 * count for title, count in zip(titles, rows, strict=True)]
    drawn = new_figure(PAGE, 0.4 + sum(heights))
    parts = drawn.subfigures(len(rows), 1, height_ratios=heights, squeeze=False)[:, 0]
    curves = [curve for series in data.series for curve in splits(data, series)]
    for part, series, count in zip(parts, data.series, rows, strict=False):
        name_part(part, series.label)
        grid = part.subplots(count, columns, squeeze=False).ravel()
        for index, (axes, seed) in enumerate(zip(grid, series.seeds, strict=False)):
            _draw(axes, data, series, seed)
            accuracy_axis(axes, "accuracy" * (index % columns == 0))
            axes.tick_params(labelleft=index % columns == 0)
            step_axis(axes, curves, label=index + columns >= len(series.seeds))
        for axes in grid[len(series.seeds) :]:
            axes.set_axis_off()
    legend_above(drawn, _legend(), "over each panel: the steps of each phase")
    return drawn


def _legend() -> list[list[Artist]]:
    lines = [
        Line2D([], [], color=INK, label="accuracy on new sequences"),
        Line2D([], [], color=GREY, linewidth=0.7, dashes=(4, 2.5), label="best accuracy of each circuit"),
        Patch(color=CIRCUIT_TINTS[None], label=ELSEWHERE),
    ]
    circuits = [Patch(color=CIRCUIT_TINTS[phase], label=f"Phase {phase}: {MEANING[phase]}") for phase in MEANING]
    return [list(column) for column in zip(lines, circuits, strict=True)]


def _draw(axes: Axes, data: FigureData, series: Series, seed: int) -> None:
    curve = data.training_curve(series.run, seed)
    found = phases(data, series.run, seed)
    seed_curves(axes, [curve])
    shade_phases(axes, found)
    draw_ceilings(axes, ceilings(data, series.run, seed))
    axes.set_title(f"seed {seed}", pad=19)
    _list_phases(axes, found, int(curve.index.max()) if len(curve) else 0)


def _list_phases(axes: Axes, found: list[Phase], last: int) -> None:
    """One line over the panel: the steps of each phase, in its colour."""
    texts = [(step_range(phase, last), CIRCUIT_COLOURS[phase.number]) for phase in found if phase.number]
    at, gap = (0.0, 1.0), (0, 11)
    beside: Transform | Annotation = axes.transAxes
    for text, colour in texts or [("no phase", GREY)]:
        written = axes.annotate(
            text, at, xycoords=beside, xytext=gap, textcoords="offset points", fontsize=SMALL, color=colour, va="bottom"
        )
        at, beside, gap = (1.0, 0.0), written, (4, 0)
