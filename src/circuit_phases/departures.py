"""What the phases hang on: the base experiment over the paper's text and its departures, one by one and together."""

from __future__ import annotations

from typing import Any

import pandas as pd

from circuit_phases import schemas
from circuit_phases.evidence import Trained, path_name, trained
from circuit_phases.figure_data import FigureData


def departures_table(data: FigureData) -> pd.DataFrame:
    """The rows of `schemas.DEPARTURES`: for every run, its cell of the grid, phases, times and last accuracy.

    `data` holds the tables runs, training, phases and theory.
    """
    return pd.DataFrame([_row(run) for run in trained(data)], columns=schemas.DEPARTURES.names)


def _row(run: Trained) -> dict[str, Any]:
    plateaus = {
        f"phase_{number}_{edge}": getattr(run.phase(number), edge, None)
        for number in (1, 2, 3)
        for edge in ("start", "end", "accuracy", "ceiling")
    }
    return {
        "run": run.series.run,
        "seed": run.seed,
        **{name: run.parameters[name] for name in schemas.DEPARTING},
        "phases": path_name(run.path),
        **plateaus,
        "last_accuracy": run.last_accuracy,
        "solved_step": run.solved_step,
        "steps": int(run.parameters["steps"]),
    }
