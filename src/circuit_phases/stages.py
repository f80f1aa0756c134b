"""Each step of the workflow, from files to files; the rules and the command line call these."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from circuit_phases import schemas, tables
from circuit_phases.files import DamagedFile, UserError, write_text
from circuit_phases.memory import keep_what_is_freed
from circuit_phases.settings import AttributionSettings, Device, RunSettings

if TYPE_CHECKING:
    import pandas as pd

    from circuit_phases.figure_data import FigureData, Series
    from circuit_phases.phases import PhaseSettings
    from circuit_phases.world import World

logger = logging.getLogger(__name__)

MISREAD = 0.02
"""The share of items that may look like another class before it is said that ceilings are too high."""

# torch is imported where it is needed: tables and figures do without it.


def prepare_torch(threads: int) -> None:
    """Keep torch to this many threads, and the memory that it frees at hand for its next use."""
    import torch

    torch.set_num_threads(threads)
    keep_what_is_freed()


def make_dataset(settings: RunSettings, seed: int, folder: Path) -> None:
    """Draw a run's world and evaluation sequences into a folder."""
    from circuit_phases.datasets import write_dataset
    from circuit_phases.world import World

    write_dataset(World.draw(settings.world, settings.resolved_world_seed(seed)), folder)


def is_dataset(folder: Path) -> bool:
    """Whether a folder holds all files of a world."""
    return all((folder / f"{name}.parquet").exists() for name in schemas.WORLD_TABLES)


def train_seeds(
    settings: RunSettings,
    seeds: Sequence[int],
    datasets: Sequence[Path],
    folders: Sequence[Path],
    device: Device = "cpu",
    seconds_between_saves: float | None = None,
) -> None:
    """Train on a dataset per seed, several as one batched model; each seed's folder gets its run's files."""
    from circuit_phases.datasets import read_evaluation_set
    from circuit_phases.training import train_together
    from circuit_phases.training_run import Member

    train_together(
        settings,
        [
            Member(seed, _world(settings, seed, dataset), read_evaluation_set(dataset, settings.world), folder)
            for seed, dataset, folder in zip(seeds, datasets, folders, strict=True)
        ],
        device=device,
        seconds_between_saves=seconds_between_saves,
    )


def is_trained(settings: RunSettings, seed: int, folder: Path) -> bool:
    """Whether a run's results are all there and whole; if not, the log says what is not."""
    from circuit_phases.training import require_trained

    try:
        require_trained(settings, seed, folder)
    except UserError as reason:
        logger.warning("To be made again: %s", reason.told if isinstance(reason, DamagedFile) else reason)
        return False
    return True


def analyze_run(
    settings: RunSettings,
    seed: int,
    dataset: Path,
    checkpoints: Path,
    attention: Path,
    circuits: Path,
    first: int | None = None,
) -> None:
    """Mean attention maps and circuit metrics of every checkpoint, over all evaluation sequences or the first ones."""
    from circuit_phases.circuits import SPLIT, analyze_checkpoints
    from circuit_phases.datasets import read_evaluation_set
    from circuit_phases.run_in_progress import forget_finished

    sequences = read_evaluation_set(dataset, settings.world)[SPLIT][:first]
    world = _world(settings, seed, dataset)
    attention_rows, circuit_rows = analyze_checkpoints(checkpoints, settings, world, sequences, seed)
    tables.write_table(attention, attention_rows, schemas.ATTENTION)
    tables.write_table(circuits, circuit_rows, schemas.CIRCUITS)
    # Snakemake analyses what it knows to be finished, and will not remove that again by itself.
    forget_finished(checkpoints.parent)


def keep_example(settings: RunSettings, seed: int, dataset: Path, checkpoints: Path, path: Path) -> None:
    """The attention of the last checkpoint on the first evaluation sequence."""
    from circuit_phases.circuits import SPLIT, example_attention
    from circuit_phases.datasets import read_evaluation_set

    sequence = read_evaluation_set(dataset, settings.world)[SPLIT][:1]
    rows = example_attention(checkpoints, settings, _world(settings, seed, dataset), sequence, seed)
    tables.write_table(path, rows, schemas.EXAMPLE_ATTENTION)


