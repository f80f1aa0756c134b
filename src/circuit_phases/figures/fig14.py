"""Figure 14: the rank-frequency curves f(k) ~ k^-alpha of the item classes."""

from __future__ import annotations

from matplotlib.figure import Figure

from circuit_phases.figure_data import FigureData
from circuit_phases.figures.panels import new_figure
from circuit_phases.figures.style import COLUMN, series_looks, styled


@styled
def figure(data: FigureData) -> Figure:
    """A line per alpha, and as dots what the frozen sequences of the first seed hold."""
    drawn = new_figure(COLUMN, 2.4)
    axes = drawn.subplots()
    axes.set(xscale="log", yscale="log", xlabel="rank of the item class, $k$", ylabel="frequency $f(k)$")
    tables = [data.table("class_frequencies", series.run, series.seeds[0]) for series in data.series]
    by_alpha = {float(table["alpha"].iloc[0]): table.sort_values("class") for table in tables if len(table)}
    labels = [rf"$\alpha$ = {alpha:g}" for alpha in sorted(by_alpha)]
    for alpha, label, (colour, _) in zip(sorted(by_alpha), labels, series_looks(labels), strict=True):
        table = by_alpha[alpha]
        axes.plot(table["class"], table["frequency"], color=colour, label=label, zorder=3)
        seen = table[table["observed"] > 0]
        axes.plot(seen["class"], seen["observed"], ".", color=colour, markersize=2.5, alpha=0.35, zorder=2)
    if by_alpha:
        # A whole decade at least: within one, Matplotlib labels ticks between its ends, which run into one another.
        axes.set_xlim(0.9, 1.1 * max(10, *(table["class"].max() for table in by_alpha.values())))
        drawn.legend(
            loc="outside upper center", ncols=3, title="line: $f(k) \\propto k^{-\\alpha}$, dots: evaluation sequences"
        )
    return drawn
