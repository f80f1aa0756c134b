"""The circuit metrics of language models over their revisions, such as checkpoints of a training."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from circuit_phases.figure_data import FigureData
from circuit_phases.figures.language_models import Asked, every_revision, row_of_panels, with_gold_labels
from circuit_phases.figures.style import styled
from circuit_phases.readings import METRICS


@styled
def figure(data: FigureData) -> Figure:
    """A row per model and data set, a panel per metric, a line per layer; repeated weights are named."""
    table = with_gold_labels(data.tables["llm_circuits"])
    asked = every_revision(table[table["head"].isna() & (table["shots"] == table["shots"].max())])
    sources = data.tables["llm_sources"]
    repeated = sources[sources["same_as"].notna()].set_index(["name", "revision"])["same_as"].to_dict()
    viridis = matplotlib.colormaps["viridis"]
    drawn, rows = row_of_panels(
        len(asked), len(METRICS), 2.3, [f"{revisions[0].model} on {revisions[0].dataset}" for revisions in asked]
    )
    for panels, revisions in zip(rows, asked, strict=False):
        scale = Normalize(1, revisions[0].rows["layer"].max())
        names = [_name(each, repeated) for each in revisions]
        for axes, metric in zip(panels, METRICS, strict=True):
            values = [each.rows[each.rows["metric"] == metric].sort_values("layer")["value"] for each in revisions]
            for layer, curve in enumerate(np.array(values, dtype=float).T, start=1):
                axes.plot(curve, ".-", markersize=3, linewidth=0.8, color=viridis(scale(layer)))
            axes.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor")
            axes.set_ylim(bottom=0)
            axes.margins(x=0.03)
        shades = ScalarMappable(scale, viridis)
        bar = axes.figure.colorbar(shades, ax=panels, shrink=0.7, aspect=22, pad=0.01, label="layer")
        bar.locator = MaxNLocator(5, integer=True)
        bar.outline.set_visible(False)
    for panels in rows:
        for axes, name in zip(panels, METRICS.values(), strict=True):
            axes.set_title(name)
        panels[0].set_ylabel("mean attention weight")
    return drawn


def _name(each: Asked, repeated: dict[Any, str]) -> str:
    same = repeated.get((each.model, each.revision))
    return each.revision if same is None else f"{each.revision}\n= {same}"
