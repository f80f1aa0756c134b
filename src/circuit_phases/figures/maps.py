"""Attention maps of chosen series at chosen moments."""

from __future__ import annotations

from matplotlib.figure import Figure

from circuit_phases.figure_data import FigureData
from circuit_phases.figures.moments import blocks, blocks_height, draw_blocks
from circuit_phases.figures.panels import new_figure
from circuit_phases.figures.style import PAGE, styled


@styled
def figure(data: FigureData) -> Figure:
    """Maps of the first seed listed of each series."""
    rows = blocks(data)
    drawn = new_figure(PAGE, blocks_height(rows))
    draw_blocks(drawn.subfigures(1, 1, squeeze=False)[0, 0], data, rows)
    return drawn
