"""Disk use by experiment, and what can be removed without harm to the rest."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from circuit_phases.configuration import Configuration
from circuit_phases.figures import ASKED_TABLES, FINDINGS
from circuit_phases.files import KEPT, UserError, locked, remove_whole
from circuit_phases.paths import FINISHED, PARTIAL, Paths
from circuit_phases.settings import nearest

ANALYSED = ("attention.parquet", "circuits.parquet")
"""What checkpoints are needed for, besides `ASKED_TABLES`; once it is there, the rest does without them."""
TEMPORARY = re.compile(rf"\.(.+\.\w+|checkpoints|{PARTIAL})\.[a-z0-9_]{{8}}")
"""The name of a file or folder until it is whole."""
ABANDONED = 24 * 3600.0
"""Seconds without a write after which no job can be at it, however much the clocks of two machines differ."""


@dataclass(frozen=True)
class DiskUse:
    """Bytes of the trainings of one experiment; a training that several share counts in each."""

    experiment: str
    trainings: int
    checkpoints: int
    rest: int
    shared: int
    """Of both, what other experiments use too."""


def disk_use(configuration: Configuration) -> tuple[list[DiskUse], dict[str, int]]:
    """What each experiment takes, and every folder of the results, in bytes."""
    results = Path(configuration.results)
    folders = _folders_of_experiments(configuration)
    users = [folder for found in folders.values() for folder in found]
    uses = []
    for name, found in folders.items():
        sizes = {
            folder: (size([folder / part for part in ("checkpoints", PARTIAL, FINISHED)]), size([folder]))
            for folder in found
        }
        uses.append(
            DiskUse(
                name,
                sum(folder.exists() for folder in found),
                checkpoints=sum(checkpoints for checkpoints, _ in sizes.values()),
                rest=sum(whole - checkpoints for checkpoints, whole in sizes.values()),
                shared=sum(whole for folder, (_, whole) in sizes.items() if users.count(folder) > 1),
            )
        )
    below = sorted(path for path in results.iterdir() if path.is_dir()) if results.exists() else []
    others = {f"{path.name}/": size([path]) for path in below}
    others["runs of no experiment"] = size(unused_runs(configuration))
    return uses, others


def unneeded_checkpoints(configuration: Configuration, experiments: Sequence[str] = ()) -> list[Path]:
    """The checkpoints of analysed trainings: of all, or of those that belong to these experiments."""
    folders = _folders_of_experiments(configuration)
    _require_known(experiments, folders)
    wanted = dict.fromkeys(folder for name in experiments or folders for folder in folders[name])
    asked = {
        _paths(configuration).run(each.settings.name, each.seed) / f"{table}.parquet"
        for table in ASKED_TABLES
        for each in configuration.run_seeds(table)
    }
    if not experiments:
        wanted |= dict.fromkeys(unused_runs(configuration))
    unneeded = (
        folder
        for folder in wanted
        if all((folder / name).exists() for name in ANALYSED)
        and all(path.exists() for path in asked if path.parent == folder)
    )
    # A run that was trained once more has its checkpoints under second names.
    return [folder / name for folder in unneeded for name in ("checkpoints", FINISHED) if (folder / name).exists()]


def results_of(configuration: Configuration, experiments: Sequence[str]) -> list[Path]:
    """What these experiments alone have: trainings with logs and benchmarks, worlds, figures and their tables."""
    folders = _folders_of_experiments(configuration)
    _require_known(experiments, folders)
    results = Path(configuration.results)
    kept = {folder for name, found in folders.items() if name not in experiments for folder in found}
    mine = [folder for name in experiments for folder in folders[name] if folder not in kept]
    worlds = {
        name: {_paths(configuration).dataset(world) for world in _worlds(configuration, name)} for name in folders
    }
    worlds_kept = {world for name, found in worlds.items() if name not in experiments for world in found}
    figures = [name for name, figure in configuration.figures_in_scope.items() if figure.experiment in experiments]
    found = [
        *mine,
        *_jobs_of(results, mine),
        *(world for name in experiments for world in sorted(worlds[name] - worlds_kept)),
        *(file for name in figures for file in _files_of_figure(results, name, configuration.drawing(name))),
    ]
    return [path for path in dict.fromkeys(found) if path.exists()]


def unused_runs(configuration: Configuration) -> list[Path]:
    """The trainings on disk that no experiment of the configuration asks for."""
    asked = {folder for found in _folders_of_experiments(configuration).values() for folder in found}
    return sorted(folder for folder in (Path(configuration.results) / "runs").glob("*/seed-*") if folder not in asked)


def left_half_written(results: Path) -> list[Path]:
    """What killed jobs left under temporary names; what was written to within a day may be a living job's."""
    found = []
    for folder, below, names in os.walk(results):
        here = [Path(folder, name) for name in (*below, *names) if TEMPORARY.fullmatch(name)]
        found += [path for path in here if _idle(path) > ABANDONED]
        below[:] = [name for name in below if not TEMPORARY.fullmatch(name) and Path(folder, name) != results / KEPT]
    return sorted(found)


