"""Worlds and evaluation sequences as files."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from circuit_phases.datasets import read_evaluation_set, read_world, write_dataset
from circuit_phases.files import DamagedFile, UserError
from circuit_phases.schemas import WORLD_TABLES
from circuit_phases.sequences import Sequences, TrainingBatches
from circuit_phases.settings import RunSettings
from circuit_phases.splits import PARTNERS, evaluation_set
from circuit_phases.world import World

TinyWorld = Callable[..., World]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"T": 1, "N": 1, "D": 1},
    {"T": 3, "p_B": 0.5, "B": 2, "positions": "random", "eps": 1.0, "alpha": 1.0, "beta": 1.0},
    {"label_tables": "shifted", "positions": "pairs", "query": "any", "L": 3},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_world_comes_back_from_its_files_to_the_bit(
    options: dict[str, Any], tiny_world: TinyWorld, tmp_path: Path
) -> None:
    world = tiny_world(seed=3, **options)
    write_dataset(world, tmp_path)
    back = read_world(tmp_path, world.settings, seed=3)
    assert (back.settings, back.seed) == (world.settings, 3)
    for name in ("class_means", "label_vectors", "label_tables"):
        written, read = getattr(world, name), getattr(back, name)
        assert read.dtype == written.dtype
        assert read.shape == written.shape
        assert read.tobytes() == written.tobytes()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_evaluation_set_comes_back_to_the_bit(
    options: dict[str, Any], tiny_world: TinyWorld, tmp_path: Path
) -> None:
    world = tiny_world(seed=3, **options)
    write_dataset(world, tmp_path)
    evaluation, back = evaluation_set(world), read_evaluation_set(tmp_path, world.settings)
    assert back.keys() == evaluation.keys()
    for split, sequences in evaluation.items():
        for name in Sequences.__dataclass_fields__:
            written, read = getattr(sequences, name), getattr(back[split], name)
            assert read.dtype == written.dtype
            assert read.shape == written.shape
            assert read.numpy().tobytes() == written.contiguous().numpy().tobytes()


def test_a_training_job_is_not_made_larger_by_pandas_or_scipy(
    tiny: Callable[..., RunSettings], tiny_world: TinyWorld, tmp_path: Path
) -> None:
    write_dataset(tiny_world(), tmp_path)
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from circuit_phases.datasets import read_evaluation_set, read_world\n"
        "from circuit_phases.settings import RunSettings\n"
        "from circuit_phases.trainer import Trainer\n"
        f"settings, folder = RunSettings.from_parameters(**{tiny().parameters}), Path({str(tmp_path)!r})\n"
        "world, evaluation = read_world(folder, settings.world, 0), read_evaluation_set(folder, settings.world)\n"
        "Trainer(settings, world, evaluation, 0).evaluate(0)\n"
        "print(sorted({'pandas', 'pyarrow', 'scipy.optimize'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['pyarrow']"


def test_a_world_read_back_gives_the_same_training_batches(tiny_world: TinyWorld, tmp_path: Path) -> None:
    world = tiny_world(seed=3)
    write_dataset(world, tmp_path)
    here, there = (TrainingBatches(w, 1, 32)[1] for w in (world, read_world(tmp_path, world.settings, 3)))
    assert torch.equal(here.items, there.items)
    assert torch.equal(here.labels, there.labels)


def test_tasks_classes_and_labels_count_from_one_in_the_files(tiny_world: TinyWorld, tmp_path: Path) -> None:
    world = tiny_world()
    write_dataset(world, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"{name}.parquet" for name in WORLD_TABLES)

    labels = pq.read_table(tmp_path / "label_tables.parquet").to_pylist()
    assert len(labels) == 2 * 8
    assert {(row["task"], row["class"]) for row in labels} == {(t, k) for t in (1, 2) for k in range(1, 9)}
    for row in labels:
        assert row["label"] == world.label_tables[row["task"] - 1, row["class"] - 1] + 1

    means = pq.read_table(tmp_path / "class_means.parquet").to_pylist()
    assert [row["class"] for row in means] == list(range(1, 9))
    assert np.array_equal(np.array(means[2]["vector"], dtype=np.float32), world.class_means[2])
    vectors = pq.read_table(tmp_path / "label_vectors.parquet").to_pylist()
    assert [row["label"] for row in vectors] == list(range(1, 5))
    assert np.array_equal(np.array(vectors[3]["vector"], dtype=np.float32), world.label_vectors[3])

    evaluation = evaluation_set(world)
    every_row = pq.read_table(tmp_path / "evaluation_sequences.parquet").to_pylist()
    for split, partner in PARTNERS.items():
        rows = [row for row in every_row if row["split"] == split]
        sequences = evaluation[split]
        assert [row["sequence"] for row in rows] == list(range(1, len(sequences) + 1))
        assert {row["task"] for row in rows} == ({None} if split == "novel_class" else {1, 2})
        for number, row in enumerate(rows):
            assert row["task"] in (None, int(sequences.tasks[number]) + 1)
            assert row["classes"] == (sequences.classes[number] + 1).tolist()
            assert row["labels"] == (sequences.labels[number] + 1).tolist()
            assert row["partner_labels"] == (partner and (evaluation[partner].labels[number] + 1).tolist())
            assert row["items"] == sequences.items[number].flatten().tolist()


def test_offsets_count_positions_from_zero_in_the_files(tiny_world: TinyWorld, tmp_path: Path) -> None:
    world = tiny_world(positions="random")
    write_dataset(world, tmp_path)
    offsets = pq.read_table(tmp_path / "evaluation_sequences.parquet")["offset"].to_pylist()
    assert set(offsets) == set(range(9 - 5 + 1))
    assert offsets == [int(at) for split in PARTNERS for at in evaluation_set(world)[split].offsets]


def test_equal_worlds_are_equal_files(tiny_world: TinyWorld, tmp_path: Path) -> None:
    for folder in ("one", "other"):
        write_dataset(tiny_world(seed=5), tmp_path / folder)
    for name in WORLD_TABLES:
        one, other = (tmp_path / folder / f"{name}.parquet" for folder in ("one", "other"))
        assert one.read_bytes() == other.read_bytes()


def read_all(folder: Path, world: World) -> None:
    read_world(folder, world.settings, world.seed)
    read_evaluation_set(folder, world.settings)


@pytest.mark.parametrize("name", WORLD_TABLES)
def test_a_missing_or_damaged_file_of_a_dataset_is_the_one_named(
    name: str, tiny_world: TinyWorld, tmp_path: Path
) -> None:
    world = tiny_world()
    write_dataset(world, tmp_path)
    path = tmp_path / f"{name}.parquet"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DamagedFile, match=f"{name}.parquet is damaged"):
        read_all(tmp_path, world)
    path.unlink()
    with pytest.raises(UserError, match=f"{name}.parquet is missing"):
        read_all(tmp_path, world)


@pytest.mark.parametrize("name", WORLD_TABLES)
@pytest.mark.parametrize(("left", "told"), [(0, "holds no rows"), (3, r"holds 3 of|other settings")])
def test_a_whole_file_with_too_few_rows_is_named(
    name: str, left: int, told: str, tiny_world: TinyWorld, tmp_path: Path
) -> None:
    world = tiny_world()
    write_dataset(world, tmp_path)
    path = tmp_path / f"{name}.parquet"
    pq.write_table(pq.read_table(path)[:left], path)
    with pytest.raises(DamagedFile, match=f"{name}.parquet is damaged .*({told})"):
        read_all(tmp_path, world)


@pytest.mark.parametrize("other", [{"K": 9}, {"D": 6}, {"N": 3}, {"T": 3}, {"L": 3}], ids=str)
def test_files_of_a_world_of_another_size_are_refused(
    other: dict[str, Any], tiny_world: TinyWorld, tmp_path: Path
) -> None:
    write_dataset(tiny_world(), tmp_path)
    with pytest.raises(UserError, match=r"\.parquet"):
        read_all(tmp_path, tiny_world(**other))
