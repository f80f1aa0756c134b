"""A world and its frozen evaluation sequences as Parquet files in one folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from jaxtyping import Int64
from torch import Tensor

from circuit_phases.files import DamagedFile
from circuit_phases.sequences import Sequences, evaluation_set
from circuit_phases.settings import WorldSettings
from circuit_phases.tables import EVALUATION_SEQUENCES, LABEL_TABLES, VECTORS, read_table, write_table
from circuit_phases.world import World

FILES = ("class_means", "label_vectors", "label_tables", "evaluation_sequences")


def write_dataset(world: World, folder: Path) -> None:
    """Write a world and its evaluation sequences into a folder."""
    for name, vectors in (("class", world.class_means), ("label", world.label_vectors)):
        numbers = pa.array(np.arange(1, len(vectors) + 1))
        table = pa.table({name: numbers, "vector": list(vectors)}, schema=VECTORS[name])
        write_table(folder / f"{'class_means' if name == 'class' else 'label_vectors'}.parquet", table, VECTORS[name])
    T, K = world.label_tables.shape
    table = pd.DataFrame(
        {
            "task": np.repeat(np.arange(1, T + 1), K),
            "class": np.tile(np.arange(1, K + 1), T),
            "label": world.label_tables.ravel() + 1,
        }
    )
    write_table(folder / "label_tables.parquet", table, LABEL_TABLES)
    sequences, permuted = evaluation_set(world)
    columns = {
        "sequence": np.arange(1, len(sequences) + 1),
        "task": sequences.tasks.numpy() + 1,
        "offset": sequences.offsets.numpy(),
        "classes": list(sequences.classes.numpy() + 1),
        "labels": list(sequences.labels.numpy() + 1),
        "permuted_labels": list(permuted.numpy() + 1),
        "items": list(sequences.items.flatten(1).numpy()),
    }
    write_table(folder / "evaluation_sequences.parquet", pa.table(columns), EVALUATION_SEQUENCES)


def read_world(folder: Path, settings: WorldSettings, seed: int) -> World:
    """Read a world.

    Raises:
        UserError, DamagedFile: if a file is missing or cannot be read.
    """
    means, vectors = (
        np.stack(read_table(folder / f"{file}.parquet", VECTORS[name])["vector"].to_numpy())
        for file, name in (("class_means", "class"), ("label_vectors", "label"))
    )
    labels = read_table(folder / "label_tables.parquet", LABEL_TABLES)["label"].to_numpy()
    s = settings
    shapes = {"class_means": (means.shape, (s.K, s.D)), "label_vectors": (vectors.shape, (s.L, s.D))}
    shapes["label_tables"] = ((len(labels), labels.max() <= s.L), (s.T * s.K, True))
    for name, (found, expected) in shapes.items():
        if found != expected:
            raise DamagedFile(folder / f"{name}.parquet", "it belongs to a world of other settings")
    return World(settings, seed, means, vectors, labels.reshape(settings.T, settings.K) - 1)


def read_evaluation_set(folder: Path, settings: WorldSettings) -> tuple[Sequences, Int64[Tensor, "n N"]]:
    """Read the frozen evaluation sequences and their permuted context labels.

    Raises:
        UserError, DamagedFile: if the file is missing or cannot be read.
    """
    table = read_table(folder / "evaluation_sequences.parquet", EVALUATION_SEQUENCES)

    def column(name: str) -> Tensor:
        values = table[name].combine_chunks()
        flat = values.flatten() if pa.types.is_list(values.type) else values
        return torch.from_numpy(flat.to_numpy(zero_copy_only=False).copy()).view(len(table), -1)

    widths = [column(name).shape[1] for name in ("classes", "labels", "permuted_labels", "items")]
    if widths != [settings.N + 1, settings.N + 1, settings.N, (settings.N + 1) * settings.D]:
        raise DamagedFile(folder / "evaluation_sequences.parquet", "it belongs to a world of other settings")
    sequences = Sequences(
        tasks=column("task")[:, 0] - 1,
        classes=column("classes") - 1,
        labels=column("labels") - 1,
        items=column("items").view(len(table), settings.N + 1, settings.D),
        offsets=column("offset")[:, 0],
    )
    return sequences, column("permuted_labels") - 1
