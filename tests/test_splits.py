"""The frozen splits: what their sequences are, and what an answer to them says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers import same

from circuit_phases.abilities import SplitReading
from circuit_phases.sequences import Sequences, TrainingBatches
from circuit_phases.settings import WorldSettings
from circuit_phases.splits import PARTNERS, SPLITS, EvaluationSet, evaluation_set
from circuit_phases.world import World

Follows = Callable[[object, object], None]
TinyWorld = Callable[..., World]


def splits_of(**settings: Any) -> tuple[World, EvaluationSet]:
    world = World.draw(WorldSettings(**{"D": 5, "evaluation_sequences": 64, "ability_sequences": 3_000} | settings), 0)
    return world, evaluation_set(world)


def places_of_the_query(sequences: Sequences) -> torch.Tensor:
    return sequences.classes[:, :-1] == sequences.classes[:, -1:]


def test_the_splits_are_frozen_and_belong_to_the_world(tiny_world: TinyWorld) -> None:
    splits, again = evaluation_set(tiny_world(seed=1)), evaluation_set(tiny_world(seed=1))
    others = evaluation_set(tiny_world(seed=2))
    assert list(splits) == list(SPLITS)
    for split, sequences in splits.items():
        assert len(sequences) == (64 if split in ("iid", "random_label") else 32)
        assert same(sequences, again[split])
        assert not same(sequences, others[split])


def test_the_paper_s_splits_do_not_hang_on_the_others(tiny_world: TinyWorld) -> None:
    all_splits, alone = evaluation_set(tiny_world()), evaluation_set(tiny_world(ability_sequences=0))
    assert list(alone) == ["iid", "random_label"]
    for split, sequences in alone.items():
        assert same(sequences, all_splits[split])


def test_no_training_batch_repeats_frozen_sequences(tiny_world: TinyWorld) -> None:
    world = tiny_world(seed=0)
    held_out = {tuple(row) for each in evaluation_set(world).values() for row in each.items.flatten(1).tolist()}
    for step in range(1, 21):
        batch = TrainingBatches(world, seed=0, batch_size=64)[step]
        assert not held_out & {tuple(row) for row in batch.items.flatten(1).tolist()}


@pytest.mark.parametrize("split", [split for split, partner in PARTNERS.items() if partner])
def test_partners_share_all_but_labels(split: str, tiny_world: TinyWorld) -> None:
    splits = evaluation_set(tiny_world(positions="random"))
    one, other = splits[split], splits[PARTNERS[split] or ""]
    for name in ("tasks", "classes", "items", "offsets"):
        assert torch.equal(getattr(other, name), getattr(one, name))
    assert not torch.equal(other.labels, one.labels)
    if split != "copy":
        assert torch.equal(other.labels[:, -1], one.labels[:, -1])


def test_permuted_labels_are_the_contexts_labels_in_uniformly_random_order(assert_follows: Follows) -> None:
    _, splits = splits_of(T=1, K=4, L=4, N=3, label_tables="disjoint", evaluation_sequences=6_000)
    context, permuted = splits["iid"].labels[:, :-1], splits["random_label"].labels[:, :-1]
    assert torch.equal(permuted.sort(1).values, context.sort(1).values)
    # No label comes twice here, so the order is seen whole.
    order = (context[:, :, None] == permuted[:, None]).int().argmax(2)
    codes = order @ torch.tensor([9, 3, 1])
    assert_follows(np.unique(codes, return_counts=True)[1], np.full(6, 1 / 6))


def test_copies_have_the_query_s_class_and_label_in_the_context_at_any_place(assert_follows: Follows) -> None:
    world, splits = splits_of(T=2, K=8, L=4, N=3, beta=1.0)
    copy = splits["copy"]
    places = places_of_the_query(copy)
    assert (places.sum(1) == 1).all()
    assert_follows(places.sum(0), np.full(3, 1 / 3))
    assert torch.equal(copy.labels, torch.from_numpy(world.label_tables)[copy.tasks[:, None], copy.classes])
    assert_follows(np.bincount(copy.tasks), world.task_frequencies)


@pytest.mark.parametrize("split", ["novel_task", "novel_class"])
def test_fresh_labels_are_uniform_and_one_class_has_one(split: str, assert_follows: Follows) -> None:
    _, splits = splits_of(T=2, K=8, L=4, N=4, B=2, p_B=1.0)
    fresh = splits[split]
    assert (places_of_the_query(fresh).sum(1) == 2).all()
    equal_classes = fresh.classes[:, :, None] == fresh.classes[:, None]
    assert (fresh.labels[:, :, None] == fresh.labels[:, None])[equal_classes].all()
    other = fresh.labels[:, :-1][~places_of_the_query(fresh)].view(-1, 2)[:, 0]
    assert_follows(np.bincount(4 * fresh.labels[:, -1] + other, minlength=16), np.full(16, 1 / 16))


def test_a_fresh_table_of_a_kind_without_duplicates_has_none() -> None:
    _, splits = splits_of(T=2, K=8, L=8, N=4, label_tables="disjoint")
    context = splits["novel_class"].labels[:, :-1].sort(1).values
    assert (context[:, 1:] > context[:, :-1]).all()


def test_fresh_tables_of_fewer_classes_than_tokens_have_a_label_for_each() -> None:
    _, splits = splits_of(T=2, K=4, L=4, N=8, B=4, p_B=1.0, label_tables="balanced")
    for name in ("novel_task", "novel_class"):
        fresh = splits[name]
        same_class, same_label = (each[:, :, None] == each[:, None] for each in (fresh.classes, fresh.labels))
        assert (same_class == same_label).all()


def test_conflict_has_every_task_as_often_and_no_query_in_the_context(assert_follows: Follows) -> None:
    world, splits = splits_of(T=3, K=8, L=4, N=3, beta=2.0, p_B=1.0)
    conflict = splits["conflict"]
    assert not places_of_the_query(conflict).any()
    assert_follows(np.bincount(conflict.tasks), np.full(3, 1 / 3))
    assert torch.equal(conflict.labels, torch.from_numpy(world.label_tables)[conflict.tasks[:, None], conflict.classes])


def test_no_context_says_nothing_of_the_task(assert_follows: Follows) -> None:
    _, splits = splits_of(T=3, K=8, L=4, N=3)
    labels, tasks = splits["no_context"].labels, splits["no_context"].tasks
    assert_follows(np.bincount(4 * tasks + labels[:, 0], minlength=12), np.full(12, 1 / 12))


def test_a_context_of_all_classes_leaves_no_conflict() -> None:
    _, splits = splits_of(T=1, K=4, L=4, N=4, p_B=1.0)
    assert set(SPLITS) - set(splits) == {"conflict", "no_context"}


def test_novel_classes_are_new_in_every_sequence_and_scattered_like_the_old() -> None:
    world, splits = splits_of(T=2, K=8, L=4, N=3, D=63, eps=0.0)
    novel = splits["novel_class"]
    assert len(np.unique(novel.classes)) == 3 * len(novel)
    assert novel.classes.min() >= 8
    distances = torch.cdist(novel.items.flatten(0, 1)[:300], torch.from_numpy(world.class_means))
    assert distances.min() > 0.5
    assert float(novel.items.var()) == pytest.approx(1 / 63, rel=0.01)
    same_class = novel.items[:, -1:] == novel.items[:, :-1]
    assert torch.equal(same_class.all(2), places_of_the_query(novel))


# What an answer says


def read(split: str, splits: EvaluationSet, world: World, answers: np.ndarray) -> dict[Any, dict[str, Any]]:
    log_probabilities = np.full((world.settings.L, len(answers)), -3.0, dtype=np.float32)
    log_probabilities[answers, np.arange(len(answers))] = -1.0
    rows = SplitReading(split, splits[split], world).rows(log_probabilities, answers)
    assert {row["split"] for row in rows} == {split}
    return {row["task"]: row for row in rows}


@pytest.mark.parametrize("split", ["iid", "random_label", "copy", "novel_task", "conflict", "no_context"])
def test_memory_and_inference_equal_counting_one_by_one(split: str) -> None:
    world, splits = splits_of(T=3, K=8, L=4, N=3)
    sequences = splits[split]
    answers = np.random.default_rng(0).integers(4, size=len(sequences))
    remembered = right = both = 0
    for number, answer in enumerate(answers):
        labels = {int(table[sequences.classes[number, -1]]) for table in world.label_tables}
        hit = answer == int(sequences.labels[number, -1])
        remembered += answer in labels
        right += hit
        both += hit and answer in labels
    row = read(split, splits, world, answers)[None]
    assert row["accuracy"] == pytest.approx(right / len(sequences))
    assert row["memory"] == pytest.approx(remembered / len(sequences))
    assert row["inference"] == pytest.approx(both / remembered)
    assert row["loss"] == pytest.approx((right + 3 * (len(sequences) - right)) / len(sequences))


def test_a_model_that_knows_all_tasks_and_reads_none_has_memory_one_and_inference_one_in_t() -> None:
    world, splits = splits_of(T=4, K=64, L=64, N=4, label_tables="disjoint", evaluation_sequences=3_000)
    task = np.random.default_rng(0).integers(4, size=3_000)
    row = read("iid", splits, world, world.label_tables[task, splits["iid"].classes[:, -1]])[None]
    assert row["memory"] == 1
    assert row["inference"] == pytest.approx(1 / 4, abs=0.03)


def test_novel_classes_have_no_memory() -> None:
    world, splits = splits_of(T=3, K=8, L=4, N=3)
    row = read("novel_class", splits, world, splits["novel_class"].labels[:, -1].numpy())[None]
    assert (row["accuracy"], row["memory"], row["inference"]) == (1, None, None)


def test_conflict_is_held_against_every_other_task() -> None:
    world, splits = splits_of(T=3, K=8, L=4, N=3)
    conflict = splits["conflict"]
    query, tasks = conflict.classes[:, -1].numpy(), conflict.tasks.numpy()
    rows = read("conflict", splits, world, world.label_tables[1, query])
    assert set(rows) == {None, 1, 2, 3}
    assert rows[2]["accuracy"] == 1
    differ = (tasks != 1) & (world.label_tables[1, query] != conflict.labels[:, -1].numpy())
    assert rows[2]["sequences"] == differ.sum()
    for task in (1, 3):
        asked = (tasks != task - 1) & (world.label_tables[task - 1, query] != conflict.labels[:, -1].numpy())
        shared = world.label_tables[task - 1, query] == world.label_tables[1, query]
        assert rows[task]["accuracy"] == pytest.approx(shared[asked].mean())
