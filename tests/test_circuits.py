"""The circuit metrics on hand-made attention."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from training_runs import run

from circuit_phases.attention_maps import mean_attention
from circuit_phases.checkpoints import load_weights, saved_checkpoints
from circuit_phases.circuits import (
    attention_table,
    bigram,
    chunk_example,
    circuit_table,
    example_attention,
    label_attention,
)
from circuit_phases.model import InContextTransformer
from circuit_phases.sequences import draw_sequences
from circuit_phases.settings import ModelSettings, RunSettings, WorldSettings
from circuit_phases.splits import evaluation_set
from circuit_phases.world import World


def by_hand() -> torch.Tensor:
    """N = 2: tokens x1 l1 x2 l2 xq."""
    return torch.tensor(
        [
            [1.0, 0.0, 0.0, 0.0, 0.0],
            [0.6, 0.4, 0.0, 0.0, 0.0],
            [0.1, 0.2, 0.7, 0.0, 0.0],
            [0.1, 0.2, 0.3, 0.4, 0.0],
            [0.05, 0.15, 0.25, 0.35, 0.2],
        ]
    )


def test_the_metrics_of_a_map_made_by_hand() -> None:
    p = by_hand()
    assert bigram(p).item() == pytest.approx(0.2)
    assert label_attention(p).item() == pytest.approx(0.15 + 0.35)
    assert chunk_example(p).item() == pytest.approx((0.6 + 0.3) / 2)


def test_each_ideal_circuit_scores_one_on_its_own_metric() -> None:
    S = 7
    to_itself = torch.eye(S)
    to_labels, to_items = torch.eye(S), torch.eye(S)
    to_labels[-1] = torch.tensor([0, 1, 0, 1, 0, 1, 0]) / 3
    for label in (1, 3, 5):
        to_items[label] = torch.eye(S)[label - 1]
    table = {
        name: [bigram(p).item(), label_attention(p).item(), chunk_example(p).item()]
        for name, p in {"itself": to_itself, "labels": to_labels, "items": to_items}.items()
    }
    assert table["itself"] == pytest.approx([1, 0, 0])
    assert table["labels"] == pytest.approx([0, 1, 0])
    assert table["items"] == pytest.approx([1, 0, 1])


@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_metrics_are_attention_of_the_query_and_stay_within_one(N: int, seed: int) -> None:
    scores = torch.randn(3, 2, 2 * N + 1, 2 * N + 1, generator=torch.Generator().manual_seed(seed))
    p = scores.masked_fill(~torch.ones_like(scores, dtype=torch.bool).tril(), -torch.inf).softmax(-1)
    assert bigram(p).shape == (3, 2)
    assert (bigram(p) + label_attention(p) <= 1 + 1e-6).all()
    assert ((chunk_example(p) >= 0) & (chunk_example(p) <= 1)).all()


@pytest.mark.parametrize("shape", [(4, 4), (3, 5), (1, 1)])
def test_a_map_that_is_not_over_pairs_and_a_query_is_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="2N \\+ 1"):
        bigram(torch.zeros(shape))


def test_the_tables_hold_the_mean_over_sequences_and_the_metrics_follow_from_them() -> None:
    world = World.draw(WorldSettings(K=8, L=4, N=3, D=9, P=7), seed=0)
    sequences = draw_sequences(world, 300, np.random.default_rng(0))
    models = [InContextTransformer(world, ModelSettings(layers=2, heads=2), seed) for seed in (0, 1)]
    maps = torch.stack([mean_attention(model, sequences) for model in models])
    table = attention_table(maps, [10, 20]).set_index(["step", "layer", "head", "query", "key"])["weight"]
    assert len(table) == 2 * 2 * 2 * 7 * 8 / 2
    assert table.groupby(["step", "layer", "head", "query"]).sum().to_numpy() == pytest.approx(1, abs=1e-6)
    assert table[20, 2, 1, 7, 3] == maps[1, 1, 0, 6, 2]
    circuits = circuit_table(maps, [10, 20]).set_index(["step", "layer", "head", "metric"])["value"]
    assert len(circuits) == 2 * 2 * 2 * 3
    assert circuits[20, 1, 2, "bigram"] == table[20, 1, 2, 7, 7]
    assert circuits[10, 2, 1, "label_attention"] == pytest.approx(
        sum(table[10, 2, 1, 7, key] for key in (2, 4, 6)), abs=1e-12
    )
    assert circuits[20, 1, 2, "chunk_example"] == pytest.approx(
        sum(table[20, 1, 2, 2 * k, 2 * k - 1] for k in (1, 2, 3)) / 3, abs=1e-12
    )


def test_the_example_is_the_last_checkpoints_attention_on_one_sequence(
    tiny: Callable[..., RunSettings], tmp_path: Path
) -> None:
    settings = tiny(layers=2, heads=2)
    folder = run(settings, tmp_path, seed=3) / "checkpoints"
    world = World.draw(settings.world, 3)
    sequence = evaluation_set(world)["iid"][:1]
    table = example_attention(folder, settings, world, sequence, seed=3)
    saved = saved_checkpoints(folder)
    model = load_weights(saved[60], InContextTransformer(world, settings.model, 3))
    assert set(table["step"]) == {60} == {max(saved)}
    assert set(zip(table["run"], table["seed"], strict=True)) == {(settings.name, 3)}
    places = table[["layer", "head", "query", "key"]].to_numpy().T - 1
    expected = model.attention(sequence).detach().numpy()[0]
    assert table["weight"].to_numpy() == pytest.approx(expected[tuple(places)], abs=1e-6)
