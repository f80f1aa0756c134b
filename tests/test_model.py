"""The network, against the paper's formulas written out token by token."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch import Tensor

from circuit_phases.model import InContextTransformer, edge_mask, edge_masks
from circuit_phases.sequences import Sequences, draw_sequences
from circuit_phases.settings import EdgeFamily, ModelSettings, RunSettings, WorldSettings
from circuit_phases.world import World

Tiny = Callable[..., RunSettings]
EDGE_FAMILIES: tuple[EdgeFamily, ...] = ("causal", "self", "query_to_self", "query_to_labels", "label_to_item")


def build(settings: RunSettings, count: int = 3) -> tuple[World, InContextTransformer, Sequences]:
    """A world, its model in float64 and a few of its sequences."""
    world = World.draw(settings.world, seed=0)
    model = InContextTransformer(world, settings.model, seed=1).double()
    return world, model, draw_sequences(world, count, np.random.default_rng(0))


# The reference: sections 1 and 2 of the paper, one token and one head at a time.


def tokens(world: World, vectors: np.ndarray | None, sequences: Sequences, row: int) -> list[np.ndarray]:
    s = world.settings
    stream = []
    for i in range(2 * s.N + 1):
        pair, is_label = divmod(i, 2)
        token = np.zeros(s.P + s.D)
        if not is_label:
            token[s.P :] = sequences.items[row, pair].double()
        elif vectors is None:
            token[s.P :] = world.label_vectors[sequences.labels[row, pair]]
        else:
            token += vectors[sequences.labels[row, pair]]
        if s.positions != "pairs":
            token[i + (int(sequences.offsets[row]) if s.positions == "random" else 0)] += 1
        elif not is_label:
            token[pair] += 1
        stream.append(token)
    return stream


def allowed(families: tuple[EdgeFamily, ...], i: int, j: int, S: int) -> bool:
    is_label, is_query = i % 2 == 1, i == S - 1
    ways = {
        "causal": j <= i,
        "self": j == i,
        "query_to_self": is_query and j == i,
        "query_to_labels": is_query and j % 2 == 1,
        "label_to_item": is_label and j == i - 1,
    }
    return any(ways[family] for family in families)


def attention_of(q: np.ndarray, keys: dict[int, np.ndarray], S: int) -> np.ndarray:
    p = np.zeros(S)
    if keys:
        scores = {j: float(k @ q) for j, k in keys.items()}
        largest = max(scores.values())
        total = sum(math.exp(score - largest) for score in scores.values())
        for j, score in scores.items():
            p[j] = math.exp(score - largest) / total
    return p


def relu(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, 0)


def reference(world: World, model: InContextTransformer, sequences: Sequences) -> tuple[np.ndarray, np.ndarray]:
    m, S = model.settings, world.settings.S
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    logits, attention = [], np.zeros((len(sequences), m.layers, m.heads, S, S))
    for row in range(len(sequences)):
        u = tokens(world, weights.get("embedding.label_vectors"), sequences, row)
        for layer in range(m.layers):
            w = {name.split(".", 2)[2]: value for name, value in weights.items() if name.startswith(f"layers.{layer}.")}
            families: tuple[EdgeFamily, ...] = m.masks[layer] if m.masks is not None else ("causal",)
            after = []
            for i in range(S):
                heads = []
                for h in range(m.heads):
                    keys = {j: w["key"][h] @ u[j] for j in range(S) if allowed(families, i, j, S)}
                    p = attention_of(w["query"][h] @ u[i], keys, S)
                    attention[row, layer, h, i] = p
                    heads.append(sum(p[j] * (w["value"][h] @ u[j]) for j in range(S)))
                if m.output_projection:
                    joined = np.concatenate([w["output"][h] for h in range(m.heads)], axis=1)
                    token = u[i] + joined @ np.concatenate(heads)
                else:
                    token = u[i] + np.concatenate(heads)
                if m.architecture == "standard_transformer":
                    token = (token - token.mean()) / np.sqrt(token.var() + 1e-5) * w["norm.weight"] + w["norm.bias"]
                    hidden = relu(w["feed_forward_in.weight"] @ token + w["feed_forward_in.bias"])
                    token = token + w["feed_forward_out.weight"] @ hidden + w["feed_forward_out.bias"]
                after.append(token)
            u = after
        row_logits = []
        for i in range(0, S, 2) if m.loss == "every_label" else [S - 1]:
            x = u[i]
            for index in range(m.hidden_layers):
                x = relu(weights[f"classifier.{index}.weight"] @ x + weights[f"classifier.{index}.bias"])
            last = f"classifier.{m.hidden_layers}"
            row_logits.append(weights[f"{last}.weight"] @ x + weights[f"{last}.bias"])
        logits.append(row_logits)
    return np.array(logits), attention


OPTIONS: dict[str, dict[str, Any]] = {
    "the paper's": {},
    "one layer": {"layers": 1},
    "five layers": {"layers": 5},
    "four wide heads": {"heads": 4},
    "split heads": {"heads": 4, "head_width": "split"},
    "no output matrix": {"output_projection": False},
    "split heads, no output matrix": {"heads": 4, "head_width": "split", "output_projection": False},
    "two hidden layers": {"hidden_layers": 2},
    "linear read-out": {"hidden_layers": 0},
    "learned label vectors": {"label_vectors": "learned"},
    "loss on every label": {"loss": "every_label"},
    "standard transformer": {"architecture": "standard_transformer", "hidden_layers": 0, "heads": 2},
    "random positions": {"positions": "random", "P": 12, "D": 4},
    "random positions, learned": {"positions": "random", "label_vectors": "learned"},
    "positions of pairs": {"positions": "pairs"},
    "as released": {
        "variant": "released_code", "label_tables": "shifted", "heads": 2,
    },
    "one pair": {"N": 1, "heads": 2},
    "masks of the first two phases": {"masks": [["query_to_self"], ["query_to_labels"]]},
    "masks of the third phase": {"masks": [["self", "label_to_item"], ["self", "query_to_labels"]], "heads": 2},
    "a layer that attends to nothing": {"masks": [["causal"], []]},
    "every label under masks": {"masks": [["label_to_item"], ["causal"]], "loss": "every_label"},
}  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_logits_and_attention_are_what_the_paper_writes_token_by_token(options: dict[str, Any], tiny: Tiny) -> None:
    world, model, sequences = build(tiny(**options))
    # Larger norm weights than at the start, so that their place in the formula matters.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.copy_(torch.linspace(0.5, 2.0, len(parameter)))
        output = model(sequences)
        alone = model.attention(sequences)
    logits, attention = reference(world, model, sequences)
    assert torch.equal(alone, output.attention)
    assert output.logits.shape == logits.shape
    assert output.attention.shape == attention.shape
    np.testing.assert_allclose(output.logits, logits, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(output.attention, attention, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("loss", ["last_label", "every_label"])
def test_the_loss_is_the_mean_cross_entropy_of_the_labels_asked_for(loss: str, tiny: Tiny) -> None:
    world, model, sequences = build(tiny(loss=loss))
    logits, _ = reference(world, model, sequences)
    targets = sequences.labels.numpy() if loss == "every_label" else sequences.labels[:, -1:].numpy()
    terms = [
        math.log(sum(math.exp(other) for other in row)) - row[target]
        for row, target in zip(logits.reshape(-1, logits.shape[-1]), targets.ravel(), strict=True)
    ]
    assert model.loss(sequences).item() == pytest.approx(sum(terms) / len(terms), rel=1e-12)


def test_a_token_with_no_allowed_key_attends_to_nothing_and_keeps_finite_gradients(tiny: Tiny) -> None:
    _, model, sequences = build(tiny(masks=[["query_to_labels"], ["query_to_self"]]))
    attention = model(sequences).attention
    assert not attention[:, 0, :, :-1].any()
    assert torch.allclose(attention[:, 0, :, -1].sum(-1), torch.ones(3, 1).double())
    model.loss(sequences).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


def test_huge_scores_do_not_leak_through_a_mask(tiny: Tiny) -> None:
    _, model, sequences = build(tiny())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("query"):
                parameter.mul_(1e4)
    attention = model(sequences).attention
    assert attention.isfinite().all()
    assert not attention.triu(1).any()


def directional_derivative(model: InContextTransformer, sequences: Sequences, parameter: Tensor, way: Tensor) -> float:
    step = 1e-6
    with torch.no_grad():
        parameter += step * way
        above = float(model.loss(sequences))
        parameter -= 2 * step * way
        below = float(model.loss(sequences))
        parameter += step * way
    return (above - below) / (2 * step)


GRADIENT_OPTIONS = [
    "the paper's", "split heads, no output matrix", "two hidden layers", "learned label vectors",
    "loss on every label", "standard transformer", "masks of the third phase", "a layer that attends to nothing",
]  # fmt: skip


@pytest.mark.parametrize("name", GRADIENT_OPTIONS)
def test_gradients_equal_central_finite_differences(name: str, tiny: Tiny) -> None:
    _, model, sequences = build(tiny(D=3, P=5, L=3, **OPTIONS[name]), count=4)
    model.loss(sequences).backward()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        assert parameter.grad is not None
        for _ in range(4):
            way = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            expected = directional_derivative(model, sequences, parameter, way)
            assert float((parameter.grad * way).sum()) == pytest.approx(expected, rel=1e-6, abs=1e-8)


def test_every_entry_of_every_gradient_equals_its_finite_difference(tiny: Tiny) -> None:
    _, model, sequences = build(tiny(D=2, P=5, L=3, heads=2), count=4)
    model.loss(sequences).backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        for entry in np.ndindex(parameter.shape):
            way = torch.zeros_like(parameter)
            way[entry] = 1
            expected = directional_derivative(model, sequences, parameter, way)
            assert float(parameter.grad[entry]) == pytest.approx(expected, rel=1e-6, abs=1e-8)


@pytest.fixture(scope="module")
def full_size() -> Callable[..., InContextTransformer]:
    """A model of full width, by default in the paper's setting."""
    world = World.draw(WorldSettings(), seed=0)
    return lambda seed=0, **settings: InContextTransformer(world, ModelSettings(**settings), seed)


