"""Interventions on a trained model: attention edges knocked out, residual streams exchanged, and their gradients.

All is computed in the plain form of the model, of which the last layer is formed for the query alone. Every
pass over the same sequences takes the same operations, so an intervention that changes nothing changes no bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from circuit_phases.model import InContextTransformer, Layer, edge_mask, masked_softmax
from circuit_phases.sequences import Sequences
from circuit_phases.world import World, draw_label_tables


def query_to_items(N: int) -> Bool[Tensor, "S S"]:
    """The edges from the query to the items of the context."""
    mask = torch.zeros(2 * N + 1, 2 * N + 1, dtype=torch.bool)
    mask[-1, 0:-1:2] = True
    return mask


EDGES: dict[str, Callable[[int], Bool[Tensor, "S S"]]] = {
    "bigram": partial(edge_mask, ("query_to_self",)),
    "label_attention": partial(edge_mask, ("query_to_labels",)),
    "chunk_example": partial(edge_mask, ("label_to_item",)),
    "item_attention": query_to_items,
}
"""The edges [attending token, token attended to] of each family, of N pairs; `rest` is every other causal edge."""
KnockOut = Literal["zero", "mean", "resample"]
KNOCK_OUTS: tuple[KnockOut, ...] = get_args(KnockOut)
POSITIONS: dict[str, slice] = {"items": slice(0, -1, 2), "labels": slice(1, None, 2), "query": slice(-1, None)}
"""The tokens whose residual stream is exchanged, in the order x1 l1 ... xN lN xq."""
SEED_WORDS = tuple(b"attribution")
"""Before a world's seed, they seed the choice of other sequences and tasks, apart from every other draw."""


def edge_families(N: int) -> dict[str, Bool[Tensor, "S S"]]:
    """Which edges [attending token, token attended to] belong to each family, `rest` last."""
    named = {name: edges(N) for name, edges in EDGES.items()}
    return named | {"rest": edge_mask(("causal",), N) & ~torch.stack(list(named.values())).any(0)}


def with_edges(
    p: Float[Tensor, "*n R S"], edges: Bool[Tensor, "R S"], weights: Float[Tensor, "*n R S"]
) -> Float[Tensor, "*n R S"]:
    """Attention whose edges have other weights, and whose other edges share what is left as they did.

    Each row keeps its sum (1, or 0 where all is masked). If no other edge has weight, nothing can
    take what is left, and the token attends to that much less. A row whose edges keep their weights stays as it is.
    """
    given, others = weights * edges, p * ~edges
    left = (p.sum(-1, keepdim=True) - given.sum(-1, keepdim=True)).clamp(min=0)
    remaining = others.sum(-1, keepdim=True)
    shared = torch.where(remaining > 0, others / remaining * left, 0)
    same = (given == p * edges).all(-1, keepdim=True)
    return torch.where(same, p, given + shared)


@dataclass(frozen=True)
class Pass:
    """One pass over n sequences: the residual stream before and after each layer, and the attention of each.

    After the last layer the stream, and in it the attention, is the query's alone.
    """

    streams: tuple[Float[Tensor, "n S d"], ...]
    patterns: tuple[Float[Tensor, "n heads R S"], ...]
    logits: Float[Tensor, "n L"]


def full_pass(model: InContextTransformer, sequences: Sequences) -> Pass:
    """A pass without intervention, whose parts can be differentiated by where gradients are on."""
    u = model.embedding(sequences)
    if torch.is_grad_enabled():
        u.requires_grad_()
    streams, patterns = [u], []
    for layer in range(len(model.layers)):
        patterns.append(_pattern(model, streams[-1], layer))
        streams.append(_after(model, streams[-1], patterns[-1], layer))
    return Pass(tuple(streams), tuple(patterns), model.classify(streams[-1][:, -1]))


def logits_from(
    model: InContextTransformer,
    u: Float[Tensor, "n S d"],
    layer: int,
    pattern: Float[Tensor, "n heads R S"] | None = None,
) -> Float[Tensor, "n L"]:
    """The query's logits from the stream after `layer` layers; the next layer's attention may be given."""
    for index in range(layer, len(model.layers)):
        given = pattern if index == layer else None
        u = _after(model, u, _pattern(model, u, index) if given is None else given, index)
    return model.classify(u[:, -1])


