"""Attention averaged over sequences equals the mean of the textbook's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from circuit_phases.attention_maps import TOKENS, mean_attention
from circuit_phases.model import InContextTransformer
from circuit_phases.sequences import draw_sequences
from circuit_phases.settings import RunSettings
from circuit_phases.world import World

Tiny = Callable[..., RunSettings]

OPTIONS: dict[str, dict[str, Any]] = {
    "the paper's": {},
    "as released": {"variant": "released_code"},
    "as released, two heads": {"variant": "released_code", "heads": 2},
    "random positions": {"positions": "random"},
    "learned, random positions": {"label_vectors": "learned", "positions": "random"},
    "positions of pairs": {"positions": "pairs"},
    "learned label vectors": {"label_vectors": "learned"},
    "two wide heads": {"heads": 2, "head_width": "full"},
    "two wide heads, no output matrix": {"heads": 2, "head_width": "split", "output_projection": False},
    "eight narrow heads": {"heads": 8, "head_width": "split"},
    "standard transformer": {"architecture": "standard_transformer", "hidden_layers": 0, "heads": 2},
    "one circuit's edges": {"masks": (("label_to_item",), ("query_to_labels",), ("causal",))},
    "more tokens than a chunk is counted in": {"N": 6, "P": 13, "D": 3},
    "no spare position": {"P": 5, "D": 11},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_mean_is_the_textbooks_to_rounding(options: dict[str, Any], tiny: Tiny) -> None:
    settings = tiny(**{"layers": 3} | options)
    world = World.draw(settings.world, seed=0)
    # Two whole chunks and part of a third.
    sequences = draw_sequences(world, 2 * (TOKENS // settings.world.S) + 5, np.random.default_rng(0))
    model = InContextTransformer(world, settings.model, seed=0).double()
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(3)
        expected = model.attention(sequences).mean(0)
    torch.testing.assert_close(mean_attention(model, sequences), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(mean_attention(model.float(), sequences), expected, rtol=0, atol=1e-4)


def test_edges_that_are_forbidden_at_a_step_get_no_weight(tiny: Tiny) -> None:
    forbidden = [{"layer": 1, "edges": ["label_to_item"], "from_step": 10}]
    settings = tiny(forbidden=forbidden)
    world = World.draw(settings.world, seed=0)
    sequences = draw_sequences(world, 20, np.random.default_rng(0))
    model = InContextTransformer(world, settings.model, seed=0)
    assert mean_attention(model.at_step(9), sequences)[0, 0, 1, 0] > 0
    assert mean_attention(model.at_step(10), sequences)[0, 0, 1, 0] == 0
