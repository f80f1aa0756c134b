"""Drawing a figure by its name, and writing it to PDF and PNG."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from matplotlib.figure import Figure

from circuit_phases.figure_data import FigureData
from circuit_phases.figures import DRAWINGS
from circuit_phases.figures.style import styling
from circuit_phases.files import UserError, replacing


def draw(name: str, data: FigureData) -> Figure:
    """The figure of one name of `DRAWINGS`.

    Raises:
        UserError: for a name that is not there.
    """
    if name not in DRAWINGS:
        raise UserError(f"figure = {name!r} is not known (choose from {', '.join(DRAWINGS)}).")
    figure: Figure = import_module(f"circuit_phases.figures.{name}").figure(data)
    return figure


@contextmanager
def collection_waits() -> Iterator[None]:
    """Python's garbage collector waits: it would look through all that is drawn again and again, and free nothing."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@styling
def save(figure: Figure, pdf: Path, png: Path) -> None:
    """Write both files, or neither; equal figures give equal bytes.

    Raises:
        UserError: if a folder cannot be written to or the disk is full.
    """
    with replacing(pdf) as pdf_file, replacing(png) as png_file:
        figure.savefig(pdf_file, format="pdf", metadata={"CreationDate": None})
        # Compressed lightly: the most that PNG can do takes twice as long for a tenth less.
        figure.savefig(png_file, format="png", metadata={"Software": None}, pil_kwargs={"compress_level": 3})
