"""Add the finished results to results/reference, small enough for version control: `make reference`.

Runs that are kept there already stay, so that a reference may come of several goes, on several machines.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd

from circuit_phases.schemas import RUN_TABLES, TRAINING
from circuit_phases.tables import read_frame, write_table
from circuit_phases.thinning import thinned

RESULTS = Path("results")
KEPT = RESULTS / "reference"
RUN = ["run", "seed"]


def main() -> None:
    """Every run's rows, of training only what a curve needs; every finding, picture and film."""
    for folder, endings in {"tables": ["parquet"], "figures": ["png", "gif", "mp4"]}.items():
        (KEPT / folder).mkdir(parents=True, exist_ok=True)
        for path in (path for ending in endings for path in (RESULTS / folder).glob(f"*.{ending}")):
            kept = KEPT / folder / path.name
            if path.stem in RUN_TABLES:
                add_runs(path, kept)
            else:
                shutil.copyfile(path, kept)


def add_runs(path: Path, kept: Path) -> None:
    """The runs of a table before those that are kept of it alone; a run in both stands as the table has it."""
    schema = RUN_TABLES[path.stem]
    rows = read_frame(path, schema)
    if schema is TRAINING:
        rows = thinned(rows)
    if kept.exists():
        others = read_frame(kept, schema)
        alone = ~pd.MultiIndex.from_frame(others[RUN]).isin(pd.MultiIndex.from_frame(rows[RUN]))
        rows = pd.concat([rows, others[alone]], ignore_index=True)
    write_table(kept, rows, schema)


if __name__ == "__main__":
    main()
