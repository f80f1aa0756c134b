"""The world: class means, label vectors and the label table of every task (paper, Sec. 3)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64

from circuit_phases.settings import WorldSettings


class RandomStream(IntEnum):
    """Independent random streams of one seed, so that no quantity shifts another."""

    class_means = 1
    label_vectors = 2
    label_tables = 3
    evaluation = 4
    batch = 5
    weights = 6
    theory = 7
    abilities = 8


def random_generator(stream: RandomStream, seed: int, step: int = 0) -> np.random.Generator:
    """The generator of one stream, a function of (stream, seed, step) alone."""
    return np.random.default_rng([stream, seed, step])


@dataclass(frozen=True)
class World:
    """Classes, labels and tasks, drawn once. Tasks, classes and labels count from 0 in arrays."""

    settings: WorldSettings
    seed: int
    class_means: Float32[np.ndarray, "K D"]
    label_vectors: Float32[np.ndarray, "L D"]
    label_tables: Int64[np.ndarray, "T K"]

    @classmethod
    def draw(cls, settings: WorldSettings, seed: int) -> World:
        """Draw mu_k and the label vectors ~ N(0, 1/D) per entry, and the label tables by their kind."""

        def vectors(stream: RandomStream, count: int) -> Float32[np.ndarray, "count D"]:
            draws = random_generator(stream, seed).standard_normal((count, settings.D))
            return (draws / np.sqrt(settings.D)).astype(np.float32)

        return cls(
            settings=settings,
            seed=seed,
            class_means=vectors(RandomStream.class_means, settings.K),
            label_vectors=vectors(RandomStream.label_vectors, settings.L),
            label_tables=draw_label_tables(settings, random_generator(RandomStream.label_tables, seed)),
        )

    def under(self, **settings: Any) -> World:
        """The same classes, labels and tasks, from which sequences are drawn by another law."""
        return replace(self, settings=self.settings.model_copy(update=settings))

    @cached_property
    def scaled_class_means(self) -> Float32[torch.Tensor, "D K"]:
        """mu_k / sqrt(1 + eps^2), the mean of an item of class k, as columns."""
        return torch.from_numpy(self.class_means.T / np.float32(np.sqrt(1 + self.settings.eps**2))).contiguous()

    @cached_property
    def class_frequencies(self) -> Float64[np.ndarray, " K"]:
        """f(k) ~ k^-alpha, k = 1..K; sums to 1."""
        return power_law(self.settings.K, self.settings.alpha)

    @cached_property
    def task_frequencies(self) -> Float64[np.ndarray, " T"]:
        """f(tau) ~ tau^-beta, tau = 1..T; sums to 1."""
        return power_law(self.settings.T, self.settings.beta)


def power_law(count: int, exponent: float) -> Float64[np.ndarray, " count"]:
    """Frequencies proportional to rank^-exponent for ranks 1..count; they sum to 1."""
    weights = np.arange(1, count + 1, dtype=np.float64) ** -exponent
    return weights / weights.sum()


def draw_label_tables(settings: WorldSettings, generator: np.random.Generator) -> Int64[np.ndarray, "T K"]:
    """The label of every class under every task, counted from 0, by `settings.label_tables`."""
    T, K, L = settings.T, settings.K, settings.L
    match settings.label_tables:
        case "independent":
            return generator.integers(L, size=(T, K))
        case "shifted":
            return (generator.integers(L, size=K) + np.arange(T)[:, None]) % L
        case "balanced":
            return generator.permuted(np.tile(np.arange(L), (T, K // L)), axis=1)
        case "disjoint":
            return _disjoint_tables(T, K, generator)


def _disjoint_tables(T: int, K: int, generator: np.random.Generator) -> Int64[np.ndarray, "T K"]:
    """T permutations of K labels of which no two agree at any class (a random Latin rectangle).

    Each task is the cheapest assignment under random costs that avoids every pair used before; one
    always exists, since the pairs left form a regular bipartite graph.
    """
    # Imported here: few worlds need it, and it takes 35 MB.
    from scipy.optimize import linear_sum_assignment

    used = np.zeros((K, K), dtype=bool)
    tables = np.empty((T, K), dtype=np.int64)
    for task in range(T):
        classes, labels = linear_sum_assignment(np.where(used, 2.0 * K, generator.random((K, K))))
        tables[task, classes] = labels
        used[classes, labels] = True
    return tables
