"""The probability of the labels of a context, given the query's class, under any label table.

This is the probability of a multiset of labels when classes are drawn one after another without
replacement. Exponential clocks give it (Efraimidis and Spirakis 2006): if class k rings at rate f(k),
the first n classes to ring are the set C with probability

    integral over t > 0 of  W e^{-W t}  prod_{k in C} (1 - e^{-f(k) t}) dt,   W = sum of f(k) over k not in C.

Summed over the sets C with given label counts, the product has one factor per label: the elementary
symmetric polynomial of the odds e^{f(k) t} - 1 of its classes. The integral over log t is done by the
trapezoidal rule, to about 1e-8. With equal frequencies all sets are equally likely, and the
integral is prod_l C(n_l, m_l) / C(K - 1, n).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb, log, sqrt
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt
from scipy.special import gammainccinv, gammaln

from circuit_phases.settings import WorldSettings
from circuit_phases.world import World


@dataclass(frozen=True)
class Draw:
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


def ways_of_drawing(s: WorldSettings) -> list[Draw]:
    """The ways in which contexts of these settings come about."""
    plain = Draw(1 - s.p_B, s.N, 1, "out" if s.query == "excluded" else "free")
    bursty = Draw(s.p_B, s.N // s.B, s.B, "in")
    return [draw for draw in (plain, bursty) if draw.probability > 0]


class ContextLaw:
    """The probability of the multiset of a context's labels given the query's class, under given label tables.

    The tables are those of the world's tasks, or any other labelling of its classes. Only multisets of
    the labels 0 ... `labels` - 1 may be asked for. `cost` is about the work for one multiset, query
    and table, in multiplications.
    """

    def __init__(self, world: World, tables: Int64[np.ndarray, "tables K"], labels: int) -> None:
        self._kind = np.min_scalar_type(labels)
        self._tables = np.minimum(tables, labels).astype(self._kind)
        self._parts = [
            _part(draw, world, np.minimum(tables, labels), labels) for draw in ways_of_drawing(world.settings)
        ]
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


def _part(draw: Draw, world: World, tables: Int64[np.ndarray, "tables K"], labels: int) -> _EvenPart | _UnevenPart:
    return (_EvenPart if is_even(draw, world.settings) else _UnevenPart)(draw, world.class_frequencies, tables, labels)


def is_even(draw: Draw, s: WorldSettings) -> bool:
    """Whether all sets of classes are equally likely, as they are also where all classes are drawn."""
    return s.alpha == 0 or draw.picks == draw.others(s.K)


class _EvenPart:
    """The part of a `ContextLaw` of one way of drawing contexts, where all sets of classes are equally likely.

    prod_l C(n_l, m_l) / C(K - 1, n), where n_l counts the classes of label l and m_l those in the
    context; for the query's own label, C(n_l - 1, m_l) = C(n_l, m_l) (n_l - m_l) / n_l if the query's
    class is not in the context and C(n_l - 1, m_l - 1) = C(n_l, m_l) m_l / n_l if it is.
    """

    cost = 1

    def __init__(
        self, draw: Draw, frequencies: Float64[np.ndarray, " K"], tables: Int64[np.ndarray, "tables K"], labels: int
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
    """The part of a `ContextLaw` of one way of drawing contexts, by the integral over time.

    The classes of one label under one table are a group. `_whole` holds the sums of the whole groups;
    `_change` what a query's class changes by leaving its group ("out") or by having to be in the set
    ("in"), together with all other factors of the integrand.
    """

    def __init__(
        self, draw: Draw, frequencies: Float64[np.ndarray, " K"], tables: Int64[np.ndarray, "tables K"], labels: int
    ) -> None:
        self._draw = draw
        times, log_weights = trapezoids(draw, frequencies)
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
    draw: Draw,
    labels: Int64[np.ndarray, "N n"],
    counts: Int64[np.ndarray, "N n"],
) -> Float64[np.ndarray, "tables n *times"]:
    """The sum of values over the labels of each multiset, with counts in units of `copies`."""
    total = np.zeros((len(values), labels.shape[1], *values.shape[3:]))
    for label, drawn in zip(labels, counts // draw.copies, strict=True):
        total += values[:, label, drawn]
    return total


def _can_come(draw: Draw, counts: Int64[np.ndarray, "N n"]) -> Bool[np.ndarray, " n"]:
    """Whether all labels of a multiset stand a multiple of `copies` times."""
    return (counts % draw.copies == 0).all(axis=0)


def _log_combinations(n: Int64[np.ndarray, "*shape"], most: int) -> Float64[np.ndarray, "*shape m"]:
    """Log C(n, m) for m = 0 ... most; -inf where m > n."""
    n, m = n[..., None], np.arange(most + 1)
    logarithm = gammaln(n + 1) - gammaln(m + 1) - gammaln(np.maximum(n - m, 0) + 1)
    return np.where(m <= n, logarithm, -np.inf)


def trapezoids(
    draw: Draw, frequencies: Float64[np.ndarray, " K"]
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
