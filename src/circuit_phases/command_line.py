"""One step of the workflow by hand: `circuit-phases train --set T=2 --seed 0 --results results`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from circuit_phases import stages
from circuit_phases.configuration import DEVICES, one_line
from circuit_phases.files import UserError
from circuit_phases.logs import job_log
from circuit_phases.paths import Paths
from circuit_phases.phases import PhaseSettings
from circuit_phases.settings import RuleBroken, RunSettings


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one step; a mistake ends in one line and exit code 1."""
    options = _parser().parse_args(arguments)
    with job_log():
        if options.step == "compare":
            raise SystemExit(stages.compare_tables(options.mine, options.reference, options.table))
        settings = _settings(options.variant, options.set)
        paths = Paths(options.results)
        _STEPS[options.step](settings, options.seed, paths, options)


def _dataset(settings: RunSettings, seed: int, paths: Paths, _: argparse.Namespace) -> None:
    folder = paths.dataset(settings.dataset_name(seed))
    stages.make_dataset(settings, seed, folder)
    print(folder)


def _train(settings: RunSettings, seed: int, paths: Paths, options: argparse.Namespace) -> None:
    stages.use_threads(options.threads)
    dataset = paths.dataset(settings.dataset_name(seed))
    if not dataset.exists():
        stages.make_dataset(settings, seed, dataset)
    folder = paths.run(settings.name, seed)
    stages.train_seeds(settings, [seed], [dataset], [folder], options.device)
    print(folder)


def _analyze(settings: RunSettings, seed: int, paths: Paths, options: argparse.Namespace) -> None:
    stages.use_threads(options.threads)
    dataset, run = paths.dataset(settings.dataset_name(seed)), paths.run(settings.name, seed)
    stages.analyze_run(
        settings, seed, dataset, run / "checkpoints", run / "attention.parquet", run / "circuits.parquet"
    )
    stages.compute_theory(settings, seed, dataset, run / "theory.parquet", run / "ability_levels.parquet")
    stages.find_run_phases(
        settings, seed, run / "training.parquet", run / "theory.parquet", run / "phases.parquet", PhaseSettings()
    )
    print(run)


_STEPS = {"dataset": _dataset, "train": _train, "analyze": _analyze}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="circuit-phases", description=__doc__)
    steps = parser.add_subparsers(dest="step", required=True, metavar="STEP")
    for name, meaning in {
        "dataset": "draw a world and its evaluation sequences",
        "train": "train one run (and draw its world, if it is not there)",
        "analyze": "attention maps, circuit metrics, ceilings and phases of a trained run",
    }.items():
        step = steps.add_parser(name, help=meaning, description=meaning)
        step.add_argument("--variant", default="paper", help="paper or released_code")
        step.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="parameters, such as T=2 heads=2")
        step.add_argument("--seed", type=int, default=0, help="seed of the training")
        step.add_argument("--results", type=Path, default=Path("results"), help="folder of all outputs")
        if name == "train":
            step.add_argument("--device", choices=DEVICES, default="auto", help="device to train on")
        step.add_argument("--threads", type=int, default=1, help="threads to use")
    _add_compare(steps)
    return parser


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


def _settings(variant: str, assignments: Sequence[str]) -> RunSettings:
    parameters: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise UserError(f"--set {assignment}: write KEY=VALUE, such as T=2.")
        parameters[key] = yaml.safe_load(value)
    try:
        return RunSettings.from_parameters(variant, **parameters)
    except (ValidationError, RuleBroken) as error:
        raise UserError(f"--set: {one_line(error)}") from error
