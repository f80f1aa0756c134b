"""The best accuracies that the three circuits can reach in a world, by Bayes' rule over the task.

Each circuit is held to what it can see, with the world's label tables known:

    ncc   the query's class
    scc   the query's class and the multiset of the context's labels
    fcc   the query's class and the context's (class, label) pairs

Classes are taken as seen without error: even with eps = 1 and D = 63 the midpoint between two class
means lies about 5.6 standard deviations of the noise away from either. The model, the positions and
the tokens that the loss is taken on do not matter.

The classes of a sequence do not depend on its task, so Bayes' rule needs only the probability, under
each task, of the labels seen given the query's class. For the SCC that is the probability of a multiset
of labels when classes are drawn one after another without replacement. Exponential clocks give it: if
class k rings at rate f(k), the first n classes to ring are the set C with probability

    integral over t > 0 of  W e^{-W t}  prod_{k in C} (1 - e^{-f(k) t}) dt,   W = sum of f(k) over k not in C.

Summed over the sets C with given label counts, the product has one factor per label: the elementary
symmetric polynomial of the odds e^{f(k) t} - 1 of its classes. The integral over log t is done by the
trapezoidal rule, to about 1e-8. With equal frequencies all sets are equally likely, and the
integral is prod_l C(n_l, m_l) / C(K - 1, n).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement
from math import comb, log, sqrt
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float64, Int64, UInt
from scipy.special import gammainccinv, gammaln

from circuit_phases.files import UserError
from circuit_phases.sequences import draw_sequences
from circuit_phases.settings import WorldSettings
from circuit_phases.tables import THEORY, table_from_rows
from circuit_phases.world import Stream, World, random_generator

Circuit = Literal["ncc", "scc", "fcc"]
Method = Literal["enumeration", "monte_carlo"]


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
    probability of its likeliest label. The NCC's is always exact.

    Raises:
        UserError: if T, K and N are together too large for the exact posterior.
    """
    return [
        _exact("ncc", _non_context(world)),
        _semi_context(world, largest_enumeration, sequences),
        _full_context(world, largest_enumeration, sequences),
    ]


def theory_table(ceilings: Iterable[Ceiling], run: str, seed: int) -> pa.Table:
    """The rows of `tables.THEORY` for one run and seed."""
    return table_from_rows([{"run": run, "seed": seed, **vars(ceiling)} for ceiling in ceilings], THEORY)


def paper_formula(K: int, N: int = 4) -> float:
    """The SCC's accuracy in the simplified world: K = L, two disjoint tables (paper, Sec. 4.3 and App. D).

    p + (1 - p) / 2, where p = 1 - C(K - 2, N) / C(K - 1, N) is the probability that the context holds
    the query's label under the other task, which rules that task out.

    Raises:
        ValueError: unless 1 <= N < K.
    """
    if not 1 <= N < K:
        raise ValueError(f"N = {N} is not allowed (1 <= N < K = {K}).")
    p = 1 - comb(K - 2, N) / comb(K - 1, N)
    return p + (1 - p) / 2


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
    law = _ContextLaw(world, world.label_tables, labels=s.L)
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
    flat = replace(world, settings=world.settings.model_copy(update={"D": 1}), class_means=world.class_means[:, :1])
    generator = random_generator(Stream.theory, world.seed)
    for start in range(0, count, _CHUNK):
        drawn = draw_sequences(flat, min(_CHUNK, count - start), generator)
        classes = drawn.classes.numpy()
        yield drawn.tasks.numpy(), classes[:, -1], classes[:, :-1]


def _enumerated_semi_context(world: World, law: _ContextLaw) -> float:
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
    """Numbers that a `_ContextLaw` holds in memory for one label table, about."""
    s = world.settings
    return sum(
        (draw.classes + 1) * (s.L if _is_even(draw, s) else s.K * len(_trapezoids(draw, world.class_frequencies)[0]))
        for draw in _draws(s)
    )


def _agreeing_subsets(world: World, most: int) -> Bool[np.ndarray, "subsets T"] | None:
    """The sets of tasks that agree on enough classes to fill a context; None if there are more than `most`.

    With a set, the family holds every non-empty subset of it.
    """
    s = world.settings
    enough = min(draw.classes for draw in _draws(s))
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
    law = _ContextLaw(world, np.where(agreed & (sizes > 1)[:, None], 0, 1), labels=1)
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


