"""The circuit metrics of the paper (Sec. 4), from attention averaged over sequences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from circuit_phases.attention_maps import MeanAttention
from circuit_phases.checkpoints import load_weights, saved_checkpoints
from circuit_phases.model import InContextTransformer
from circuit_phases.sequences import Sequences
from circuit_phases.settings import RunSettings
from circuit_phases.world import World


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


SPLIT = "iid"
"""The frozen sequences that attention is averaged over."""
METRICS = {"bigram": bigram, "label_attention": label_attention, "chunk_example": chunk_example}


def _checked(attention: Tensor) -> Tensor:
    queries, keys = attention.shape[-2:]
    if queries != keys or keys % 2 == 0 or keys < 3:
        raise ValueError(f"attention over {queries} x {keys} tokens is not over 2N + 1 tokens x1 l1 ... xN lN xq.")
    return attention


def attention_table(maps: Float[Tensor, "steps layers heads S S"], steps: Sequence[int]) -> pd.DataFrame:
    """Mean attention maps as rows (step, layer, head, query, key, weight), from 1, for key <= query."""
    causal = np.broadcast_to(np.tri(maps.shape[-1], dtype=bool), maps.shape)
    step, layer, head, query, key = np.nonzero(causal)
    return pd.DataFrame(
        {
            "step": np.asarray(steps)[step],
            "layer": layer + 1,
            "head": head + 1,
            "query": query + 1,
            "key": key + 1,
            "weight": maps.numpy()[causal],
        }
    )


def circuit_table(maps: Float[Tensor, "steps layers heads S S"], steps: Sequence[int]) -> pd.DataFrame:
    """The metrics of mean attention maps as rows (step, layer, head, metric, value)."""
    values = torch.stack([metric(maps) for metric in METRICS.values()], dim=1)
    step, metric, layer, head = np.indices(values.shape).reshape(4, -1)
    return pd.DataFrame(
        {
            "step": np.asarray(steps)[step],
            "layer": layer + 1,
            "head": head + 1,
            "metric": np.array(list(METRICS))[metric],
            "value": values.numpy().ravel(),
        }
    )


def analyze_checkpoints(
    folder: Path, settings: RunSettings, world: World, sequences: Sequences, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables `attention` and `circuits` of every checkpoint in a folder.

    Raises:
        UserError, DamagedFile: if there are no checkpoints, or one is damaged.
    """
    saved = saved_checkpoints(folder)
    model = InContextTransformer(world, settings.model, seed)
    mean_attention = MeanAttention(settings.world, sequences)
    maps = torch.stack([mean_attention(load_weights(path, model)) for path in saved.values()])
    identity: dict[str, Any] = {"run": settings.name, "seed": seed}
    return attention_table(maps, list(saved)).assign(**identity), circuit_table(maps, list(saved)).assign(**identity)


def example_attention(
    folder: Path, settings: RunSettings, world: World, sequence: Sequences, seed: int
) -> pd.DataFrame:
    """The table `example_attention` of the last checkpoint in a folder and one sequence.

    Raises:
        UserError, DamagedFile: if there are no checkpoints, or the last is damaged.
    """
    saved = saved_checkpoints(folder)
    last = max(saved)
    model = load_weights(saved[last], InContextTransformer(world, settings.model, seed))
    maps = MeanAttention(settings.world, sequence)(model)
    return attention_table(maps[None], [last]).assign(run=settings.name, seed=seed)
