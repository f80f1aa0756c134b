"""Figure 9: the semi-context circuit that several heads hide, over steps, and the maps where it is strongest."""

from __future__ import annotations

from matplotlib.artist import Artist
from matplotlib.figure import Figure, FigureBase
from matplotlib.lines import Line2D

from circuit_phases.figure_data import FigureData, Series
from circuit_phases.figures.moments import block_at, draw_blocks
from circuit_phases.figures.panels import (
    accuracy_axis,
    dark_note,
    legend_above,
    per_series,
    seed_curves,
    splits,
    step_axis,
)
from circuit_phases.figures.style import GREY, LAYER_COLOURS, PAGE, styled
from circuit_phases.heads import HiddenSCC, hidden_scc
from circuit_phases.readings import METRICS, circuit_curve, step_reaching

HEIGHT = 3.9


@styled
def figure(data: FigureData) -> Figure:
    """Accuracy and the two metrics of the circuit's heads, every seed; maps of the first seed listed."""
    return per_series(data, PAGE, HEIGHT, _draw)


def _draw(part: FigureBase, data: FigureData, series: Series) -> None:
    left, right = part.subfigures(1, 2, width_ratios=[1, 1.15], squeeze=False)[0]
    accuracy, metrics = left.subplots(2, 1, sharex=True, height_ratios=[1, 1.4])
    seed_curves(accuracy, splits(data, series))
    accuracy_axis(accuracy)
    found = {seed: hidden for seed in series.seeds if (hidden := _hidden(data, series, seed))}
    handles: list[Artist] = []
    for metric, place in (("label_attention", "reads_labels"), ("bigram", "keeps_query")):
        curves = [
            circuit_curve(data, series.run, seed, metric, *getattr(hidden, place)) for seed, hidden in found.items()
        ]
        layers = {getattr(hidden, place)[0] for hidden in found.values()}
        for layer in layers:
            colour = LAYER_COLOURS[(layer - 1) % len(LAYER_COLOURS)]
            seed_curves(metrics, curves, colour)
            handles.append(Line2D([], [], color=colour, label=f"{METRICS[metric]}, layer {layer}"))
    accuracy_axis(metrics, "metric of the hidden SCC's head")
    step_axis(metrics, splits(data, series))
    for hidden in list(found.values())[:1]:
        for axes in (accuracy, metrics):
            axes.axvline(hidden.step, color=GREY, linewidth=0.7, dashes=(4, 2.5))
    legend_above(left, [handles], dark_note(series))
    _draw_maps(right, data, series, found)


def _hidden(data: FigureData, series: Series, seed: int) -> HiddenSCC | None:
    circuits = data.table("circuits", series.run, seed)
    if not len(circuits):
        return None
    return hidden_scc(circuits, step_reaching(data.training_curve(series.run, seed)))


def _draw_maps(part: FigureBase, data: FigureData, series: Series, found: dict[int, HiddenSCC]) -> None:
    above, below = part.subfigures(2, 1, height_ratios=[1, 9], squeeze=False)[:, 0]
    lines = [
        f"seed {seed}: " + (found[seed].summary if seed in found else "no hidden SCC before full accuracy")
        for seed in series.seeds
    ]
    above.text(0.5, 0.5, "\n".join(lines), ha="center", va="center")
    if found:
        seed = next(iter(found))
        heads = dict.fromkeys((found[seed].reads_labels, found[seed].keeps_query), ("SCC",))
        draw_blocks(below, data, [[block_at(data, series, seed, found[seed].step, heads)]])
