"""Copy the finished results into results/reference, small enough for version control: `make reference`."""

from __future__ import annotations

import shutil
from pathlib import Path

from circuit_phases.schemas import TRAINING
from circuit_phases.tables import read_frame, write_table
from circuit_phases.thinning import thinned

RESULTS = Path("results")
KEPT = RESULTS / "reference"


def main() -> None:
    """Every table, of training only what a curve needs, and every picture and film."""
    for folder, endings in {"tables": ["parquet"], "figures": ["png", "gif", "mp4"]}.items():
        (KEPT / folder).mkdir(parents=True, exist_ok=True)
        for path in (path for ending in endings for path in (RESULTS / folder).glob(f"*.{ending}")):
            shutil.copyfile(path, KEPT / folder / path.name)
    training = KEPT / "tables" / "training.parquet"
    write_table(training, thinned(read_frame(training, TRAINING)), TRAINING)


if __name__ == "__main__":
    main()
