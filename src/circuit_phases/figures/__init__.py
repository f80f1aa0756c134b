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

LLM_FIGURES: dict[str, tuple[str, ...]] = {
    "fig10": ("llm_circuits",),
    "llm_heads": ("llm_circuits",),
    "llm_labels": ("llm_accuracy",),
    "llm_cuts": ("llm_accuracy",),
    "llm_revisions": ("llm_circuits", "llm_sources"),
}
"""The figures of the language models, which have no runs and seeds: each shows all of its tables."""

DRAWINGS = FIGURES | LLM_FIGURES

UNTRAINED_TABLES = frozenset({"class_frequencies"})
"""The tables that follow from the world alone."""
