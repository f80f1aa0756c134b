"""What is removed from a results folder, and what is not."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from circuit_phases.cleanup import ABANDONED, disk_use, remove, results_of, unneeded_checkpoints, unused
from circuit_phases.configuration import Configuration, parse_configuration
from circuit_phases.files import KEPT, UserError, locked, replacing, replacing_folder
from circuit_phases.paths import FINISHED, Paths


@pytest.fixture
def configuration(tmp_path: Path) -> Configuration:
    """Two experiments that share the run T = 3; the other run, T = 2, is not analysed."""
    experiments = {"base": {}, "sweep": {"vary": {"T": [2, 3]}}}
    configuration = parse_configuration({"results": str(tmp_path), "experiments": experiments, "figures": {}})
    for _, settings in configuration.series("sweep"):
        run = Paths(tmp_path).run(settings.name, 0)
        (run / "checkpoints").mkdir(parents=True)
        (run / "checkpoints" / "step-0000000.safetensors").write_bytes(bytes(1000))
        (run / "training.parquet").write_bytes(bytes(10))
        if settings.world.T == 3:
            for name in ("attention", "circuits"):
                (run / f"{name}.parquet").write_bytes(bytes(10))
    return configuration


def test_disk_use_counts_what_is_shared_in_each(configuration: Configuration) -> None:
    base, sweep = disk_use(configuration)[0]
    assert (base.trainings, base.checkpoints, base.rest, base.shared) == (1, 1000, 30, 1030)
    assert (sweep.trainings, sweep.checkpoints, sweep.rest, sweep.shared) == (2, 2000, 40, 1030)


def test_checkpoints_that_are_not_analysed_yet_stay(configuration: Configuration) -> None:
    (found,) = unneeded_checkpoints(configuration)
    base = configuration.series("base")[0][1]
    assert found == Paths(Path(configuration.results)).run(base.name, 0) / "checkpoints"


def test_second_names_of_checkpoints_go_with_them(configuration: Configuration) -> None:
    base = Paths(Path(configuration.results)).run(configuration.series("base")[0][1].name, 0)
    second = base / FINISHED / "checkpoints" / "step-0000000.safetensors"
    second.parent.mkdir(parents=True)
    second.hardlink_to(base / "checkpoints" / "step-0000000.safetensors")
    assert disk_use(configuration)[0][0].checkpoints == 1000
    remove(unneeded_checkpoints(configuration))
    assert disk_use(configuration)[0][0].checkpoints == 0


def test_links_into_a_shared_store_are_removed_and_the_store_stays(configuration: Configuration) -> None:
    results = Path(configuration.results)
    run = Paths(results).run(configuration.series("base")[0][1].name, 0)
    store = results / "store"
    (run / "checkpoints").rename(store)
    (run / "checkpoints").symlink_to(store)
    remove(unneeded_checkpoints(configuration))
    assert not (run / "checkpoints").is_symlink()
    assert list(store.iterdir())


def test_a_training_that_is_being_written_is_left_alone(configuration: Configuration) -> None:
    paths = results_of(configuration, ["sweep"])
    run = next(path for path in paths if path.name == "seed-0")
    with locked(run), pytest.raises(UserError, match="is being written by another job"):
        remove(paths)
    assert (run / "training.parquet").exists()


def test_logs_of_seeds_trained_together_go_with_the_last_of_them(configuration: Configuration) -> None:
    settings = next(settings for _, settings in configuration.series("sweep") if settings.world.T == 2)
    logs = Path(configuration.results) / "logs" / "train" / settings.name
    logs.mkdir(parents=True)
    for name in ("seeds-0.log", "seeds-0-1.log"):
        (logs / name).touch()
    found = results_of(configuration, ["sweep"])
    assert logs / "seeds-0.log" in found
    assert logs / "seeds-0-1.log" not in found


def killed_while_it_writes(path: Path, days_ago: float) -> Path:
    """What a process left that was killed while it wrote a file, or the folder `checkpoints`."""
    child = os.fork()
    if not child:
        with (replacing_folder if path.name == "checkpoints" else replacing)(path):
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    (left,) = path.parent.glob(f".{path.name}.*")
    then = time.time() - days_ago * ABANDONED
    os.utime(left, (then, then))
    return left


@pytest.mark.parametrize("name", ["datasets/one/evaluation_sequences.parquet", "figures/fig16.pdf", "checkpoints"])
def test_what_a_killed_writer_left_is_unused_after_a_day_and_its_neighbours_stay(
    name: str, configuration: Configuration, tmp_path: Path
) -> None:
    run = Paths(tmp_path).run(configuration.series("base")[0][1].name, 0)
    left = killed_while_it_writes((run if name == "checkpoints" else tmp_path) / name, days_ago=1.01)
    before = set(tmp_path.rglob("*")) - {left}
    assert unused(configuration) == [left]
    remove(unused(configuration))
    assert set(tmp_path.rglob("*")) == before


def test_what_may_be_a_living_writers_and_what_no_writer_left_is_not_unused(
    configuration: Configuration, tmp_path: Path
) -> None:
    killed_while_it_writes(tmp_path / "figures" / "fig16.pdf", days_ago=0.9)
    killed_while_it_writes(tmp_path / KEPT / "tables" / "runs.parquet", days_ago=9)
    for name in (".snakemake_timestamp", ".gitignore", ".notes.txt", "fig16.pdf.original", ".figures.old_ones"):
        (tmp_path / "figures" / name).touch()
        os.utime(tmp_path / "figures" / name, (0, 0))
    assert unused(configuration) == []


def test_what_a_killed_writer_left_in_a_training_of_no_experiment_goes_with_that(
    configuration: Configuration, tmp_path: Path
) -> None:
    run = Paths(tmp_path).run("other", 0)
    killed_while_it_writes(run / "attention.parquet", days_ago=2)
    assert unused(configuration) == [run]
    remove(unused(configuration))
    assert not run.exists()


@pytest.mark.parametrize(("drawing", "table"), [("causal_importance", "attribution"), ("fig11", "example_attention")])
def test_checkpoints_that_a_table_still_needs_stay(configuration: Configuration, drawing: str, table: str) -> None:
    figures = {drawing: {"experiment": "base"}}
    experiments = {name: entry.model_dump(exclude_unset=True) for name, entry in configuration.experiments.items()}
    asked = parse_configuration({"results": configuration.results, "experiments": experiments, "figures": figures})
    assert unneeded_checkpoints(asked) == []
    (unneeded_checkpoints(configuration)[0].parent / f"{table}.parquet").touch()
    assert unneeded_checkpoints(asked) == unneeded_checkpoints(configuration)


def test_a_figure_takes_with_it_only_files_of_its_own_jobs(tmp_path: Path) -> None:
    figures = {name: {"experiment": "base", "draw": "census"} for name in ("mine", "mine.too")}
    figures["training"] = {"experiment": "other", "draw": "curves"}
    configuration = parse_configuration(
        {"results": str(tmp_path), "experiments": {"base": {}, "other": {}}, "figures": figures}
    )
    kept = {"tables/training.parquet", "logs/table/training.log", "benchmarks/table/training.tsv"}
    of_other = {"figures/training.pdf", "figures/training.png", "logs/figure/training.log"}
    of_base = {"figures/mine.pdf", "tables/mine.parquet", "logs/finding/mine.log", "benchmarks/figure/mine.tsv"}
    of_base |= {"figures/mine.too.pdf", "tables/mine.too.parquet"}
    for file in kept | of_other | of_base:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    for experiment, files in (("other", of_other), ("base", of_base)):
        assert {str(path.relative_to(tmp_path)) for path in results_of(configuration, [experiment])} == files


def test_an_unknown_experiment_is_told_with_the_one_that_was_meant(configuration: Configuration) -> None:
    with pytest.raises(UserError, match=r"sweeps is not in experiments \(did you mean sweep\?\)\."):
        results_of(configuration, ["sweeps"])
