"""Profiles, jobs on other machines, and the environments that they run in. `make test-slurm` runs a real Slurm."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from slurm import CONFIG, Project
from snakemake_interface_executor_plugins.utils import TargetSpec, encode_target_jobs_cli_args

from circuit_phases.configuration import load_configuration, parse_configuration

ROOT = Path(__file__).parents[1]
PROFILES = sorted(path.name for path in (ROOT / "workflow" / "profiles").iterdir())
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA_NAMES = {"torch": "pytorch-cpu", "matplotlib": "matplotlib-base", "seaborn": "seaborn-base"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("cluster") / "project")


@pytest.mark.parametrize("profile", PROFILES)
def test_a_dry_run_through_each_profile_plans_the_whole_workflow(project: Project, profile: str) -> None:
    jobs = ["--cores=2"] if profile == "default" else []
    said = project.finish(project.snakemake(f"--workflow-profile={profile}", "--dry-run", *jobs))
    assert len(re.findall(r"^rule train:$", said, flags=re.MULTILINE)) == 2
    assert re.search(r"^rule train:$(\n.+)*resources: .*runtime=\d+, .*mem_mb=\d+", said, flags=re.MULTILINE)
    assert "gpu=1" not in said


def test_the_profiles_agree_on_what_is_stale() -> None:
    files = (ROOT / "workflow" / "profiles" / name / "config.yaml" for name in PROFILES)
    assert len({str(yaml.safe_load(file.read_text())["rerun-triggers"]) for file in files}) == 1


def test_on_a_gpu_node_seeds_are_trained_together_and_one_card_is_asked_for(project: Project) -> None:
    options = ("--dry-run", "--workflow-profile=slurm", "--config", "device=cuda", "seeds_together=2")
    said = project.finish(project.snakemake(*options))
    (training,) = re.findall(r"^rule train_together_\d+:$((?:\n.+)*)", said, flags=re.MULTILINE)
    assert re.search(r"resources: .*gpu=1", training)


@pytest.mark.parametrize("more", [{}, {"masks": [["query_to_labels", "query_to_self"], ["query_to_self"]]}])
def test_a_job_on_another_machine_is_told_its_run_though_names_have_commas(
    more: dict[str, Any], tmp_path: Path
) -> None:
    project = Project(tmp_path / "project")
    defaults = CONFIG["defaults"] | more
    (project.folder / "config.yaml").write_text(yaml.safe_dump(CONFIG | {"defaults": defaults}))
    configuration = parse_configuration(CONFIG | {"defaults": defaults}, "config")
    run = configuration.run_seeds("runs")[0]
    name = run.settings.name
    assert "," in name
    # One is cut within a key, the other within a value.
    assert (len(name) == 120) == bool(more)
    targets = [TargetSpec("phases", {"run": name, "seed": "0"}), TargetSpec("dataset", {"dataset": run.dataset})]
    said = project.finish(
        project.snakemake("--dry-run", "--cores=1", "--target-jobs", *encode_target_jobs_cli_args(targets))
    )
    assert f"results/runs/{name}/seed-0/phases.parquet" in said
    assert f"results/datasets/{run.dataset}/label_tables.parquet" in said


def test_the_page_tells_what_every_rule_asks_for_and_how_much_there_is_to_train() -> None:
    page = (ROOT / "docs" / "cluster.md").read_text()
    rules = "".join(path.read_text() for path in (ROOT / "workflow" / "rules").glob("*.smk"))
    told = re.findall(r"rule (\w+):(?:(?!\brule\b)[\s\S])*?mem_mb=growing\((\d+)\),\s+runtime=growing\((\d+)\)", rules)
    assert len(told) > 10
    for rule, memory, minutes in told:
        assert re.search(rf"^\|[^|]*`{rule}`[^|]*\| 1 \| {memory} \| {minutes} \|", page, flags=re.MULTILINE), rule
    runs = load_configuration(ROOT / "config.yaml").run_seeds("runs")
    steps = sum(run.settings.training.max_steps for run in runs) / 1e6
    assert f"{len(runs)} trainings, at most {steps:.1f} million steps" in page


def conda_environment(name: str) -> dict[str, str]:
    """The version that an environment file asks for of each package, empty where it names none."""
    listed = yaml.safe_load((ROOT / "workflow" / "envs" / f"{name}.yaml").read_text())["dependencies"]
    return {package: version for package, _, version in (line.partition("=") for line in listed)}


@pytest.mark.parametrize("name", ["circuit-phases", "llm"])
def test_a_conda_environment_has_the_tested_versions(name: str) -> None:
    tested = dict(line.lower().split("==") for line in (ROOT / "constraints.txt").read_text().split())
    conda_names = {CONDA_NAMES.get(package, package): version for package, version in tested.items()}
    for package, version in conda_environment(name).items():
        if version and package != "python":
            assert f"{conda_names[package]}.".startswith(f"{version}."), package


def test_the_conda_environment_has_all_that_the_package_needs_but_the_workflow() -> None:
    needed = {re.split(r"[>=]", requirement)[0] for requirement in PYPROJECT["dependencies"]} - {"snakemake"}
    assert {CONDA_NAMES.get(package, package) for package in needed} <= conda_environment("circuit-phases").keys()


def test_the_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["title"], citation["version"]) == (PYPROJECT["name"], PYPROJECT["version"])