@dataclass(frozen=True)
class _Draw:
    """One way in which contexts come about (see `sequences.draw_sequences`), and how often.

    `classes` different classes stand `copies` times each. The query's class is not among them
    ("out"), is one of them ("in"), or is drawn without regard to them ("free").
    """

    probability: float
    classes: int
    copies: int
    query: Literal["out", "in", "free"]

    @property
    def picks(self) -> int:
        """Classes drawn one after another without replacement, the query's not counted if it is in."""
        return self.classes - (self.query == "in")

    def others(self, K: int) -> int:
        """Classes that they are drawn from."""
        return K - (self.query != "free")


def _draws(s: WorldSettings) -> list[_Draw]:
    plain = _Draw(1 - s.p_B, s.N, 1, "out" if s.query == "excluded" else "free")
    bursty = _Draw(s.p_B, s.N // s.B, s.B, "in")
    return [draw for draw in (plain, bursty) if draw.probability > 0]


class _ContextLaw:
    """The probability of the multiset of a context's labels given the query's class, under given label tables.

    The tables are those of the world's tasks, or any other labelling of its classes. Only multisets of
    the labels 0 ... `labels` - 1 may be asked for. `cost` is about the work for one multiset, query
    and table, in multiplications.
    """

    def __init__(self, world: World, tables: Int64[np.ndarray, "tables K"], labels: int) -> None:
        self._kind = np.min_scalar_type(labels)
        self._tables = np.minimum(tables, labels).astype(self._kind)
        self._parts = [_part(draw, world, np.minimum(tables, labels), labels) for draw in _draws(world.settings)]
        self.cost = sum(part.cost for part in self._parts)

    def of(self, multisets: Int64[np.ndarray, "N n"]) -> _Seen:
        """Prepare n multisets of N labels each."""
        labels = np.sort(multisets, axis=0)
        counts = np.stack([(labels == row).sum(axis=0) for row in labels])
        counts[1:][labels[1:] == labels[:-1]] = 0
        return _Seen(np.ascontiguousarray(labels, dtype=self._kind), [part.of(labels, counts) for part in self._parts])

    def given(self, query: int | Int64[np.ndarray, " n"], seen: _Seen) -> Float64[np.ndarray, "tables n"]:
        """The probabilities of n multisets given the class of one query, or of one query each."""
        probabilities = np.zeros((len(self._tables), seen.multisets.shape[1]))
        kind = np.min_scalar_type(len(seen.multisets))
        for table, row in enumerate(probabilities):
            held = (seen.multisets == self._tables[table, query]).sum(axis=0, dtype=kind)
            for part, shared in zip(self._parts, seen.shared, strict=True):
                row += part.given(table, query, held, shared)
        return probabilities


@dataclass(frozen=True)
class _Seen:
    """Multisets of labels and, per part of the law, what their probabilities share over queries."""

    multisets: UInt[np.ndarray, "N n"]
    shared: list[Any]


def _part(draw: _Draw, world: World, tables: Int64[np.ndarray, "tables K"], labels: int) -> _EvenPart | _UnevenPart:
    return (_EvenPart if _is_even(draw, world.settings) else _UnevenPart)(draw, world.class_frequencies, tables, labels)


def _is_even(draw: _Draw, s: WorldSettings) -> bool:
    """Whether all sets of classes are equally likely, as they are also where all classes are drawn."""
    return s.alpha == 0 or draw.picks == draw.others(s.K)


class _EvenPart:
    """The part of a `_ContextLaw` of one way of drawing contexts, where all sets of classes are equally likely.

    prod_l C(n_l, m_l) / C(K - 1, n), where n_l counts the classes of label l and m_l those in the
    context; for the query's own label, C(n_l - 1, m_l) = C(n_l, m_l) (n_l - m_l) / n_l if the query's
    class is not in the context and C(n_l - 1, m_l - 1) = C(n_l, m_l) m_l / n_l if it is.
    """

    cost = 1

    def __init__(
        self, draw: _Draw, frequencies: Float64[np.ndarray, " K"], tables: Int64[np.ndarray, "tables K"], labels: int
    ) -> None:
        self._draw = draw
        self._log_sets = log(draw.probability) - log(comb(draw.others(len(frequencies)), draw.picks))
        sizes = np.stack([np.bincount(table, minlength=labels + 1) for table in tables])
        self._log_combinations = _log_combinations(sizes, draw.classes)
        self._share = 1 / (draw.copies * np.take_along_axis(sizes, tables, axis=1))

    def of(self, labels: Int64[np.ndarray, "N n"], counts: Int64[np.ndarray, "N n"]) -> Float64[np.ndarray, "tables n"]:
        """The probabilities but for the query; counts are given once for each label and else 0."""
        log_product = _over_labels(self._log_combinations, self._draw, labels, counts) + self._log_sets
        return np.where(_can_come(self._draw, counts), np.exp(log_product), 0.0)

    def given(
        self,
        table: int,
        query: int | Int64[np.ndarray, " n"],
        held: Int64[np.ndarray, " n"],
        shared: Float64[np.ndarray, "tables n"],
    ) -> Float64[np.ndarray, " n"]:
        """The probabilities under one table, where `held` counts the query's label among the labels."""
        if self._draw.query == "free":
            return shared[table]
        share = held * self._share[table, query]
        return shared[table] * (share if self._draw.query == "in" else 1 - share)


@dataclass(frozen=True)
class _Sums:
    """For groups of classes, counts m and times: sums over the sets of m classes of a group.

    `log` is the logarithm of the sum of the products of the odds e^{f(k) t} - 1 of a set's classes;
    `rate` is the mean, weighted with these products, of the sets' summed frequencies.
    """

    log: Float64[np.ndarray, "*groups m times"]
    rate: Float64[np.ndarray, "*groups m times"]


class _UnevenPart:
    """The part of a `_ContextLaw` of one way of drawing contexts, by the integral over time.

    The classes of one label under one table are a group. `_whole` holds the sums of the whole groups;
    `_change` what a query's class changes by leaving its group ("out") or by having to be in the set
    ("in"), together with all other factors of the integrand.
    """

    def __init__(
        self, draw: _Draw, frequencies: Float64[np.ndarray, " K"], tables: Int64[np.ndarray, "tables K"], labels: int
    ) -> None:
        self._draw = draw
        times, log_weights = _trapezoids(draw, frequencies)
        # One such term is an exponential and about ten other operations.
        self.cost = 10 * len(times)
        self._whole, without = _group_sums(frequencies, times, draw.classes, tables, labels)
        others = np.ones(len(frequencies)) if draw.query == "free" else 1 - frequencies
        log_change = log(draw.probability) + log_weights - others[:, None, None] * times
        rate_change = others[:, None, None]
        if draw.query != "free":
            own = np.arange(len(tables))[:, None], tables
            without = _with_the_query(without) if draw.query == "in" else without
            whole_log = self._whole.log[own]
            log_change = log_change + without.log - np.where(whole_log > -np.inf, whole_log, 0.0)
            rate_change = rate_change + self._whole.rate[own] - without.rate
        shape = (*tables.shape, draw.classes + 1, len(times))
        self._change = _Sums(np.broadcast_to(log_change, shape), np.broadcast_to(rate_change, shape))

    def of(self, labels: Int64[np.ndarray, "N n"], counts: Int64[np.ndarray, "N n"]) -> _Sums:
        """The sums of all classes, multiplied over labels; counts are given once for each label and else 0."""
        log_product = _over_labels(self._whole.log, self._draw, labels, counts)
        log_product[:, ~_can_come(self._draw, counts)] = -np.inf
        return _Sums(log_product, _over_labels(self._whole.rate, self._draw, labels, counts))

    def given(
        self, table: int, query: int | Int64[np.ndarray, " n"], held: Int64[np.ndarray, " n"], shared: _Sums
    ) -> Float64[np.ndarray, " n"]:
        """The probabilities under one table, where `held` counts the query's label among the labels."""
        drawn = held // self._draw.copies
        integrand = np.exp(shared.log[table] + self._change.log[table, query, drawn])
        integrand *= self._change.rate[table, query, drawn] - shared.rate[table]
        return integrand.sum(axis=-1)


def _over_labels(
    values: Float64[np.ndarray, "tables labels m *times"],
    draw: _Draw,
    labels: Int64[np.ndarray, "N n"],
    counts: Int64[np.ndarray, "N n"],
) -> Float64[np.ndarray, "tables n *times"]:
    """The sum of values over the labels of each multiset, with counts in units of `copies`."""
    total = np.zeros((len(values), labels.shape[1], *values.shape[3:]))
    for label, drawn in zip(labels, counts // draw.copies, strict=True):
        total += values[:, label, drawn]
    return total


def _can_come(draw: _Draw, counts: Int64[np.ndarray, "N n"]) -> Bool[np.ndarray, " n"]:
    """Whether all labels of a multiset stand a multiple of `copies` times."""
    return (counts % draw.copies == 0).all(axis=0)


def _log_combinations(n: Int64[np.ndarray, "*shape"], most: int) -> Float64[np.ndarray, "*shape m"]:
    """Log C(n, m) for m = 0 ... most; -inf where m > n."""
    n, m = n[..., None], np.arange(most + 1)
    logarithm = gammaln(n + 1) - gammaln(m + 1) - gammaln(np.maximum(n - m, 0) + 1)
    return np.where(m <= n, logarithm, -np.inf)


def _trapezoids(
    draw: _Draw, frequencies: Float64[np.ndarray, " K"]
) -> tuple[Float64[np.ndarray, " times"], Float64[np.ndarray, " times"]]:
    """Times and logarithmic weights for the integral over t of W e^{-W t} times a factor 1 - e^{-f t} per pick.

    In log t the integrand falls off exponentially on both sides and is analytic up to an imaginary
    part of pi / 2, so that the trapezoidal rule converges exponentially. The ends leave out less than
    1e-9 of the integral: on the left, where it goes as the (picks + 1)-th power of t, since frequencies
    sum to 1; on the right since no factor grows faster than t, and W is at least the sum of the
    smallest frequencies.
    """
    picks = draw.picks
    step = min(0.3, 0.75 / sqrt(picks + 1))
    slowest = np.sort(frequencies)[: draw.others(len(frequencies)) - picks].sum()
    first = -(22 + 0.5 * picks) / (picks + 1)
    last = log(gammainccinv(picks + 1, 1e-10) / slowest)
    log_times = np.arange(first, last + step, step)
    return np.exp(log_times), log_times + log(step)


def _with_the_query(sums: _Sums) -> _Sums:
    """The sums over sets with the query's class added, its own odds and rate left out."""
    log_sums, rates = np.full_like(sums.log, -np.inf), np.zeros_like(sums.rate)
    log_sums[:, :, 1:], rates[:, :, 1:] = sums.log[:, :, :-1], sums.rate[:, :, :-1]
    return _Sums(log_sums, rates)


def _group_sums(
    frequencies: Float64[np.ndarray, " K"],
    times: Float64[np.ndarray, " times"],
    most: int,
    tables: Int64[np.ndarray, "tables K"],
    labels: int,
) -> tuple[_Sums, _Sums]:
    """The sums of all groups, tables x (labels + 1), and of each class's group without it, tables x K.

    Classes are put in one after another: a set of m classes lacks the new one, or holds it and m - 1
    others. The group of label `labels` stays empty.
    """
    count, K = tables.shape
    wholes = count * (labels + 1)
    log_sums = np.full((wholes + count * K, most + 1, len(times)), -np.inf)
    log_sums[:, 0] = 0.0
    rates = np.zeros_like(log_sums)
    for k, f in enumerate(frequencies):
        inside = np.flatnonzero(tables[:, k] < labels)
        same = tables[inside] == tables[inside, k, None]
        same[:, k] = False
        table, other = same.nonzero()
        rows = np.concatenate([inside * (labels + 1) + tables[inside, k], wholes + inside[table] * K + other])
        log_odds = f * times + np.log(-np.expm1(-f * times))
        holding = log_sums[rows, :-1] + log_odds
        either = np.logaddexp(log_sums[rows, 1:], holding)
        share = np.exp(holding - np.where(either > -np.inf, either, 0.0))
        rates[rows, 1:] += share * (rates[rows, :-1] + f - rates[rows, 1:])
        log_sums[rows, 1:] = either
    whole, without = (
        _Sums(*(values[part].reshape(count, -1, *values.shape[1:]) for values in (log_sums, rates)))
        for part in (slice(wholes), slice(wholes, None))
    )
    return whole, without
