"""The law of class means, label vectors and label tables."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from circuit_phases.settings import WorldSettings
from circuit_phases.world import RandomStream, World, draw_label_tables, power_law, random_generator


def label_tables(seed: int, **settings: object) -> np.ndarray:
    return draw_label_tables(WorldSettings(**settings), np.random.default_rng(seed))  # type: ignore[arg-type]


def test_class_means_and_label_vectors_are_normal_with_variance_one_over_D() -> None:
    world = World.draw(WorldSettings(K=256, L=256), seed=0)
    for vectors in (world.class_means, world.label_vectors):
        assert vectors.shape == (256, 63)
        assert vectors.dtype == np.float32
        assert kstest(vectors.ravel() * np.sqrt(63), "norm").pvalue > 1e-3
        # Entries of one vector, and one entry of different vectors, are not correlated.
        lengths = (vectors.astype(float) ** 2).sum(1)
        assert abs(lengths.mean() - 1) < 4 * np.sqrt(2 / 63 / 256)
        assert abs(lengths.std() - np.sqrt(2 / 63)) < 0.03
    assert abs(np.corrcoef(world.class_means.ravel(), world.label_vectors.ravel())[0, 1]) < 4 / np.sqrt(256 * 63)


@pytest.mark.parametrize(
    ("exponent", "weights"), [(0.0, [1, 1, 1, 1]), (1.0, [1, 1 / 2, 1 / 3, 1 / 4]), (0.5, [1, 2**-0.5, 3**-0.5, 0.5])]
)
def test_frequencies_fall_with_rank_by_the_power_law(exponent: float, weights: list[float]) -> None:
    assert power_law(4, exponent) == pytest.approx(np.array(weights) / sum(weights), rel=1e-14)


def test_classes_follow_alpha_and_tasks_follow_beta() -> None:
    world = World.draw(WorldSettings(T=3, alpha=0.5, beta=1.0), seed=0)
    assert world.class_frequencies == pytest.approx(power_law(64, 0.5))
    assert world.task_frequencies == pytest.approx(np.array([6, 3, 2]) / 11)


def test_independent_labels_are_uniform_and_drawn_anew_for_every_task(
    assert_follows: Callable[[object, object], None],
) -> None:
    tables = label_tables(0, T=100, K=200, L=4)
    assert tables.shape == (100, 200)
    assert_follows(np.bincount(tables.ravel(), minlength=4), np.full(4, 0.25))
    pairs = np.stack([tables[0::2].ravel(), tables[1::2].ravel()])
    assert_follows(np.bincount(pairs[0] * 4 + pairs[1], minlength=16), np.full(16, 1 / 16))


def test_shifted_labels_are_the_base_label_plus_the_task_modulo_L(
    assert_follows: Callable[[object, object], None],
) -> None:
    tables = label_tables(0, T=5, K=400, L=8, label_tables="shifted")
    steps = (tables - tables[0]) % 8
    assert (steps == np.arange(5)[:, None]).all()
    assert_follows(np.bincount(tables[0], minlength=8), np.full(8, 1 / 8))


@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 4), st.integers(0, 1000))
def test_balanced_tables_use_each_label_equally_often_in_every_task(T: int, L: int, copies: int, seed: int) -> None:
    K = L * copies
    tables = label_tables(seed, T=T, K=K, L=L, N=1, label_tables="balanced", query="any")
    for table in tables:
        assert np.bincount(table, minlength=L).tolist() == [copies] * L


def test_balanced_tables_are_shuffled_independently_for_every_task(
    assert_follows: Callable[[object, object], None],
) -> None:
    tables = label_tables(0, T=4000, K=4, L=2, N=1, label_tables="balanced")
    patterns = tables @ [8, 4, 2, 1]
    assert_follows(np.bincount(patterns, minlength=16)[[3, 5, 6, 9, 10, 12]], np.full(6, 1 / 6))
    agreement = (tables[0::2] == tables[1::2]).mean()
    assert abs(agreement - 0.5) < 0.02


@given(st.integers(1, 12), st.data())
def test_disjoint_tables_are_permutations_without_a_shared_pair(K: int, data: st.DataObject) -> None:
    T = data.draw(st.integers(1, K))
    tables = label_tables(data.draw(st.integers(0, 1000)), T=T, K=K, L=K, N=1, label_tables="disjoint", query="any")
    assert tables.shape == (T, K)
    for table in tables:
        assert sorted(table) == list(range(K))
    for labels_of_a_class in tables.T:
        assert len(set(labels_of_a_class)) == T


def test_disjoint_tables_favour_no_pair(assert_follows: Callable[[object, object], None]) -> None:
    drawn = np.array([label_tables(s, T=2, K=4, L=4, N=1, label_tables="disjoint") for s in range(800)])
    for task in (0, 1):
        for item_class in range(4):
            assert_follows(np.bincount(drawn[:, task, item_class], minlength=4), np.full(4, 0.25))


def test_a_world_is_a_function_of_its_settings_and_seed(tiny_world: Callable[..., World]) -> None:
    one, same, other = tiny_world(seed=1), tiny_world(seed=1), tiny_world(seed=2)
    for name in ("class_means", "label_vectors", "label_tables"):
        assert np.array_equal(getattr(one, name), getattr(same, name))
        assert not np.array_equal(getattr(one, name), getattr(other, name))


def test_more_tasks_do_not_change_the_vectors_nor_the_first_tasks(tiny_world: Callable[..., World]) -> None:
    few, many = tiny_world(T=2), tiny_world(T=5)
    assert np.array_equal(few.class_means, many.class_means)
    assert np.array_equal(few.label_vectors, many.label_vectors)
    assert np.array_equal(few.label_tables, many.label_tables[:2])


def test_every_quantity_has_its_own_random_stream() -> None:
    keys = [(stream, seed, step) for stream in RandomStream for seed in (0, 1, 2) for step in (0, 1, 2)]
    assert len({random_generator(*key).integers(2**63) for key in keys}) == len(keys)
