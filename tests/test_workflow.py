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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from permissions import BOUND
from playwright.sync_api import Browser, Page, sync_playwright

from circuit_phases import schemas
from circuit_phases.claims import CLAIMS
from circuit_phases.settings import RunSettings

ROOT = Path(__file__).parents[1]
TINY = {"K": 8, "L": 4, "N": 2, "D": 11, "P": 5, "max_steps": 40, "evaluation_interval": 10, "checkpoints": 4}
CONFIG: dict[str, Any] = {
    "results": "results",
    "defaults": TINY | {"evaluation_sequences": 64, "ability_sequences": 32},
    "experiments": {
        "base": {"seeds": 2},
        "fig12": {"set": {"T": 1, "p_B": 1}},
        "class_frequencies": {"vary": {"alpha": [0, 1]}},
        "own_sweep": {"vary": {"T": [2, 3]}},
    },
    "figures": {
        "fig01": {"experiment": "base"},
        "fig02": {"experiment": "base"},
        "fig04": {"experiment": "base"},
        "fig11": {"experiment": "fig12"},
        "fig12": {"experiment": "fig12"},
        "fig14": {"experiment": "class_frequencies"},
        "census": {"experiment": "base"},
        "abilities": {"experiment": "base"},
        "causal_importance": {"experiment": "fig12"},
        "prerequisites": {"experiment": "fig12"},
        "film": {"experiment": "base", "draw": "animation"},
    },
    "headline": ["fig04"],
    "report": {"Circuits": {"fig04": "Which metric *rises* first."}},
    "attribution": {"sequences": 16, "splits": ["iid", "copy"]},
}
INDUCTION = RunSettings.from_parameters(**CONFIG["defaults"], T=1, p_B=1).name

RULES = {"dataset", "class_frequencies", "train", "circuits", "theory", "phases", "table", "figure", "animate"}
RULES |= {"finding", "claims", "attribution", "example_attention"}


