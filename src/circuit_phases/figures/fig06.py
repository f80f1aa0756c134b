"""Figure 6: accuracy in training, on the frozen sequences, and with the context's labels permuted."""

from __future__ import annotations

from matplotlib.figure import Figure, FigureBase
from matplotlib.lines import Line2D
from matplotlib.typing import LineStyleType

from circuit_phases.figure_data import FigureData, Series
from circuit_phases.figures.panels import (
    accuracy_axis,
    dark_note,
    draw_ceilings,
    legend_above,
    per_series,
    phase_handles,
    seed_curves,
    shade_phases,
    splits,
    step_axis,
)
from circuit_phases.figures.style import COLUMN, INK, styled
from circuit_phases.readings import ceilings, phases

SPLITS: dict[str, tuple[str, str, LineStyleType]] = {
    "train": ("training batches", "#aa4499", "-"),
    "random_label": ("context labels permuted (RLA)", "#d55e00", "-"),
    "iid": ("evaluation sequences", INK, (0, (3, 3))),
}
"""Label, colour and line; that of the evaluation lets the training's, which it equals, be seen."""


@styled
def figure(data: FigureData) -> Figure:
    """Every seed light, the first listed dark, with the phases and ceilings of the first."""
    return per_series(data, COLUMN, 2.8, _draw)


def _draw(part: FigureBase, data: FigureData, series: Series) -> None:
    seed = series.seeds[0]
    axes = part.subplots()
    curves = {split: splits(data, series, split) for split in SPLITS}
    for split, (_, colour, linestyle) in SPLITS.items():
        seed_curves(axes, curves[split], colour, linestyle)
    found = phases(data, series.run, seed)
    shade_phases(axes, found)
    draw_ceilings(axes, ceilings(data, series.run, seed))
    step_axis(axes, curves["iid"])
    accuracy_axis(axes)
    handles = [
        Line2D([], [], color=colour, linestyle=linestyle, label=label) for label, colour, linestyle in SPLITS.values()
    ]
    legend_above(part, [handles, phase_handles(found)], dark_note(series))