def assert_normal(weights: Tensor, variance: float) -> None:
    assert kstest(weights.detach().flatten().double().numpy() / np.sqrt(variance), "norm").pvalue > 1e-3


@pytest.mark.parametrize(
    ("settings", "head_width"),
    [({}, 128), ({"heads": 2}, 128), ({"heads": 4, "head_width": "split"}, 32)],
    ids=["one head", "two wide heads", "split heads"],
)
def test_query_key_and_value_start_with_variance_one_over_128(
    settings: dict[str, Any], head_width: int, full_size: Callable[..., InContextTransformer]
) -> None:
    heads = settings.get("heads", 1)
    weights = dict(full_size(**settings).named_parameters())
    for layer in (0, 1):
        for name in ("query", "key", "value"):
            assert weights[f"layers.{layer}.{name}"].shape == (heads, head_width, 128)
            assert_normal(weights[f"layers.{layer}.{name}"], 1 / 128)
        assert weights[f"layers.{layer}.output"].shape == (heads, 128, head_width)
        assert_normal(weights[f"layers.{layer}.output"], 1 / (heads * head_width))


def test_classifier_and_learned_labels_start_at_their_scale(full_size: Callable[..., InContextTransformer]) -> None:
    weights = dict(full_size(hidden_layers=2, label_vectors="learned").named_parameters())
    for layer, outputs in enumerate((128, 128, 32)):
        assert weights[f"classifier.{layer}.weight"].shape == (outputs, 128)
        for name in ("weight", "bias"):
            scaled = weights[f"classifier.{layer}.{name}"].detach().flatten().double().numpy() * np.sqrt(128)
            assert kstest(scaled, "uniform", args=(-1, 2)).pvalue > 1e-3
    assert weights["embedding.label_vectors"].shape == (32, 128)
    assert_normal(weights["embedding.label_vectors"], 1 / 128)


