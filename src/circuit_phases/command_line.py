"""One step by hand (`circuit-phases train --set T=2 --seed 0`), and the state and care of what the workflow makes."""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from circuit_phases import stages
from circuit_phases.files import UserError
from circuit_phases.logs import job_log
from circuit_phases.mistakes import RuleBroken
from circuit_phases.paths import PARTIAL, Paths
from circuit_phases.settings import DEVICES, RunSettings

if TYPE_CHECKING:
    from circuit_phases.configuration import Configuration

# What reads a whole configuration is imported where that is done: a training by hand is 40 MB smaller without it.

logger = logging.getLogger(__name__)

MOST_THREADS = 1024
"""More than any machine has; torch asks for all of them at once."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one step; a mistake ends in one line and exit code 1."""
    options = _parser().parse_args(arguments)
    with job_log():
        if options.step == "compare":
            raise SystemExit(stages.compare_tables(options.mine, options.reference, options.table))
        if options.step in _RESULTS:
            _RESULTS[options.step](_configuration(options), options)
            return
        settings = _settings(options.variant, options.set).at_seed(options.seed)
        paths = Paths(options.results)
        stages.prepare_torch(options.threads)
        _STEPS[options.step](settings, options.seed, paths, options)


def _dataset(settings: RunSettings, seed: int, paths: Paths, _: argparse.Namespace) -> None:
    folder = paths.dataset(settings.dataset_name(seed))
    stages.make_dataset(settings, seed, folder)
    print(folder)


def _train(settings: RunSettings, seed: int, paths: Paths, options: argparse.Namespace) -> None:
    folder = paths.run(settings.name, seed)
    dataset = paths.dataset(settings.dataset_name(seed))
    if not stages.is_dataset(dataset):
        stages.make_dataset(settings, seed, dataset)
    ended = (folder / "run.parquet").exists() and not (folder / PARTIAL).exists()
    if ended and stages.is_trained(settings, seed, folder):
        logger.info("%s is trained already; delete it to train anew.", folder)
        print(folder)
        return
    stages.train_seeds(settings, [seed], [dataset], [folder], options.device)
    print(folder)


def _analyze(settings: RunSettings, seed: int, paths: Paths, _: argparse.Namespace) -> None:
    from circuit_phases.phases import PhaseSettings

    dataset, run = paths.dataset(settings.dataset_name(seed)), paths.run(settings.name, seed)
    if not (run / "run.parquet").exists():
        raise UserError(f"{run} is not trained. Train it with the same options first: circuit-phases train ...")
    stages.analyze_run(
        settings, seed, dataset, run / "checkpoints", run / "attention.parquet", run / "circuits.parquet"
    )
    levels = run / "ability_levels.parquet"
    stages.compute_theory(settings, seed, dataset, run / "theory.parquet", levels)
    interval = settings.training.evaluation_interval
    rules = PhaseSettings()
    if rules.dt % interval:
        rules = PhaseSettings(dt=interval * math.ceil(rules.dt / interval))
        logger.info("Rule paper: dt = %d, a multiple of evaluation_interval = %d.", rules.dt, interval)
    stages.find_run_phases(settings, seed, run / "training.parquet", levels, run / "phases.parquet", rules)
    print(run)


_STEPS = {"dataset": _dataset, "train": _train, "analyze": _analyze}


def _status(configuration: Configuration, options: argparse.Namespace) -> None:
    from circuit_phases.views import show_status

    show_status(configuration, options.all, options.watch)


def _disk(configuration: Configuration, _: argparse.Namespace) -> None:
    from circuit_phases.views import show_disk_use

    show_disk_use(configuration.whole)


def _clean(configuration: Configuration, options: argparse.Namespace) -> None:
    from rich.filesize import decimal

    from circuit_phases import cleanup

    if options.what == "results" and not options.experiments:
        raise UserError("clean results: name the experiments, such as fig16.")
    if options.what == "unused" and options.experiments:
        raise UserError("clean unused: takes no experiments; it removes what belongs to none.")
    configuration = configuration.whole
    paths = {
        "checkpoints": lambda: cleanup.unneeded_checkpoints(configuration, options.experiments),
        "results": lambda: cleanup.results_of(configuration, options.experiments),
        "unused": lambda: cleanup.unused(configuration),
    }[options.what]()
    size = decimal(cleanup.size(paths))
    for path in paths:
        print(path)
    if not options.dry_run:
        cleanup.remove(paths)
    print(f"{'Would remove' if options.dry_run else 'Removed'} {len(paths)} files and folders, {size}.")


