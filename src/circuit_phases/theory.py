"""The best accuracies that the three circuits can reach in a world, by Bayes' rule over the task.

Each circuit is held to what it can see, with the world's label tables known:

    ncc   the query's class
    scc   the query's class and the multiset of the context's labels
    fcc   the query's class and the context's (class, label) pairs

Classes are taken as seen without error (`misread_items` bounds how often they are not): even with
eps = 1 and D = 63 the midpoint between two class means lies about 5.6 standard deviations of the
noise away from either. The model, the positions and the tokens that the loss is taken on do not
matter.

The classes of a sequence do not depend on its task, so Bayes' rule needs only the probability, under
each task, of the labels seen given the query's class: `context_law`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement
from math import comb, sqrt
from typing import Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float64, Int64

from circuit_phases.context_law import ContextLaw, is_even, trapezoids, ways_of_drawing
from circuit_phases.files import UserError
from circuit_phases.schemas import THEORY
from circuit_phases.sequences import draw_sequences
from circuit_phases.settings import WorldSettings
from circuit_phases.tables import table_from_rows
from circuit_phases.world import RandomStream, World, random_generator

Circuit = Literal["ncc", "scc", "fcc"]
Method = Literal["enumeration", "monte_carlo"]
CIRCUITS: tuple[Circuit, ...] = ("ncc", "scc", "fcc")


_CHUNK = 4096
_MOST_SUBSETS = 512
_MOST_ENTRIES = 20_000_000


@dataclass(frozen=True)
class Ceiling:
    """The best expected accuracy of one circuit, 0 to 1; the standard error is 0 where it is exact."""

    circuit: Circuit
    accuracy: float
    standard_error: float
    method: Method


def ceilings(world: World, *, largest_enumeration: int = 200_000_000, sequences: int = 32_768) -> list[Ceiling]:
    """The ceilings of the NCC, the SCC and the FCC in a world, in this order.

    A sum of more than `largest_enumeration` terms is estimated instead: from `sequences` random
    sequences of the world, a function of its seed, of which each counts with the exact posterior
    probability of its likeliest label. The NCC's is always exact, and where it is 1 so are the others.

    Raises:
        UserError: if T, K and N are together too large for the exact posterior.
    """
    non_context = _non_context(world)
    if non_context > 1 - 1e-12:
        return [_exact(circuit, 1.0) for circuit in CIRCUITS]
    return [
        _exact("ncc", non_context),
        _semi_context(world, largest_enumeration, sequences),
        _full_context(world, largest_enumeration, sequences),
    ]


def misread_items(s: WorldSettings) -> float:
    """At most this share of items (0 to 1) lies nearer to another class's mean than to its own.

    Noise of standard deviation eps / sqrt(D) reaches half the distance of two means, sqrt(chi2_D / 2D), with
    probability Q(x) <= exp(-x^2 / 2) / 2 (Chernoff's bound): here in the mean over chi2_D, for any of K - 1 classes.
    """
    if s.eps == 0:
        return 0.0
    return min(1.0, (s.K - 1) / 2 * (1 + 1 / (2 * s.eps**2)) ** (-s.D / 2))


def theory_table(ceilings: Iterable[Ceiling], run: str, seed: int) -> pa.Table:
    """The rows of `schemas.THEORY` for one run and seed."""
    return table_from_rows([{"run": run, "seed": seed, **vars(ceiling)} for ceiling in ceilings], THEORY)


def _non_context(world: World) -> float:
    """sum_k f(k) max_l sum_tau f(tau) [label of k under tau is l]; the query's class always follows f(k)."""
    return float(_best_label(world.task_frequencies, world.label_tables) @ world.class_frequencies)


def _semi_context(world: World, largest_enumeration: int, sequences: int) -> Ceiling:
    """The expectation of max_l P(the query's label is l | query's class, multiset of the context's labels)."""
    s = world.settings
    if s.T * _entries_per_table(world) > _MOST_ENTRIES:
        raise UserError(
            f"T = {s.T}, K = {s.K}, N = {s.N} with alpha = {s.alpha:g} is too large for the theory. "
            "Lower one of them, or set alpha to 0."
        )
    law = ContextLaw(world, world.label_tables, labels=s.L)
    terms = s.T * comb(s.L + s.N - 1, s.N) * law.cost
    if terms <= _MOST_ENTRIES and terms * s.K <= largest_enumeration:
        return _exact("scc", _enumerated_semi_context(world, law))
    values = []
    for tasks, query, context in _drawn_classes(world, sequences):
        joint = law.given(query, law.of(world.label_tables[tasks[:, None], context].T))
        joint *= world.task_frequencies[:, None]
        values.append(_best_label(joint, world.label_tables[:, query]) / joint.sum(axis=0))
    return _estimated("scc", np.concatenate(values))


def _full_context(world: World, largest_enumeration: int, sequences: int) -> Ceiling:
    """The expectation of max_l P(the query's label is l | query's class, the context's classes and labels)."""
    most = min(_MOST_ENTRIES, largest_enumeration) // _entries_per_table(world)
    subsets = _agreeing_subsets(world, most=min(_MOST_SUBSETS, most))
    if subsets is not None:
        return _exact("fcc", _enumerated_full_context(world, subsets))
    drawn = _drawn_classes(world, sequences)
    return _estimated(
        "fcc", np.concatenate([_full_context_values(world, query, context) for _, query, context in drawn])
    )


def _exact(circuit: Circuit, accuracy: float) -> Ceiling:
    return Ceiling(circuit, min(float(accuracy), 1.0), 0.0, "enumeration")


def _estimated(circuit: Circuit, values: Float64[np.ndarray, " n"]) -> Ceiling:
    # The 1 / n stands for a rare sequence, at worst 0 where all others are 1, that was not drawn.
    error = float(np.hypot(values.std(ddof=1) / sqrt(len(values)), 1 / len(values)))
    return Ceiling(circuit, min(float(values.mean()), 1.0), error, "monte_carlo")


def _best_label(
    joint: Float64[np.ndarray, " T"] | Float64[np.ndarray, "T n"], labels: Int64[np.ndarray, "T n"]
) -> Float64[np.ndarray, " n"]:
    """max_l sum_tau joint[tau] [labels[tau] = l] for each column."""
    if joint.ndim == 1:
        joint = np.broadcast_to(joint[:, None], labels.shape)
    best = np.zeros(labels.shape[1])
    for label in labels:
        np.maximum(best, np.where(labels == label, joint, 0.0).sum(axis=0), out=best)
    return best


def _drawn_classes(
    world: World, count: int
) -> Iterator[tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"], Int64[np.ndarray, "n N"]]]:
    """Tasks, the query's classes and the context's classes of random sequences, in chunks."""
    # Nobody looks at the items' content, so one dimension of it will do.
    flat = replace(world.under(D=1), class_means=world.class_means[:, :1])
    generator = random_generator(RandomStream.theory, world.seed)
    for start in range(0, count, _CHUNK):
        drawn = draw_sequences(flat, min(_CHUNK, count - start), generator)
        classes = drawn.classes.numpy()
        yield drawn.tasks.numpy(), classes[:, -1], classes[:, :-1]


def _enumerated_semi_context(world: World, law: ContextLaw) -> float:
    s = world.settings
    seen = law.of(np.array(list(combinations_with_replacement(range(s.L), s.N))).T)
    accuracy = 0.0
    for query, frequency in enumerate(world.class_frequencies):
        joint = law.given(query, seen)
        joint *= world.task_frequencies[:, None]
        labels = world.label_tables[:, query]
        per_label = [joint[labels == label].sum(axis=0) for label in np.unique(labels)]
        accuracy += frequency * float(np.maximum.reduce(per_label).sum())
    return accuracy


def _entries_per_table(world: World) -> int:
    """Numbers that a `ContextLaw` holds in memory for one label table, about."""
    s = world.settings
    return sum(
        (draw.classes + 1) * (s.L if is_even(draw, s) else s.K * len(trapezoids(draw, world.class_frequencies)[0]))
        for draw in ways_of_drawing(s)
    )


def _agreeing_subsets(world: World, most: int) -> Bool[np.ndarray, "subsets T"] | None:
    """The sets of tasks that agree on enough classes to fill a context; None if there are more than `most`.

    With a set, the family holds every non-empty subset of it.
    """
    s = world.settings
    enough = min(draw.classes for draw in ways_of_drawing(s))
    subsets: list[tuple[int, ...]] = []
    layer: list[tuple[tuple[int, ...], np.ndarray]] = [((task,), np.ones(s.K, dtype=bool)) for task in range(s.T)]
    while layer:
        subsets += [tasks for tasks, _ in layer]
        larger: list[tuple[tuple[int, ...], np.ndarray]] = []
        for tasks, agreed in layer:
            if len(subsets) + len(larger) > most:
                return None
            for task in range(tasks[-1] + 1, s.T):
                still = agreed & (world.label_tables[task] == world.label_tables[tasks[0]])
                if still.sum() >= enough:
                    larger.append(((*tasks, task), still))
        layer = larger
    members = np.zeros((len(subsets), s.T), dtype=bool)
    for row, tasks in enumerate(subsets):
        members[row, list(tasks)] = True
    return members


def _enumerated_full_context(world: World, subsets: Bool[np.ndarray, "subsets T"]) -> float:
    """The FCC's ceiling by inclusion and exclusion over sets of tasks.

    The pairs seen leave a set A of tasks that agree on them, each with its prior f(tau). All of A and
    maybe more are left if the context lies within the classes on which A agrees, so the ceiling is

        sum_q f(q) sum_B P(B agrees on the context | q) sum_{A in B} (-1)^{|B - A|} best_q(A),

    with best_q(A) = max_l sum_{tau in A} f(tau) [label of q under tau is l].
    """
    tables, f = world.label_tables, world.task_frequencies
    agreed = np.stack([(tables[subset] == tables[subset.argmax()]).all(axis=0) for subset in subsets])
    sizes = subsets.sum(axis=1)
    # One task always agrees with itself, which needs no sums over its groups.
    law = ContextLaw(world, np.where(agreed & (sizes > 1)[:, None], 0, 1), labels=1)
    context = np.zeros((world.settings.N, world.settings.K), dtype=np.int64)
    probability = np.where((sizes > 1)[:, None], law.given(np.arange(world.settings.K), law.of(context)), 1.0)
    best = np.stack([_best_label(f * subset, tables) for subset in subsets])
    contained = subsets.astype(np.int64) @ subsets.T == sizes
    signs = np.where(contained, (-1.0) ** (sizes[:, None] - sizes), 0.0)
    return float((probability * (signs @ best)).sum(axis=0) @ world.class_frequencies)


def _full_context_values(
    world: World, query: Int64[np.ndarray, " n"], context: Int64[np.ndarray, "n N"]
) -> Float64[np.ndarray, " n"]:
    """For given classes, the posterior probability of the likeliest label, averaged over the task exactly."""
    f = world.task_frequencies
    seen, asked = world.label_tables[:, context], world.label_tables[:, query]
    values = np.zeros(len(query))
    for task, frequency in enumerate(f):
        joint = f[:, None] * (seen == seen[task]).all(axis=-1)
        values += frequency * _best_label(joint, asked) / joint.sum(axis=0)
    return values