def attribute_run(
    settings: RunSettings, seed: int, dataset: Path, checkpoints: Path, path: Path, asked: AttributionSettings
) -> None:
    """What every intervention does at every checkpoint, on the splits that are asked for and that the world has."""
    from circuit_phases.attribution import attribute_checkpoints
    from circuit_phases.datasets import read_evaluation_set

    evaluation = read_evaluation_set(dataset, settings.world)
    world = _world(settings, seed, dataset)
    splits = {str(split): evaluation[split] for split in asked.splits if split in evaluation}
    rows = attribute_checkpoints(checkpoints, settings, world, splits, seed, asked.sequences)
    tables.write_table(path, rows, schemas.ATTRIBUTION)


def compute_theory(settings: RunSettings, seed: int, dataset: Path, path: Path, ability_levels: Path) -> None:
    """The exact ceilings of the circuits in a run's world, and chance levels and ceilings of every split."""
    from circuit_phases import ability_levels as levels
    from circuit_phases.theory import ceilings, misread_items, theory_table

    world = _world(settings, seed, dataset)
    if (misread := misread_items(world.settings)) > MISREAD:
        s = world.settings
        logger.warning(
            "%s: with eps = %g, D = %d and K = %d up to %.0f %% of the items may look like another class. Ceilings "
            "take classes as seen without error, so they and the phases told by them are too high.",
            settings.name, s.eps, s.D, s.K, 100 * misread,
        )  # fmt: skip
    found = ceilings(world)
    tables.write_table(path, theory_table(found, settings.name, seed), schemas.THEORY)
    rows = levels.levels_table(levels.ability_levels(world, found), settings.name, seed)
    tables.write_table(ability_levels, rows, schemas.ABILITY_LEVELS)


def count_classes(settings: RunSettings, seed: int, dataset: Path, path: Path) -> None:
    """The frequency of every class, as set and as observed in the evaluation sequences."""
    from circuit_phases.class_frequencies import class_frequencies_table
    from circuit_phases.datasets import read_evaluation_set

    sequences = read_evaluation_set(dataset, settings.world)["iid"]
    rows = class_frequencies_table(_world(settings, seed, dataset), sequences, settings.name, seed)
    tables.write_table(path, rows, schemas.CLASS_FREQUENCIES)


def find_run_phases(
    settings: RunSettings, seed: int, training: Path, levels: Path, path: Path, rules: PhaseSettings
) -> None:
    """The phases of a run, from its accuracy and its world's table `ability_levels`."""
    from circuit_phases.phases import find_phases, iid_accuracy, iid_levels

    accuracy = iid_accuracy(tables.read_frame(training, schemas.TRAINING))
    found = find_phases(accuracy, iid_levels(tables.read_frame(levels, schemas.ABILITY_LEVELS)), rules)
    tables.write_table(path, found.assign(run=settings.name, seed=seed), schemas.PHASES)


def collect(name: str, sources: Sequence[Path | str], path: Path) -> None:
    """One table over all runs."""
    schema = schemas.RUN_TABLES[name]
    tables.write_table(path, tables.concatenate(sources, schema), schema)


def decide_claims(
    experiments: Mapping[str, Sequence[tuple[Series, Mapping[str, Any]]]],
    sources: Mapping[str, Path | str],
    path: Path,
) -> None:
    """What came out of every claim of the paper, from tables over all runs."""
    from circuit_phases.claims import claims_table

    tables.write_table(path, claims_table(experiments, claim_evidence(sources)), schemas.CLAIMS)


def claim_evidence(sources: Mapping[str, Path | str]) -> dict[str, pd.DataFrame]:
    """The tables that claims are decided from, without the rows of single tasks and of other splits."""
    from circuit_phases.claims import SPLITS, TABLES

    found = {name: tables.read_table(sources[name], schemas.RUN_TABLES[name]) for name in TABLES}
    training = found["training"]
    found["training"] = training.filter(pc.field("task").is_null() & pc.field("split").isin(list(SPLITS)))
    return {name: tables.to_frame(table) for name, table in found.items()}


