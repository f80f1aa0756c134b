"""Tables: schemas, round trips, damage."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import damaged_message

from circuit_phases import schemas
from circuit_phases.files import DamagedFile, UserError
from circuit_phases.schemas import RUN_TABLES, RUNS, TRAINING, VECTORS
from circuit_phases.settings import GROUPS, RunSettings
from circuit_phases.tables import concatenate, concatenate_runs, read_frame, read_table, table_from_rows, write_table

SCHEMAS = {name: value for name, value in vars(schemas).items() if isinstance(value, pa.Schema)} | {
    f"VECTORS[{name}]": schema for name, schema in VECTORS.items()
}
ROWS: list[dict[str, Any]] = [
    {
        "run": "paper,T=2", "seed": seed, "step": 10 * step, "split": split, "task": task,
        "loss": 1 / (step + 3), "accuracy": step / 7, "memory": None, "inference": step / 9, "sequences": 64,
    }
    for seed in (0, 1) for step in range(4) for split in ("iid", "random_label") for task in (None, 1, 2)
]  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "training.parquet"
    write_table(path, table_from_rows(ROWS, TRAINING), TRAINING)
    return path


def read_training(path: Path) -> pa.Table:
    return read_table(path, TRAINING)


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_reader_finds_a_description_on_every_table_and_column(name: str, tmp_path: Path) -> None:
    schema = SCHEMAS[name]
    write_table(tmp_path / "table.parquet", schema.empty_table(), schema)
    stored = pq.read_schema(tmp_path / "table.parquet")
    assert stored.metadata[b"description"].strip()
    for field in stored:
        assert field.metadata[b"description"].strip(), field.name
    assert stored.names == schema.names
    assert len(set(stored.names)) == len(stored.names)
    assert stored.types == schema.types


def test_every_collected_table_names_its_run_and_seed_first() -> None:
    assert set(RUN_TABLES) >= {"runs", "training", "circuits", "attention", "phases", "theory"}
    for schema in RUN_TABLES.values():
        assert schema.names[:2] == ["run", "seed"]


def test_the_table_of_runs_has_a_column_of_the_right_type_for_every_parameter() -> None:
    parameters = RunSettings.from_parameters(
        masks=[["self"], ["causal"]], forbidden=[{"layer": 1, "edges": ["self"]}]
    ).parameters
    assert set(parameters) <= set(RUNS.names)
    kinds = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string(), tuple: pa.string()}
    for group in GROUPS.values():
        for name in group.model_fields:
            assert RUNS.field(name).type == kinds[type(parameters[name])], name


def test_rows_come_back_as_written(path: Path) -> None:
    assert read_table(path, TRAINING).to_pylist() == ROWS


def test_numbers_come_back_to_the_bit(tmp_path: Path) -> None:
    odd = [5e-324, 0.1 + 0.2, -0.0, math.inf, math.nan, 1.7976931348623157e308]
    rows = [ROWS[0] | {"loss": number} for number in odd]
    write_table(tmp_path / "table.parquet", table_from_rows(rows, TRAINING), TRAINING)
    back = read_table(tmp_path / "table.parquet", TRAINING)["loss"].to_pylist()
    assert [number.hex() for number in back] == [number.hex() for number in odd]


def test_columns_are_written_in_the_schemas_order_and_types_whatever_they_were(tmp_path: Path) -> None:
    frame = pd.DataFrame(ROWS)[sorted(TRAINING.names, reverse=True)]
    frame["extra"] = 1
    frame["seed"] = frame["seed"].astype("int8")
    write_table(tmp_path / "frame.parquet", frame, TRAINING)
    table = read_table(tmp_path / "frame.parquet", TRAINING)
    assert table.schema.equals(TRAINING)
    assert table.to_pylist() == ROWS


def test_a_data_frame_keeps_whole_numbers_whole_where_some_are_missing(path: Path) -> None:
    frame = read_frame(path, TRAINING)
    assert frame["task"].dtype == pd.Int64Dtype()
    assert frame["task"].isna().sum() == len(ROWS) / 3
    assert set(frame["task"].dropna()) == {1, 2}
    assert frame["accuracy"].dtype == "float64"
    assert (frame[frame["step"] == 20]["accuracy"] == 2 / 7).all()


def test_a_table_that_lacks_a_column_is_not_written(tmp_path: Path) -> None:
    table = table_from_rows(ROWS, TRAINING)
    for incomplete in (table.drop_columns(["loss"]), table.drop_columns(["loss"]).to_pandas()):
        with pytest.raises(KeyError, match="loss"):
            write_table(tmp_path / "table.parquet", incomplete, TRAINING)
    assert list(tmp_path.iterdir()) == []


def test_a_table_of_the_wrong_type_is_not_written_and_the_old_one_stays(path: Path) -> None:
    before = path.read_bytes()
    wrong = pa.table({name: pa.array(["many"]) for name in TRAINING.names})
    with pytest.raises(pa.ArrowInvalid):
        write_table(path, wrong, TRAINING)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_equal_tables_are_equal_files(path: Path) -> None:
    again = path.with_name("again.parquet")
    write_table(again, table_from_rows(ROWS, TRAINING), TRAINING)
    assert again.read_bytes() == path.read_bytes()


def test_a_missing_table_is_named_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "training.parquet"
    with pytest.raises(UserError) as caught:
        read_table(path, TRAINING)
    assert str(caught.value) == f"{path} is missing. Run `snakemake` to make it."


def test_a_table_cut_short_anywhere_is_named(path: Path) -> None:
    whole = path.read_bytes()
    for size in [*range(0, len(whole), 7), len(whole) - 1]:
        path.write_bytes(whole[:size])
        damaged_message(path, read_training)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"run,seed\npaper,0\n", b"\0" * 5000], ids=lambda c: repr(c[:8]))
def test_a_file_that_is_no_table_is_named(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    damaged_message(path, read_training)


def test_a_folder_where_a_table_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "training.parquet").mkdir()
    damaged_message(tmp_path / "training.parquet", read_training)


@pytest.mark.parametrize("part", ["data", "footer"])
def test_a_table_with_any_bit_flipped_is_named_or_still_right(part: str, path: Path) -> None:
    # A small schema, so that the footer, for which Parquet has no checksum, is short.
    schema = pa.schema([TRAINING.field(name).remove_metadata() for name in ("run", "step", "accuracy")])
    table = table_from_rows([{name: row[name] for name in schema.names} for row in ROWS], schema)
    write_table(path, table, schema)
    whole = path.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    unnoticed, damaged = [], 0
    for place in range(footer) if part == "data" else range(footer, len(whole)):
        for bit in (5, 7):
            altered = bytearray(whole)
            altered[place] ^= 1 << bit
            path.write_bytes(altered)
            try:
                if not read_table(path, schema).equals(table):
                    unnoticed.append((place, bit))
            except DamagedFile:
                damaged += 1
    assert unnoticed == []
    assert damaged > 200


@pytest.mark.parametrize("missing", ["run", "accuracy"])
def test_a_table_without_a_column_is_named_with_it(missing: str, path: Path) -> None:
    pq.write_table(table_from_rows(ROWS, TRAINING).drop_columns([missing]), path)
    assert f"lacks the column {missing}" in damaged_message(path, read_training)


def test_a_table_with_a_column_of_another_type_is_named_with_it(path: Path) -> None:
    table = table_from_rows(ROWS, TRAINING)
    accuracy = pa.array(["high"] * len(table))
    pq.write_table(table.set_column(table.column_names.index("accuracy"), "accuracy", accuracy), path)
    assert "accuracy" in damaged_message(path, read_training)


def test_tables_are_joined_in_the_given_order(tmp_path: Path) -> None:
    paths = []
    for number in (2, 0, 1):
        paths.append(tmp_path / f"{number}.parquet")
        write_table(paths[-1], table_from_rows([row | {"step": number} for row in ROWS], TRAINING), TRAINING)
    joined = concatenate(paths, TRAINING)
    assert joined.schema.equals(TRAINING)
    assert joined["step"].to_pylist() == [2] * len(ROWS) + [0] * len(ROWS) + [1] * len(ROWS)
    assert concatenate([], TRAINING).equals(TRAINING.empty_table())


def test_a_figure_reads_a_run_under_the_name_that_it_asks_for(path: Path) -> None:
    write_table(path, table_from_rows(ROWS, TRAINING), TRAINING)
    joined = concatenate_runs("training", [path, path], [("own", 3), ("other", 4)])
    assert joined.schema.equals(TRAINING)
    assert joined["run"].to_pylist() == ["own"] * len(ROWS) + ["other"] * len(ROWS)
    assert joined["seed"].to_pylist() == [3] * len(ROWS) + [4] * len(ROWS)
    assert joined["accuracy"].to_pylist() == [row["accuracy"] for row in ROWS] * 2
    assert concatenate_runs("training", [], []).equals(TRAINING.empty_table())


def test_a_damaged_table_among_many_is_the_one_named(path: Path) -> None:
    bad = path.with_name("bad.parquet")
    bad.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DamagedFile, match=r"bad\.parquet is damaged"):
        concatenate([path, bad], TRAINING)
