"""Does a phase need what another leaves? Runs with edges forbidden for a while, against the run that is free."""

from __future__ import annotations

import pandas as pd

from circuit_phases.evidence import Trained, trained
from circuit_phases.figure_data import FigureData
from circuit_phases.schemas import PREREQUISITES

QUANTITIES = ("phase_1_start", "phase_2_start", "phase_3_start", "solved_step")


def prerequisites_table(data: FigureData) -> pd.DataFrame:
    """The rows of `schemas.PREREQUISITES`: of every run, when each phase came, and in the free run of its seed.

    The free run has nothing forbidden; with the same seed, it has the same world, first weights and batches.
    """
    runs = trained(data)
    free = {run.seed: run for run in runs if pd.isna(run.parameters["forbidden"])}
    rows = []
    for run in runs:
        reference = free.get(run.seed)
        if reference is None or reference is run:
            continue
        for quantity in QUANTITIES:
            step, free_step = first_step(run, quantity), first_step(reference, quantity)
            ratio = step / max(free_step, 1) if step is not None and free_step is not None else None
            rows.append(
                {
                    "run": run.series.run,
                    "seed": run.seed,
                    "free_run": reference.series.run,
                    "quantity": quantity,
                    "step": step,
                    "free_step": free_step,
                    "ratio": ratio,
                    "steps": int(run.parameters["steps"]),
                    "free_steps": int(reference.parameters["steps"]),
                }
            )
    return pd.DataFrame(rows, columns=PREREQUISITES.names)


def first_step(run: Trained, quantity: str) -> int | None:
    """The first step of a phase, or with accuracy 0.99 or more; None if it did not come."""
    if quantity == "solved_step":
        return run.solved_step
    found = run.phase(int(quantity.split("_")[1]))
    return None if found is None else found.start
