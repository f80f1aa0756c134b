"""Steps of the LLM stage from files to files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from circuit_phases import schemas, tables
from circuit_phases.llm.data import Text
from circuit_phases.llm.settings import DatasetSource, LlmSettings, ModelSource
from circuit_phases.llm.stages import Shard, collect, evaluate_shard, get_dataset, get_model

IDENTITY = {"model": "m", "revision": "local", "dataset": "d"}


def test_more_shards_than_queries_leave_empty_ones_and_the_same_tables(
    folder_of: Callable[[str], Path], reviews: list[Text], tmp_path: Path
) -> None:
    (tmp_path / "reviews.tsv").write_text("sentence\tlabel\n" + "".join(f"{r.text}\t{r.label}\n" for r in reviews))
    get_model("m", ModelSource(path=str(folder_of("gpt2"))), "local", tmp_path / "model", tmp_path / "m.parquet")
    source = DatasetSource(path=str(tmp_path / "reviews.tsv"))
    get_dataset("d", source, tmp_path / "data", tmp_path / "d.parquet")
    made: dict[int, list[pd.DataFrame]] = {}
    for shards in (1, 4):
        settings = LlmSettings(shards=shards)
        parts = [tmp_path / f"{number}-of-{shards}" for number in range(shards)]
        for number, part in enumerate(parts):
            shard = Shard(settings, IDENTITY, 3, number)
            evaluate_shard(shard, tmp_path / "model", tmp_path / "data", part / "answers", part / "sums")
        collect("llm_accuracy", [part / "answers" for part in parts], tmp_path / "accuracy")
        collect("llm_circuits", [part / "sums" for part in parts], tmp_path / "circuits")
        made[shards] = [tables.read_frame(tmp_path / name, schemas.LLM_TABLES[f"llm_{name}"])
                        for name in ("accuracy", "circuits")]  # fmt: skip
    assert tables.read_table(tmp_path / "3-of-4" / "answers", schemas.LLM_ANSWERS).num_rows == 0
    for whole, split in zip(made[1], made[4], strict=True):
        pd.testing.assert_frame_equal(whole, split, atol=1e-6)
    sources = [
        tables.read_table(tmp_path / name, schemas.LLM_SOURCES).to_pylist()[0] for name in ("m.parquet", "d.parquet")
    ]
    assert [row["origin"] for row in sources] == [folder_of("gpt2").name, "reviews.tsv"]
    assert sources[1]["texts"] == len(reviews)
