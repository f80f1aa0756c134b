"""Attention maps of chosen series at chosen moments, each with what its head has become."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from matplotlib import rcParams
from matplotlib.collections import QuadMesh
from matplotlib.figure import FigureBase

from circuit_phases.figure_data import FigureData, Series
from circuit_phases.figures.panels import draw_attention, label_weights, words_instead
from circuit_phases.figures.style import wrapped
from circuit_phases.heads import head_roles
from circuit_phases.readings import attention_map, layers_and_heads, moment_step

MAP_SIZE = 1.5
"""Inches of a map with its labels, where four stand beside each other on a page."""
BESIDE = 4
"""Maps beside each other, unless one block holds more."""
NAME_ROW = 0.14
"""Inches of each line of a title beyond the second."""
BAR_HEIGHT, BAR_WIDTH = 1.3, 0.57
"""Inches of the bar of colours with its labels."""

Place = tuple[int, int]
"""Layer and head, from 1."""


@dataclass(frozen=True)
class Block:
    """The maps of every layer and head of one run at one checkpoint, under a title.

    `rows` places them: a row per layer, or one row of all layers if each has one head. `notes` are
    words for the titles of some.
    """

    series: Series
    seed: int
    step: int
    title: str
    rows: tuple[tuple[Place, ...], ...]
    notes: Mapping[Place, Sequence[str]] = field(default_factory=dict)

    @property
    def width(self) -> int:
        """Maps beside each other."""
        return len(self.rows[0])


def blocks(data: FigureData) -> list[list[Block]]:
    """The blocks that the series ask for, with the roles of their heads, in rows that a page holds."""
    rows: list[list[Block]] = []
    for series in data.series:
        seed = series.seeds[0]
        circuits = data.table("circuits", series.run, seed)
        for moment in series.maps if layers_and_heads(data.table("attention", series.run, seed)) else ():
            step = moment_step(data, series.run, seed, moment)
            block = block_at(data, series, seed, step, head_roles(circuits, step), moment * (len(series.maps) > 1))
            if rows and sum(each.width for each in rows[-1]) + block.width <= BESIDE:
                rows[-1].append(block)
            else:
                rows.append([block])
    return rows


def block_at(
    data: FigureData, series: Series, seed: int, step: int, notes: Mapping[Place, Sequence[str]], moment: str = ""
) -> Block:
    """The block of a checkpoint; its title ends in the name of the moment, if one is given."""
    places = layers_and_heads(data.table("attention", series.run, seed))
    layers = sorted({layer for layer, _ in places})
    of_layers = tuple(tuple(place for place in places if place[0] == layer) for layer in layers)
    curve = data.training_curve(series.run, seed)
    accuracy = curve[curve.index <= max(step, curve.index[0])].iloc[-1]
    name = f"{series.label}\n" * (len(data.series) > 1)
    title = f"{name}seed {seed}, step {step:,}, accuracy {accuracy:.2f}" + f", {moment}" * bool(moment)
    return Block(series, seed, step, title, of_layers if len(places) > len(layers) else (tuple(places),), notes)


def blocks_width(rows: list[list[Block]]) -> int:
    """Maps beside each other in the widest row."""
    return max((sum(block.width for block in row) for row in rows), default=0)


def blocks_height(rows: list[list[Block]]) -> float:
    """Inches of `draw_blocks`."""
    return max(sum(_heights(rows)), 0.3)


def _heights(rows: list[list[Block]]) -> list[float]:
    return [
        0.55 + NAME_ROW * max(0, *(_title(block, rows).count("\n") - 1 for block in row))
        + max(len(block.rows) for block in row) * (_size(rows) + 0.2)
        for row in rows
    ]  # fmt: skip


def _title(block: Block, rows: list[list[Block]]) -> str:
    """The title in lines that do not run into the next block."""
    room = block.width * _size(rows)
    lines = block.title.split("\n")
    return "\n".join(wrapped(line, room, rcParams["font.size"], rcParams["figure.titleweight"]) for line in lines)


def _size(rows: list[list[Block]]) -> float:
    return MAP_SIZE * min(BESIDE / max(blocks_width(rows), 1), 1)


def draw_blocks(part: FigureBase, data: FigureData, rows: list[list[Block]]) -> None:
    """Every block under its name, with one bar of colours for all."""
    if not rows:
        words_instead(part, "no attention saved")
        return
    width = blocks_width(rows)
    left, right = part.subfigures(1, 2, width_ratios=[width * _size(rows), BAR_WIDTH], squeeze=False)[0]
    strips = left.subfigures(len(rows), 1, height_ratios=_heights(rows), squeeze=False)[:, 0]
    for strip, row in zip(strips, rows, strict=True):
        spare = width - sum(block.width for block in row)
        widths = [block.width for block in row] + [spare] * bool(spare)
        pieces = strip.subfigures(1, len(widths), width_ratios=widths, squeeze=False)[0]
        for piece, block in zip(pieces, row, strict=False):
            mesh = _draw_block(piece, data, block, _title(block, rows))
    above = max(blocks_height(rows) - BAR_HEIGHT, 0.2) / 2
    bar = right.subfigures(3, 1, height_ratios=[above, BAR_HEIGHT, above], squeeze=False)[1, 0].subplots()
    bar.set_label("<colorbar>")
    label_weights(right.colorbar(mesh, cax=bar), "mean attention weight")


def _draw_block(part: FigureBase, data: FigureData, block: Block, title: str) -> QuadMesh:
    run, seed = block.series.run, block.seed
    several_heads = len(block.rows) > 1
    part.suptitle(title, x=0.01, ha="left", fontsize="medium")
    grid = part.subplots(len(block.rows), block.width, squeeze=False)
    for number, (row, places) in enumerate(zip(grid, block.rows, strict=True), start=1):
        for axes, (layer, head) in zip(row, places, strict=True):
            mesh = draw_attention(axes, attention_map(data, run, seed, block.step, layer, head))
            note = ", ".join(block.notes.get((layer, head), ()))
            axes.set_title(f"layer {layer}" + f", head {head}" * several_heads + f": {note}" * bool(note))
            axes.tick_params(labelleft=axes is row[0], labelbottom=number == len(grid))
        row[0].set_ylabel("attending token")
    grid[-1, 0].set_xlabel("token attended to")
    return mesh
