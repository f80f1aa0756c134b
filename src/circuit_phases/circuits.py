"""The circuit metrics of the paper (Sec. 4), from attention averaged over sequences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from circuit_phases.checkpoints import load_model, saved_checkpoints
from circuit_phases.model import InContextTransformer
from circuit_phases.sequences import Sequences
from circuit_phases.settings import RunSettings
from circuit_phases.world import World

CHUNK = 256


def bigram(attention: Float[Tensor, "*batch query key"]) -> Float[Tensor, "*batch"]:
    """Attention of the query token to itself, p[2N+1, 2N+1], in [0, 1].

    `attention` holds causal weights over the 2N + 1 tokens x1 l1 ... xN lN xq.

    Raises:
        ValueError: if the token axes are not square or not odd.
    """
    return _checked(attention)[..., -1, -1]


def label_attention(attention: Float[Tensor, "*batch query key"]) -> Float[Tensor, "*batch"]:
    """Attention of the query token to all labels, sum_k p[2N+1, 2k], in [0, 1].

    Raises:
        ValueError: if the token axes are not square or not odd.
    """
    return _checked(attention)[..., -1, 1::2].sum(-1)


def chunk_example(attention: Float[Tensor, "*batch query key"]) -> Float[Tensor, "*batch"]:
    """Mean attention of each label to the item before it, (1/N) sum_k p[2k, 2k-1], in [0, 1].

    Raises:
        ValueError: if the token axes are not square or not odd.
    """
    return _checked(attention).diagonal(offset=-1, dim1=-2, dim2=-1)[..., ::2].mean(-1)


METRICS = {"bigram": bigram, "label_attention": label_attention, "chunk_example": chunk_example}


def _checked(attention: Tensor) -> Tensor:
    queries, keys = attention.shape[-2:]
    if queries != keys or keys % 2 == 0 or keys < 3:
        raise ValueError(f"attention over {queries} x {keys} tokens is not over 2N + 1 tokens x1 l1 ... xN lN xq.")
    return attention


def mean_attention(model: InContextTransformer, sequences: Sequences) -> Float[Tensor, "layers heads S S"]:
    """Attention maps averaged over sequences, in float64."""
    total = torch.zeros(())
    with torch.no_grad():
        for start in range(0, len(sequences), CHUNK):
            total = total + model.attention(sequences[start : start + CHUNK]).double().sum(0)
    return total / len(sequences)


def attention_table(maps: Float[Tensor, "layers heads S S"]) -> pd.DataFrame:
    """Mean attention maps as rows (layer, head, query, key, weight), from 1, for key <= query."""
    layers, heads, S, _ = maps.shape
    layer, head, query, key = np.indices((layers, heads, S, S)).reshape(4, -1) + 1
    table = pd.DataFrame({"layer": layer, "head": head, "query": query, "key": key, "weight": maps.numpy().ravel()})
    return table[table["key"] <= table["query"]].reset_index(drop=True)


def circuit_table(maps: Float[Tensor, "layers heads S S"]) -> pd.DataFrame:
    """The metrics of mean attention maps as rows (layer, head, metric, value)."""
    layers, heads = maps.shape[:2]
    layer, head = np.indices((layers, heads)).reshape(2, -1) + 1
    return pd.concat(
        [
            pd.DataFrame({"layer": layer, "head": head, "metric": name, "value": metric(maps).numpy().ravel()})
            for name, metric in METRICS.items()
        ],
        ignore_index=True,
    )


def analyze_checkpoints(
    folder: Path, settings: RunSettings, world: World, sequences: Sequences, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables `attention` and `circuits` of every checkpoint in a folder.

    Raises:
        UserError, DamagedFile: if there are no checkpoints, or one is damaged.
    """
    attention, circuits = [], []
    for step, path in saved_checkpoints(folder).items():
        maps = mean_attention(load_model(path, settings, world, seed), sequences)
        identity: dict[str, Any] = {"run": settings.name, "seed": seed, "step": step}
        attention.append(attention_table(maps).assign(**identity))
        circuits.append(circuit_table(maps).assign(**identity))
    return pd.concat(attention, ignore_index=True), pd.concat(circuits, ignore_index=True)
