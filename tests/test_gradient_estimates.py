"""How well gradients foretell effects, phase by phase."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from made_runs import Made, data_of
from scipy import stats

from circuit_phases.figure_data import FigureData
from circuit_phases.gradient_estimates import gradient_estimates_table
from circuit_phases.schemas import GRADIENT_ESTIMATES
from circuit_phases.settings import RunSettings

SETTINGS = RunSettings()


def data_with(rows: pd.DataFrame) -> FigureData:
    made = data_of([Made(SETTINGS, seed, {1: (2_000, 12_000), 3: (60_000, 100_000)}) for seed in (0, 1)])
    elsewhere = rows.assign(split="copy", logit_estimate=1.0)
    both = pd.concat([rows.assign(split="iid"), elsewhere])
    return FigureData(made.series, made.tables | {"attribution": both}, made.rules)


def test_correlations_are_of_the_effects_within_each_phase_over_seeds() -> None:
    generator = np.random.default_rng(0)
    rows = pd.DataFrame(
        [
            {"run": SETTINGS.name, "seed": seed, "step": step, "intervention": kind,
             "logit_change": generator.normal(), "logit_estimate": generator.normal()}
            for seed in (0, 1)
            for step in (100, 1_999, 2_000, 5_000, 12_000, 12_100, 59_900, 60_000, 100_000)
            for kind in ("none", "zero", "zero", "mean", "resample", "interchange")
        ]
    )  # fmt: skip
    rows.loc[rows["intervention"] == "none", ["logit_change", "logit_estimate"]] = 0.0
    nothing = (rows["intervention"] == "mean") & (rows["step"] == 5_000)
    rows.loc[nothing, ["logit_change", "logit_estimate"]] = 0.0
    table = gradient_estimates_table(data_with(rows))
    assert list(table.columns) == GRADIENT_ESTIMATES.names
    told = table.set_index([table["phase"].fillna(0), table["intervention"].fillna("all")])
    steps = {1: (2_000, 12_000), 3: (60_000, 100_000)}
    for phase, (start, end) in steps.items():
        mine = rows[rows["step"].between(start, end) & (rows["intervention"] != "none") & ~nothing]
        row = told.loc[(phase, "all")]
        assert row["observations"] == len(mine)
        assert row["correlation"] == pytest.approx(np.corrcoef(mine["logit_change"], mine["logit_estimate"])[0, 1])
        ranks = stats.spearmanr(mine["logit_change"], mine["logit_estimate"]).statistic
        assert row["rank_correlation"] == pytest.approx(ranks)
        assert row["same_sign"] == pytest.approx((mine["logit_change"] * mine["logit_estimate"] > 0).mean())
        assert told.loc[(phase, "zero"), "observations"] == (mine["intervention"] == "zero").sum()
    assert told.loc[(2, "all"), "observations"] == 0
    assert told.loc[(0, "all"), "observations"] == 2 * 2 * 5, "between phases, not before the first"
    assert np.isnan(told.loc[(3, "mean"), "correlation"]), "four effects are too few"
