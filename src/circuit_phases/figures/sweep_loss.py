"""A sweep with the loss below accuracy."""

from __future__ import annotations

from functools import partial

from matplotlib.figure import Figure

from circuit_phases.figure_data import FigureData
from circuit_phases.figures.panels import splits
from circuit_phases.figures.style import styled
from circuit_phases.figures.sweeps import ACCURACY, Panel, sweep_figure


@styled
def figure(data: FigureData) -> Figure:
    """Accuracy and loss on the query's label of the evaluation sequences, per series."""
    return sweep_figure(data, [ACCURACY, Panel("loss (nats)", partial(splits, column="loss"), shares=False)])
