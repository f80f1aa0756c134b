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
        "causal_importance": {"experiment": "induction_head"},
        "prerequisites": {"experiment": "induction_head"},
        "film": {"experiment": "base", "draw": "animation"},
    },
    "headline": ["fig04"],
    "attribution": {"sequences": 16, "splits": ["iid", "copy"]},
}
INDUCTION = RunSettings.from_parameters(**CONFIG["defaults"], T=1, p_B=1).name

RULES = {"dataset", "class_frequencies", "train", "circuits", "theory", "phases", "table", "figure", "animate"}
RULES |= {"finding", "claims", "attribution"}


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


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The tiny workflow, run to its end."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("src", "workflow"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy(ROOT / "Snakefile", folder)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    finished = Project(folder)
    outcome = finished.snakemake()
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    return finished


def test_the_whole_workflow_leaves_every_table_and_figure(project: Project) -> None:
    for name in ("runs", "training", "circuits", "attention", "attribution", "phases", "theory", "ability_levels"):
        table = pq.read_table(project.folder / "results" / "tables" / f"{name}.parquet")
        assert table.schema.names == tables.RUN_TABLES[name].names
        assert all(field.metadata[b"description"] for field in table.schema)
    for name in (
        "fig01",
        "fig02",
        "fig04",
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
    assert census.schema.names == tables.CENSUS.names
    assert list((project.folder / "results" / "datasets").glob("*/label_tables.parquet"))


def test_runs_with_equal_parameters_are_trained_once(project: Project) -> None:
    runs = project.table("runs")
    assert not runs.duplicated(["run", "seed"]).any()
    # base (2 seeds), induction_head, and of own_sweep T = 2 alone: T = 3 is base.
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


def test_a_comment_reruns_nothing(project: Project) -> None:
    with project.changed("src/circuit_phases/training.py", "import json", "import json  # a remark"):
        assert not project.stale()


def test_changing_one_drawing_redraws_its_figure_alone(project: Project) -> None:
    with project.changed("src/circuit_phases/figures/fig04.py", "from __future__", "STYLE = 1\nfrom __future__"):
        assert project.stale() == {"figure": 1}
        assert not project.stale("fig02")


def test_changing_the_metrics_reruns_analysis_and_figures_but_no_training(project: Project) -> None:
    with project.changed("src/circuit_phases/circuits.py", "CHUNK = 256", "CHUNK = 128"):
        # 4 runs; the tables of attention and circuits; the figures that show either, and the film.
        assert project.stale() == {"circuits": 4, "table": 2, "figure": 5, "animate": 1, "claims": 1}


def test_changing_an_intervention_makes_interventions_anew_and_no_more(project: Project) -> None:
    with project.changed("src/circuit_phases/interventions.py", '"rest": edge_mask', '"others": edge_mask'):
        assert project.stale() == {"attribution": 1, "table": 1, "figure": 1}


def test_changing_how_a_claim_is_judged_decides_the_claims_anew_and_no_more(project: Project) -> None:
    with project.changed("src/circuit_phases/claims.py", "AGREEMENT = 0.8", "AGREEMENT = 0.9"):
        assert project.stale() == {"claims": 1}


def test_a_figure_kept_with_a_table_is_asked_for_with_it(project: Project) -> None:
    with project.changed("src/circuit_phases/census.py", "CONFIDENCE = 0.95", "CONFIDENCE = 0.9"):
        assert project.stale("census") == {"figure": 1, "finding": 1}


def test_changing_the_model_reruns_training_and_what_follows(project: Project) -> None:
    with project.changed("src/circuit_phases/model.py", "torch.finfo(scores.dtype).min", "-1e30"):
        stale = project.stale()
        assert stale["train"] == stale["circuits"] == stale["phases"] == 4
        assert "dataset" not in stale
        assert "theory" not in stale


def test_changing_one_experiment_trains_that_experiment_alone(project: Project) -> None:
    changed = CONFIG | {"experiments": CONFIG["experiments"] | {"induction_head": {"set": {"T": 1, "p_B": 0.5}}}}
    with project.configured(changed):
        stale = project.stale()
    assert stale["train"] == stale["circuits"] == stale["attribution"] == stale["dataset"] == 1
    assert stale["figure"] == 3


def test_adding_a_sweep_trains_its_runs_and_draws_its_curves(project: Project) -> None:
    changed = CONFIG | {"experiments": CONFIG["experiments"] | {"deep": {"vary": {"layers": [1, 3]}, "seeds": [4, 7]}}}
    with project.configured(changed):
        stale = project.stale()
        assert stale["train"] == 4
        assert stale["figure"] == 1
        assert project.stale("deep")["figure"] == 1


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
