"""What a model is able to at the end of each phase: accuracy, memory and inference on every frozen split."""

from __future__ import annotations

import pandas as pd

from circuit_phases.figure_data import CIRCUITS, FigureData
from circuit_phases.readings import phases
from circuit_phases.schemas import ABILITIES


def abilities_table(data: FigureData) -> pd.DataFrame:
    """The rows of `schemas.ABILITIES`: of every run, at the last evaluation of each phase by the rule plateau.

    `data` holds the tables training, phases and ability_levels.
    """
    found = [
        _at_the_end(data, series.run, seed, phase.number, phase.end)
        for series in data.series
        for seed in series.seeds
        for phase in phases(data, series.run, seed)
        if phase.number in CIRCUITS
    ]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=ABILITIES.names)


def _at_the_end(data: FigureData, run: str, seed: int, phase: int, step: int) -> pd.DataFrame:
    rows = data.table("training", run, seed)
    rows = rows[(rows["step"] == step) & rows["task"].isna() & (rows["split"] != "train")]
    levels = data.table("ability_levels", run, seed)
    levels = levels[levels["measure"] == "accuracy"]
    known = {
        (split, level): value for split, level, value in levels[["split", "level", "value"]].itertuples(index=False)
    }
    values = ["accuracy", "memory", "inference"]
    found = rows[["run", "seed", "step", "split", *values, "sequences"]].assign(phase=phase)
    for column, level in {"chance": "chance", "ceiling": CIRCUITS[phase].lower()}.items():
        found[column] = pd.Series([known.get((split, level)) for split in rows["split"]], rows.index, dtype=float)
    return found
