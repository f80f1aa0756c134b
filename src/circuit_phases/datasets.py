"""A world and its frozen evaluation sequences as Parquet files in one folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from circuit_phases.files import DamagedFile
from circuit_phases.schemas import EVALUATION_SEQUENCES, LABEL_TABLES, VECTORS
from circuit_phases.sequences import Sequences
from circuit_phases.settings import WorldSettings
from circuit_phases.splits import PARTNERS, EvaluationSet, evaluation_set
from circuit_phases.tables import read_table, write_table
from circuit_phases.world import World


def write_dataset(world: World, folder: Path) -> None:
    """Write a world and its evaluation sequences into a folder."""
    for name, vectors in (("class", world.class_means), ("label", world.label_vectors)):
        numbers = pa.array(np.arange(1, len(vectors) + 1))
        table = pa.table({name: numbers, "vector": list(vectors)}, schema=VECTORS[name])
        write_table(folder / f"{'class_means' if name == 'class' else 'label_vectors'}.parquet", table, VECTORS[name])
    T, K = world.label_tables.shape
    table = pa.table(
        {
            "task": np.repeat(np.arange(1, T + 1), K),
            "class": np.tile(np.arange(1, K + 1), T),
            "label": world.label_tables.ravel() + 1,
        }
    )
    write_table(folder / "label_tables.parquet", table, LABEL_TABLES)
    evaluation = evaluation_set(world)
    parts = [_split_table(split, evaluation) for split in PARTNERS if split in evaluation]
    write_table(folder / "evaluation_sequences.parquet", pa.concat_tables(parts), EVALUATION_SEQUENCES)


def read_world(folder: Path, settings: WorldSettings, seed: int) -> World:
    """Read a world.

    Raises:
        UserError, DamagedFile: if a file is missing or cannot be read.
    """
    means, vectors = (
        _numbers(_read(folder / f"{file}.parquet", VECTORS[name])["vector"]).numpy()
        for file, name in (("class_means", "class"), ("label_vectors", "label"))
    )
    labels = _numbers(_read(folder / "label_tables.parquet", LABEL_TABLES)["label"])[:, 0].numpy()
    s = settings
    shapes = {"class_means": (means.shape, (s.K, s.D)), "label_vectors": (vectors.shape, (s.L, s.D))}
    shapes["label_tables"] = ((len(labels), labels.max() <= s.L), (s.T * s.K, True))
    for name, (found, expected) in shapes.items():
        if found != expected:
            raise DamagedFile(folder / f"{name}.parquet", "it belongs to a world of other settings")
    return World(settings, seed, means, vectors, labels.reshape(settings.T, settings.K) - 1)


def read_evaluation_set(folder: Path, settings: WorldSettings) -> EvaluationSet:
    """Read the frozen sequences of every split.

    Raises:
        UserError, DamagedFile: if the file is missing or cannot be read.
    """
    found = _read_splits(folder / "evaluation_sequences.parquet", settings)
    # A training job has forty megabytes less for it.
    pa.default_memory_pool().release_unused()
    return found


def _split_table(split: str, evaluation: EvaluationSet) -> pa.Table:
    sequences, partner = evaluation[split], evaluation.get(PARTNERS[split] or "")
    columns = {
        "split": [split] * len(sequences),
        "sequence": np.arange(1, len(sequences) + 1),
        "task": pa.array(sequences.tasks.numpy() + 1, mask=sequences.tasks.numpy() < 0),
        "offset": sequences.offsets.numpy(),
        "classes": list(sequences.classes.numpy() + 1),
        "labels": list(sequences.labels.numpy() + 1),
        "partner_labels": [None] * len(sequences) if partner is None else list(partner.labels.numpy() + 1),
        "items": list(sequences.items.flatten(1).numpy()),
    }
    return pa.table(columns, schema=EVALUATION_SEQUENCES)


def _read_splits(path: Path, settings: WorldSettings) -> EvaluationSet:
    table = _read(path, EVALUATION_SEQUENCES)
    splits = table["split"].to_pylist()
    if splits.count("iid") != settings.evaluation_sequences:
        raise DamagedFile(path, f"holds {splits.count('iid')} of {settings.evaluation_sequences} sequences")
    found: EvaluationSet = {}
    for split, partner in PARTNERS.items():
        if split not in splits:
            continue
        # They are written together.
        rows = table.slice(splits.index(split), splits.count(split))
        found[split] = _read_split(path, rows, settings)
        if partner:
            found[partner] = replace(found[split], labels=_numbers(rows["partner_labels"]) - 1)
    return found


def _read_split(path: Path, rows: pa.Table, settings: WorldSettings) -> Sequences:
    columns = {name: _numbers(rows[name]) for name in ("classes", "labels", "items")}
    if [each.shape[1] for each in columns.values()] != [settings.N + 1, settings.N + 1, (settings.N + 1) * settings.D]:
        raise DamagedFile(path, "it belongs to a world of other settings")
    return Sequences(
        tasks=torch.tensor([(task or 0) - 1 for task in rows["task"].to_pylist()]),
        classes=columns["classes"] - 1,
        labels=columns["labels"] - 1,
        items=columns["items"].view(len(rows), settings.N + 1, settings.D),
        offsets=_numbers(rows["offset"])[:, 0],
    )


def _read(path: Path, schema: pa.Schema) -> pa.Table:
    """A table that no world leaves empty."""
    table = read_table(path, schema)
    if not len(table):
        raise DamagedFile(path, "holds no rows")
    return table


def _numbers(column: pa.ChunkedArray) -> Float[Tensor, "rows width"] | Int64[Tensor, "rows width"]:
    """A column of numbers, or of lists of as many of them in each row."""
    values = column.combine_chunks()
    flat = values.flatten() if pa.types.is_list(values.type) else values
    return torch.from_dlpack(flat).clone().view(len(column), -1)
