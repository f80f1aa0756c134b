"""A sweep with attention maps of chosen series at chosen moments."""

from __future__ import annotations

from matplotlib.figure import Figure

from circuit_phases.figure_data import FigureData
from circuit_phases.figures.moments import BESIDE, blocks, blocks_height, blocks_width, draw_blocks
from circuit_phases.figures.panels import new_figure
from circuit_phases.figures.style import PAGE, styled
from circuit_phases.figures.sweeps import draw_sweep, legend_height, series_legend, sweep_height


@styled
def figure(data: FigureData) -> Figure:
    """The sweep as in `sweep`; maps of the first seed listed, beside it if they are few, else below."""
    rows = blocks(data)
    heights = [sweep_height(data), blocks_height(rows)]
    if blocks_width(rows) <= BESIDE / 2:
        drawn = new_figure(PAGE, max(heights) + legend_height(data, PAGE))
        curves, maps = drawn.subfigures(1, 2, width_ratios=[1, 1.1], squeeze=False)[0]
    else:
        drawn = new_figure(PAGE, sum(heights) + legend_height(data, PAGE))
        curves, maps = drawn.subfigures(2, 1, height_ratios=heights, squeeze=False)[:, 0]
    draw_sweep(curves, data)
    draw_blocks(maps, data, rows)
    series_legend(drawn, data, PAGE)
    return drawn
