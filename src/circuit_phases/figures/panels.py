"""The parts that figures are made of: curves of seeds, shaded phases, ceilings, attention maps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64
from matplotlib import rcParams
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Ticker
from matplotlib.collections import PolyCollection, QuadMesh
from matplotlib.colorbar import Colorbar
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure, FigureBase
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import Formatter, FuncFormatter, NullFormatter, NullLocator
from matplotlib.typing import LineStyleType

from circuit_phases.figure_data import CIRCUITS, FigureData, Series
from circuit_phases.figures.style import (
    CIRCUIT_COLOURS,
    CIRCUIT_TINTS,
    GREY,
    INK,
    PAGE,
    SMALL,
    inches,
    lighter,
    text_width,
    wrapped,
)
from circuit_phases.readings import (
    Phase,
    attention_map,
    layers_and_heads,
    median_curve,
)

ELSEWHERE = "plateau elsewhere"
"""The name of a plateau at no known ceiling."""
LABELLED_TOKENS = 11
"""Up to so many tokens, each has its tick label."""
MAP_HEIGHT = 1.5
"""Inches of a row of `attention_grid`, whose label is nearly as long."""
TITLE_ROW = 0.145
"""Inches of each further line of a series' name over its part."""
LEGEND_ROW = 0.13
"""Inches of a row of a legend."""
LEGEND_KEY = 0.35
"""Inches of a column of a legend beside its text."""
LETTER = 0.05
"""Inches that a letter of a legend has at least: most are narrower, which keeps columns apart."""


def new_figure(width: float, height: float) -> Figure:
    """A figure of its size in inches that no display and no other figure knows of."""
    return Figure(figsize=(width, height), layout="constrained")


