"""The workflow itself: a tiny configuration from worlds to figures, and what reruns after a change."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml

from circuit_phases import tables
from circuit_phases.settings import RunSettings

ROOT = Path(__file__).parents[1]
TINY = {"K": 8, "L": 4, "N": 2, "D": 11, "P": 5, "max_steps": 40, "evaluation_interval": 10, "checkpoints": 4}
CONFIG: dict[str, Any] = {
    "results": "results",
    "defaults": TINY | {"evaluation_sequences": 64, "ability_sequences": 32},
    "experiments": {
        "base": {"seeds": 2},
        "induction_head": {"set": {"T": 1, "p_B": 1}},
        "class_frequencies": {"vary": {"alpha": [0, 1]}},
        "own_sweep": {"vary": {"T": [2, 3]}},
    },
    "figures": {
        "fig01": {"experiment": "base"},
        "fig02": {"experiment": "base"},
        "fig04": {"experiment": "base"},
        "fig12": {"experiment": "induction_head"},
        "fig14": {"experiment": "class_frequencies"},
        "census": {"experiment": "base"},
        "abilities": {"experiment": "base"},
        "film": {"experiment": "base", "draw": "animation"},
    },
    "headline": ["fig04"],
}
INDUCTION = RunSettings.from_parameters(**CONFIG["defaults"], T=1, p_B=1).name

RULES = {"dataset", "class_frequencies", "train", "circuits", "theory", "phases", "table", "figure", "animate"}
RULES |= {"finding", "claims"}


@dataclass(frozen=True)
class Project:
    """A copy of the workflow and the package, with its own results."""

    folder: Path

    def snakemake(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": str(self.folder / "src"), "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [sys.executable, "-m", "snakemake", "--cores", "2", *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
        )

    def stale(self, *targets: str) -> Counter[str]:
        """The rules that a dry run would run, and how often, target rules left out."""
        outcome = self.snakemake("--dry-run", *targets)
        assert outcome.returncode == 0, outcome.stdout + outcome.stderr
        text = outcome.stdout + outcome.stderr
        jobs = re.findall(r"^(?:local)?rule (\w+):$", text, flags=re.MULTILINE)
        return Counter(job for job in jobs if job in RULES)

    @contextmanager
    def changed(self, file: str, old: str, new: str) -> Iterator[None]:
        """A file of the copy with some text replaced, put back at the end."""
        path = self.folder / file
        before = path.read_text()
        assert old in before
        path.write_text(before.replace(old, new))
        try:
            yield
        finally:
            path.write_text(before)

    @contextmanager
    def configured(self, values: dict) -> Iterator[None]:
        """Another config.yaml, put back at the end."""
        path = self.folder / "config.yaml"
        before = path.read_text()
        path.write_text(yaml.safe_dump(values))
        try:
            yield
        finally:
            path.write_text(before)

    def table(self, name: str) -> pd.DataFrame:
        return pd.read_parquet(self.folder / "results" / "tables" / f"{name}.parquet")


def clone(folder: Path, config: dict = CONFIG) -> Project:
    """The workflow and the package without results."""
    for name in ("src", "workflow"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    (folder / "profiles").symlink_to("workflow/profiles")
    shutil.copy(ROOT / "Snakefile", folder)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return Project(folder)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The tiny workflow, run to its end."""
    finished = clone(tmp_path_factory.mktemp("project"))
    outcome = finished.snakemake()
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    return finished


def test_the_whole_workflow_leaves_every_table_and_figure(project: Project) -> None:
    for name in ("runs", "training", "circuits", "attention", "phases", "theory", "ability_levels"):
        table = pq.read_table(project.folder / "results" / "tables" / f"{name}.parquet")
        assert table.schema.names == tables.RUN_TABLES[name].names
        assert all(field.metadata[b"description"] for field in table.schema)
    for name in ("fig01", "fig02", "fig04", "fig12", "fig14", "own_sweep", "census"):
        for ending in ("pdf", "png"):
            assert (project.folder / "results" / "figures" / f"{name}.{ending}").stat().st_size > 1000
    for ending in ("gif", "mp4"):
        assert (project.folder / "results" / "figures" / f"film.{ending}").stat().st_size > 1000
    census = pq.read_table(project.folder / "results" / "tables" / "census.parquet")
    assert census.schema.names == tables.CENSUS.names
    assert list((project.folder / "results" / "datasets").glob("*/label_tables.parquet"))


