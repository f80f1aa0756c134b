"""How in-context meta-learning emerges in transformers, from worlds to figures.

The names below are the package's front door; each is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "RunSettings": "settings",
    "World": "world",
    "draw_sequences": "sequences",
    "evaluation_set": "splits",
    "InContextTransformer": "model",
    "Trainer": "trainer",
    "train": "training",
    "mean_attention": "attention_maps",
    "circuit_table": "circuits",
    "attention_table": "circuits",
    "bigram": "circuits",
    "label_attention": "circuits",
    "chunk_example": "circuits",
    "ceilings": "theory",
    "find_phases": "phases",
    "load_configuration": "configuration",
}

__all__ = list(_HOMES)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"circuit_phases.{_HOMES[name]}"), name)
    raise AttributeError(f"circuit_phases has no {name!r}.")