def per_series(
    data: FigureData,
    width: float,
    height: float,
    draw: Callable[[FigureBase, FigureData, Series], None],
    more: Callable[[FigureData, Series], float] = lambda data, series: 0,
) -> Figure:
    """One part of the given size (inches) per series, as many beside each other as the page holds.

    `more` is what a series adds to the height; parts beside each other have that of the tallest.
    """
    columns = max(min(len(data.series), int(PAGE // width)), 1)
    room = width if columns == 1 else PAGE / columns
    heights = [height + more(data, series) + title_height(series.label, room) for series in data.series] or [height]
    rows = [max(heights[start : start + columns]) for start in range(0, len(heights), columns)]
    figure = new_figure(width if columns == 1 else PAGE, sum(rows))
    parts = figure.subfigures(len(rows), columns, height_ratios=rows, squeeze=False).flat
    for part, series in zip(parts, data.series, strict=False):
        if len(data.series) > 1:
            name_part(part, series.label)
        # A part within the part, so that the title stands over the legend.
        draw(part.subfigures(1, 1), data, series)
    return figure


def name_part(part: FigureBase, name: str) -> None:
    """A series' name over its part, in as many lines as its width asks for."""
    part.suptitle(_title(name, inches(part)))


def title_height(name: str, room: float) -> float:
    """Inches of the lines beyond the first of `name_part`, in a part of `room` inches."""
    return TITLE_ROW * _title(name, room).count("\n")


def _title(name: str, room: float) -> str:
    return wrapped(name, room, rcParams["figure.titlesize"], rcParams["figure.titleweight"])


def words_instead(part: FigureBase, why: str) -> None:
    """Why there is nothing to draw here."""
    part.text(0.5, 0.5, why, ha="center", va="center", color=GREY)


# Axes over steps

NAMES_APART = 0.3
"""The least distance of the names of two steps, in lengths of the axis."""


DOT = 2.5
"""Points across a curve of a single point."""


def step_axis(axes: Axes, accuracy: Iterable[pd.Series[float]], label: bool = True) -> None:
    """A logarithmic axis of training steps, from a little before accuracy first rises to the last step."""
    axes.set_xscale("log")
    curves = [curve for curve in accuracy if len(curve)]
    start, end = min(map(_eventful, curves), default=1), max((curve.index[-1] for curve in curves), default=10)
    # A single step stands within the axis, where all of its dot is seen.
    first, last = axes.set_xlim(start if end > start else start / 2, max(end, 2 * start) * 1.04)
    # Matplotlib by itself makes ticks for the decades out of sight too, and ticks take longest of all that is drawn.
    minor = [step for step in axes.xaxis.get_minorticklocs() if first <= step <= last]
    axes.set_xticks(minor, minor=True)
    axes.xaxis.set_minor_formatter(_step_names(minor, first, last))
    axes.tick_params(labelbottom=label, which="both")
    if label:
        axes.set_xlabel("training step")


def _step_names(minor: Sequence[float], first: float, last: float) -> Formatter:
    """Names of the ticks between powers of ten, where fewer than two of these are in sight: of as many as have room."""
    powers = [10.0**power for power in range(math.ceil(math.log10(first)), math.floor(math.log10(last)) + 1)]
    if len(powers) > 1:
        return NullFormatter()
    named: list[float] = []
    for step in sorted(minor, key=lambda step: f"{step:.0e}"[0] not in "25"):
        away = (abs(math.log10(step / other)) for other in (*powers, *named))
        if min(away, default=math.inf) > NAMES_APART * math.log10(last / first):
            named.append(step)
    return FuncFormatter(lambda step, _: f"{step:,.0f}" if step in named else "")


def step_axes(grid: np.ndarray[tuple[int, int], Any], accuracy: Iterable[pd.Series[float]]) -> None:
    """`step_axis` of all panels that share it, set once; its label and minor ticks are those of the last row alone."""
    first, *others = grid[-1]
    step_axis(first, accuracy)
    for axes in others:
        axes.set_xlabel(first.get_xlabel())
    for axes in grid[:-1].flat:
        axes.xaxis.minor = Ticker()
        axes.xaxis.set_minor_locator(NullLocator())


def _eventful(accuracy: pd.Series[float]) -> float:
    """A third of the first step with accuracy above 0.1; the first step if there is none."""
    risen = accuracy.index[accuracy > 0.1]
    return max(accuracy.index[0], risen[0] / 3 if len(risen) else 0)


def accuracy_axis(axes: Axes, label: str = "accuracy") -> None:
    """An axis from 0 to 1 with room for a curve at 1."""
    axes.set_ylim(0, 1.04)
    axes.set_yticks([0, 0.5, 1])
    axes.set_yticks([0.25, 0.75], minor=True)
    axes.set_ylabel(label)


def draw_curve(axes: Axes, curve: pd.Series[float], **looks: Any) -> None:
    """A line over steps, or a dot where it has a single point, through which no line is seen."""
    axes.plot(curve.index, curve, marker="o" if curve.count() == 1 else "", markersize=DOT, **looks)


def seed_curves(
    axes: Axes, curves: Sequence[pd.Series[float]], colour: str = INK, linestyle: LineStyleType = "-"
) -> None:
    """The first curve dark, the others light behind it."""
    for curve in curves[1:]:
        draw_curve(axes, curve, color=lighter(colour), linewidth=0.7, linestyle=linestyle, zorder=2)
    for curve in curves[:1]:
        draw_curve(axes, curve, color=colour, linestyle=linestyle, zorder=3)


def median_of_seeds(
    axes: Axes, curves: Sequence[pd.Series[float]], colour: str, linestyle: LineStyleType = "-"
) -> None:
    """The median over seeds dark, every seed light behind it."""
    held = [curve for curve in curves if len(curve)]
    if held:
        seed_curves(axes, [median_curve(held), *held[: len(held) * (len(held) > 1)]], colour, linestyle)


def seed_handles(series: Series, colour: str = INK) -> list[Artist]:
    """The legend of `seed_curves`: which seed is dark, by which rule."""
    first, *others = series.seeds
    dark = Line2D([], [], color=colour, label=f"seed {first}" + (", the first listed" if others else ""))
    light = Line2D([], [], color=lighter(colour), linewidth=0.7, label="other seeds")
    return [dark, light] if others else [dark]


def splits(
    data: FigureData, series: Series, split: str = "iid", column: str = "accuracy", task: int | None = None
) -> list[pd.Series[float]]:
    """The curve of every seed of a series."""
    return [data.training_curve(series.run, seed, split, column, task) for seed in series.seeds]


def dark_note(series: Series) -> str:
    """Which seed is dark, in words."""
    return f"dark: seed {series.seeds[0]}, the first listed; light: other seeds" if len(series.seeds) > 1 else ""


def legend_above(figure: FigureBase, columns: Sequence[Sequence[Artist]], title: str = "") -> None:
    """A legend over the panels, where no data are, in the given columns."""
    blank = Line2D([], [], linestyle="none", label=" ")
    rows = max(map(len, columns), default=0)
    handles = [handle for column in columns for handle in [*column, *[blank] * (rows - len(column))]]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(columns) or 1, title=title)


def legend_of_names(figure: FigureBase, handles: Sequence[Artist], width: float, title: str = "") -> None:
    """`legend_above` of names of any length: wrapped, and in as many columns as `width` inches hold."""
    texts = [_legend_text(str(handle.get_label()), width) for handle in handles]
    for handle, text in zip(handles, texts, strict=True):
        handle.set_label(text)
    legend_above(figure, [handles[column] for column in _columns(texts, width)], title)


def legend_lines(names: Sequence[str], width: float) -> int:
    """The lines of text in the longest column of `legend_of_names`."""
    texts = [_legend_text(name, width) for name in names]
    return max((sum(text.count("\n") + 1 for text in texts[column]) for column in _columns(texts, width)), default=1)


def _legend_text(name: str, width: float) -> str:
    return wrapped(name, width - LEGEND_KEY, rcParams["legend.fontsize"])


def _columns(texts: Sequence[str], width: float) -> list[slice]:
    lines = [line for text in texts for line in text.split("\n")]
    longest = max((max(text_width(line, rcParams["legend.fontsize"]), LETTER * len(line)) for line in lines), default=0)
    columns = max(min(int(width / (LEGEND_KEY + longest)), len(texts)), 1)
    rows = -(-len(texts) // columns) or 1
    return [slice(start, start + rows) for start in range(0, len(texts), rows)]


# Phases and ceilings


def shade_phases(axes: Axes, found: Sequence[Phase], numbers: bool = True) -> None:
    """A tinted band per phase, with its number over the axes where its middle is in view."""
    for phase in found:
        axes.axvspan(max(phase.start, 1), phase.end, color=CIRCUIT_TINTS[phase.number], linewidth=0, zorder=0)
        if numbers and phase.number:
            axes.annotate(
                str(phase.number), (phase.middle, 0.99), xycoords=axes.get_xaxis_transform(), xytext=(0, 2),
                textcoords="offset points", ha="center", va="bottom", weight="bold",
                color=CIRCUIT_COLOURS[phase.number], annotation_clip=True,
            )  # fmt: skip


def phase_handles(found: Iterable[Phase], colours: Mapping[int | None, str] = CIRCUIT_TINTS) -> list[Artist]:
    """The legend of `shade_phases`, or with `CIRCUIT_COLOURS` of `phase_strip`."""
    names: dict[int | None, str] = {phase: f"Phase {phase} ({name})" for phase, name in CIRCUITS.items()}
    if any(phase.number is None for phase in found):
        names[None] = ELSEWHERE
    return [Patch(color=colours[phase], label=name) for phase, name in names.items()]


def draw_ceilings(axes: Axes, best: dict[int, float]) -> None:
    """A dashed line at each circuit's best accuracy, with its name at the left, where curves are still low."""
    for phase, accuracy in best.items():
        axes.axhline(accuracy, color=CIRCUIT_COLOURS[phase], linewidth=0.7, dashes=(4, 2.5), zorder=1)
    for name, lowest, highest, colour in _ceiling_names(best):
        below = lowest > (0.75 if lowest == highest else 0.15)
        axes.annotate(
            name, (0, lowest if below else highest), xytext=(2, -1.5 if below else 1), va="top" if below else "bottom",
            xycoords=("axes fraction", "data"), textcoords="offset points", fontsize=SMALL, color=colour,
        )  # fmt: skip


def _ceiling_names(best: dict[int, float], closeness: float = 0.13) -> Iterator[tuple[str, float, float, str]]:
    """(name, lowest, highest, colour) of the ceilings, in one name where they lie too close to be named apart."""
    values = sorted(best.values())
    starts = [value for before, value in pairwise([-1, *values]) if value - before > closeness]
    for start, end in pairwise([*starts, 2]):
        group = {phase: value for phase, value in best.items() if start <= value < end}
        circuits: dict[str, list[str]] = {}
        for phase, value in sorted(group.items()):
            circuits.setdefault(f"{value:.2f}", []).append(CIRCUITS[phase])
        name = ", ".join(f"{', '.join(names)} {value}" for value, names in circuits.items())
        yield name, start, max(group.values()), CIRCUIT_COLOURS[min(group)]


def phase_strip(axes: Axes, rows: Sequence[tuple[str, Sequence[Sequence[Phase]]]]) -> None:
    """Bars from start to end of each phase: one row per label, one line in it per seed."""
    bars: list[tuple[tuple[float, float], ...]] = []
    colours: list[str] = []
    for row, (_, seeds) in enumerate(rows):
        height = 0.8 / max(len(seeds), 1)
        for line, found in enumerate(seeds):
            top = row - 0.4 + line * height
            for phase in found:
                start = max(phase.start, 1)
                bars.append(((start, top), (start, top + height), (phase.end, top + height), (phase.end, top)))
                colours.append(CIRCUIT_COLOURS.get(phase.number, GREY))
    axes.add_collection(PolyCollection(bars, facecolor=colours, edgecolor="white", linewidth=0.3))
    axes.set_ylim(max(len(rows), 1) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), [label for label, _ in rows])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def step_range(phase: Phase, last: int) -> str:
    """E.g. `1: 2.5-24k`, and `3: 75k-` for a phase that lasts until the last step."""
    start, end = _short(phase.start), "" if phase.end >= last else _short(phase.end)
    if start[-1] == end[-1:] == "k":
        start = start[:-1]
    return f"{phase.number}: {start}\N{EN DASH}{end}"


def _short(step: int) -> str:
    if step < 1_000:
        return str(step)
    return f"{step / 1_000:.{1 if step < 10_000 else 0}f}".removesuffix(".0") + "k"


# Attention maps


def token_labels(S: int) -> list[str]:
    """The tokens x1 l1 ... xN lN xq as mathtext, S = 2N + 1."""
    pairs = [rf"${name}_{{{number}}}$" for number in range(1, S // 2 + 1) for name in ("x", r"\ell")]
    return [*pairs, "$x_q$"]


WEIGHT_TICKS = (0, 0.1, 0.25, 0.5, 1)
"""Attention weights named at a bar of colours."""


def draw_attention(axes: Axes, weights: Float64[np.ndarray, "S S"]) -> QuadMesh:
    """An attention map, first token at the upper left; a row is an attending token.

    Colour goes by the square root of a weight: a query that attends to N labels gives each a small one.
    """
    S = len(weights)
    scale = PowerNorm(0.5, vmin=0, vmax=1)
    mesh = axes.pcolormesh(np.ma.masked_invalid(weights), cmap="Blues", norm=scale, edgecolors="white", linewidth=3 / S)
    axes.set(aspect="equal", facecolor="#f1f1f1", ylim=(S, 0))
    stride = 2 * -(-S // LABELLED_TOKENS)
    shown = range(S) if S <= LABELLED_TOKENS else [*range(0, S - stride, stride), S - 1]
    labels = [token_labels(S)[token] for token in shown]
    axes.set_xticks([token + 0.5 for token in shown], labels)
    axes.set_yticks([token + 0.5 for token in shown], labels)
    axes.tick_params(length=0, pad=1.5)
    axes.spines[:].set_visible(False)
    return mesh


def attention_grid(
    figure: FigureBase, data: FigureData, run: str, seed: int, columns: Sequence[tuple[str, int]], room: int = 1
) -> None:
    """Maps of one run: a row per layer and head, a column per (title, checkpoint).

    Fewer columns than there is `room` for stand at the left, each as wide as if there were as many.
    """
    rows = layers_and_heads(data.table("attention", run, seed))
    if not rows or not columns:
        words_instead(figure, "no phase found, or no attention saved")
        return
    several_heads = any(head > 1 for _, head in rows)
    grid = figure.subplots(len(rows), max(len(columns), room), squeeze=False)
    for axes in grid[:, len(columns) :].flat:
        axes.remove()
    grid = grid[:, : len(columns)]
    for column, (title, checkpoint) in enumerate(columns):
        grid[0, column].set_title(f"{title}\nstep {checkpoint:,}", loc="center")
        for axes, (layer, head) in zip(grid[:, column], rows, strict=True):
            mesh = draw_attention(axes, attention_map(data, run, seed, checkpoint, layer, head))
            if column == 0:
                axes.set_ylabel(f"Layer {layer}" + f", head {head}" * several_heads + "\nattending token")
        grid[-1, column].set_xlabel("token attended to")
    bar = figure.colorbar(mesh, ax=grid, shrink=0.6, aspect=22, pad=0.02)
    label_weights(bar, f"mean attention weight, seed {seed}")


def label_weights(bar: Colorbar, label: str) -> None:
    """The bar of colours of attention maps, with ticks that tell their scale."""
    bar.set_ticks(WEIGHT_TICKS, labels=[f"{weight:g}" for weight in WEIGHT_TICKS])
    bar.ax.minorticks_off()
    bar.set_label(label)
    bar.outline.set_visible(False)