_RESULTS = {"status": _status, "disk": _disk, "clean": _clean}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="circuit-phases", description=__doc__)
    steps = parser.add_subparsers(dest="step", required=True, metavar="STEP")
    for name, meaning in {
        "dataset": "draw a world and its evaluation sequences",
        "train": "train one run (and draw its world, if it is not there)",
        "analyze": "attention maps over all evaluation sequences, circuits, ceilings and phases of a trained run",
    }.items():
        step = steps.add_parser(name, help=meaning, description=meaning)
        step.add_argument("--variant", help="paper (the default) or released_code; config.yaml is not read")
        _add_assignments(step, "--set", "parameters, such as T=2 heads=2")
        step.add_argument("--seed", type=_whole_from(0, 2**63 - 1), default=0, help="seed of the training")
        step.add_argument("--results", type=_folder, default=Path("results"), help="folder of all outputs")
        if name == "train":
            step.add_argument("--device", choices=DEVICES, default="auto", help="device to train on")
        step.add_argument("--threads", type=_whole_from(1, MOST_THREADS), default=1, help="threads to use")
    _add_compare(steps)
    _add_results(steps)
    return parser


def _whole_from(least: int, most: float = math.inf) -> Callable[[str], int]:
    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is not allowed (>= {least})")
        if value > most:
            raise argparse.ArgumentTypeError(f"{value} is not allowed (<= {most})")
        return value

    number.__name__ = "whole number"
    return number


def _folder(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("name a folder, such as results")
    return Path(text)


def _add_assignments(step: argparse.ArgumentParser, option: str, meaning: str) -> None:
    step.add_argument(option, nargs="+", action="extend", default=[], metavar="KEY=VALUE", help=meaning)


def _add_results(steps: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    commands = {
        "status": "which trainings run, how far they are, and what failed and why",
        "disk": "disk use by experiment",
        "clean": "remove checkpoints of analysed trainings, the results of experiments, or what nothing asks for: "
        "trainings of no experiment, and what killed jobs left half-written",
    }
    for name, meaning in commands.items():
        step = steps.add_parser(name, help=meaning, description=meaning)
        step.add_argument(
            "--configfile",
            type=Path,
            action="append",
            default=[],
            metavar="FILE",
            help="an overlay over config.yaml, as given to snakemake; may be repeated",
        )
        _add_assignments(step, "--config", "as given to snakemake, such as scope=headline")
        if name == "status":
            step.add_argument("--all", action="store_true", help="list the trainings that are done or waiting too")
            step.add_argument(
                "--watch",
                type=_whole_from(1),
                nargs="?",
                const=5,
                metavar="SECONDS",
                help="look again every so often (5)",
            )
        if name == "clean":
            step.add_argument("what", choices=("checkpoints", "results", "unused"), help="what to remove")
            step.add_argument("experiments", nargs="*", metavar="EXPERIMENT", help="only what these alone use")
            step.add_argument("-n", "--dry-run", action="store_true", help="only list what would be removed")


def _add_compare(steps: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    step = steps.add_parser(
        "compare",
        help="your tables against those of a finished run",
        description="Compare two folders of tables run by run: last accuracy, phases, plateaus and steps. Exit code 0: "
        "all equal or close; 2: something differs; 3: nothing differs, but a run of the reference is missing.",
    )
    step.add_argument("mine", type=Path, metavar="MY_TABLES", help="such as results/tables")
    step.add_argument("reference", type=Path, metavar="REFERENCE_TABLES", help="such as results/reference/tables")
    step.add_argument("--table", type=Path, metavar="FILE", help="keep every quantity in this Parquet file")


def _configuration(options: argparse.Namespace) -> Configuration:
    from circuit_phases.configuration import load_configuration

    files = [path for path in [Path("config.yaml")] if path.exists() or not options.configfile]
    return load_configuration(*files, *options.configfile, **_assigned("--config", options.config))


def _settings(variant: str | None, assignments: Sequence[str]) -> RunSettings:
    parameters = _assigned("--set", [*([f"variant={variant}"] if variant else []), *assignments])
    try:
        return RunSettings.from_parameters(**parameters)
    except RuleBroken as error:
        raise UserError(f"--set: {error}") from error


def _assigned(option: str, assignments: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise UserError(f"{option} {assignment}: write KEY=VALUE, such as T=2.")
        if key in values:
            raise UserError(f"{option} {assignment}: {key} is set twice. Remove one.")
        try:
            values[key] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError, AttributeError):
            raise UserError(
                f"{option} {assignment}: the value is not YAML. Close brackets and quotes, or write another."
            ) from None
    return values
