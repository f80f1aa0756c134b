"""One module per figure; each is a pure function of tables.

`FIGURES` names every module here and the tables that it reads; the module's `figure(data)` draws it.
"""

from __future__ import annotations

FIGURES: dict[str, tuple[str, ...]] = {
    "fig02": ("training", "attention", "phases", "theory"),
    "fig03": ("training", "phases"),
    "fig04": ("training", "circuits", "phases"),
    "fig06": ("training", "phases", "theory"),
    "fig12": ("training", "attention", "phases"),
    "fig14": ("class_frequencies",),
    "curves": ("training", "circuits", "phases"),
    "seeds": ("training", "phases", "theory"),
}

UNTRAINED_TABLES = frozenset({"class_frequencies"})
"""The tables that follow from the world alone."""