@dataclass(frozen=True)
class Project:
    """A copy of the workflow and the package, with its own results."""

    folder: Path
    before: tuple[str, ...] = ()
    """Before its commands."""

    def snakemake(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": str(self.folder / "src"), "OMP_NUM_THREADS": "1"} | environment
        return subprocess.run(
            [*self.before, sys.executable, "-m", "snakemake", "--cores", "2", *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
        )

    def circuit_phases(self, *arguments: str) -> str:
        outcome = subprocess.run(
            [sys.executable, "-c", "from circuit_phases.command_line import main; main()", *arguments],
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": str(self.folder / "src"), "COLUMNS": "200"},
            capture_output=True,
            text=True,
        )
        assert outcome.returncode == 0, outcome.stderr
        return outcome.stdout

    def stale(self, *targets: str) -> Counter[str]:
        """The rules that a dry run would run, and how often, target rules left out."""
        outcome = self.snakemake("--dry-run", *targets)
        assert outcome.returncode == 0, outcome.stdout + outcome.stderr
        text = outcome.stdout + outcome.stderr
        jobs = re.findall(r"^ *(?:local)?rule (\w+):$", text, flags=re.MULTILINE)
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
    for name in schemas.RUN_TABLES.keys() - {"class_frequencies"}:
        table = pq.read_table(project.folder / "results" / "tables" / f"{name}.parquet")
        assert table.schema.names == schemas.RUN_TABLES[name].names
        assert all(field.metadata[b"description"] for field in table.schema)
    for name in (
        "fig01",
        "fig02",
        "fig04",
        "fig11",
        "fig12",
        "fig14",
        "own_sweep",
        "census",
        "causal_importance",
        "prerequisites",
    ):
        for ending in ("pdf", "png"):
            assert (project.folder / "results" / "figures" / f"{name}.{ending}").stat().st_size > 1000
    for ending in ("gif", "mp4"):
        assert (project.folder / "results" / "figures" / f"film.{ending}").stat().st_size > 1000
    census = pq.read_table(project.folder / "results" / "tables" / "census.parquet")
    assert census.schema.names == schemas.CENSUS.names
    assert list((project.folder / "results" / "datasets").glob("*/label_tables.parquet"))


def test_runs_with_equal_parameters_are_trained_once(project: Project) -> None:
    runs = project.table("runs")
    assert not runs.duplicated(["run", "seed"]).any()
    # base (2 seeds), fig12, and of own_sweep T = 2 alone: T = 3 is base.
    assert len(runs) == 2 + 1 + 1
    assert set(runs["steps"]) == {40}


def test_interventions_are_made_on_the_runs_of_figures_that_show_them_alone(project: Project) -> None:
    attribution = project.table("attribution")
    assert set(attribution["run"]) == {INDUCTION}
    assert set(attribution["split"]) == {"iid", "copy"}
    assert attribution["sequences"].max() == 16
    circuits = project.table("circuits")
    assert set(attribution["step"]) == set(circuits.loc[circuits["run"] == INDUCTION, "step"])


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


# 4 runs are trained, interventions made on one; of the tables over all, theory and ability_levels follow from worlds
# alone. 11 figures and a film show them, fig01 and fig14 worlds alone, fig11 no curve; beside three a table is kept.
TABLES, ALL_FIGURES = 9, {"figure": 11, "animate": 1}
SHOWN = {"figure": 8, "animate": 1, "finding": 3, "claims": 1}
FROM_CHECKPOINTS = {"circuits": 4, "attribution": 1, "example_attention": 1}
FROM_TRAINING = {"train": 4, "phases": 4, "table": TABLES - 2} | FROM_CHECKPOINTS | SHOWN | {"figure": 9}
FROM_WORLDS = FROM_TRAINING | {"dataset": 5, "class_frequencies": 2, "theory": 4, "table": TABLES, "figure": 11}
CONFIG_CHANGES: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    "a value of one experiment": (
        experiments(fig12={"set": {"T": 1, "p_B": 0.5}}),
        {"dataset": 1, "train": 1, "circuits": 1, "theory": 1, "phases": 1, "table": TABLES, "claims": 1}
        | {"attribution": 1, "example_attention": 1, "figure": 4, "finding": 1},
    ),
    "a seed added": (
        experiments(base={"seeds": 3}),
        {"dataset": 1, "train": 1, "circuits": 1, "theory": 1, "phases": 1, "table": TABLES - 2}
        | SHOWN
        | {"figure": 5, "finding": 2},
    ),
    "an experiment added": (
        experiments(deep={"vary": {"layers": [1, 3]}, "seeds": [4, 7]}),
        {
            "dataset": 2,
            "train": 4,
            "circuits": 4,
            "theory": 4,
            "phases": 4,
            "table": TABLES - 2,
            "figure": 1,
            "claims": 1,
        },
    ),
    "an experiment removed": (experiments(fig12=None), {"table": TABLES, "claims": 1}),
    "another drawing": (figures(fig02={"experiment": "base", "draw": "seeds"}), {"figure": 1}),
    "how phases are told apart": (
        CONFIG | {"phases": {"threshold": 0.03}},
        {"phases": 4, "table": 1} | SHOWN | ALL_FIGURES,
    ),
    "over how many sequences attention is averaged": (
        CONFIG | {"analysis_sequences": 32},
        {"circuits": 4, "table": 2, "figure": 5, "animate": 1, "claims": 1},
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
    "layout and a comment": (f"{PACKAGE}/training.py", "import time\n", "import time  # a remark\n\n\n", {}),
    "layout of a script": ("workflow/scripts/train.py", "prepare_torch(", "prepare_torch(  # a remark\n        ", {}),
    "plumbing": (f"{PACKAGE}/stages.py", "from __future__", "SPARE = 1\nfrom __future__", {}),
    "one drawing": (f"{PACKAGE}/figures/fig04.py", "from __future__", "STYLE = 1\nfrom __future__", {"figure": 1}),
    "figure style": (f"{PACKAGE}/figures/circuit_phases.mplstyle", "font.size: 7", "font.size: 7.5", ALL_FIGURES),
    "a script": ("workflow/scripts/figure.py", "from pathlib", "import os\nfrom pathlib", {"figure": 11}),
    "metrics": (
        f"{PACKAGE}/circuits.py", ".sum(-1)", ".sum(dim=-1)",
        {"circuits": 4, "example_attention": 1, "table": 3, "figure": 6, "animate": 1, "claims": 1},
    ),
    "a split": (
        f"{PACKAGE}/splits.py", "import annotations\n", "import annotations\n\nSPARE = 1\n", FROM_WORLDS,
    ),
    "how a world is written": (
        f"{PACKAGE}/datasets.py", "np.arange(1, T + 1)", "1 + np.arange(T)", FROM_WORLDS,
    ),
    "model": (f"{PACKAGE}/model.py", "torch.finfo(scores.dtype).min", "-1e30", FROM_TRAINING),
    "training": (f"{PACKAGE}/training.py", "import time", "import time\nSPARE = 1", FROM_TRAINING),
    "theory": (
        f"{PACKAGE}/theory.py", "_MOST_SUBSETS = 512", "_MOST_SUBSETS = 500",
        {"theory": 4, "phases": 4, "table": 3} | SHOWN,
    ),
    # Every figure is told by which rules phases were found.
    "phases": (
        f"{PACKAGE}/phases.py", "import annotations\n", "import annotations\n\nSPARE = 1\n",
        {"phases": 4, "table": 1} | SHOWN | ALL_FIGURES,
    ),
    "an intervention": (
        f"{PACKAGE}/interventions.py", '"rest": edge_mask', '"others": edge_mask',
        {"attribution": 1, "table": 1, "figure": 1},
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
        ("torch", FROM_WORLDS),
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
    runs = project.table("runs")[["run", "seed"]].itertuples(index=False)
    made = [folder / run / f"seed-{seed}" / "circuits.parquet" for run, seed in runs]
    try:
        targets = [str(path.relative_to(project.folder)) for path in made]
        outcome = project.snakemake("--forcerun", "circuits", "--", *targets)
    finally:
        damaged.write_bytes(before)
    text = outcome.stdout + outcome.stderr
    assert outcome.returncode != 0
    assert "is damaged" in text
    assert "Traceback" not in text
    assert [path.exists() for path in made].count(False) == 1
    assert not (folder / INDUCTION / "seed-0" / "circuits.parquet").exists()
    again = project.snakemake("--", *targets)
    assert again.returncode == 0, again.stdout + again.stderr
    assert all(path.exists() for path in made)


def test_a_figure_kept_with_a_table_is_asked_for_with_it(project: Project) -> None:
    with project.changed("src/circuit_phases/census.py", "CONFIDENCE = 0.95", "CONFIDENCE = 0.9"):
        assert project.stale("census") == {"figure": 1, "finding": 1}


def test_the_headline_scope_leaves_other_experiments_out(project: Project) -> None:
    outcome = project.snakemake(
        "--dry-run", "headline", "tables", "--forceall", "--config", "scope=headline", "seeds_limit=1"
    )
    assert outcome.returncode == 0, outcome.stderr
    assert len(re.findall(r"^ *rule train:$", outcome.stdout + outcome.stderr, flags=re.MULTILINE)) == 1


@pytest.mark.parametrize("scope", ["all", "headline"])
def test_films_and_figures_with_a_table_may_stand_under_headline(tmp_path: Path, scope: str) -> None:
    jobs = clone(tmp_path, CONFIG | {"headline": ["film", "census"], "scope": scope}).stale("headline")
    assert (jobs["animate"], jobs["figure"], jobs["finding"]) == (1, 1, 1)


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


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("experiments: [", "config.yaml: is not YAML"),
        ("", "config.yaml: must hold keys and values"),
        ("experiments: {}\nexperiments: {}", "config.yaml: the key experiments stands in lines 1 and 2."),
    ],
)
def test_a_config_that_cannot_be_read_is_named(project: Project, text: str, told: str) -> None:
    with project.configured(CONFIG):
        (project.folder / "config.yaml").write_text(text)
        outcome = project.snakemake("--dry-run")
    assert outcome.returncode != 0
    assert told in outcome.stdout + outcome.stderr


@pytest.mark.parametrize("path", ["runs/paper,T=9/seed-0/training.parquet", "datasets/none/label_tables.parquet"])
def test_results_that_no_experiment_asks_for_are_told(project: Project, path: str) -> None:
    outcome = project.snakemake("--dry-run", f"results/{path}")
    assert outcome.returncode != 0
    told = f"results/{Path(path).parent}: no experiment in scope asks for it. Add it to config.yaml."
    assert told in outcome.stdout + outcome.stderr


@pytest.fixture
def copy(project: Project, tmp_path: Path) -> Project:
    """A copy of the finished project, to take things away from."""
    return Project(Path(shutil.copytree(project.folder, tmp_path / "copy", symlinks=True)))


def test_a_stale_run_that_may_not_be_written_to_is_named_before_anything_runs(copy: Project) -> None:
    (copy.folder / "results" / "runs" / INDUCTION / "seed-0").chmod(0o555)
    bound = replace(copy, before=BOUND)
    outcome = bound.snakemake("--forcerun", "train", "--", f"results/runs/{INDUCTION}/seed-0/circuits.parquet")
    assert outcome.returncode != 0
    told = f"No permission to write to results/runs/{INDUCTION}/seed-0, where files are to be made. Permit it."
    assert told in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_a_folder_in_which_snakemake_may_not_keep_its_records_is_named(tmp_path: Path) -> None:
    fresh = clone(tmp_path / "fresh")
    fresh.folder.chmod(0o555)
    outcome = replace(fresh, before=BOUND).snakemake("--config", f"results={tmp_path / 'elsewhere'}")
    fresh.folder.chmod(0o755)
    assert outcome.returncode != 0
    assert f"No permission to write to {fresh.folder}, where files are to be made. Permit it." in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_a_damaged_world_is_named_before_what_was_made_of_it_is_removed(copy: Project) -> None:
    path = next(copy.folder.glob("results/datasets/*/class_means.parquet"))
    trained = sorted(copy.folder.glob("results/runs/*/*/training.parquet"))
    path.write_bytes(path.read_bytes()[:100])
    outcome = copy.snakemake()
    assert outcome.returncode != 0
    assert f"{path.relative_to(copy.folder)} is damaged" in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert sorted(copy.folder.glob("results/runs/*/*/training.parquet")) == trained
    path.unlink()
    assert copy.snakemake(str(path.relative_to(copy.folder))).returncode == 0
    assert not copy.stale()


def test_a_damaged_table_is_named_and_the_message_ends_with_how_to_look_further(copy: Project) -> None:
    path = copy.folder / "results" / "runs" / INDUCTION / "seed-0" / "circuits.parquet"
    before = path.read_bytes()
    path.write_bytes(before[: len(before) // 2])
    outcome = copy.snakemake("--forcerun", "table", "--", "results/tables/circuits.parquet")
    assert outcome.returncode != 0
    log = "results/logs/table/circuits.log"
    # After it, Snakemake says only where its own log is.
    message = re.findall(rf"^{log}:\n.*?^(?=Complete log)", outcome.stderr, flags=re.DOTALL | re.MULTILINE)[-1]
    assert "circuits.parquet is damaged" in message
    assert message.endswith(f"less '{log}'\n\nTo look further: circuit-phases status\n")
    told = copy.circuit_phases("status")
    assert "Trainings: 4 done" in told
    assert f"{log}:" in told
    path.write_bytes(before)
    assert copy.snakemake("results/tables/circuits.parquet").returncode == 0
    assert log not in copy.circuit_phases("status")


def test_checkpoints_can_be_removed_without_making_anything_stale(copy: Project) -> None:
    checkpoints = list(copy.folder.glob("results/runs/*/*/checkpoints"))
    assert len(checkpoints) == 4
    assert "Would remove 4" in copy.circuit_phases("clean", "checkpoints", "--dry-run")
    assert "Would remove 2" in copy.circuit_phases("clean", "checkpoints", "base", "--dry-run")
    assert all(folder.exists() for folder in checkpoints)
    assert "Removed 4" in copy.circuit_phases("clean", "checkpoints")
    assert not any(folder.exists() for folder in checkpoints)
    assert not copy.stale()
    assert "Trainings: 4 done" in copy.circuit_phases("status")


def test_the_results_of_one_experiment_can_be_removed_and_those_it_shares_stay(copy: Project) -> None:
    before = {path for path in copy.folder.glob("results/**/*") if path.is_file()}
    copy.circuit_phases("clean", "results", "own_sweep")
    removed = before - {path for path in copy.folder.glob("results/**/*") if path.is_file()}
    # T = 3 is base, and stays.
    assert removed
    assert all("T=2" in str(path) or path.name.startswith("own_sweep.") for path in removed)
    assert copy.stale("own_sweep") == {"dataset": 1, "train": 1, "circuits": 1, "theory": 1, "phases": 1, "figure": 1}
    without = {name: value for name, value in CONFIG["experiments"].items() if name != "own_sweep"}
    with copy.configured(CONFIG | {"experiments": without}):
        assert "train" not in copy.stale()


def test_trainings_of_no_experiment_can_be_removed_and_disk_use_names_them(copy: Project) -> None:
    without = {name: value for name, value in CONFIG["experiments"].items() if name != "own_sweep"}
    assert "runs of no experiment 0 bytes" in copy.circuit_phases("disk")
    with copy.configured(CONFIG | {"experiments": without}):
        assert re.search(r"runs of no experiment \d+\.\d kB", copy.circuit_phases("disk"))
        assert "T=2" in copy.circuit_phases("clean", "unused")
        assert "runs of no experiment 0 bytes" in copy.circuit_phases("disk")
    assert not list(copy.folder.glob("results/runs/*T=2*"))
    assert len(list(copy.folder.glob("results/runs/*/*/training.parquet"))) == 3


NO_NETWORK = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")


@pytest.fixture
def browser() -> Iterator[Browser]:
    """A headless Chromium."""
    with sync_playwright() as playwright:
        found = shutil.which("chromium-headless-shell") or shutil.which("chromium") or shutil.which("google-chrome")
        if found is None and not Path(playwright.chromium.executable_path).exists():
            pytest.skip("no Chromium here: apt-get install chromium-headless-shell, or playwright install chromium")
        chromium = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def results_of(page: Page) -> Iterator[tuple[str, str]]:
    """Section and name of every result in an open report; each stands open in the page, its caption beside it."""
    sections = page.locator("nav ul", has_text="Results").get_by_text(re.compile(r"^\d+\. ")).all_inner_texts()
    for section in sections:
        page.get_by_text(section, exact=True).click()
        for name in page.locator("nav tbody tr").all_inner_texts():
            row = page.locator("nav tbody tr", has=page.get_by_text(name.strip(), exact=True))
            row.locator("a").first.click()
            row.locator("a").last.click()
            yield section, name.strip()
            page.get_by_text(section, exact=True).click()
        page.get_by_text("Results", exact=True).click()


def test_the_report_is_one_page_that_shows_everything_without_a_network(project: Project, browser: Browser) -> None:
    outcome = project.snakemake("--report", "results/report.html", **NO_NETWORK)
    assert outcome.returncode == 0, outcome.stderr
    page = browser.new_page()
    errors, requests = [], []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto((project.folder / "results" / "report.html").as_uri())
    shown, captions, frames = [], {}, {}
    for section, name in results_of(page):
        shown.append((section, name))
        captions[name] = page.locator("nav .prose").inner_text()
        inside = page.frame_locator("iframe") if page.locator("iframe").count() else page
        if inside is not page:
            frames[name] = inside.locator("body").inner_text()
        if not section.endswith("Tables"):
            image = inside.locator("div.p-3 > img, body > img")
            assert image.evaluate("async image => { await image.decode(); return image.naturalWidth }") > 300
    figures = ["abilities", "causal_importance", "census", "fig01", "fig02", "fig11", "fig12", "fig14"]
    figures += ["film", "own_sweep", "prerequisites"]
    tables_shown = ["ceilings", "claims", "provenance", "run times"]
    assert shown == [
        *(("0. Tables", name) for name in tables_shown),
        ("1. Circuits", "fig04"),
        *(("2. Other experiments", name) for name in figures),
    ]
    assert captions["fig04"].startswith("Which metric rises first.")
    assert "Phase 1 (NCC): Bigram in both layers." in captions["fig04"]
    assert re.search(r"base: paper, K=8, .*seed 0, 1", captions["fig04"], flags=re.DOTALL)
    assert all(captions.values())
    assert all(claim.paper in frames["claims"] for claim in CLAIMS)
    assert len(frames["ceilings"].split("seed")) > 1
    assert "4 trainings" in frames["run times"]
    assert "class_frequencies:" in frames["provenance"]
    assert not errors
    assert not [url for url in requests if not url.startswith(("file:", "data:"))]


def test_a_changed_caption_reruns_nothing_and_is_in_the_next_report(project: Project) -> None:
    changed = CONFIG | {"report": {"Metrics": {"fig04": "Something else to look at."}}}
    with project.configured(changed):
        assert not project.stale()
        outcome = project.snakemake("--report", "results/report.html")
    assert outcome.returncode == 0, outcome.stderr
    assert "Something else to look at." in (project.folder / "results" / "report.html").read_text()
