"""Interventions, against slow and obvious implementations that go sequence by sequence and token by token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from circuit_phases.interventions import (
    EDGES,
    POSITIONS,
    Effect,
    Outcome,
    Subject,
    edge_families,
    full_pass,
    logits_from,
    margin,
    other_sequences,
    under_another_task,
    with_edges,
)
from circuit_phases.model import InContextTransformer
from circuit_phases.sequences import Sequences, draw_sequences
from circuit_phases.settings import RunSettings
from circuit_phases.world import World

Tiny = Callable[..., RunSettings]

MODELS: dict[str, dict[str, Any]] = {
    "the paper's": {},
    "as released, two heads": {"variant": "released_code", "heads": 2},
    "two wide heads": {"heads": 2},
    "three layers, T = 3": {"layers": 3, "T": 3},
    "one layer": {"layers": 1},
    "under masks": {"masks": [["label_to_item", "query_to_labels"], ["query_to_self", "query_to_labels"]]},
    "forbidden edges": {"forbidden": [{"layer": 1, "edges": ["label_to_item"]}]},
    "standard transformer": {"architecture": "standard_transformer", "hidden_layers": 0, "heads": 2},
    "copying": {"T": 1, "p_B": 1},
    "random positions": {"positions": "random"},
}


def build(run: RunSettings, count: int = 10, double: bool = True, scale: float = 3.0) -> tuple[Any, World, Sequences]:
    """A model with weights large enough that attention is far from even, and sequences."""
    world = World.draw(run.world, 0)
    model = InContextTransformer(world, run.model, 0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("query", "key")):
                parameter *= scale
    sequences = draw_sequences(world, count, np.random.default_rng(0))
    if double:
        return model.double(), world, replace(sequences, items=sequences.items.double())
    return model, world, sequences


def subject_of(model: InContextTransformer, world: World, sequences: Sequences) -> tuple[Subject, Tensor, Sequences]:
    others = other_sequences(sequences.tasks, np.random.default_rng(1))
    relabelled, counted = under_another_task(world, sequences, np.random.default_rng(2))
    return Subject(model, sequences, others, relabelled, counted), others, relabelled


# The obvious implementation


def softmax(scores: list[float]) -> list[float]:
    exponentials = np.exp(np.array(scores) - max(scores))
    return list(exponentials / exponentials.sum())


class Obvious:
    """One sequence at a time, one token at a time; `edit` may change a row of attention, `exchange` a stream."""

    def __init__(self, model: InContextTransformer) -> None:
        self.model = model
        self.weights = {name: tensor.detach().numpy() for name, tensor in model.named_parameters()}

    def run(
        self,
        sequence: Sequences,
        edit: Callable[[int, int, int, list[float]], list[float]] = lambda layer, head, token, row: row,
        exchange: Callable[[int, list[np.ndarray]], list[np.ndarray]] = lambda layer, streams: streams,
    ) -> tuple[np.ndarray, dict[tuple[int, int, int], list[float]], list[list[np.ndarray]]]:
        """Logits, attention rows by (layer, head, token), and the streams before and after each layer."""
        m, w = self.model, self.weights
        streams = exchange(0, list(m.embedding(sequence)[0].detach().numpy()))
        rows, history = {}, [streams]
        for layer in range(m.settings.layers):
            query, key, value = (w[f"layers.{layer}.{name}"] for name in ("query", "key", "value"))
            after = []
            for i, u in enumerate(streams):
                read = []
                for head in range(m.settings.heads):
                    allowed = [j for j in range(len(streams)) if m.masks[layer, i, j]]
                    row = [0.0] * len(streams)
                    if allowed:
                        for j, p in zip(
                            allowed,
                            softmax([(key[head] @ streams[j]) @ (query[head] @ u) for j in allowed]),
                            strict=True,
                        ):
                            row[j] = p
                    row = edit(layer, head, i, row)
                    rows[layer, head, i] = row
                    read.append(sum(p * (value[head] @ v) for p, v in zip(row, streams, strict=True)))
                if f"layers.{layer}.output" in w:
                    written = sum(o @ r for o, r in zip(w[f"layers.{layer}.output"], read, strict=True))
                else:
                    written = np.concatenate(read)
                after.append(
                    self._standard(layer, u + written) if m.settings.architecture != "attention_only" else u + written
                )
            streams = exchange(layer + 1, after)
            history.append(streams)
        u = streams[-1]
        for index in range(m.settings.hidden_layers + 1):
            u = w[f"classifier.{index}.weight"] @ u + w[f"classifier.{index}.bias"]
            u = np.maximum(u, 0) if index < m.settings.hidden_layers else u
        return u, rows, history

    def _standard(self, layer: int, u: np.ndarray) -> np.ndarray:
        w = {name.removeprefix(f"layers.{layer}."): array for name, array in self.weights.items()}
        u = (u - u.mean()) / np.sqrt(u.var() + 1e-5) * w["norm.weight"] + w["norm.bias"]
        hidden = np.maximum(w["feed_forward_in.weight"] @ u + w["feed_forward_in.bias"], 0)
        return u + w["feed_forward_out.weight"] @ hidden + w["feed_forward_out.bias"]


def edges_of(edge: str, N: int) -> set[tuple[int, int]]:
    """(attending token, token attended to), from 0, in x1 l1 ... xN lN xq."""
    query, labels = 2 * N, range(1, 2 * N, 2)
    named = {
        "bigram": {(query, query)},
        "label_attention": {(query, label) for label in labels},
        "chunk_example": {(label, label - 1) for label in labels},
        "item_attention": {(query, label - 1) for label in labels},
    }
    if edge in named:
        return named[edge]
    return {(i, j) for i in range(2 * N + 1) for j in range(i + 1)} - set.union(*named.values())


def replaced(row: list[float], token: int, edges: set[tuple[int, int]], weights: list[float]) -> list[float]:
    mine = [j for j in range(len(row)) if (token, j) in edges]
    if all(row[j] == weights[j] for j in mine):
        return row
    others = [j for j in range(len(row)) if (token, j) not in edges]
    remaining = sum(row[j] for j in others)
    left = max(sum(row) - sum(weights[j] for j in mine), 0)
    new = [0.0] * len(row)
    for j in mine:
        new[j] = weights[j]
    for j in others:
        new[j] = row[j] * left / remaining if remaining > 0 else 0.0
    return new


def obviously(
    effect: Effect, N: int, mean: dict[Any, list[float]], rows: dict[Any, list[float]], streams: list[list[np.ndarray]]
) -> tuple[Callable[..., list[float]], Callable[..., list[np.ndarray]]]:
    """How one intervention edits a row of attention, and how it exchanges streams."""

    def edit(layer: int, head: int, token: int, row: list[float]) -> list[float]:
        if (layer + 1, head + 1) != (effect.layer, effect.head):
            return row
        place = layer, head, token
        weights = {"zero": [0.0] * len(row), "mean": mean[place], "resample": rows[place]}[effect.intervention]
        return replaced(row, token, edges_of(effect.edge, N), weights)

    def exchange(layer: int, mine: list[np.ndarray]) -> list[np.ndarray]:
        if effect.intervention != "interchange" or layer != effect.layer:
            return mine
        swapped = {"items": range(0, 2 * N, 2), "labels": range(1, 2 * N, 2), "query": [2 * N]}[effect.position]
        return [streams[layer][i] if i in swapped else u for i, u in enumerate(mine)]

    return edit, exchange


@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)
def test_every_intervention_equals_the_obvious_one(options: dict[str, Any], tiny: Tiny) -> None:
    model, world, sequences = build(tiny(**options))
    subject, others, relabelled = subject_of(model, world, sequences)
    obvious, N = Obvious(model), world.settings.N
    one_by_one = [sequences[n : n + 1] for n in range(len(sequences))]
    clean = [obvious.run(each) for each in one_by_one]
    theirs = [obvious.run(relabelled[n : n + 1]) for n in range(len(sequences))]
    mean = {place: list(np.mean([rows[place] for _, rows, _ in clean], axis=0)) for place in clean[0][1]}
    np.testing.assert_allclose(subject.clean.logits, [logits for logits, *_ in clean], rtol=0, atol=1e-9)
    effects = list(subject.effects())
    layers, heads = model.settings.layers, model.settings.heads
    assert len(effects) == 3 * len(edge_families(N)) * layers * heads + 3 * (layers + 1)
    for effect in effects:
        logits = [
            obvious.run(each, *obviously(effect, N, mean, rows=clean[others[n]][1], streams=theirs[n][2]))[0]
            for n, each in enumerate(one_by_one)
        ]
        expected = Outcome.of(torch.from_numpy(np.array(logits)), sequences.labels[:, -1])
        for name in ("margin", "loss"):
            np.testing.assert_allclose(
                getattr(effect.outcome, name), getattr(expected, name), rtol=0, atol=1e-7, err_msg=str(effect)
            )
        assert torch.equal(effect.outcome.correct, expected.correct)
        assert torch.equal(effect.outcome.answer, expected.answer)


@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)
def test_estimates_are_the_margins_derivative_along_the_change(options: dict[str, Any], tiny: Tiny) -> None:
    model, world, sequences = build(tiny(**options))
    subject, others, relabelled = subject_of(model, world, sequences)
    labels, h = sequences.labels[:, -1], 1e-6
    families = edge_families(world.settings.N)
    theirs = full_pass(model, relabelled)
    for effect in subject.effects():
        if effect.position:
            layer = effect.layer
            u, v = subject.clean.streams[layer], theirs.streams[layer].detach()
            step = torch.zeros_like(u)
            if u.shape[1] > 1 or effect.position == "query":
                step[:, POSITIONS[effect.position]] = (v - u)[:, POSITIONS[effect.position]]
            moved = [logits_from(model, u + sign * h * step, layer) for sign in (1, -1)]
        else:
            layer, head = effect.layer - 1, effect.head - 1
            p = subject.clean.patterns[layer]
            edges = families[effect.edge][-p.shape[2] :]
            mine = p[:, head]
            weights = {"zero": 0 * mine, "mean": mine.mean(0).expand_as(mine), "resample": mine[others]}
            step = torch.zeros_like(p)
            step[:, head] = with_edges(mine, edges, weights[effect.intervention]) - mine
            u = subject.clean.streams[layer]
            moved = [logits_from(model, u, layer, p + sign * h * step) for sign in (1, -1)]
        derivative = (margin(moved[0], labels) - margin(moved[1], labels)) / (2 * h)
        torch.testing.assert_close(effect.estimate, derivative, rtol=1e-4, atol=1e-6)


# What changes nothing


def same_bits(effect: Effect, subject: Subject) -> bool:
    return all(
        torch.equal(getattr(effect.outcome, name), getattr(subject.outcome, name))
        for name in ("correct", "loss", "margin", "answer")
    )


@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("count", [1, 7, 256])
def test_patching_from_itself_changes_nothing_to_the_bit(options: dict[str, Any], count: int, tiny: Tiny) -> None:
    model, _, sequences = build(tiny(**options), count, double=False)
    itself = torch.arange(count)
    subject = Subject(model, sequences, itself, sequences, torch.ones(count, dtype=torch.bool))
    found = [effect for effect in subject.effects() if effect.intervention in ("resample", "interchange")]
    assert len(found) > 6
    for effect in found:
        assert same_bits(effect, subject), effect
        assert not effect.estimate.any()


def test_masking_absent_edges_changes_nothing_to_the_bit(tiny: Tiny) -> None:
    masks = [["self", "label_to_item"], ["query_to_labels"]]
    model, world, sequences = build(tiny(masks=masks, heads=2), 256, double=False)
    subject, *_ = subject_of(model, world, sequences)
    absent = {
        (layer, edge)
        for layer, mask in enumerate(model.masks, start=1)
        for edge, family in edge_families(world.settings.N).items()
        if not (mask & family).any()
    }
    assert {(1, "label_attention"), (2, "bigram"), (2, "chunk_example"), (2, "rest")} <= absent
    for effect in subject.effects():
        if (effect.layer, effect.edge) in absent:
            assert same_bits(effect, subject), effect
        elif effect.intervention == "zero":
            assert not same_bits(effect, subject), effect


def test_the_items_and_the_query_carry_no_task_before_the_first_layer(tiny: Tiny) -> None:
    model, world, sequences = build(tiny(variant="released_code"), 64, double=False)
    subject, _, relabelled = subject_of(model, world, sequences)
    before = {effect.position: effect for effect in subject.effects() if effect.layer == 0}
    assert same_bits(before["items"], subject)
    assert same_bits(before["query"], subject)
    with torch.no_grad():
        answers = full_pass(model, relabelled).logits.argmax(1)
    assert torch.equal(before["labels"].outcome.answer, answers)


# The parts


def test_edge_families_share_out_the_causal_edges() -> None:
    for N in (1, 2, 5):
        families = edge_families(N)
        assert list(families) == [*EDGES, "rest"]
        assert torch.equal(
            sum(family.int() for family in families.values()), torch.ones(2 * N + 1, 2 * N + 1).tril().int()
        )
        for name, family in families.items():
            assert {tuple(edge) for edge in family.nonzero().tolist()} == edges_of(name, N)


def test_zeroed_weight_goes_to_the_other_edges_in_proportion_and_nowhere_if_there_is_none() -> None:
    p = torch.tensor([[0.5, 0.3, 0.2], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.25, 0.0, 0.75]])
    first = torch.tensor([[True, False, False]]).expand(4, 3)
    torch.testing.assert_close(
        with_edges(p, first, torch.zeros(4, 3)),
        torch.tensor([[0.0, 0.6, 0.4], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]),
    )
    torch.testing.assert_close(
        with_edges(p, first, torch.full((4, 3), 0.75)),
        torch.tensor([[0.75, 0.15, 0.1], [0.75, 0.0, 0.0], [0.75, 0.0, 0.0], [0.75, 0.0, 0.25]]),
    )


rows = st.lists(st.floats(0, 1).filter(lambda value: value == 0 or value > 1e-6), min_size=5, max_size=5)


@given(rows, rows, st.lists(st.booleans(), min_size=5, max_size=5))
def test_attention_with_other_edges_keeps_its_sum(mine: list[float], theirs: list[float], edges: list[bool]) -> None:
    p, q = (torch.tensor([each], dtype=torch.float64) for each in (mine, theirs))
    p, q = (each / each.sum() if each.sum() else each for each in (p, q))
    chosen = torch.tensor([edges])
    new = with_edges(p, chosen, q)
    assert (new >= 0).all()
    if p.sum() and (p * ~chosen).sum():
        torch.testing.assert_close(new.sum(), torch.tensor(1.0, dtype=torch.float64), rtol=0, atol=1e-9)
        torch.testing.assert_close(new[chosen], q[chosen])


def test_other_sequences_are_of_other_tasks_and_of_one_task_others(assert_follows: Any) -> None:
    tasks = torch.tensor([0, 0, 1, 2, 1] * 20)
    chosen = other_sequences(tasks, np.random.default_rng(0))
    assert (tasks[chosen] != tasks).all()
    picked = np.concatenate([other_sequences(tasks[:5], np.random.default_rng(n))[:1] for n in range(900)])
    assert_follows(np.bincount(picked, minlength=5), [0, 0, 1 / 3, 1 / 3, 1 / 3])
    alone = np.concatenate(
        [other_sequences(torch.zeros(4, dtype=torch.long), np.random.default_rng(n))[1:2] for n in range(900)]
    )
    assert_follows(np.bincount(alone, minlength=4), [1 / 3, 0, 1 / 3, 1 / 3])


@pytest.mark.parametrize("options", [{"T": 4, "L": 3}, {"T": 2, "K": 6}, {"T": 1, "p_B": 1}], ids=str)
def test_pairs_share_their_items_and_differ_in_the_querys_label(options: dict[str, Any], tiny: Tiny) -> None:
    _, world, sequences = build(tiny(**options), 200)
    relabelled, counted = under_another_task(world, sequences, np.random.default_rng(0))
    assert relabelled.items is sequences.items
    assert torch.equal(relabelled.classes, sequences.classes)
    differs = relabelled.labels != sequences.labels
    assert differs[counted, -1].all()
    assert differs[counted][:, :-1].any(1).all()
    tables = torch.from_numpy(world.label_tables)
    if options["T"] > 1:
        rows = relabelled.tasks[:, None]
        assert torch.equal(relabelled.labels[counted], tables[rows, sequences.classes][counted])
        possible = [
            any(
                tables[task, classes[-1]] != labels[-1] and (tables[task, classes[:-1]] != labels[:-1]).any()
                for task in range(options["T"])
            )
            for classes, labels in zip(sequences.classes, sequences.labels, strict=True)
        ]
        assert counted.tolist() == possible
        assert 0 < counted.sum() < 200 or all(possible)
    else:
        # One label table serves all sequences.
        classes, labels = (each[counted].flatten().tolist() for each in (sequences.classes, relabelled.labels))
        pairs = set(zip(classes, labels, strict=True))
        assert len(pairs) == len({number for number, _ in pairs})
