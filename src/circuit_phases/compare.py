"""One's own tables against others, such as those of the finished runs: run by run, seed by seed.

The same configuration and seed give the same numbers on one machine. On another, sums are rounded in
another order, and training amplifies the differences: the curves part, though what they show does not.
So quantities are compared with a tolerance, by which `close` is told from `different`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from circuit_phases.evidence import Trained, trained
from circuit_phases.figure_data import FigureData, Series

ACCURACY = 0.02
"""Most difference of accuracies: 2.5 standard errors of an accuracy on 4,096 sequences."""
DECADES = 0.1
"""Most difference of steps, in powers of ten (a factor of 1.26): the width of one jump by the dAcc rule."""
TABLES = ("training", "phases")
"""The tables that are compared."""

PLATEAU = [(number, what) for number in (1, 2, 3) for what in ("accuracy", "start", "end")]
QUANTITIES = ("last_accuracy", "steps", *(f"phase_{number}_{what}" for number, what in PLATEAU))
VERDICTS = ("equal", "close", "different", "missing")
"""From best to worst."""


def comparison(mine: Mapping[str, pd.DataFrame], reference: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The rows of `schemas.COMPARISON`: every quantity of every run of either side.

    A phase that came on one side alone makes its quantities different; a run that is on one side alone is
    one row, `missing`. Both mappings hold the tables of `TABLES`.
    """
    sides = [_quantities(tables) for tables in (mine, reference)]
    rows = []
    for run, seed in sorted(set(sides[0]) | set(sides[1])):
        own, other = (side.get((run, seed)) for side in sides)
        for quantity in QUANTITIES if own and other else ("last_accuracy",):
            pair = [values[quantity] if values else np.nan for values in (own, other)]
            if own and other and np.isnan(pair).all():
                continue
            verdict = _verdict(quantity, *pair) if own and other else "missing"
            rows.append((run, seed, quantity, *pair, verdict))
    return pd.DataFrame(rows, columns=["run", "seed", "quantity", "mine", "reference", "verdict"])


def report(found: pd.DataFrame) -> str:
    """A line per run and seed with its worst verdict and what differs, then how many there are of each."""
    lines, verdicts = [], []
    for (run, seed), group in found.groupby(["run", "seed"], sort=False):
        verdicts.append(max(group["verdict"], key=VERDICTS.index))
        mine, reference = group.loc[group["quantity"] == "last_accuracy", ["mine", "reference"]].iloc[0]
        told = _differences(group)
        lines.append(f"{verdicts[-1]:9} {mine:8.4f} {reference:9.4f}  {run} seed {seed}{told and ': '}{told}")
    counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in VERDICTS)
    heading = f"{'':9} {'mine':>8} {'reference':>9}  last accuracy"
    tolerance = f"close: accuracies within {ACCURACY:g}, steps within a factor of {10**DECADES:.2f}"
    return "\n".join([heading, *lines, f"{len(verdicts)} runs: {counts} ({tolerance})."])


def exit_code(found: pd.DataFrame) -> int:
    """0: all equal or close; 2: something differs; 3: nothing differs, but a run of the reference is missing.

    A run that the reference does not have does not count.
    """
    if (found["verdict"] == "different").any():
        return 2
    return 3 if found.loc[found["verdict"] == "missing", "mine"].isna().any() else 0


def _differences(group: pd.DataFrame) -> str:
    rows = group.loc[group["verdict"] == "different", ["quantity", "mine", "reference"]].to_numpy()
    return ", ".join(f"{quantity} {_short(mine)} for {_short(reference)}" for quantity, mine, reference in rows)


def _short(value: float) -> str:
    return "none" if np.isnan(value) else f"{value:,.0f}" if value > 1 else f"{value:.3f}"


def _verdict(quantity: str, mine: float, reference: float) -> str:
    if mine == reference:
        return "equal"
    if np.isnan(mine) or np.isnan(reference):
        return "different"
    if quantity.endswith("accuracy"):
        return "close" if abs(mine - reference) <= ACCURACY else "different"
    return "close" if abs(np.log10(mine / reference)) <= DECADES else "different"


def _quantities(tables: Mapping[str, pd.DataFrame]) -> dict[tuple[str, int], dict[str, float]]:
    """The quantities of every run; NaN for those of a phase that did not come."""
    runs = tables["training"].groupby("run")["seed"].unique()
    series = tuple(Series(str(run), str(run), tuple(map(int, sorted(seeds)))) for run, seeds in runs.items())
    return {(one.series.run, one.seed): _of_run(one) for one in trained(FigureData(series, dict(tables)))}


def _of_run(run: Trained) -> dict[str, float]:
    edges = {f"phase_{number}_{what}": float(getattr(run.phase(number), what, np.nan)) for number, what in PLATEAU}
    return {"last_accuracy": run.last_accuracy, "steps": float(run.accuracy.index[-1])} | edges
