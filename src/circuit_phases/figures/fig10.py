"""Figure 10: the three circuit metrics of language models over layers."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from circuit_phases.figure_data import FigureData
from circuit_phases.figures.language_models import every_asked, row_of_panels, with_gold_labels
from circuit_phases.figures.panels import legend_above
from circuit_phases.figures.style import SERIES_COLOURS, styled
from circuit_phases.readings import METRICS


@styled
def figure(data: FigureData) -> Figure:
    """A row per model and data set, a panel per metric: means over heads and prompts, two standard errors around."""
    table = with_gold_labels(data.tables["llm_circuits"])
    asked = every_asked(table[table["head"].isna()])
    colours = dict(zip(sorted(table["shots"].unique()), SERIES_COLOURS, strict=False))
    drawn, rows = row_of_panels(len(asked), len(METRICS), 1.7, [each.title for each in asked])
    for panels, each in zip(rows, asked, strict=False):
        for axes, metric in zip(panels, METRICS, strict=True):
            for shots, curve in each.rows[each.rows["metric"] == metric].groupby("shots"):
                layer = curve["layer"].to_numpy(dtype=float)
                value, error = (curve[name].to_numpy(dtype=float) for name in ("value", "standard_error"))
                axes.plot(layer, value, ".-", markersize=3, color=colours[shots], zorder=3)
                axes.fill_between(
                    layer, value - 2 * error, value + 2 * error, color=colours[shots], alpha=0.25, linewidth=0
                )
            axes.set_ylim(bottom=0)
    for axes, name in ((axes, name) for panels in rows for axes, name in zip(panels, METRICS.values(), strict=True)):
        axes.set(title=name, xlabel="layer")
        axes.margins(x=0.03)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for panels in rows:
        panels[0].set_ylabel("attention weight")
    handles = [Line2D([], [], color=colour, label=f"{shots} demonstrations") for shots, colour in colours.items()]
    note = "mean over heads and prompts, gold labels; band: two standard errors"
    legend_above(drawn, [[handle] for handle in handles], note)
    return drawn
