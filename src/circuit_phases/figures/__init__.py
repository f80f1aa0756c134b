"""One module per drawing; each is a pure function of tables.

`FIGURES`, `ANIMATIONS` and `LLM_FIGURES` name the drawings and the tables that they read; a module's `figure(data)`
draws it. The other modules are their parts.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from circuit_phases.schemas import DATASET_TABLES

FIGURES: dict[str, tuple[str, ...]] = {
    "fig01": ("label_tables", "evaluation_sequences"),
    "fig02": ("training", "attention", "phases", "theory"),
    "fig03": ("training", "phases"),
    "fig04": ("training", "circuits", "phases"),
    "fig06": ("training", "phases", "theory"),
    "fig11": ("example_attention", "evaluation_sequences"),
    "fig12": ("training", "attention", "phases"),
    "fig14": ("class_frequencies",),
    "seeds": ("training", "phases", "theory"),
    "curves": ("training", "circuits", "phases", "theory"),
    "sweep": ("training", "phases", "theory"),
    "sweep_loss": ("training", "phases", "theory"),
    "sweep_tasks": ("training", "phases", "theory"),
    "sweep_maps": ("training", "phases", "theory", "attention", "circuits"),
    "maps": ("training", "phases", "attention", "circuits"),
    "masked_scc": ("training", "theory", "runs"),
    "pruning": ("training", "phases", "theory", "attention"),
    "head_metrics": ("training", "phases", "attention", "circuits"),
    "hidden_scc": ("training", "phases", "attention", "circuits"),
    "census": ("training", "phases", "census"),
    "departures": ("runs", "training", "phases", "theory"),
    "abilities": ("training", "phases", "ability_levels"),
    "causal_importance": ("training", "circuits", "phases", "attribution"),
    "task_map": ("training", "phases", "attribution"),
    "gradient_estimates": ("training", "phases", "attribution", "gradient_estimates"),
    "prerequisites": ("training", "phases", "theory", "prerequisites"),
}

ANIMATIONS: dict[str, tuple[str, ...]] = {
    "animation": ("training", "attention", "phases", "theory"),
}
"""The drawings that move, in the same way."""

LLM_FIGURES: dict[str, tuple[str, ...]] = {
    "fig10": ("llm_circuits",),
    "llm_heads": ("llm_circuits",),
    "llm_labels": ("llm_accuracy",),
    "llm_cuts": ("llm_accuracy",),
    "llm_revisions": ("llm_circuits", "llm_sources"),
}
"""The figures of the language models, which have no runs and seeds: each shows all of its tables."""

DRAWINGS = FIGURES | LLM_FIGURES
"""All that stands still."""

RUN_DRAWINGS = FIGURES | ANIMATIONS
"""All that is drawn from runs."""


class Finding(NamedTuple):
    """A table that is kept beside a figure: the module that decides it, and the tables that it is decided from."""

    module: str
    tables: tuple[str, ...]


FINDINGS = {
    "census": Finding("census", ("runs", "training", "phases", "theory", "label_tables")),
    "departures": Finding("departures", ("runs", "training", "phases", "theory")),
    "abilities": Finding("phase_abilities", ("training", "phases", "ability_levels")),
    "gradient_estimates": Finding("gradient_estimates", ("training", "phases", "attribution")),
    "prerequisites": Finding("prerequisites", ("runs", "training", "phases", "theory")),
}
"""The drawings of which a table is kept; a drawing that shows it reads it, by the drawing's name."""

DRAWINGS_OF_MAPS = frozenset({"sweep_maps", "maps"})
"""The drawings that show attention maps of the series and moments that config.yaml names."""

WORLDS: dict[str, dict[str, Any]] = {
    "masked_scc": {"T": 2, "label_tables": "disjoint", "query": "excluded", "p_B": 0, "alpha": 0, "beta": 0},
}
"""What drawings ask of every world: the paper's closed form is that of one in which all is even."""

UNTRAINED_TABLES = frozenset({"class_frequencies", *DATASET_TABLES})
"""The tables that follow from the world alone."""

ASKED_TABLES = frozenset({"attribution", "example_attention"})
"""The tables that are made, from checkpoints, only for the runs of figures that read them."""


def tables_of_runs(drawing: str) -> frozenset[str]:
    """The tables of runs that are read for a drawing and for the table kept beside it."""
    finding = FINDINGS[drawing].tables if drawing in FINDINGS else ()
    return frozenset({*RUN_DRAWINGS[drawing], *finding} - FINDINGS.keys())