def test_weights_are_a_function_of_the_training_seed_alone(tiny: Tiny) -> None:
    settings = tiny(label_vectors="learned")

    def weights(world_seed: int, seed: int) -> dict[str, Tensor]:
        torch.manual_seed(world_seed + 10 * seed)
        return InContextTransformer(World.draw(settings.world, world_seed), settings.model, seed).state_dict()

    first, same, other = weights(0, 5), weights(1, 5), weights(0, 6)
    for name, tensor in first.items():
        assert torch.equal(tensor, same[name])
        assert not torch.equal(tensor, other[name])
    drawn = [tensor.flatten()[:9].tolist() for tensor in first.values()]
    assert len({tuple(values) for values in drawn}) == len(drawn)


def test_fixed_label_vectors_are_not_trained_and_learned_ones_are(tiny: Tiny) -> None:
    for kind, trained in (("fixed", False), ("learned", True)):
        _, model, _ = build(tiny(label_vectors=kind))
        assert ("embedding.label_vectors" in dict(model.named_parameters())) is trained


HAND_MASKS: dict[EdgeFamily, list[str]] = {
    #         x1 l1 x2 l2 xq attend to x1 l1 x2 l2 xq
    "causal": ["#....", "##...", "###..", "####.", "#####"],
    "self": ["#....", ".#...", "..#..", "...#.", "....#"],
    "query_to_self": [".....", ".....", ".....", ".....", "....#"],
    "query_to_labels": [".....", ".....", ".....", ".....", ".#.#."],
    "label_to_item": [".....", "#....", ".....", "..#..", "....."],
}


def drawn(mask: Tensor) -> list[str]:
    return ["".join("#" if allowed else "." for allowed in row) for row in mask.tolist()]


@pytest.mark.parametrize("family", EDGE_FAMILIES)
def test_an_edge_family_allows_the_edges_of_its_name(family: EdgeFamily) -> None:
    assert drawn(edge_mask((family,), N=2)) == HAND_MASKS[family]


def test_edge_families_unite_and_none_allows_nothing() -> None:
    assert drawn(edge_mask(("query_to_self", "label_to_item", "query_to_labels"), N=2)) == [
        ".....", "#....", ".....", "..#..", ".#.##",
    ]  # fmt: skip
    assert not edge_mask((), N=2).any()


def test_each_layer_has_its_own_mask_and_all_are_causal_where_none_is_given() -> None:
    world = WorldSettings(N=2)
    given = edge_masks(world, ModelSettings(masks=(("self",), ("query_to_labels",))))
    assert [drawn(mask) for mask in given] == [HAND_MASKS["self"], HAND_MASKS["query_to_labels"]]
    assert [drawn(mask) for mask in edge_masks(world, ModelSettings(layers=3))] == [HAND_MASKS["causal"]] * 3