def draw_figure(
    drawing: str,
    series: Sequence[Series],
    sources: Mapping[str, Sequence[Path | str]],
    rules: PhaseSettings,
    pdf: Path,
    png: Path,
) -> None:
    """Draw a figure from the tables of its runs, whose phases were found by the given rules."""
    from circuit_phases.figures.drawing import collection_waits, draw, save

    with collection_waits():
        save(draw(drawing, _figure_data(series, sources, rules)), pdf, png)


def keep_finding(
    drawing: str, series: Sequence[Series], sources: Mapping[str, Sequence[Path | str]], path: Path
) -> None:
    """The table that stands beside a figure of many runs."""
    from circuit_phases.phases import PhaseSettings

    found = finding(drawing, _figure_data(series, sources, PhaseSettings()))
    tables.write_table(path, found, schemas.FINDING_TABLES[drawing])


def finding(drawing: str, data: FigureData) -> pd.DataFrame:
    """The same table as a data frame, from `FINDINGS[drawing].tables`."""
    from circuit_phases.census import census_table
    from circuit_phases.departures import departures_table
    from circuit_phases.gradient_estimates import gradient_estimates_table
    from circuit_phases.phase_abilities import abilities_table
    from circuit_phases.prerequisites import prerequisites_table

    return {
        "census": census_table,
        "departures": departures_table,
        "abilities": abilities_table,
        "gradient_estimates": gradient_estimates_table,
        "prerequisites": prerequisites_table,
    }[drawing](data)


def compare_tables(mine: Path, reference: Path, table: Path | None) -> int:
    """Print how two folders of tables compare, keep it in a file if one is named, and return the exit code."""
    from circuit_phases import compare

    sides = [
        {name: tables.read_frame(folder / f"{name}.parquet", schemas.RUN_TABLES[name]) for name in compare.TABLES}
        for folder in (mine, reference)
    ]
    found = compare.comparison(*sides)
    print(compare.report(found))
    if table is not None:
        tables.write_table(table, found, schemas.COMPARISON)
    return compare.exit_code(found)


def animate(
    series: Sequence[Series], sources: Mapping[str, Sequence[Path | str]], gif: Path, mp4: Path, html: Path
) -> None:
    """Attention and accuracy over the training of the first run, as two films and a page that plays one."""
    from circuit_phases.figures.animation import animation, save_films
    from circuit_phases.phases import PhaseSettings
    from circuit_phases.report import film_page

    save_films(animation(_figure_data(series, sources, PhaseSettings())), gif, mp4)
    write_text(html, film_page(gif))


def write_report_pages(
    sources: Mapping[str, Path | str], configuration: Mapping[str, Any], folder: Path, pages: Mapping[str, Path]
) -> None:
    """The pages of the report, from tables over all runs, the whole configuration, and the folder of the code."""
    from circuit_phases import report

    claims = tables.read_frame(sources["claims"], schemas.CLAIMS)
    theory, runs = (tables.read_frame(sources[name], schemas.RUN_TABLES[name]) for name in ("theory", "runs"))
    write_text(pages["claims"], report.claims_page(claims))
    write_text(pages["ceilings"], report.ceilings_page(theory))
    write_text(pages["run_times"], report.run_times_page(runs))
    write_text(pages["provenance"], report.provenance_page(configuration, folder))


def run_settings(parameters: Mapping[str, Any]) -> RunSettings:
    """Settings from their flat parameters."""
    return RunSettings.from_parameters(**parameters)


def _figure_data(
    series: Sequence[Series], sources: Mapping[str, Sequence[Path | str]], rules: PhaseSettings
) -> FigureData:
    from circuit_phases.figure_data import FigureData

    runs = [(one.run, seed) for one in series for seed in one.seeds]
    frames = {
        name: tables.to_frame(
            tables.concatenate_runs(name, paths, runs)
            if name in schemas.FIGURE_TABLES
            else tables.concatenate(paths, (schemas.FINDING_TABLES | schemas.LLM_TABLES)[name])
        )
        for name, paths in sources.items()
    }
    return FigureData(tuple(series), frames, rules)


def _world(settings: RunSettings, seed: int, dataset: Path) -> World:
    from circuit_phases.datasets import read_world

    return read_world(dataset, settings.world, settings.resolved_world_seed(seed))
