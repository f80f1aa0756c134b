"""What a drawn figure shows, and what its tables say that it should."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from made_tables import N
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from matplotlib.text import Text


def curve(data, run, seed, split="iid", column="accuracy"):
    """Steps and values as the table has them."""
    table = data.tables["training"]
    rows = table[(table["run"] == run) & (table["seed"] == seed) & (table["split"] == split) & table["task"].isna()]
    rows = rows[rows["step"] > 0]
    return rows["step"].to_numpy(dtype=float), rows[column].to_numpy(dtype=float)


def metric_curve(data, run, seed, name, layer, head=1):
    table = data.tables["circuits"]
    rows = table[(table["run"] == run) & (table["seed"] == seed) & (table["metric"] == name) & (table["step"] > 0)]
    rows = rows[(rows["layer"] == layer) & (rows["head"] == head)]
    return rows["step"].to_numpy(dtype=float), rows["value"].to_numpy(dtype=float)


def panel(figure, label):
    """The axes whose y axis has this label."""
    (axes,) = [axes for axes in figure.axes if axes.get_ylabel() == label]
    return axes


def has_line(axes, expected, **looks):
    """Whether a line of the axes has exactly these points, and this colour if one is given."""
    steps, values = expected
    return any(
        np.array_equal(line.get_xdata(), steps)
        and np.array_equal(line.get_ydata(), values)
        and all(getattr(line, f"get_{name}")() == value for name, value in looks.items())
        for line in axes.lines
    )


def bands(axes: Axes):
    """{colour: [(start, end), ...]} of the shaded bands."""
    found: dict[str, list[tuple[float, float]]] = {}
    for patch in axes.patches:
        if isinstance(patch, Rectangle):
            found.setdefault(to_hex(patch.get_facecolor()), []).append(
                (patch.get_x(), patch.get_x() + patch.get_width())
            )
    return found


def bars(axes):
    """[(start, end, row, colour), ...] of a strip of phases."""
    return [
        (box.x0, box.x1, round((box.y0 + box.y1) / 2, 6), to_hex(colour))
        for strip in axes.collections
        for path, colour in zip(strip.get_paths(), strip.get_facecolor(), strict=True)
        for box in [path.get_extents()]
    ]


def maps(figure):
    """The attention maps in rows from left to right: [(axes, weights), ...]."""
    found = [(axes, mesh) for axes in figure.axes for mesh in axes.collections if isinstance(mesh, QuadMesh)]
    return [(axes, mesh.get_array()) for axes, mesh in found if axes.get_label() != "<colorbar>"]


def weights_in_table(data, seed, step, layer, run=None, head=1, name="attention"):
    table = data.tables[name]
    table = table[table["run"] == (run or table["run"].iloc[0])]
    rows = table[(table["seed"] == seed) & (table["step"] == step) & (table["layer"] == layer)]
    rows = rows[rows["head"] == head]
    weights = np.full((2 * N + 1, 2 * N + 1), np.nan)
    weights[rows["query"].to_numpy(dtype=int) - 1, rows["key"].to_numpy(dtype=int) - 1] = rows["weight"]
    return weights


def visible_texts(figure):
    """Every text that is to be read, with its box in pixels, where a drawing puts it."""
    figure.draw_without_rendering()
    ticks = {}
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                shown = axes.axison and low <= tick.get_loc() <= high
                ticks[tick.label1] = shown and tick.label1.get_visible()
                ticks[tick.label2] = shown and tick.label2.get_visible()
    renderer = figure._get_renderer()
    return [
        (text, text.get_window_extent(renderer))
        for text in figure.findobj(Text)
        if text.get_text().strip() and text.get_visible() and ticks.get(text, True) and is_shown(text)
    ]


def overlaps(figure):
    """The pairs of texts that lie over one another."""
    boxes = [(text.get_text(), box.padded(-1)) for text, box in visible_texts(figure)]
    return [(one, other) for (one, box), (other, other_box) in combinations(boxes, 2) if box.overlaps(other_box)]


def is_shown(artist):
    return artist.axes is None or artist.axes.axison
