"""The circuit metrics of every head of language models, as maps of layer by head."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from circuit_phases.figure_data import FigureData
from circuit_phases.figures.language_models import every_asked, row_of_panels, with_gold_labels
from circuit_phases.figures.style import styled
from circuit_phases.readings import METRICS


@styled
def figure(data: FigureData) -> Figure:
    """A row per model and data set, a map per metric with a scale of its own; the most demonstrations."""
    table = with_gold_labels(data.tables["llm_circuits"])
    asked = every_asked(table[table["head"].notna() & (table["shots"] == table["shots"].max())])
    drawn, rows = row_of_panels(len(asked), len(METRICS), 2.7, [each.title for each in asked])
    for panels, each in zip(rows, asked, strict=False):
        for axes, metric in zip(panels, METRICS, strict=True):
            values = each.rows[each.rows["metric"] == metric].pivot_table(index="layer", columns="head", values="value")
            edges = [np.arange(1, size + 2) - 0.5 for size in reversed(values.shape)]
            mesh = axes.pcolormesh(*edges, values.to_numpy(dtype=float), cmap="Blues", vmin=0)
            bar = axes.figure.colorbar(mesh, ax=axes, location="bottom", shrink=0.9, aspect=25, pad=0.02)
            bar.outline.set_visible(False)
            bar.locator = MaxNLocator(4)
            bar.set_label("attention weight")
    for panels in rows:
        for axes, name in zip(panels, METRICS.values(), strict=True):
            axes.set(title=name, xlabel="head")
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(8, integer=True))
        panels[0].set_ylabel("layer")
    return drawn