def unused(configuration: Configuration) -> list[Path]:
    """What nothing asks for: the trainings of no experiment, and what killed jobs left half-written elsewhere."""
    runs = unused_runs(configuration)
    half_written = left_half_written(Path(configuration.results))
    return [*runs, *(path for path in half_written if not set(runs).intersection(path.parents))]


def remove(paths: Iterable[Path]) -> None:
    """Remove files and folders; a training that is running is left alone.

    Raises:
        UserError: if a job is writing one of them, or it may not be removed.
    """
    for path in paths:
        run = path.parent if path.name in ("checkpoints", FINISHED) else path
        if run.name.startswith("seed-") and run.is_dir():
            with locked(run):
                remove_whole(path)
        else:
            remove_whole(path)
        if path.parent.parent.name == "runs":
            # Another seed's folder, or one that may not be removed, stays.
            with suppress(OSError):
                path.parent.rmdir()


def size(paths: Iterable[Path]) -> int:
    """Bytes of files and folders; a file with several names counts once."""
    sizes: dict[tuple[int, int], int] = {}
    for path in paths:
        # Folders of trainings that end meanwhile vanish, which os.walk takes.
        inside = [Path(folder, name) for folder, _, names in os.walk(path) for name in names]
        for file in inside if path.is_dir() and not path.is_symlink() else [path]:
            try:
                found = file.lstat()
            except OSError:
                continue
            sizes[found.st_dev, found.st_ino] = found.st_size
    return sum(sizes.values())


def _idle(path: Path) -> float:
    """Seconds for which nobody has written to a file or folder; none where it has got its name meanwhile."""
    try:
        return time.time() - path.lstat().st_mtime
    except FileNotFoundError:
        return 0.0


def _paths(configuration: Configuration) -> Paths:
    return Paths(Path(configuration.results))


def _folders_of_experiments(configuration: Configuration) -> dict[str, list[Path]]:
    paths = _paths(configuration)
    return {
        name: [paths.run(each.settings.name, each.seed) for each in configuration.runs_of(name)]
        for name in configuration.experiments
    }


def _worlds(configuration: Configuration, experiment: str) -> set[str]:
    return {each.dataset for each in configuration.runs_of(experiment)}


def _jobs_of(results: Path, runs: Sequence[Path]) -> list[Path]:
    """The logs and benchmarks of trainings' own jobs, and of those that trained several of them together."""
    found = []
    for kind, ending in (("logs", "log"), ("benchmarks", "tsv")):
        rules = sorted((results / kind).glob("*"))
        found += [rule / run.parent.name / f"{run.name}.{ending}" for run in runs for rule in rules]
        for run in runs:
            for together in sorted((results / kind / "train" / run.parent.name).glob(f"seeds-*.{ending}")):
                if {run.with_name(f"seed-{seed}") for seed in together.stem.split("-")[1:]} <= set(runs):
                    found.append(together)
    return [file for file in dict.fromkeys(found) if file.exists()]


def _files_of_figure(results: Path, figure: str, drawing: str) -> list[Path]:
    """What a figure's own jobs left: pages or films, the table kept beside it, logs and benchmarks."""
    rules = "figure", "animate", "finding"
    patterns = ["figures/*", *(f"{kind}/{rule}/*" for kind in ("logs", "benchmarks") for rule in rules)]
    if drawing in FINDINGS:
        patterns.append("tables/*.parquet")
    # The stem is compared, since a name may be another's beginning, up to a full stop.
    return [file for pattern in patterns for file in sorted(results.glob(pattern)) if file.stem == figure]


def _require_known(experiments: Sequence[str], known: Iterable[str]) -> None:
    for name in experiments:
        if name not in known:
            raise UserError(f"{name} is not in experiments{nearest(name, known)}.")
