"""Small runs for the tests of training, and what they leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from circuit_phases.checkpoints import load_tensors
from circuit_phases.schemas import RUNS, TRAINING
from circuit_phases.settings import RunSettings
from circuit_phases.splits import evaluation_set
from circuit_phases.tables import read_frame, read_table
from circuit_phases.trainer import Trainer
from circuit_phases.training import train
from circuit_phases.world import World

# One task over few classes is learned within 300 steps.
QUICK: dict[str, Any] = {"T": 1, "L": 4, "D": 15, "P": 9, "learning_rate": 0.3, "max_steps": 300, "stop_after": 0}


class Interrupted(Exception):
    """Stands for whatever ends a run from outside."""


def run(settings: RunSettings, folder: Path, seed: int = 0) -> Path:
    world = World.draw(settings.world, settings.resolved_world_seed(seed))
    return train(settings, world, evaluation_set(world), seed, folder, progress=False)


def trainer_of(settings: RunSettings, seed: int = 0) -> Trainer:
    world = World.draw(settings.world, settings.resolved_world_seed(seed))
    return Trainer(settings, world, evaluation_set(world), seed)


def results(folder: Path) -> dict[str, Any]:
    """What a finished run left, to the bit, but for `run.parquet`, which holds the time taken."""
    weights = {path.name: load_tensors(path) for path in sorted((folder / "checkpoints").iterdir())}
    to_the_bit = {
        name: (metadata, {key: tensor.numpy().tobytes() for key, tensor in tensors.items()})
        for name, (tensors, metadata) in weights.items()
    }
    assert not (folder / "partial").exists()
    return to_the_bit | {"training.parquet": (folder / "training.parquet").read_bytes()}


def summary(folder: Path) -> dict[str, Any]:
    (row,) = read_table(folder / "run.parquet", RUNS).to_pylist()
    return row


def overall_accuracy(folder: Path) -> list[float]:
    frame = read_frame(folder / "training.parquet", TRAINING)
    return frame[(frame["split"] == "iid") & frame["task"].isna()]["accuracy"].tolist()