def test_runs_with_equal_parameters_are_trained_once(project: Project) -> None:
    runs = project.table("runs")
    assert not runs.duplicated(["run", "seed"]).any()
    # base (2 seeds), induction_head, and of own_sweep T = 2 alone: T = 3 is base.
    assert len(runs) == 2 + 1 + 1
    assert set(runs["steps"]) == {40}


def test_seeds_of_a_configuration_can_be_trained_in_one_job(project: Project) -> None:
    run = project.table("runs").groupby("run").filter(lambda rows: len(rows) == 2)["run"].iloc[0]
    files = [f"together/runs/{run}/seed-{seed}/training.parquet" for seed in (0, 1)]
    outcome = project.snakemake("--config", "results=together", "seeds_together=2", "--", *files)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert len(re.findall(r"rule train_together_\d+:", outcome.stdout + outcome.stderr)) == 1
    for seed, file in enumerate(files):
        together = pd.read_parquet(project.folder / file)
        alone = pd.read_parquet(project.folder / "results" / "runs" / run / f"seed-{seed}" / "training.parquet")
        assert together["accuracy"].tolist() == alone["accuracy"].tolist()
        assert together["loss"].tolist() == pytest.approx(alone["loss"].tolist(), rel=1e-5)


def test_claims_are_decided_from_the_tables_and_are_unclear_where_nothing_ran(project: Project) -> None:
    claims = project.table("claims").set_index("claim")
    training = project.table("training").query("run == @INDUCTION and split == 'iid'")
    assert not training.empty
    assert claims.loc["induction_head", "runs_decided"] == 1
    assert claims.loc["phase_3_accuracy", ["verdict", "runs_held", "runs_expected"]].tolist() == [
        "not reproduced",
        0,
        2,
    ]
    assert claims.loc["masked_scc_formula", ["verdict", "reason"]].tolist() == ["unclear", "not run"]


def test_circuits_are_what_the_formulas_give_on_the_attention_table(project: Project) -> None:
    circuits = project.table("circuits").set_index(["run", "seed", "step", "layer", "head", "metric"])["value"]
    attention = project.table("attention")
    S = 5
    for index, rows in attention.groupby(["run", "seed", "step", "layer", "head"]):
        weight = rows.set_index(["query", "key"])["weight"]
        assert circuits[(*index, "bigram")] == pytest.approx(weight[S, S], abs=1e-6)
        assert circuits[(*index, "label_attention")] == pytest.approx(weight[S, 2] + weight[S, 4], abs=1e-6)
        assert circuits[(*index, "chunk_example")] == pytest.approx((weight[2, 1] + weight[4, 3]) / 2, abs=1e-6)


def test_a_finished_workflow_has_nothing_to_do(project: Project) -> None:
    assert not project.stale()


def experiments(**changed: Any) -> dict[str, Any]:
    """The configuration with some experiments changed, added, or, where None, taken out."""
    entries = {name: entry for name, entry in (CONFIG["experiments"] | changed).items() if entry is not None}
    figures = {name: entry for name, entry in CONFIG["figures"].items() if entry["experiment"] in entries}
    return CONFIG | {"experiments": entries, "figures": figures}


def figures(**changed: Any) -> dict[str, Any]:
    return CONFIG | {"figures": CONFIG["figures"] | changed}