def _rows(model: InContextTransformer, layer: int) -> slice:
    """The tokens that a layer is formed for: of the last one, the query."""
    return slice(-1, None) if layer == len(model.layers) - 1 else slice(None)


def _pattern(model: InContextTransformer, u: Float[Tensor, "n S d"], layer: int) -> Float[Tensor, "n heads R S"]:
    weights, rows = _layer(model, layer), _rows(model, layer)
    asked = torch.einsum("nid,hwd->nhiw", u[:, rows], weights.query)
    scores = torch.einsum("nhid,njd->nhij", torch.einsum("nhiw,hwd->nhid", asked, weights.key), u)
    return masked_softmax(scores, model.masks[layer][rows], dim=-1)


def _after(
    model: InContextTransformer, u: Float[Tensor, "n S d"], p: Float[Tensor, "n heads R S"], layer: int
) -> Float[Tensor, "n R d"]:
    """The stream after a layer that attends as given."""
    weights = _layer(model, layer)
    heads = torch.einsum("nhid,hwd->nihw", torch.einsum("nhij,njd->nhid", p, u), weights.value)
    return weights.written(u[:, _rows(model, layer)], heads)


def _layer(model: InContextTransformer, layer: int) -> Layer:
    found = model.layers[layer]
    assert isinstance(found, Layer)
    return found


# What to exchange with


def other_sequences(tasks: Int64[Tensor, " n"], generator: np.random.Generator) -> Int64[Tensor, " n"]:
    """For each sequence another one, uniformly of those of other tasks; if all share one task, of all others."""
    tasks_, places = tasks.numpy(), np.arange(len(tasks))
    chosen = np.empty(len(tasks), dtype=np.int64)
    for task in np.unique(tasks_):
        mine = places[tasks_ == task]
        others = places[tasks_ != task]
        # With one task alone, a shift of 1 .. n - 1 places around the circle leads to each other sequence alike.
        shifts = generator.integers(1, max(len(places), 2), size=len(mine))
        chosen[mine] = generator.choice(others, size=len(mine)) if len(others) else (mine + shifts) % len(places)
    return torch.from_numpy(chosen)


def under_another_task(
    world: World, sequences: Sequences, generator: np.random.Generator
) -> tuple[Sequences, Bool[Tensor, " n"]]:
    """The same items, noise included, labelled by another task, and which sequences have such a task.

    It is uniform among those that give the query, and some item of the context, another label. A world of one
    task gets a second label table, drawn by its own law, whose labels only the context can tell.
    """
    tables = world.label_tables
    if len(tables) == 1:
        tables = np.concatenate([tables, draw_label_tables(world.settings, generator)])
    labels = torch.from_numpy(tables)[:, sequences.classes].transpose(0, 1)
    differs = labels != sequences.labels[:, None]
    possible = (differs[..., -1] & differs[..., :-1].any(-1)).numpy()
    draws = np.where(possible, generator.random(possible.shape), -1.0)
    chosen = torch.from_numpy(draws.argmax(1))
    relabelled = replace(sequences, tasks=chosen, labels=labels[torch.arange(len(sequences)), chosen])
    return relabelled, torch.from_numpy(possible.any(1))


# What comes of it


@dataclass(frozen=True)
class Outcome:
    """Of each sequence: whether the answer is right, its cross-entropy (nats), its margin, and the answer.

    The margin is the logit of the right label less that of the best wrong one.
    """

    correct: Bool[Tensor, " n"]
    loss: Float[Tensor, " n"]
    margin: Float[Tensor, " n"]
    answer: Int64[Tensor, " n"]

    @classmethod
    def of(cls, logits: Float[Tensor, "n L"], labels: Int64[Tensor, " n"]) -> Outcome:
        """The outcome of these logits."""
        answer = logits.argmax(1)
        return cls(
            correct=answer == labels,
            loss=functional.cross_entropy(logits, labels, reduction="none"),
            margin=margin(logits, labels),
            answer=answer,
        )


