"""When attribution patching (Nanda 2023) can be trusted: gradients' estimates against the effects, phase by phase."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from circuit_phases.figure_data import FigureData, Series
from circuit_phases.readings import phases
from circuit_phases.schemas import GRADIENT_ESTIMATES

BETWEEN = 0
"""Stands for the checkpoints between phases, from the first on."""
INTERVENTIONS = ("zero", "mean", "resample", "interchange")
FEWEST = 8
"""Observations below which no correlation is given."""


def phased_effects(data: FigureData, series: Series) -> pd.DataFrame:
    """Every effect and its estimate with the phase of its checkpoint, over the seeds of a series.

    Checkpoints before the first phase have no answers to change and are left out, and so are interventions that
    change nothing by construction. A plateau at no known ceiling counts as between phases.
    """
    found = []
    for seed in series.seeds:
        plateaus = phases(data, series.run, seed)
        rows = data.table("attribution", series.run, seed)
        rows = rows[rows["split"] == "iid"]
        rows = rows[(rows["intervention"] != "none") & ((rows["logit_change"] != 0) | (rows["logit_estimate"] != 0))]
        if plateaus and len(data.training_curve(series.run, seed)):
            steps = rows["step"].to_numpy(dtype=np.int64)
            phase = np.full(len(rows), BETWEEN)
            for each in plateaus:
                phase[(steps >= each.start) & (steps <= each.end)] = each.number or BETWEEN
            found.append(rows.assign(phase=phase)[steps >= plateaus[0].start])
    if not found:
        return data.table("attribution", series.run).iloc[:0].assign(phase=[])
    return pd.concat(found)


def gradient_estimates_table(data: FigureData) -> pd.DataFrame:
    """The rows of `schemas.GRADIENT_ESTIMATES`."""
    rows = []
    for series in data.series:
        effects = phased_effects(data, series)
        for phase in (1, 2, 3, BETWEEN):
            of_phase = effects[effects["phase"] == phase]
            for intervention in (None, *INTERVENTIONS):
                mine = of_phase if intervention is None else of_phase[of_phase["intervention"] == intervention]
                change, estimate = (
                    mine[name].to_numpy(dtype=np.float64) for name in ("logit_change", "logit_estimate")
                )
                pearson, spearman, sign = np.nan, np.nan, np.nan
                if len(mine) >= FEWEST and np.ptp(change) and np.ptp(estimate):
                    pearson = float(stats.pearsonr(estimate, change).statistic)
                    spearman = float(stats.spearmanr(estimate, change).statistic)
                    sign = float((np.sign(change) == np.sign(estimate)).mean())
                rows.append(
                    {
                        "run": series.run,
                        "phase": None if phase == BETWEEN else phase,
                        "intervention": intervention,
                        "correlation": pearson,
                        "rank_correlation": spearman,
                        "same_sign": sign,
                        "observations": len(mine),
                    }
                )
    return pd.DataFrame(rows, columns=GRADIENT_ESTIMATES.names)
