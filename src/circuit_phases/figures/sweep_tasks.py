"""A sweep with a panel per task below the average."""

from __future__ import annotations

from functools import partial

from matplotlib.figure import Figure

from circuit_phases.figure_data import FigureData
from circuit_phases.figures.panels import splits
from circuit_phases.figures.style import styled
from circuit_phases.figures.sweeps import Panel, sweep_figure


@styled
def figure(data: FigureData) -> Figure:
    """Accuracy averaged over the evaluation sequences, then on those of each task, per series."""
    rows = data.tables["training"]
    tasks = sorted(int(task) for task in rows.loc[rows["split"] == "iid", "task"].dropna().unique())
    of_tasks = [Panel(f"task {task}", partial(splits, task=task)) for task in tasks]
    return sweep_figure(data, [Panel("average accuracy", splits), *of_tasks])
