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
    for folder in ("tables", "figures"):
        (KEPT / folder).mkdir(parents=True, exist_ok=True)
    for path in (RESULTS / "tables").glob("*.parquet"):
        keep = add_runs if path.stem in RUN_TABLES else shutil.copyfile
        keep(path, KEPT / "tables" / path.name)
    for ending in ("png", "gif", "mp4"):
        for path in (RESULTS / "figures").glob(f"*.{ending}"):
            shutil.copyfile(path, KEPT / "figures" / path.name)


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
