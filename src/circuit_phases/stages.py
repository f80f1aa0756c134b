"""Each step of the workflow, from files to files; the rules and the command line call these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from circuit_phases import tables
from circuit_phases.settings import RunSettings

if TYPE_CHECKING:
    from circuit_phases.figures.data import Series
    from circuit_phases.phases import PhaseSettings
    from circuit_phases.world import World

# torch is imported where it is needed: tables and figures do without it.


def use_threads(threads: int) -> None:
    """Keep torch, and its compiler, to this many threads."""
    import torch
    import torch._inductor.config

    torch.set_num_threads(threads)
    torch._inductor.config.compile_threads = threads


def make_dataset(settings: RunSettings, seed: int, folder: Path) -> None:
    """Draw a run's world and evaluation sequences into a folder."""
    from circuit_phases.datasets import write_dataset
    from circuit_phases.world import World

    write_dataset(World.draw(settings.world, settings.resolved_world_seed(seed)), folder)


def train_run(settings: RunSettings, seed: int, dataset: Path, folder: Path) -> None:
    """Train on a dataset; leaves `training.parquet`, `run.parquet` and `checkpoints/` in the folder."""
    from circuit_phases.datasets import read_evaluation_set
    from circuit_phases.training import train

    train(settings, _world(settings, seed, dataset), read_evaluation_set(dataset, settings.world), seed, folder)


def analyze_run(
    settings: RunSettings, seed: int, dataset: Path, checkpoints: Path, attention: Path, circuits: Path
) -> None:
    """Mean attention maps and circuit metrics of every checkpoint."""
    from circuit_phases.circuits import analyze_checkpoints
    from circuit_phases.datasets import read_evaluation_set

    sequences, _ = read_evaluation_set(dataset, settings.world)
    world = _world(settings, seed, dataset)
    attention_rows, circuit_rows = analyze_checkpoints(checkpoints, settings, world, sequences, seed)
    tables.write_table(attention, attention_rows, tables.ATTENTION)
    tables.write_table(circuits, circuit_rows, tables.CIRCUITS)


def compute_theory(settings: RunSettings, seed: int, dataset: Path, path: Path) -> None:
    """The exact ceilings of the circuits in a run's world."""
    from circuit_phases.theory import ceilings, theory_table

    rows = theory_table(ceilings(_world(settings, seed, dataset)), settings.name, seed)
    tables.write_table(path, rows, tables.THEORY)


def count_classes(settings: RunSettings, seed: int, dataset: Path, path: Path) -> None:
    """The frequency of every class, as set and as observed in the evaluation sequences."""
    from circuit_phases.datasets import read_evaluation_set

    world = _world(settings, seed, dataset)
    sequences, _ = read_evaluation_set(dataset, settings.world)
    K = settings.world.K
    observed = np.bincount(sequences.classes[:, -1].numpy(), minlength=K) / len(sequences)
    rows = pd.DataFrame({"class": np.arange(1, K + 1), "frequency": world.class_frequencies, "observed": observed})
    identity: dict[str, Any] = {"run": settings.name, "seed": seed, "alpha": settings.world.alpha}
    tables.write_table(path, rows.assign(**identity), tables.CLASS_FREQUENCIES)


def find_run_phases(
    settings: RunSettings, seed: int, training: Path, theory: Path, path: Path, rules: PhaseSettings
) -> None:
    """The phases of a run, from its accuracy and the ceilings of its world."""
    from circuit_phases.phases import find_phases

    rows = tables.read_frame(training, tables.TRAINING)
    rows = rows[(rows["split"] == "iid") & rows["task"].isna()]
    accuracy = rows.set_index("step")["accuracy"].astype(float)
    ceilings = {row["circuit"]: row["accuracy"] for row in tables.read_table(theory, tables.THEORY).to_pylist()}
    found = find_phases(accuracy, ceilings, settings.world.L, rules)
    tables.write_table(path, found.assign(run=settings.name, seed=seed), tables.PHASES)


def collect(name: str, sources: Sequence[Path | str], path: Path) -> None:
    """One table over all runs."""
    schema = tables.RUN_TABLES[name]
    tables.write_table(path, tables.concatenate(sources, schema), schema)


def draw_figure(
    drawing: str,
    series: Sequence[Series],
    sources: Mapping[str, Sequence[Path | str]],
    rules: PhaseSettings,
    pdf: Path,
    png: Path,
) -> None:
    """Draw a figure from the tables of its runs, whose phases were found by the given rules."""
    from circuit_phases.figures.data import FigureData
    from circuit_phases.figures.drawing import draw, save

    frames = {name: tables.to_frame(tables.concatenate(paths, tables.TABLES[name])) for name, paths in sources.items()}
    save(draw(drawing, FigureData(tuple(series), frames, rules)), pdf, png)


def run_settings(parameters: Mapping[str, Any]) -> RunSettings:
    """Settings from their flat parameters."""
    return RunSettings.from_parameters(**parameters)


def _world(settings: RunSettings, seed: int, dataset: Path) -> World:
    from circuit_phases.datasets import read_world

    return read_world(dataset, settings.world, settings.resolved_world_seed(seed))
