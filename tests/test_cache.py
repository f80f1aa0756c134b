"""A store shared by two clones: what one has trained, the other takes; another module or parameter is another entry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_workflow import CONFIG, Project, clone

from circuit_phases.configuration import parse_configuration

SEEDS = {"experiments": {"base": {"seeds": 2}}, "figures": {"fig04": {"experiment": "base"}}, "headline": []}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Project:
    """A clone that has trained two seeds with the store."""
    project = clone(tmp_path_factory.mktemp("first"), CONFIG | SEEDS)
    assert taken_and_made(project, store) == (0, 2)
    return project


def taken_and_made(project: Project, store: Path, **config: Any) -> tuple[int, int]:
    """Train both seeds; how many came out of the store, and how many are new in it."""
    values = CONFIG | SEEDS | config
    (run,) = {each.settings.name for each in parse_configuration(values).run_seeds("training")}
    files = [f"results/runs/{run}/seed-{seed}/training.parquet" for seed in (0, 1)]
    before = set(store.iterdir())
    with project.configured(values), pytest.MonkeyPatch.context() as patch:
        patch.setenv("SNAKEMAKE_OUTPUT_CACHE", str(store))
        outcome = project.snakemake("--cache", "--", *files)
    text = outcome.stdout + outcome.stderr
    assert outcome.returncode == 0, text
    stored = {path for path in store.iterdir() if path.name.endswith("_training.parquet")} - before
    resolved = {(project.folder / file).resolve() for file in files}
    assert len(resolved) == 2
    assert all(path.parent == store for path in resolved)
    return len(resolved & before), len(stored)


def test_what_one_clone_has_trained_another_takes_whole(first: Project, store: Path, tmp_path: Path) -> None:
    second = clone(tmp_path, CONFIG | SEEDS)
    entries = set(store.iterdir())
    assert taken_and_made(second, store) == (2, 0)
    assert set(store.iterdir()) == entries
    weights = list((first.folder / "results" / "runs").glob("*/*/checkpoints/*.safetensors"))
    assert weights
    for path in weights:
        other = second.folder / path.relative_to(first.folder)
        assert other.read_bytes() == path.read_bytes()
    # The analysis of what was taken runs as it does on what was trained, and disturbs no other clone.
    for project in (second, first):
        outcome = project.snakemake("results/tables/circuits.parquet")
        assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    for project in (second, first):
        assert not project.stale("results/tables/circuits.parquet")


def test_another_parameter_or_module_is_another_entry(first: Project, store: Path, tmp_path: Path) -> None:
    other = clone(tmp_path, CONFIG | SEEDS)
    assert taken_and_made(other, store, defaults=CONFIG["defaults"] | {"learning_rate": 0.02}) == (0, 2)
    with other.changed("src/circuit_phases/model.py", "torch.finfo(scores.dtype).min", "-1e30"):
        assert taken_and_made(other, store) == (0, 2)
    assert taken_and_made(other, store) == (2, 0)
