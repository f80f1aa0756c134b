"""Chance levels and ceilings of every frozen split, exact where `circuit_phases.theory` is.

Chance is a label drawn uniformly. Ceilings are the best that each circuit can do on the law of the
split (`circuit_phases.splits`), by Bayes' rule:

    iid, copy, conflict    the ceilings of the world with that law
    random_label           NCC and SCC as on iid, since a permutation leaves the multiset of labels alone
    no_context             the NCC's for all: labels drawn uniformly say nothing
    novel_task, novel_class  1 / L from the query alone; the share of the context's most frequent label
                           from the multiset; 1 from the pairs, one of which is the query's

A uniform answer is one of the query's labels under the T tasks as often as labels are (memory), and
then right as often as one in the mean number of them (inference).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.polynomial import Polynomial
from scipy.stats import binom, poisson

from circuit_phases.schemas import ABILITY_LEVELS
from circuit_phases.settings import WorldSettings
from circuit_phases.splits import SPLITS
from circuit_phases.tables import table_from_rows
from circuit_phases.theory import Ceiling, ceilings
from circuit_phases.world import World

Measure = Literal["accuracy", "memory", "inference"]


@dataclass(frozen=True)
class Level:
    """Where one measure of one split stands: by chance, for the best constant answer, or for a circuit; 0 to 1."""

    split: str
    measure: Measure
    level: str
    value: float
    standard_error: float = 0.0
    method: str = "enumeration"


def ability_levels(world: World, of_iid: Iterable[Ceiling]) -> list[Level]:
    """The levels of every split that a world has, given its ceilings on iid."""
    of_iid = list(of_iid)
    found = [*_at_best("iid", of_iid), *_at_best("random_label", of_iid[:2])]
    if world.settings.ability_sequences:
        found += _of_ability_splits(world, of_iid)
    present = {level.split for level in found}
    found.append(Level("iid", "accuracy", "constant", best_constant_accuracy(world)))
    return [*_by_chance(world, [split for split in SPLITS if split in present]), *found]


def _of_ability_splits(world: World, of_iid: list[Ceiling]) -> list[Level]:
    found = list(_at_best("copy", _under(world, of_iid, p_B=1.0)))
    best = most_frequent_share(world.settings)
    for split in ("novel_task", "novel_class"):
        values = {"ncc": 1 / world.settings.L, "scc": best, "fcc": 1.0}
        found += [Level(split, "accuracy", circuit, value) for circuit, value in values.items()]
    if world.settings.N < world.settings.K:
        conflict = _under(world, of_iid, p_B=0.0, query="excluded", beta=0.0)
        found += _at_best("conflict", conflict)
        found += [Level("no_context", "accuracy", circuit, conflict[0].accuracy) for circuit in ("ncc", "scc", "fcc")]
    return found


def levels_table(levels: Iterable[Level], run: str, seed: int) -> pa.Table:
    """The rows of `schemas.ABILITY_LEVELS` for one run and seed."""
    return table_from_rows([{"run": run, "seed": seed, **vars(level)} for level in levels], ABILITY_LEVELS)


def best_constant_accuracy(world: World) -> float:
    """How often the label that comes most often is right: the accuracy of a model that looks at nothing."""
    shares = [np.bincount(table, world.class_frequencies, world.settings.L) for table in world.label_tables]
    return float(np.max(world.task_frequencies @ np.array(shares)))


def most_frequent_share(s: WorldSettings) -> float:
    """The mean share of the most frequent label among the labels of a context under a fresh table.

    The n = N / B classes of a context have labels drawn uniformly or, where each label stands r = K / L times in a
    table, without replacement. How often labels come is then what L independent counts j are, given that they sum
    to n: Poisson counts, or binomial counts out of r. The mean of the largest is the sum over m of P(some j > m).
    """
    n = s.N // s.B
    if s.label_tables in ("balanced", "disjoint"):
        copies = s.K // s.L
        counts = binom.pmf(np.arange(n + 1), copies, n / (copies * s.L))
    else:
        counts = poisson.pmf(np.arange(n + 1), n / s.L)

    def sums_to_n(most: int) -> float:
        """The probability that all L counts are at most this and sum to n."""
        polynomial = Polynomial(counts[: most + 1])
        total = Polynomial([1.0])
        for _ in range(s.L):
            total = (total * polynomial).truncate(n + 1)
        return float(total.coef[n]) if len(total.coef) > n else 0.0

    any_counts = sums_to_n(n)
    return sum(1 - sums_to_n(most) / any_counts for most in range(n)) / n


def _at_best(split: str, found: Iterable[Ceiling]) -> list[Level]:
    return [Level(split, "accuracy", one.circuit, one.accuracy, one.standard_error, one.method) for one in found]


def _under(world: World, of_iid: list[Ceiling], **law: object) -> list[Ceiling]:
    other = world.under(**law)
    return of_iid if other.settings == world.settings else ceilings(other)


def _by_chance(world: World, splits: Iterable[str]) -> Iterator[Level]:
    L = world.settings.L
    distinct = np.array([len(np.unique(labels)) for labels in world.label_tables.T]) @ world.class_frequencies
    for split in splits:
        yield Level(split, "accuracy", "chance", 1 / L)
        if split != "novel_class":
            yield Level(split, "memory", "chance", float(distinct / L))
        if split not in ("novel_class", "novel_task"):
            yield Level(split, "inference", "chance", float(1 / distinct))
