"""The look of every figure: sizes, colours and the style sheet."""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from functools import wraps
from itertools import chain, cycle
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import style
from matplotlib.figure import Figure, FigureBase, SubFigure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from matplotlib.typing import LineStyleType

from circuit_phases.figure_data import CIRCUITS, FigureData

COLUMN, PAGE = 3.25, 6.75
"""Widths of a paper's column and page, in inches."""
SMALL = 6.0
"""The smallest type, in points."""

INK, GREY, RED = "#222222", "#666666", "#cc3311"
CIRCUIT_COLOURS = {1: "#0072b2", 2: "#c77700", 3: "#00805c", None: "#777777"}
"""Colours of lines and text; None: a plateau at no known ceiling."""
CIRCUIT_TINTS = {1: "#d3e5f1", 2: "#fbe6c2", 3: "#cfeade", None: "#ececec"}
LAYER_COLOURS = ("#332288", "#cc3311", "#117733", "#aa4499", "#0077aa")
HEAD_STYLES: tuple[LineStyleType, ...] = ("-", "--", "-.", ":")
SERIES_COLOURS = ("#222222", "#aa4499", "#56b4e9", "#999933", "#882255", "#44aa99", "#cc6677")
"""Black, then colours that are told apart without red or green (P. Tol's), none like a circuit's."""

_SHEET = Path(__file__).with_name("circuit_phases.mplstyle")
_NUMBER_AT_END = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?$", re.IGNORECASE)

TIED = "\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}"
"""Between a parameter and its value, where a line does not break."""

styling = style.context(_SHEET, after_reset=True)
"""The style sheet, and nothing of the user's own settings; a decorator and a context manager."""


def styled(draw: Callable[[FigureData], Figure]) -> Callable[[FigureData], Figure]:
    """Let a figure's function draw in the style sheet, wherever it is called from."""

    @wraps(draw)
    @styling
    def figure(data: FigureData) -> Figure:
        drawn = draw(data)
        # Ticks are made when they are first laid out, by the style that holds then; the layout stays as it is then.
        if layout := drawn.get_layout_engine():
            layout.execute(drawn)
        drawn.set_layout_engine(None)
        return drawn

    return figure


def series_looks(labels: Sequence[str]) -> list[tuple[str, LineStyleType]]:
    """A colour and a line style per series.

    Dark to light by value where every label ends in a number. Else a label that begins with a circuit's
    name has its colour, the others those of `SERIES_COLOURS`; solid, and dashed where a colour comes again.
    """
    numbers = [_NUMBER_AT_END.search(label.replace(",", "")) for label in labels]
    values = [float(number[0]) for number in numbers if number]
    if len(values) == len(labels) > 2 and len(set(values)) == len(values):
        ranks = np.argsort(np.argsort(values))
        shades = matplotlib.colormaps["plasma"](0.85 * ranks / (len(values) - 1))
        return [(matplotlib.colors.to_hex(shade), "-") for shade in shades]
    circuits = {name: CIRCUIT_COLOURS[phase] for phase, name in CIRCUITS.items()}
    palette, seen = cycle(SERIES_COLOURS), Counter[str]()
    looks: list[tuple[str, LineStyleType]] = []
    for label in labels:
        colour = circuits.get(label.split(" ")[0]) or next(palette)
        looks.append((colour, HEAD_STYLES[seen[colour] % len(HEAD_STYLES)]))
        seen[colour] += 1
    return looks


def text_width(text: str, size: float, weight: str = "normal") -> float:
    """Inches of the longest line of a text, whose type has `size` points."""
    font = FontProperties(weight=weight)
    lines = (line for line in text.split("\n") if line.strip())
    return max((float(TextPath((0, 0), line, size, font).get_extents().width) for line in lines), default=0) / 72


def wrapped(text: str, room: float, size: float, weight: str = "normal") -> str:
    """A name in lines of at most `room` inches, broken between its parameters; within, where one is too long."""
    width = text_width(text, size, weight)
    if width <= room:
        return text
    # Letters differ in width, so that a line can be wider than the mean of the text tells.
    letters = max(int(0.9 * len(text) * room / width), 1)
    lines = _lines(text.replace(" = ", TIED), letters, cut=False)
    return "\n".join(chain.from_iterable(_lines(line.replace(TIED, " = "), letters, cut=True) for line in lines))


def _lines(text: str, letters: int, cut: bool) -> list[str]:
    return textwrap.wrap(text, letters, break_long_words=cut, break_on_hyphens=False)


def inches(part: FigureBase) -> float:
    """The width of a figure or of a part of one."""
    assert isinstance(part, Figure | SubFigure)
    return float(part.bbox.width / part.dpi)


def lighter(colour: str) -> str:
    """The colour of the curves that stand behind a dark one."""
    red, green, blue = (0.4 * part + 0.6 for part in matplotlib.colors.to_rgb(colour))
    return matplotlib.colors.to_hex((red, green, blue))
