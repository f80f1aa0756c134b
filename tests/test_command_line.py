"""One step of the workflow by hand."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from faults import alter, empty, truncate

from circuit_phases.command_line import main

TINY = ["T=2", "K=8", "L=4", "N=2", "D=11", "P=5", "evaluation_sequences=64", "ability_sequences=32"]
TINY += ["max_steps=40", "evaluation_interval=10", "checkpoints=4"]


def test_train_and_analyze_leave_the_tables_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", "--set", *TINY, "--seed", "3", "--results", str(tmp_path)])
    run = Path(capsys.readouterr().out.strip())
    assert run.name == "seed-3"
    main(["analyze", "--set", *TINY, "--seed", "3", "--results", str(tmp_path)])
    for name in ("training", "run", "attention", "circuits", "theory", "phases"):
        assert (pd.read_parquet(run / f"{name}.parquet")["seed"] == 3).all()
    assert (tmp_path / "datasets").exists()


def test_a_finished_training_is_kept_and_one_that_was_stopped_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = ["train", "--set", *TINY, "--results", str(tmp_path)]
    main(train)
    folder = capsys.readouterr().out.strip()
    before = (Path(folder) / "run.parquet").stat().st_mtime_ns
    main(train)
    said = capsys.readouterr()
    assert said.out.strip() == folder
    assert f"{folder} is trained already; delete it to train anew." in said.err
    assert (Path(folder) / "run.parquet").stat().st_mtime_ns == before
    (Path(folder) / "partial").mkdir()
    main(train)
    assert (Path(folder) / "run.parquet").stat().st_mtime_ns > before


@pytest.mark.parametrize("damage", [truncate, empty, alter, Path.unlink])
@pytest.mark.parametrize("name", ["training.parquet", "run.parquet", "checkpoints/step-0000040.safetensors"])
def test_a_result_that_is_not_whole_is_made_again(
    name: str, damage: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = ["train", "--set", *TINY, "--results", str(tmp_path)]
    main(train)
    path = Path(capsys.readouterr().out.strip(), name)
    whole = path.read_bytes()
    damage(path)
    main(train)
    said = capsys.readouterr().err
    assert name == "run.parquet" or f"To be made again: {path}" in said
    assert "trained already" not in said
    assert path.read_bytes() == whole


def test_a_world_that_was_not_finished_is_drawn_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["dataset", "--set", *TINY, "--results", str(tmp_path)])
    left = Path(capsys.readouterr().out.strip()) / "evaluation_sequences.parquet"
    left.unlink()
    main(["train", "--set", *TINY, "--results", str(tmp_path)])
    assert left.exists()


def test_a_world_that_is_gone_is_drawn_for_a_run_that_is_trained_already(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        main(["train", "--set", *TINY, "--results", str(tmp_path)])
        (world,) = (tmp_path / "datasets").iterdir()
        assert (world / "label_vectors.parquet").exists()
        (world / "label_vectors.parquet").unlink()
    assert "is trained already" in capsys.readouterr().err


def test_the_rule_of_the_paper_compares_accuracies_that_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = TINY[:-3]
    mine = ["--set", *world, "evaluation_interval=30", "max_steps=60", "--results", str(tmp_path)]
    for step in ("train", "analyze"):
        main([step, *mine])
    assert "Rule paper: dt = 120, a multiple of evaluation_interval = 30." in capsys.readouterr().err


@pytest.mark.parametrize(
    "option",
    [
        ["--seed", "-1"], ["--seed", "one"], ["--threads", "0"], ["--threads", "100000"], ["--results", ""], ["--set"],
    ],
)  # fmt: skip
def test_an_option_with_a_value_that_cannot_be_or_none_is_told(
    option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["train", *option])
    assert f"argument {option[0]}" in capsys.readouterr().err


def test_what_an_overlay_or_a_later_seed_asks_for_is_not_unused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text("{experiments: {base: {seeds: 2}}, figures: {}}")
    Path("mine.yaml").write_text("{experiments: {mine: {set: {T: 2}}}}")
    for run in ("paper/seed-0", "paper/seed-1", "paper,T=2/seed-0", "paper,T=5/seed-0"):
        Path("results/runs", run).mkdir(parents=True)
    narrowed = ["--config", "seeds_limit=1", "scope=headline"]
    main(["clean", "unused", "--dry-run", *narrowed, "--configfile", "mine.yaml"])
    assert capsys.readouterr().out.splitlines()[:-1] == ["results/runs/paper,T=5/seed-0"]
    main(["clean", "unused", "--dry-run", *narrowed])
    assert capsys.readouterr().out.splitlines()[:-1] == [
        "results/runs/paper,T=2/seed-0",
        "results/runs/paper,T=5/seed-0",
    ]


def test_what_a_killed_job_left_half_written_is_listed_first_where_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text("{experiments: {base: {}}, figures: {}}")
    left = Path("results/tables/.runs.parquet.0zub61nr")
    left.parent.mkdir(parents=True)
    left.write_text("half of a")
    os.utime(left, (0, 0))
    main(["clean", "unused", "--dry-run"])
    assert capsys.readouterr().out == f"{left}\nWould remove 1 files and folders, 9 bytes.\n"
    assert left.exists()
    main(["clean", "unused"])
    assert not left.exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["train", "--set", "T=0"], "--set: T = 0 is not allowed (>= 1)."),
        (["train", "--set", "T"], "--set T: write KEY=VALUE, such as T=2."),
        (["train", "--set", "T=0", "--set", "K=32"], "--set: T = 0 is not allowed (>= 1)."),
        (["train", "--set", "T=2", "--set", "T=3"], "--set T=3: T is set twice. Remove one."),
        (["status", "--config", "scope=all", "scope=headline"], "--config scope=headline: scope is set twice."),
        (["train", "--set", "variant=mine"], "variant = 'mine' is not known"),
        (["train", "--set", "T=2020-13-45"], "--set T=2020-13-45: the value is not YAML."),
        (["train", "--set", "masks=[[self]"], "--set masks=[[self]: the value is not YAML."),
        (["train", "--set", "variant=[paper]"], "--set: variant = ['paper'] is not known (choose from paper, released"),
        (["train", "--variant", "paper", "--set", "variant=paper"], "--set variant=paper: variant is set twice."),
        (["train", "--variant", "mine"], "variant = 'mine' is not known"),
        (["analyze", "--results", "nowhere"], "nowhere/runs/paper/seed-0 is not trained."),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_1(
    arguments: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 1
    message = capsys.readouterr().err
    assert told in message
    assert message.count("\n") == 1
