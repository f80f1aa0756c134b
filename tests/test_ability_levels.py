"""Chance levels and ceilings of the splits, against counting everything and against the frozen sequences."""

from __future__ import annotations

import itertools
from collections import Counter
from math import comb
from typing import Literal

import numpy as np
import pytest

from circuit_phases.abilities import SplitReading
from circuit_phases.ability_levels import Level, ability_levels, best_constant_accuracy, most_frequent_share
from circuit_phases.settings import WorldSettings
from circuit_phases.splits import SPLITS, evaluation_set
from circuit_phases.theory import ceilings
from circuit_phases.world import World

Levels = dict[tuple[str, str, str], Level]


def levels_of(world: World) -> Levels:
    return {(one.split, one.measure, one.level): one for one in ability_levels(world, ceilings(world))}


def world_of(**settings: object) -> World:
    tiny = {"T": 3, "K": 6, "L": 4, "N": 3, "D": 5, "evaluation_sequences": 8_000, "ability_sequences": 8_000}
    return World.draw(WorldSettings(**(tiny | settings)), seed=1)  # type: ignore[arg-type]


@pytest.mark.parametrize(("L", "N", "B"), [(2, 3, 1), (3, 4, 1), (4, 4, 2), (5, 1, 1)])
def test_the_most_frequent_label_s_share_equals_enumeration_where_labels_are_uniform(L: int, N: int, B: int) -> None:
    every = [Counter(labels).most_common(1)[0][1] / (N // B) for labels in itertools.product(range(L), repeat=N // B)]
    settings = WorldSettings(K=8, L=L, N=N, B=B, p_B=1.0)
    assert most_frequent_share(settings) == pytest.approx(np.mean(every), rel=1e-12)


@pytest.mark.parametrize(("kind", "K", "L"), [("balanced", 8, 4), ("balanced", 6, 2), ("disjoint", 5, 5)])
def test_it_equals_enumeration_where_every_label_stands_as_often(kind: str, K: int, L: int) -> None:
    table, N = [label for label in range(L) for _ in range(K // L)], 4
    every = [
        Counter(table[k] for k in classes).most_common(1)[0][1] / N for classes in itertools.combinations(range(K), N)
    ]
    assert len(every) == comb(K, N)
    settings = WorldSettings(T=2, K=K, L=L, N=N, label_tables=kind)  # type: ignore[arg-type]
    assert most_frequent_share(settings) == pytest.approx(np.mean(every), rel=1e-12)


@pytest.mark.parametrize(("kind", "N"), [("independent", 96), ("balanced", 48)])
def test_it_is_known_for_a_context_of_many_classes(kind: Literal["independent", "balanced"], N: int) -> None:
    settings = WorldSettings(K=128, L=32, N=N, P=2 * N + 1, label_tables=kind)
    generator = np.random.default_rng(0)
    if kind == "balanced":
        labels = generator.permuted(np.tile(np.repeat(np.arange(32), 4), (4_000, 1)), axis=1)[:, :N]
    else:
        labels = generator.integers(32, size=(4_000, N))
    largest = (labels[:, :, None] == np.arange(32)).sum(axis=1).max(axis=1) / N
    error = largest.std() / len(largest) ** 0.5
    assert most_frequent_share(settings) == pytest.approx(largest.mean(), abs=4 * error)


@pytest.mark.parametrize("law", [{}, {"alpha": 1.0, "beta": 0.5}, {"T": 1, "alpha": 1.25}])
def test_the_best_constant_answer_is_the_most_frequent_label_of_the_frozen_sequences(law: dict[str, float]) -> None:
    world = world_of(**law)
    labels = evaluation_set(world)["iid"].labels[:, -1].numpy()
    assert best_constant_accuracy(world) == pytest.approx(np.bincount(labels).max() / len(labels), abs=0.02)
    assert levels_of(world)["iid", "accuracy", "constant"].value == best_constant_accuracy(world)


def test_chance_levels_are_what_uniform_answers_get() -> None:
    world = world_of(alpha=1.0)
    levels, generator = levels_of(world), np.random.default_rng(0)
    for split, sequences in evaluation_set(world).items():
        answers = generator.integers(world.settings.L, size=len(sequences))
        (row, *_) = SplitReading(split, sequences, world).rows(np.zeros((4, len(answers)), np.float32), answers)
        for measure in ("accuracy", "memory", "inference"):
            level = levels.get((split, measure, "chance"))
            if level is not None:
                assert row[measure] == pytest.approx(level.value, abs=0.03)


def most_frequent_answers(labels: np.ndarray) -> np.ndarray:
    return np.array([Counter(row).most_common(1)[0][0] for row in labels.tolist()])


@pytest.mark.parametrize("split", ["novel_task", "novel_class"])
def test_the_scc_s_ceiling_of_fresh_labels_is_reached_by_the_most_frequent_label(split: str) -> None:
    world = world_of()
    labels = evaluation_set(world)[split].labels.numpy()
    right = most_frequent_answers(labels[:, :-1]) == labels[:, -1]
    assert levels_of(world)[split, "accuracy", "scc"].value == pytest.approx(right.mean(), abs=0.02)


def test_each_split_has_the_ceilings_of_its_own_law() -> None:
    world = world_of(beta=1.0)
    levels = levels_of(world)
    assert [split for split in SPLITS if (split, "accuracy", "chance") in levels] == list(SPLITS)
    for split, law in {"copy": {"p_B": 1.0}, "conflict": {"beta": 0.0}}.items():
        other = World(
            world.settings.model_copy(update=law), 1, world.class_means, world.label_vectors, world.label_tables
        )
        for one in ceilings(other):
            assert levels[split, "accuracy", one.circuit].value == one.accuracy
    assert levels["copy", "accuracy", "fcc"].value == 1
    assert levels["no_context", "accuracy", "fcc"].value == levels["conflict", "accuracy", "ncc"].value
    assert ("random_label", "accuracy", "fcc") not in levels


def test_the_ncc_s_ceiling_without_context_is_reached_by_the_commonest_label_of_the_class() -> None:
    world = world_of()
    sequences = evaluation_set(world)["no_context"]
    best = most_frequent_answers(world.label_tables.T)[sequences.classes[:, -1]]
    right = (best == sequences.labels[:, -1].numpy()).mean()
    assert levels_of(world)["no_context", "accuracy", "ncc"].value == pytest.approx(right, abs=0.02)


def test_a_run_without_the_other_splits_has_levels_of_the_paper_s_alone() -> None:
    assert {split for split, *_ in levels_of(world_of(ability_sequences=0))} == {"iid", "random_label"}
