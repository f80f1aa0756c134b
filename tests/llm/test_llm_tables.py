"""From answers and sums to tables, and which heads are cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from circuit_phases import schemas, tables
from circuit_phases.files import UserError
from circuit_phases.llm.cutting import cuts
from circuit_phases.llm.settings import CutSettings
from circuit_phases.llm.stages import collect
from circuit_phases.llm.summaries import accuracy_table

ASKED = {"model": "m", "revision": "r", "dataset": "d", "shots": 2, "demonstration_labels": "gold"}


def answers(right: int, prompts: int, **changes: Any) -> pd.DataFrame:
    columns = {"cut": "none", "half": 0, "label": 1, "margin": 0.0} | ASKED | changes
    return pd.DataFrame({"query": range(prompts), "predicted": [int(i < right) for i in range(prompts)]}).assign(
        **columns
    )


def test_accuracy_has_wilsons_interval() -> None:
    (row,) = accuracy_table(answers(8, 10)).to_dict("records")
    z, p, n = 1.959964, 0.8, 10
    middle, width = p + z**2 / 2 / n, z * np.sqrt(p * (1 - p) / n + z**2 / 4 / n**2)
    assert row["accuracy"] == p
    assert row["low"] == pytest.approx((middle - width) / (1 + z**2 / n), abs=1e-6)
    assert row["high"] == pytest.approx((middle + width) / (1 + z**2 / n), abs=1e-6)
    assert row["prompts"] == n


def test_each_condition_and_cut_has_its_own_row_over_all_shards(tmp_path: Path) -> None:
    parts = {
        "a": answers(1, 2), "b": answers(3, 4), "c": answers(0, 3, cut="label_attention: top 2 heads"),
        "d": answers(2, 2, shots=0, demonstration_labels="none"),
    }  # fmt: skip
    for name, part in parts.items():
        tables.write_table(tmp_path / name, part, schemas.LLM_ANSWERS)
    collect("llm_accuracy", [tmp_path / name for name in parts], tmp_path / "out.parquet")
    found = tables.read_frame(tmp_path / "out.parquet", schemas.LLM_ACCURACY)
    rows = found.set_index(["shots", "cut"])["accuracy"].to_dict()
    assert rows == {(2, "none"): 4 / 6, (2, "label_attention: top 2 heads"): 0.0, (0, "none"): 1.0}


def test_a_revision_with_the_weights_of_an_earlier_one_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    digests = {"step1": "a", "step2": "b", "main": "b", "last": "a"}
    rows = [
        {"kind": "model", "name": name, "revision": revision, "origin": "o", "sha256": digest}
        for name in ("m", "n") for revision, digest in digests.items() if (name, revision) != ("n", "step1")
    ]  # fmt: skip
    tables.write_table(tmp_path / "in", tables.table_from_rows(rows, schemas.LLM_SOURCES), schemas.LLM_SOURCES)
    collect("llm_sources", [tmp_path / "in"], tmp_path / "out")
    found = tables.read_table(tmp_path / "out", schemas.LLM_SOURCES).to_pylist()
    same = {(row["name"], row["revision"]): row["same_as"] for row in found if row["same_as"]}
    assert same == {("m", "main"): "step2", ("m", "last"): "step1", ("n", "main"): "step2"}
    assert "m: the weights of revision main are those of step2" in caplog.text


# Heads to cut


def sums(heads_by_half: list[dict[tuple[int, int], float]]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "shots": shots,
                "demonstration_labels": kind,
                "half": half,
                "layer": layer,
                "head": head,
                "metric": metric,
                "sum": sign * (value if metric == "label_attention" else 9 - value),
            }
            for shots, kind, sign in ((2, "gold", 1), (1, "gold", -5), (2, "random", -5))
            for half, heads in enumerate(heads_by_half)
            for (layer, head), value in heads.items()
            for metric in ("label_attention", "chunk_example")
        ]
        + [
            {
                "shots": 2,
                "demonstration_labels": "gold",
                "half": 0,
                "layer": 1,
                "head": None,
                "metric": "label_attention",
                "sum": 99.0,
            }
        ]
    ).astype({"head": "Int64"})


EVERY = [(layer, head) for layer in (1, 2, 3) for head in (1, 2)]


def test_heads_cut_in_one_half_are_the_top_ones_of_the_other() -> None:
    found = sums([{key: float(i) for i, key in enumerate(EVERY)}, {key: float(-i) for i, key in enumerate(EVERY)}])
    made = dict(cuts(found, CutSettings(heads=2, random_draws=0), seed=0, shots=2))
    assert list(made) == ["label_attention: top 2 heads", "chunk_example: top 2 heads"]
    first_half, second_half = made["label_attention: top 2 heads"]
    assert dict(first_half.heads) == {0: [0, 1]}
    assert dict(second_half.heads) == {2: [0, 1]}
    assert [dict(cut.heads) for cut in made["chunk_example: top 2 heads"]] == [{2: [0, 1]}, {0: [0, 1]}]


def test_random_heads_are_as_many_and_none_of_the_top_ones() -> None:
    found = sums([{key: float(i) for i, key in enumerate(EVERY)}] * 2)
    settings = CutSettings(metrics=["label_attention"], heads=2, random_draws=8)
    made = list(cuts(found, settings, seed=1, shots=2))
    assert len(made) == 9
    drawn = [
        sorted((layer, head) for layer, heads in cut.heads.items() for head in heads)
        for _, both in made[1:]
        for cut in both
    ]
    assert {len(set(heads)) for heads in drawn} == {2}
    assert not {(2, 0), (2, 1)} & {head for heads in drawn for head in heads}
    assert len(set(map(tuple, drawn))) > 3
    assert [name for name, _ in cuts(found, settings, seed=1, shots=2)] == [name for name, _ in made]
    assert [both for _, both in cuts(found, settings, seed=1, shots=2)] == [both for _, both in made]


def test_more_heads_than_there_are_is_told() -> None:
    found = sums([dict.fromkeys(EVERY, 1.0)] * 2)
    with pytest.raises(UserError, match=r"cuts.heads = 4 is not allowed"):
        list(cuts(found, CutSettings(heads=4), seed=0, shots=2))
