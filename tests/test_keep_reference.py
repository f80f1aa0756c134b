"""A reference grows with every go, and a run that is there again is replaced."""

from __future__ import annotations

import runpy
from pathlib import Path

import pandas as pd
from made_runs import Made, together

from circuit_phases import tables
from circuit_phases.schemas import RUN_TABLES
from circuit_phases.settings import RunSettings
from circuit_phases.thinning import thinned

keep = runpy.run_path(str(Path(__file__).parents[1] / "docs" / "keep_reference.py"))["main"]
SETTINGS = RunSettings.from_parameters("released_code")
METRICS = {("bigram", 1, 1): {100: 0.1, 100_000: 0.9}}


def kept_after(*seeds: Made) -> dict[str, pd.DataFrame]:
    for name, frame in together(list(seeds)).items():
        tables.write_table(Path("results/tables", f"{name}.parquet"), frame, RUN_TABLES[name])
    keep()
    return {
        path.stem: tables.read_frame(path, RUN_TABLES[path.stem])
        for path in Path("results/reference").rglob("*.parquet")
    }


def test_runs_of_an_earlier_go_stay_and_those_of_both_are_of_the_last(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = kept_after(*(Made(SETTINGS, seed, metrics=METRICS, last=0.9) for seed in (0, 1)))
    again = kept_after(*(Made(SETTINGS, seed, metrics=METRICS, last=0.8) for seed in (1, 2)))
    for name in first:
        assert again[name].groupby("seed").size().index.tolist() == [0, 1, 2], name
        stayed = [frame[name].query("seed == 0").reset_index(drop=True) for frame in (first, again)]
        assert stayed[0].equals(stayed[1]), name
    ends = again["training"].query("split == 'iid'").groupby("seed")["accuracy"].last()
    assert ends.tolist() == [0.9, 0.8, 0.8]


def test_keeping_the_same_twice_changes_no_byte(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    # A figure may be called like a table.
    picture = Path("results/figures/training.png")
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"a picture")
    made = Made(SETTINGS, 0), Made(SETTINGS, 1)
    training = kept_after(*made)["training"]
    assert training.equals(thinned(together(list(made))["training"].reset_index(drop=True)).astype(training.dtypes))
    assert Path("results/reference/figures/training.png").read_bytes() == b"a picture"
    bytes_of = {path: path.read_bytes() for path in Path("results/reference").rglob("*.parquet")}
    kept_after(*made)
    assert bytes_of == {path: path.read_bytes() for path in Path("results/reference").rglob("*.parquet")}
