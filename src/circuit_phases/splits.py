"""The frozen splits that every run is evaluated on, drawn once for each world (paper, Sec. 3 and 4, and beyond).

iid            as in training
random_label   iid, with the labels of the context permuted among its items
copy           the query's class is in the context
novel_task     copy, under a label table drawn afresh for each sequence
conflict       a context of one task, each task as often, without the query's class
no_context     conflict, with labels drawn uniformly for the context: only the weights can answer
novel_class    classes never seen in training, the query's among those of the context, with labels
               drawn afresh for each sequence
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Int64

from circuit_phases.sequences import Sequences, draw_items, draw_offsets, draw_sequences
from circuit_phases.settings import WorldSettings
from circuit_phases.world import RandomStream, World, random_generator

PARTNERS: dict[str, str | None] = {
    "iid": "random_label",
    "copy": "novel_task",
    "conflict": "no_context",
    "novel_class": None,
}
"""The splits with items of their own, and the split that shares these items under other labels."""

SPLITS = tuple(name for pair in PARTNERS.items() for name in pair if name is not None)

EvaluationSet = dict[str, Sequences]
"""The sequences of each split, those of partners with the same items."""


def evaluation_set(world: World) -> EvaluationSet:
    """The frozen sequences of every split of a world, a function of its seed.

    Sequences of `novel_class` have classes from K on, and no task (-1). Where every class stands in
    the context (N >= K), there is no `conflict` and no `no_context`.
    """
    s = world.settings
    generator = random_generator(RandomStream.evaluation, world.seed)
    iid = draw_sequences(world, s.evaluation_sequences, generator)
    # The permutation pi of 1..N is uniform for each sequence (random-label accuracy, paper, Sec. 4).
    permuted = generator.permuted(iid.labels[:, :-1].numpy(), axis=1)
    found = {"iid": iid, "random_label": iid.with_context_labels(torch.from_numpy(permuted))}
    if s.ability_sequences:
        for number, draw in enumerate((_copy, _conflict, _novel_class)):
            found |= draw(world, random_generator(RandomStream.abilities, world.seed, number))
    return found


def _copy(world: World, generator: np.random.Generator) -> EvaluationSet:
    copy = draw_sequences(world.under(p_B=1.0), world.settings.ability_sequences, generator)
    return {"copy": copy, "novel_task": replace(copy, labels=_fresh_labels(world.settings, copy.classes, generator))}


def _conflict(world: World, generator: np.random.Generator) -> EvaluationSet:
    s = world.settings
    if s.N >= s.K:
        return {}
    conflict = draw_sequences(
        world.under(p_B=0.0, query="excluded", beta=0.0), world.settings.ability_sequences, generator
    )
    uniform = generator.integers(s.L, size=(len(conflict), s.N))
    return {"conflict": conflict, "no_context": conflict.with_context_labels(torch.from_numpy(uniform))}


def _novel_class(world: World, generator: np.random.Generator) -> EvaluationSet:
    s, count = world.settings, world.settings.ability_sequences
    own = np.arange(count * (s.N // s.B)).reshape(count, -1)
    means = (generator.standard_normal((own.size, s.D)) / np.sqrt(s.D)).astype(np.float32)
    context = generator.permuted(np.repeat(own, s.B, axis=1), axis=1)
    classes = torch.from_numpy(np.concatenate([context, own[:, :1]], axis=1))
    sequences = Sequences(
        tasks=torch.full((count,), -1),
        classes=s.K + classes,
        labels=_fresh_labels(s, classes, generator),
        items=draw_items(replace(world, class_means=means), classes, int(generator.integers(2**63 - 1))),
        offsets=draw_offsets(s, count, generator),
    )
    return {"novel_class": sequences}


def _fresh_labels(
    s: WorldSettings, classes: Int64[torch.Tensor, "n N+1"], generator: np.random.Generator
) -> Int64[torch.Tensor, "n N+1"]:
    """Labels under a table of the world's kind drawn for each sequence, of which its classes alone are drawn."""
    n, tokens = classes.shape
    if s.label_tables in ("balanced", "disjoint"):
        each_label = np.tile(np.arange(s.L), (n, s.K // s.L))
        drawn = generator.permuted(each_label, axis=1)[:, :tokens]
    else:
        drawn = generator.integers(s.L, size=(n, tokens))
    # A class that stands several times has the label drawn at its first place.
    first = (classes[:, :, None] == classes[:, None, :]).to(torch.int8).argmax(dim=2)
    if s.label_tables in ("balanced", "disjoint"):
        # There are labels for K classes, which may be fewer than the tokens.
        rank = (first == torch.arange(tokens)).cumsum(1) - 1
        first = rank.gather(1, first)
    return torch.from_numpy(drawn).gather(1, first)