# 4 runs are trained; of the tables over all of them, theory and ability_levels follow from the worlds alone.
# 8 figures and a film show them, fig01 and fig14 worlds alone; census and abilities keep a table each.
TABLES, ALL_FIGURES = 7, {"figure": 8, "animate": 1}
SHOWN = {"figure": 6, "animate": 1, "finding": 2, "claims": 1}
FROM_TRAINING = {"train": 4, "circuits": 4, "phases": 4, "table": TABLES - 2} | SHOWN
CONFIG_CHANGES: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    "a value of one experiment": (
        experiments(induction_head={"set": {"T": 1, "p_B": 0.5}}),
        {"dataset": 1, "train": 1, "circuits": 1, "theory": 1, "phases": 1, "table": TABLES, "figure": 1, "claims": 1},
    ),
    "a seed added": (
        experiments(base={"seeds": 3}),
        {"dataset": 1, "train": 1, "circuits": 1, "theory": 1, "phases": 1, "table": TABLES} | SHOWN | {"figure": 5},
    ),
    "an experiment added": (
        experiments(deep={"vary": {"layers": [1, 3]}, "seeds": [4, 7]}),
        {"dataset": 2, "train": 4, "circuits": 4, "theory": 4, "phases": 4, "table": TABLES, "figure": 1, "claims": 1},
    ),
    "an experiment removed": (experiments(induction_head=None), {"table": TABLES, "claims": 1}),
    "another drawing": (figures(fig02={"experiment": "base", "draw": "seeds"}), {"figure": 1}),
    "how phases are told apart": (
        CONFIG | {"phases": {"threshold": 0.03}},
        {"phases": 4, "table": 1} | SHOWN | ALL_FIGURES,
    ),
    "where and how safely to compute": (CONFIG | {"device": "cpu", "seconds_between_saves": 5}, {}),
}


@pytest.mark.parametrize(("config", "expected"), CONFIG_CHANGES.values(), ids=CONFIG_CHANGES)
def test_a_change_of_the_configuration_reruns_exactly_what_it_decides(
    project: Project, config: dict[str, Any], expected: dict[str, int]
) -> None:
    with project.configured(config):
        assert project.stale() == expected


PACKAGE = "src/circuit_phases"
CODE_CHANGES: dict[str, tuple[str, str, str, dict[str, int]]] = {
    "layout and a comment": (f"{PACKAGE}/training.py", "import json\n", "import json  # a remark\n\n\n", {}),
    "layout of a script": ("workflow/scripts/train.py", "use_threads(", "use_threads(  # a remark\n        ", {}),
    "plumbing": (f"{PACKAGE}/stages.py", "from __future__", "SPARE = 1\nfrom __future__", {}),
    "one drawing": (f"{PACKAGE}/figures/fig04.py", "from __future__", "STYLE = 1\nfrom __future__", {"figure": 1}),
    "figure style": (f"{PACKAGE}/figures/circuit_phases.mplstyle", "font.size: 7", "font.size: 7.5", ALL_FIGURES),
    "a script": ("workflow/scripts/figure.py", "from pathlib", "import os\nfrom pathlib", {"figure": 8}),
    "metrics": (
        f"{PACKAGE}/circuits.py", ".sum(-1)", ".sum(dim=-1)",
        {"circuits": 4, "table": 2, "figure": 4, "animate": 1, "claims": 1},
    ),
    "model": (f"{PACKAGE}/model.py", "torch.finfo(scores.dtype).min", "-1e30", FROM_TRAINING),
    "training": (f"{PACKAGE}/training.py", "import json", "import json\nSPARE = 1", FROM_TRAINING),
    "theory": (
        f"{PACKAGE}/theory.py", "_MOST_SUBSETS = 512", "_MOST_SUBSETS = 500",
        {"theory": 4, "phases": 4, "table": 3} | SHOWN,
    ),
    # Every figure is told by which rules phases were found.
    "phases": (
        f"{PACKAGE}/phases.py", "from __future__", "SPARE = 1\nfrom __future__",
        {"phases": 4, "table": 1} | SHOWN | ALL_FIGURES,
    ),
    "how a claim is judged": (f"{PACKAGE}/claims.py", "AGREEMENT = 0.8", "AGREEMENT = 0.9", {"claims": 1}),
}  # fmt: skip


@pytest.mark.parametrize(("file", "old", "new", "expected"), CODE_CHANGES.values(), ids=CODE_CHANGES)
def test_a_change_of_code_reruns_exactly_what_it_decides(
    project: Project, file: str, old: str, new: str, expected: dict[str, int]
) -> None:
    with project.changed(file, old, new):
        assert project.stale() == expected