def margin(logits: Float[Tensor, "n L"], labels: Int64[Tensor, " n"]) -> Float[Tensor, " n"]:
    """The logit of the right label less that of the best wrong one."""
    right = logits.gather(1, labels[:, None])
    wrong = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    return right[:, 0] - wrong


@dataclass(frozen=True)
class Effect:
    """What one intervention did to every sequence, and what gradients foretold of its margin.

    `layer` counts from 1; of an exchanged stream it is the layer after which, 0 before the first. `counted` leaves
    out the sequences that it cannot be done to.
    """

    intervention: str
    layer: int | None
    head: int | None
    edge: str | None
    position: str | None
    outcome: Outcome
    estimate: Float[Tensor, " n"]
    counted: Bool[Tensor, " n"]


class Subject:
    """A model on its sequences, with all that interventions start from: the clean pass, gradients, other sequences."""

    def __init__(
        self,
        model: InContextTransformer,
        sequences: Sequences,
        others: Int64[Tensor, " n"],
        relabelled: Sequences,
        counted: Bool[Tensor, " n"],
    ) -> None:
        self.model = model.requires_grad_(False)
        self.labels = sequences.labels[:, -1]
        self.other_labels, self.others, self.counted = relabelled.labels[:, -1], others, counted
        with torch.enable_grad():
            traced = full_pass(model, sequences)
            parts = [*traced.streams, *traced.patterns]
            gradients = torch.autograd.grad(margin(traced.logits, self.labels).sum(), parts)
        self.stream_gradients = gradients[: len(traced.streams)]
        self.pattern_gradients = gradients[len(traced.streams) :]
        self.clean = Pass(
            tuple(u.detach() for u in traced.streams),
            tuple(p.detach() for p in traced.patterns),
            traced.logits.detach(),
        )
        self.outcome = Outcome.of(self.clean.logits, self.labels)
        with torch.no_grad():
            self.relabelled = full_pass(model, relabelled)

    def effects(self) -> Iterator[Effect]:
        """Every knock-out of every edge family, layer and head, then every exchange of streams."""
        with torch.no_grad():
            families = edge_families(self.model.world_settings.N)
            for layer, p in enumerate(self.clean.patterns):
                for head in range(p.shape[1]):
                    for edge, edges in families.items():
                        for kind in KNOCK_OUTS:
                            yield self.knock_out(kind, layer, head, edge, edges[_rows(self.model, layer)])
            for layer in range(len(self.clean.streams)):
                for position in POSITIONS:
                    yield self.exchange(layer, position)

    def knock_out(self, kind: KnockOut, layer: int, head: int, edge: str, edges: Bool[Tensor, "R S"]) -> Effect:
        """One head's edges, in a layer from 0, given weight 0, their mean weight, or another sequence's."""
        p = self.clean.patterns[layer]
        mine = p[:, head]
        match kind:
            case "zero":
                weights = torch.zeros_like(mine)
            case "mean":
                weights = mine.double().mean(0, keepdim=True).to(mine.dtype).expand_as(mine)
            case "resample":
                weights = mine[self.others]
        changed = p.clone()
        changed[:, head] = with_edges(mine, edges, weights)
        logits = logits_from(self.model, self.clean.streams[layer], layer, changed)
        estimate = ((changed - p) * self.pattern_gradients[layer]).sum((1, 2, 3))
        every = torch.ones_like(self.counted)
        return Effect(kind, layer + 1, head + 1, edge, None, Outcome.of(logits, self.labels), estimate, every)

    def exchange(self, layer: int, position: str) -> Effect:
        """The stream after `layer` layers at some tokens, taken from the sequence under another task."""
        u, other = self.clean.streams[layer], self.relabelled.streams[layer]
        changed = u.clone()
        if u.shape[1] > 1 or position == "query":
            changed[:, POSITIONS[position]] = other[:, POSITIONS[position]]
        logits = logits_from(self.model, changed, layer)
        estimate = ((changed - u) * self.stream_gradients[layer]).sum((1, 2))
        outcome = Outcome.of(logits, self.labels)
        return Effect("interchange", layer, None, None, position, outcome, estimate, self.counted)
