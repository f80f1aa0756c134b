"""The one way to read and write tables; their schemas stand in `circuit_phases.schemas`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from circuit_phases.files import DamagedFile, read_whole, replacing
from circuit_phases.schemas import DATASET_TABLES, FIGURE_TABLES, WORLD_TABLES

if TYPE_CHECKING:
    import pandas as pd

# pandas is imported where a data frame is made: a training job, which makes none, is 40 MB smaller without it.


def write_table(path: Path | str, table: pa.Table | pd.DataFrame, schema: pa.Schema) -> None:
    """Write a table whole or not at all, in the columns and types of its schema.

    Raises:
        UserError: if the folder cannot be written to or the disk is full.
        pyarrow.ArrowInvalid, KeyError: if the table does not fit the schema.
    """
    if not isinstance(table, pa.Table):
        table = pa.Table.from_pandas(table[schema.names], schema=schema, preserve_index=False)
    table = table.select(schema.names).cast(schema).replace_schema_metadata(schema.metadata)
    with replacing(Path(path)) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)


def read_table(path: Path | str, schema: pa.Schema) -> pa.Table:
    """Read a table and check its columns.

    Raises:
        UserError: if the file is missing or cannot be read.
        DamagedFile: if it is no Parquet or lacks a column.
    """
    path = Path(path)
    content = read_whole(path)
    try:
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        table = file.read()
    except MemoryError:
        # Arrow's own is one of its errors too.
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DamagedFile(path, f"not readable as Parquet: {str(error).splitlines()[0]}") from error
    missing = [name for name in schema.names if name not in table.column_names]
    if missing:
        raise DamagedFile(path, f"lacks the column {missing[0]}")
    wrong = [field.name for field in schema if table.schema.field(field.name).type != field.type]
    if wrong:
        raise DamagedFile(path, f"the column {wrong[0]} has another type")
    if len(table) != file.metadata.num_rows:
        raise DamagedFile(path, f"holds {len(table)} of {file.metadata.num_rows} rows")
    return table


def require_whole_worlds(paths: Iterable[Path]) -> None:
    """Check those of these files that are tables of a world.

    Raises:
        UserError: if one cannot be read.
        DamagedFile: if one is damaged.
    """
    for path in sorted(paths):
        if path.stem in WORLD_TABLES and path.exists():
            read_table(path, WORLD_TABLES[path.stem])


def read_frame(path: Path | str, schema: pa.Schema) -> pd.DataFrame:
    """Read a table as a data frame; integer columns with nulls stay integers."""
    return to_frame(read_table(path, schema))


def to_frame(table: pa.Table) -> pd.DataFrame:
    """A data frame whose integer columns stay integers where they have nulls."""
    import pandas as pd

    kinds = {pa.int64(): pd.Int64Dtype()}
    return table.to_pandas(types_mapper=kinds.get)


def concatenate(paths: Iterable[Path | str], schema: pa.Schema) -> pa.Table:
    """One table from many with the same schema, in the given order."""
    tables = [read_table(path, schema).select(schema.names) for path in paths]
    return pa.concat_tables(tables) if tables else schema.empty_table()


def concatenate_runs(name: str, paths: Iterable[Path | str], runs: Iterable[tuple[str, int]]) -> pa.Table:
    """One table of `FIGURE_TABLES` from that of each run or of its world, under the run and seed it is asked for by.

    That run's name is another than the table's own where a world's seed was given and is the training's.
    """
    schema = FIGURE_TABLES[name]
    found = [schema.empty_table()]
    for path, (run, seed) in zip(paths, runs, strict=True):
        table = read_table(path, DATASET_TABLES.get(name, schema))
        identity = {"run": pa.repeat(run, len(table)), "seed": pa.repeat(seed, len(table))}
        columns = {column: table[column] for column in table.column_names} | identity
        found.append(pa.table([columns[column] for column in schema.names], schema=schema))
    return pa.concat_tables(found)


def table_from_rows(rows: Sequence[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """A table from a list of rows."""
    return pa.Table.from_pylist(list(rows), schema=schema)