@pytest.mark.parametrize(
    ("library", "expected"),
    [
        ("matplotlib", ALL_FIGURES),
        # The sequences of a world are drawn by it too.
        (
            "torch",
            FROM_TRAINING | {"dataset": 5, "class_frequencies": 2, "theory": 4, "table": TABLES, "figure": 8},
        ),
        ("transformers", {}),
        ("pytest", {}),
    ],
)
def test_another_version_of_a_library_reruns_what_it_decides(
    project: Project, library: str, expected: dict[str, int]
) -> None:
    # The package's folder comes first on the path, so what is said to be installed there counts.
    installed = project.folder / "src" / f"{library}-999.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {library}\nVersion: 999.0\n")
    try:
        assert project.stale() == expected
    finally:
        shutil.rmtree(installed)


def test_a_fresh_clone_over_finished_results_has_nothing_to_do(project: Project, tmp_path: Path) -> None:
    other = clone(tmp_path)
    for name in ("results", ".snakemake"):
        subprocess.run(["cp", "-a", project.folder / name, tmp_path / name], check=True)
    for path in [tmp_path / "Snakefile", *(tmp_path / "workflow").rglob("*"), *(tmp_path / "src").rglob("*")]:
        os.utime(path)
    assert not other.stale()


def test_a_run_that_fails_in_the_analysis_loses_no_other(project: Project) -> None:
    folder = project.folder / "results" / "runs"
    damaged = folder / INDUCTION / "seed-0" / "checkpoints" / "step-0000040.safetensors"
    before = damaged.read_bytes()
    damaged.write_bytes(before[:100])
    made = [path / "circuits.parquet" for path in folder.glob("*/seed-*") if path.joinpath("run.parquet").exists()]
    try:
        outcome = project.snakemake("--forcerun", "circuits", "--", *map(str, made))
    finally:
        damaged.write_bytes(before)
    text = outcome.stdout + outcome.stderr
    assert outcome.returncode != 0
    assert "is damaged" in text
    assert "Traceback" not in text
    assert [path.exists() for path in made].count(False) == 1
    assert not (folder / INDUCTION / "seed-0" / "circuits.parquet").exists()
    again = project.snakemake()
    assert again.returncode == 0, again.stdout + again.stderr


def test_a_figure_kept_with_a_table_is_asked_for_with_it(project: Project) -> None:
    with project.changed("src/circuit_phases/census.py", "CONFIDENCE = 0.95", "CONFIDENCE = 0.9"):
        assert project.stale("census") == {"figure": 1, "finding": 1}


def test_the_headline_scope_leaves_other_experiments_out(project: Project) -> None:
    outcome = project.snakemake(
        "--dry-run", "headline", "tables", "--forceall", "--config", "scope=headline", "seeds_limit=1"
    )
    assert outcome.returncode == 0, outcome.stderr
    assert len(re.findall(r"^rule train:$", outcome.stdout + outcome.stderr, flags=re.MULTILINE)) == 1


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (
            {"experiments": CONFIG["experiments"] | {"base": {"set": {"T": 0}}}},
            "experiments.base: T = 0 is not allowed (>= 1).",
        ),
        ({"experimentss": {}}, "experimentss = {}: there is no such key."),
        ({"headline": ["fig99"]}, "headline: fig99 is not in figures"),
        ({"results": "Snakefile"}, "results = Snakefile is not allowed (Snakefile is a file)."),
    ],
)
def test_a_wrong_config_is_told_in_one_line(project: Project, values: dict, told: str) -> None:
    with project.configured(CONFIG | values):
        outcome = project.snakemake("--dry-run")
    assert outcome.returncode != 0
    text = outcome.stdout + outcome.stderr
    assert told in text
    assert "Traceback" not in text


def test_a_damaged_table_is_named(project: Project) -> None:
    path = project.folder / "results" / "runs" / INDUCTION / "seed-0" / "circuits.parquet"
    before = path.read_bytes()
    path.write_bytes(before[: len(before) // 2])
    try:
        outcome = project.snakemake("--forcerun", "figure", "--", "results/tables/circuits.parquet")
    finally:
        path.write_bytes(before)
    assert outcome.returncode != 0
    assert "circuits.parquet is damaged" in outcome.stdout + outcome.stderr
