"""The law of sequences, against exact enumeration where the world is tiny."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from helpers import same
from scipy.stats import binomtest, chi2_contingency, kstest

from circuit_phases.sequences import (
    CLOCKS_UP_TO,
    Sequences,
    TrainingBatches,
    _first_to_ring,
    _redrawn,
    draw_sequences,
)
from circuit_phases.settings import WorldSettings
from circuit_phases.splits import evaluation_set
from circuit_phases.world import World

Follows = Callable[[object, object], None]


def draw(count: int, seed: int = 0, **settings: Any) -> tuple[World, Sequences]:
    world = World.draw(WorldSettings(**settings), seed)
    return world, draw_sequences(world, count, np.random.default_rng(seed))


def successive_draws(frequencies: list[float], picks: int) -> Iterator[tuple[tuple[int, ...], float]]:
    for order in itertools.permutations(range(len(frequencies)), picks):
        probability, left = 1.0, 1.0
        for item_class in order:
            probability *= frequencies[item_class] / left
            left -= frequencies[item_class]
        yield order, probability


def exact_law(s: WorldSettings) -> Counter[tuple[int, ...]]:
    """Probability of every (query, x1, ..., xN), by enumeration of what section 1 of the paper says."""
    weights = [rank**-s.alpha for rank in range(1, s.K + 1)]
    f = [weight / sum(weights) for weight in weights]
    law: Counter[tuple[int, ...]] = Counter()
    for order, p in successive_draws(f, s.N // s.B):
        arrangements = list(itertools.permutations([k for k in order for _ in range(s.B)]))
        for context in arrangements:
            law[order[0], *context] += s.p_B * p / len(arrangements)  # type: ignore[assignment]
    if s.p_B < 1 and s.query == "excluded":
        for order, p in successive_draws(f, s.N + 1):
            law[order] += (1 - s.p_B) * p  # type: ignore[assignment]
    elif s.p_B < 1:
        for (query, frequency), (context, p) in itertools.product(enumerate(f), successive_draws(f, s.N)):
            law[query, *context] += (1 - s.p_B) * frequency * p
    return law


@pytest.mark.parametrize(
    "settings",
    [
        {"alpha": 1.0},
        {"alpha": 0.0},
        {"alpha": 1.0, "query": "any"},
        {"alpha": 1.0, "p_B": 1.0},
        {"alpha": 1.0, "p_B": 1.0, "B": 2},
        {"alpha": 0.5, "p_B": 0.5},
        {"alpha": 0.5, "p_B": 0.3, "B": 2, "query": "any"},
        {"alpha": 1.0, "p_B": 1.0, "B": 2, "N": 4, "K": 3, "L": 3, "P": 9},
        {"alpha": 1.0, "K": 2, "L": 2, "query": "any"},
    ],
    ids=str,
)
def test_every_choice_of_query_and_context_has_its_exact_probability(
    settings: dict[str, Any], assert_follows: Follows
) -> None:
    world, sequences = draw(20_000, **{"K": 4, "L": 3, "N": 2, "D": 1, "P": 5} | settings)
    law = exact_law(world.settings)
    classes = sequences.classes.numpy()
    seen = Counter(tuple(row) for row in np.roll(classes, 1, axis=1).tolist())
    outcomes = sorted(law | seen)
    assert_follows([seen[outcome] for outcome in outcomes], [law[outcome] for outcome in outcomes])


@pytest.mark.parametrize("way", [_first_to_ring, _redrawn])
def test_both_ways_of_drawing_without_replacement_have_the_exact_law(way: Callable, assert_follows: Follows) -> None:
    frequencies = [0.5, 0.25, 0.15, 0.1]
    drawn = way(np.array(frequencies), 3, 100_000, np.random.default_rng(0))
    came = Counter(map(tuple, drawn.tolist()))
    law = dict(successive_draws(frequencies, 3))
    assert_follows([came[order] for order in law], list(law.values()))


def test_many_classes_are_drawn_where_few_of_them_come_almost_always(assert_follows: Follows) -> None:
    K = 2 * CLOCKS_UP_TO
    _, sequences = draw(2_000, K=K, N=4, alpha=4.0)
    assert (sequences.classes.sort(dim=1).values.diff(dim=1) > 0).all(), "a class comes twice in a sequence"
    first, rest = 1 / (np.arange(1, K + 1) ** 4.0)[0], (1 / np.arange(2, K + 1) ** 4.0).sum()
    queries = (sequences.classes[:, -1] == 0).sum().item()
    assert_follows([queries, len(sequences) - queries], [first / (first + rest), rest / (first + rest)])


def test_a_world_of_many_classes_draws_them_all_alike(assert_follows: Follows) -> None:
    K = CLOCKS_UP_TO + 1
    _, sequences = draw(40_000, K=K, N=2)
    assert (sequences.classes.sort(dim=1).values.diff(dim=1) > 0).all(), "a class comes twice in a sequence"
    assert_follows(torch.bincount(sequences.classes[:, -1], minlength=K), np.full(K, 1 / K))


@pytest.mark.parametrize("settings", [{}, {"query": "any"}, {"p_B": 1.0}, {"p_B": 0.5, "B": 2}, {"K": 1024}], ids=str)
@pytest.mark.parametrize("alpha", [0.0, 0.75])
def test_the_querys_class_follows_the_class_frequencies(
    alpha: float, settings: dict[str, Any], assert_follows: Follows
) -> None:
    world, sequences = draw(20_000, D=1, alpha=alpha, **settings)
    weights = np.arange(1, world.settings.K + 1) ** -alpha
    assert_follows(np.bincount(sequences.classes[:, -1], minlength=world.settings.K), weights / weights.sum())


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_tasks_follow_the_task_frequencies_whatever_the_classes(beta: float, assert_follows: Follows) -> None:
    _, sequences = draw(20_000, D=1, T=5, K=8, L=4, beta=beta)
    weights = np.arange(1, 6) ** -beta
    assert_follows(np.bincount(sequences.tasks, minlength=5), weights / weights.sum())
    for place in (0, -1):
        table = np.zeros((5, 8))
        np.add.at(table, (sequences.tasks, sequences.classes[:, place]), 1)
        assert chi2_contingency(table).pvalue > 1e-3


def test_random_positions_start_uniformly_wherever_the_sequence_fits(assert_follows: Follows) -> None:
    _, sequences = draw(20_000, D=1, P=16, positions="random")
    assert_follows(np.bincount(sequences.offsets, minlength=16), [1 / 8] * 8 + [0] * 8)


@pytest.mark.parametrize("positions", ["fixed", "pairs"])
def test_other_positions_start_at_the_first(positions: str) -> None:
    _, sequences = draw(100, D=1, positions=positions)
    assert not sequences.offsets.any()


def test_random_positions_that_just_fit_start_at_the_first() -> None:
    _, sequences = draw(100, D=1, P=9, positions="random")
    assert not sequences.offsets.any()


@pytest.mark.parametrize("alpha", [0.0, 1.25])
@pytest.mark.parametrize("query", ["excluded", "any"])
def test_no_class_comes_twice_in_a_context_that_is_not_bursty(alpha: float, query: str) -> None:
    _, sequences = draw(5_000, D=1, alpha=alpha, query=query)
    context = np.sort(sequences.classes[:, :-1], axis=1)
    assert (np.diff(context, axis=1) > 0).all()


def test_the_excluded_query_never_stands_in_the_context() -> None:
    _, sequences = draw(20_000, D=1, K=8, L=4)
    assert not (sequences.classes[:, :-1] == sequences.classes[:, -1:]).any()


def test_a_query_of_any_class_stands_in_the_context_by_chance() -> None:
    _, sequences = draw(20_000, D=1, K=16, L=4, query="any")
    present = (sequences.classes[:, :-1] == sequences.classes[:, -1:]).any(1)
    assert binomtest(int(present.sum()), len(present), 4 / 16).pvalue > 1e-3


@pytest.mark.parametrize(("p_B", "B"), [(0.25, 1), (0.25, 2), (0.5, 4), (0.75, 2)])
def test_a_share_p_B_of_contexts_is_bursty_and_holds_each_of_its_classes_B_times(p_B: float, B: int) -> None:
    _, sequences = draw(20_000, D=1, p_B=p_B, B=B)
    context, query = sequences.classes[:, :-1].numpy(), sequences.classes[:, -1:].numpy()
    times = (context == query).sum(1)
    assert set(times) == {0, B}
    assert binomtest(int((times > 0).sum()), len(times), p_B).pvalue > 1e-3
    for rows, expected in ((times > 0, B), (times == 0, 1)):
        repeats = (context[rows, :, None] == context[rows, None]).sum(2)
        assert (repeats == expected).all()


def test_p_B_of_zero_and_one_are_never_and_always() -> None:
    for p_B in (0.0, 1.0):
        _, sequences = draw(5_000, D=1, p_B=p_B)
        assert ((sequences.classes[:, :-1] == sequences.classes[:, -1:]).any(1) == bool(p_B)).all()


def test_the_querys_class_is_as_likely_at_every_place_of_a_bursty_context(assert_follows: Follows) -> None:
    _, sequences = draw(8_000, D=1, p_B=1.0, alpha=1.0)
    places = (sequences.classes[:, :-1] == sequences.classes[:, -1:]).int().argmax(1)
    assert_follows(np.bincount(places, minlength=4), np.full(4, 0.25))


@pytest.mark.parametrize("eps", [0.1, 1.0])
def test_items_are_normal_about_their_class_mean_with_the_noise_of_eps(eps: float) -> None:
    world, sequences = draw(1_000, seed=2, eps=eps, p_B=0.5, B=2)
    means = world.class_means.astype(float) / np.sqrt(1 + eps**2)
    residuals = sequences.items.double().numpy() - means[sequences.classes]
    spread = eps / np.sqrt((1 + eps**2) * 63)
    assert sequences.items.dtype == torch.float32
    assert kstest(residuals.ravel() / spread, "norm").pvalue > 1e-3
    # Noise of different sequences, of different items and of different entries is independent.
    for one, other in [
        (residuals[1:], residuals[:-1]),
        (residuals[:, 1:], residuals[:, :-1]),
        (residuals[..., 1:], residuals[..., :-1]),
    ]:
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 4 / np.sqrt(one.size)


def test_items_have_unit_length_on_average_at_any_noise() -> None:
    for eps in (0.0, 0.1, 1.0):
        world, sequences = draw(2_000, K=1024, eps=eps)
        world_length = (world.class_means.astype(float) ** 2).sum(1).mean()
        length = float((sequences.items.double() ** 2).sum(-1).mean())
        expected = (world_length + eps**2) / (1 + eps**2)
        assert abs(length - expected) < 0.01


def test_without_noise_items_are_the_class_means() -> None:
    world, sequences = draw(50, eps=0.0)
    assert np.array_equal(sequences.items, world.class_means[sequences.classes])


@pytest.mark.parametrize("kind", ["independent", "shifted", "balanced", "disjoint"])
@pytest.mark.parametrize("p_B", [0.0, 0.5])
def test_labels_agree_with_the_label_table_of_the_sequences_task(kind: str, p_B: float) -> None:
    world, sequences = draw(300, D=1, K=8, L=8, label_tables=kind, p_B=p_B)
    for task, classes, labels in zip(sequences.tasks, sequences.classes, sequences.labels, strict=True):
        assert [world.label_tables[task, k] for k in classes] == labels.tolist()


def test_a_batch_is_a_function_of_seed_and_step_alone(tiny_world: Callable[..., World]) -> None:
    world = tiny_world(positions="random", p_B=0.5)
    first = TrainingBatches(world, seed=3, batch_size=32)[7]
    torch.manual_seed(0)
    np.random.seed(0)
    TrainingBatches(world, seed=3, batch_size=32)[8]
    assert same(first, TrainingBatches(world, seed=3, batch_size=32)[7])
    assert same(first, TrainingBatches(tiny_world(positions="random", p_B=0.5), seed=3, batch_size=32)[7])


def test_drawing_leaves_the_global_random_state_alone(tiny_world: Callable[..., World]) -> None:
    before = torch.get_rng_state()
    TrainingBatches(tiny_world(), seed=0, batch_size=8)[1]
    evaluation_set(tiny_world())
    assert torch.equal(before, torch.get_rng_state())


def test_batches_differ_across_steps_and_seeds_in_every_part(tiny_world: Callable[..., World]) -> None:
    world = tiny_world(positions="random")
    batches = [
        TrainingBatches(world, seed, 64)[step] for seed, step in [(0, 1), (0, 2), (0, 17), (1, 1), (1, 2), (2, 1)]
    ]
    for one, other in itertools.combinations(batches, 2):
        for name in Sequences.__dataclass_fields__:
            assert not torch.equal(getattr(one, name), getattr(other, name))


def test_world_seed_and_training_seed_are_independent(tiny_world: Callable[..., World]) -> None:
    one, other = tiny_world(seed=1), tiny_world(seed=2)
    here, there = (TrainingBatches(world, seed=5, batch_size=64)[1] for world in (one, other))
    assert torch.equal(here.classes, there.classes)
    assert torch.equal(here.tasks, there.tasks)
    assert not torch.equal(here.labels, there.labels)
    residuals = [
        batch.items - torch.from_numpy(world.class_means)[batch.classes] / 1.01**0.5
        for batch, world in ((here, one), (there, other))
    ]
    assert torch.allclose(residuals[0], residuals[1], atol=1e-6)


def test_a_slice_of_sequences_keeps_their_parts_together(tiny_world: Callable[..., World]) -> None:
    sequences = TrainingBatches(tiny_world(), seed=0, batch_size=32)[1]
    part = sequences[10:14]
    assert len(part) == 4
    for name in Sequences.__dataclass_fields__:
        assert torch.equal(getattr(part, name), getattr(sequences, name)[10:14])
