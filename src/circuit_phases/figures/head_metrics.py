"""Figure 17: the circuit metrics of every head over steps, each head in the colour of what it has become."""

from __future__ import annotations

from matplotlib.figure import Figure, FigureBase
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.typing import LineStyleType

from circuit_phases.figure_data import FigureData, Series
from circuit_phases.figures.panels import (
    accuracy_axis,
    draw_curve,
    legend_above,
    per_series,
    splits,
    step_axes,
    words_instead,
)
from circuit_phases.figures.style import CIRCUIT_COLOURS, HEAD_STYLES, INK, PAGE, styled
from circuit_phases.heads import Role, head_roles
from circuit_phases.readings import METRICS, circuit_curve, layers_and_heads, moment_step

ACCURACY_COLOUR = "#aaaaaa"
ROLE_COLOURS: dict[tuple[Role, ...], str] = {
    ("NCC",): CIRCUIT_COLOURS[1],
    ("FCC",): CIRCUIT_COLOURS[3],
    ("NCC", "FCC"): INK,
    (): CIRCUIT_COLOURS[None],
}


@styled
def figure(data: FigureData) -> Figure:
    """The first seed listed of each series: a row per metric, a column per layer, accuracy grey behind."""
    return per_series(data, PAGE, 3.9, _draw)


def _draw(part: FigureBase, data: FigureData, series: Series) -> None:
    seed = series.seeds[0]
    circuits = data.table("circuits", series.run, seed)
    heads = layers_and_heads(circuits)
    if not heads:
        words_instead(part, "no circuits measured")
        return
    step = moment_step(data, series.run, seed, "full")
    roles = head_roles(circuits, step)
    layers = sorted({layer for layer, _ in heads})
    grid = part.subplots(len(METRICS), len(layers), sharex=True, sharey=True, squeeze=False)
    accuracy = splits(data, series)
    for row, (metric, name) in zip(grid, METRICS.items(), strict=True):
        for axes, layer in zip(row, layers, strict=True):
            draw_curve(axes, accuracy[0], color=ACCURACY_COLOUR, linewidth=0.7, zorder=1)
            for head in (head for each, head in heads if each == layer):
                curve = circuit_curve(data, series.run, seed, metric, layer, head)
                draw_curve(axes, curve, color=ROLE_COLOURS[roles[layer, head]], linestyle=_line(head))
            axes.axvline(step, color=ACCURACY_COLOUR, linewidth=0.7, dashes=(4, 2.5))
            accuracy_axis(axes, name * (layer == layers[0]))
    for axes, layer in zip(grid[0], layers, strict=True):
        axes.set_title(f"Layer {layer}")
    step_axes(grid, accuracy)
    colours = [Patch(color=colour, label=_name(role)) for role, colour in ROLE_COLOURS.items()]
    numbers = sorted({head for _, head in heads})
    lines = [Line2D([], [], color=INK, linestyle=_line(head), label=f"head {head}") for head in numbers]
    dashes = Line2D([], [], color=ACCURACY_COLOUR, linewidth=0.7, dashes=(4, 2.5), label="roles are read here")
    grey = [Line2D([], [], color=ACCURACY_COLOUR, linewidth=0.7, label=f"accuracy, seed {seed}"), dashes]
    legend_above(part, [colours[:2], colours[2:], lines[:2], *[lines[2:4]] * (len(lines) > 2), grey])


def _line(head: int) -> LineStyleType:
    return HEAD_STYLES[(head - 1) % len(HEAD_STYLES)]


def _name(role: tuple[Role, ...]) -> str:
    return f"{' and '.join(role)}-like" if role else "like the other heads"
