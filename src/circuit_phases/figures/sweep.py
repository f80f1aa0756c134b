"""A sweep: accuracy over steps, the exact ceilings and the phases of every seed, per series."""

from __future__ import annotations

from matplotlib.figure import Figure

from circuit_phases.figure_data import FigureData
from circuit_phases.figures.style import styled
from circuit_phases.figures.sweeps import sweep_figure


@styled
def figure(data: FigureData) -> Figure:
    """A colour per series: the median over seeds dark, each seed light."""
    return sweep_figure(data)
