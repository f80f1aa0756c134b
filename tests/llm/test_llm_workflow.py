"""The LLM stage of the workflow, on tiny models and reviews that lie on this machine."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from test_workflow import Project, clone

from circuit_phases import schemas, tables
from circuit_phases.llm.data import Text

RULES = {"llm_model", "llm_dataset", "llm_evaluation", "llm_cutting", "llm_table", "llm_figure"}
TINY = {"K": 8, "L": 4, "N": 2, "D": 11, "P": 5, "max_steps": 40, "evaluation_interval": 10, "checkpoints": 4}
CONFIG: dict[str, Any] = {
    "defaults": TINY | {"evaluation_sequences": 64, "ability_sequences": 32},
    "experiments": {"base": {}},
    "figures": {"fig04": {"experiment": "base"}},
    "headline": ["fig04"],
    "llm": {
        "models": {
            "llama": {"path": "models/llama"},
            "far": {"hub": "EleutherAI/pythia-70m", "revisions": ["step0", "step1"]},
        },
        "datasets": {"reviews": {"path": "reviews.tsv", "queries": 12}},
        "evaluate": [{"model": "llama", "dataset": "reviews"}],
        "prompts": {"demonstration_labels": ["gold", "flipped"]},
        "cuts": {"heads": 2},
        "shards": 2,
    },
}


class LlmProject(Project):
    """The workflow with language models; a hub that answers nothing stands in for one that is out of reach."""

    def stale(self, *targets: str, **llm: Any) -> dict[str, int]:
        with self.configured(CONFIG | {"llm": CONFIG["llm"] | llm}):
            outcome = self.snakemake("--dry-run", *(targets or ("llm",)))
        assert outcome.returncode == 0, outcome.stdout + outcome.stderr
        lines = [line.split() for line in (outcome.stdout + outcome.stderr).splitlines()]
        return {line[0]: int(line[1]) for line in lines if len(line) == 2 and line[0] in RULES | {"train"}}


@pytest.fixture(scope="module")
def project(
    tmp_path_factory: pytest.TempPathFactory, folder_of: Callable[[str], Path], reviews: list[Text]
) -> LlmProject:
    made = with_model(tmp_path_factory.mktemp("llm_project"), folder_of("llama"), reviews)
    outcome = made.snakemake("llm")
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    return made


def with_model(folder: Path, model: Path, reviews: list[Text]) -> LlmProject:
    """A clone with a model and reviews in it."""
    clone(folder, CONFIG)
    shutil.copytree(model, folder / "models" / "llama")
    lines = "".join(f"{each.text}\t{each.label}\n" for each in reviews)
    (folder / "reviews.tsv").write_text("sentence\tlabel\n" + lines)
    return LlmProject(folder)


def test_every_table_and_figure_is_made_and_names_model_revision_and_data(project: LlmProject) -> None:
    for name, schema in schemas.LLM_TABLES.items():
        assert tables.read_table(project.folder / "results" / "tables" / f"{name}.parquet", schema).num_rows
    circuits, accuracy = project.table("llm_circuits"), project.table("llm_accuracy")
    for table in (circuits, accuracy):
        asked = set(table[["model", "revision", "dataset"]].itertuples(index=False, name=None))
        assert asked == {("llama", "local", "reviews")}
    conditions = set(circuits[["shots", "demonstration_labels", "metric"]].itertuples(index=False, name=None))
    metrics = ("bigram", "label_attention", "chunk_example")
    assert conditions == {(0, "none", "bigram")} | {(2, kind, m) for kind in ("gold", "flipped") for m in metrics}
    assert set(circuits["prompts"]) == set(accuracy["prompts"]) == {12}
    assert circuits["value"].between(0, 1).all()
    assert accuracy["cut"].nunique() == 5
    for name in ("fig10", "llm_heads", "llm_labels", "llm_cuts"):
        for ending in ("pdf", "png"):
            assert (project.folder / "results" / "figures" / f"{name}.{ending}").stat().st_size > 1000


def test_a_shard_that_is_lost_is_made_again_alone(project: LlmProject) -> None:
    shard = project.folder / "results" / "llm" / "evaluations" / "llama" / "local" / "reviews" / "shard-1"
    before = project.table("llm_circuits")
    for name in ("answers", "sums"):
        (shard / f"{name}.parquet").unlink()
    (project.folder / "results" / "tables" / "llm_circuits.parquet").unlink()
    outcome = project.snakemake("results/tables/llm_circuits.parquet")
    text = outcome.stdout + outcome.stderr
    assert outcome.returncode == 0, text
    assert text.count("rule llm_evaluation:") == 1
    assert "rule llm_model:" not in text
    assert "rule llm_cutting:" not in text
    pd.testing.assert_frame_equal(before, project.table("llm_circuits"))
    assert project.stale() == {}


def test_other_settings_rerun_what_they_decide(project: LlmProject) -> None:
    assert project.stale(cuts={"heads": 1}) == {"llm_cutting": 2, "llm_table": 1, "llm_figure": 2}
    stale = project.stale(prompts=CONFIG["llm"]["prompts"] | {"seed": 1})
    assert stale["llm_evaluation"] == stale["llm_cutting"] == 2
    assert "llm_model" not in stale


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("evaluation", {"llm_evaluation": 2, "llm_cutting": 2, "llm_table": 2, "llm_figure": 4}),
        ("cutting", {"llm_cutting": 2, "llm_table": 1, "llm_figure": 2}),
        ("summaries", {"llm_table": 3, "llm_figure": 4}),
    ],
)
def test_a_change_of_code_reruns_exactly_what_it_decides(
    project: LlmProject, module: str, expected: dict[str, int]
) -> None:
    file = f"src/circuit_phases/llm/{module}.py"
    with project.changed(file, "from __future__", "SPARE = 1\nfrom __future__"):
        assert project.stale() == expected


def test_answers_are_shared_by_clones_until_weights_differ(
    project: LlmProject,
    folder_of: Callable[[str], Path],
    reviews: list[Text],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = tmp_path / "store"
    store.mkdir()
    monkeypatch.setenv("SNAKEMAKE_OUTPUT_CACHE", str(store))
    entries: list[set[Path]] = [set()]
    for name, weights, table in (
        ("first", "llama", "accuracy"), ("second", "llama", "accuracy"), ("other", "pythia", "circuits")
    ):  # fmt: skip
        shared = with_model(tmp_path / name, folder_of(weights), reviews)
        with shared.configured(CONFIG | {"llm": CONFIG["llm"] | {"shards": 1}}):
            outcome = shared.snakemake("--cache", "--", f"results/tables/llm_{table}.parquet")
        assert outcome.returncode == 0, outcome.stdout + outcome.stderr
        entries.append(set(store.iterdir()))
        answers = list((shared.folder / "results" / "llm" / "evaluations").rglob("*.parquet"))
        assert len(answers) == (3 if table == "accuracy" else 2)
        assert all(path.resolve().parent == store for path in answers)
        if weights == "llama":
            pd.testing.assert_frame_equal(shared.table("llm_accuracy"), project.table("llm_accuracy"))
    _, first, second, other = entries
    assert len(first) == 3
    assert second == first
    assert len(other - first) == 2


def test_a_further_model_is_asked_alone(project: LlmProject) -> None:
    evaluate = [*CONFIG["llm"]["evaluate"], {"model": "far", "dataset": "reviews"}]
    stale = project.stale(evaluate=evaluate)
    assert stale == {"llm_model": 2, "llm_evaluation": 4, "llm_cutting": 4, "llm_table": 3, "llm_figure": 5}


def test_the_headline_needs_no_language_model(project: LlmProject) -> None:
    with project.configured(CONFIG | {"scope": "headline"}):
        outcome = project.snakemake("--dry-run")
    assert outcome.returncode == 0
    assert "rule llm_" not in outcome.stdout + outcome.stderr


def test_a_hub_out_of_reach_is_told_in_one_line_and_stops_nothing_else(
    project: LlmProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    source = "results/llm/models/far/step0/source.parquet"
    again = "results/tables/llm_sources.parquet"
    outcome = project.snakemake("--keep-going", "--forcerun", "llm_table", "--", source, again)
    text = outcome.stdout + outcome.stderr
    assert outcome.returncode != 0
    # In the log, and again at the end.
    (line,) = {line.strip() for line in text.splitlines() if "cannot be fetched from the model hub" in line}
    assert line.startswith("llm.models.far: EleutherAI/pythia-70m at revision step0 cannot be fetched")
    assert "Set llm.models.far.path to a local copy" in line
    assert "Traceback" not in text
    assert "rule llm_table" in text


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"models": {"x": {}}}, "llm.models.x: one of path, hub and package is missing. Add it."),
        ({"models": {"x": {"hub": "a/b"}}}, "llm.models.x: revisions is missing."),
        ({"models": {"x": {"package": "a"}}}, "llm.models.x: package = a is not allowed (NAME==VERSION)."),
        ({"datasets": {"x": {"hub": "a/b", "file": "c"}}}, "llm.datasets.x: revision is missing."),
        ({"evaluate": [{"model": "lama", "dataset": "reviews"}]}, "model = lama is not in llm.models (did you"),
        ({"prompts": {"template": "{text}"}}, "llm.prompts: template = '{text}' is not allowed"),
        ({"prompts": {"shots": []}}, "llm.prompts: shots = [] is not allowed"),
        ({"prompts": {"labels": ["Good", "Good"]}}, "llm.prompts: labels = ['Good', 'Good'] is not allowed"),
        ({"cuts": {"metrics": ["bigram"]}}, "llm.cuts.metrics: 0 = 'bigram' is not allowed"),
        ({"dtype": "int8"}, "llm: dtype = 'int8' is not allowed"),
        ({"shards": 0}, "llm: shards = 0 is not allowed (>= 1)."),
        ({"model": {}}, "llm: model = {}: there is no such key."),
    ],
)  # fmt: skip
def test_a_mistake_is_told_in_one_line(change: dict[str, Any], told: str) -> None:
    from circuit_phases.configuration import parse_configuration
    from circuit_phases.files import UserError

    with pytest.raises(UserError) as caught:
        parse_configuration(CONFIG | {"llm": CONFIG["llm"] | change})
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
