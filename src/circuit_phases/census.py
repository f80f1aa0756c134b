"""The phase census: over many worlds and trainings, how often each path is taken, when, and what foretells it.

A run is one training in one world. Runs that share a world are not independent, so what a world foretells
is tested over worlds, each with the mean of its runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int64
from scipy import stats

from circuit_phases.evidence import Trained, trained
from circuit_phases.figure_data import FigureData
from circuit_phases.readings import TIME_NAMES
from circuit_phases.schemas import CENSUS

CONFIDENCE = 0.95
RESAMPLES = 9_999
"""Permutations drawn, or all where there are no more; the worlds of six seeds have 720."""

OUTCOMES = ("all_phases", "skips_1", "skips_2", "no_phase_3")
TIMES = tuple(TIME_NAMES)
FEATURES = (
    "ncc_ceiling",
    "scc_ceiling",
    "scc_gain",
    "fcc_gain",
    "labels_per_task",
    "shared_labels",
    "count_distance",
    "shared_pairs",
)
FORETOLD = ("all_phases", "skips_2", "solved_step")
"""What a feature of the world may foretell."""


def census_table(data: FigureData) -> pd.DataFrame:
    """The rows of `schemas.CENSUS`: every run's outcome and world, then the statistics over runs.

    `data` holds the tables runs, training, phases, theory and label_tables.
    """
    return census_of(trained(data), data)


def census_of(read: Sequence[Trained], data: FigureData) -> pd.DataFrame:
    """The same of runs that are read already."""
    runs = census_runs(read, data)
    rows = _values(runs)
    for configuration, group in runs.groupby("configuration", sort=False):
        rows += [row | {"configuration": configuration} for row in _statistics(group)]
    return pd.DataFrame(rows, columns=CENSUS.names)


def census_runs(read: Sequence[Trained], data: FigureData) -> pd.DataFrame:
    """One row per run: its configuration, world_seed and seed, then `OUTCOMES`, `TIMES` and `FEATURES` as numbers."""
    columns = ["configuration", "run", "world_seed", "seed", *OUTCOMES, *TIMES, *FEATURES]
    return pd.DataFrame([_run_row(run, data) for run in read], columns=columns)


def _run_row(run: Trained, data: FigureData) -> dict[str, Any]:
    path = set(run.path)
    labels = data.table("label_tables", run.series.run, run.seed).sort_values(["task", "class"])
    tables = labels["label"].to_numpy(dtype=np.int64).reshape(labels["task"].nunique(), -1)
    steps = {
        f"phase_{number}_{edge}": getattr(run.phase(number), edge, np.nan)
        for number in (1, 2, 3)
        for edge in ("start", "end")
    }
    return {
        "configuration": run.settings.name,
        "run": run.series.run,
        "world_seed": int(run.parameters["world_seed"]),
        "seed": run.seed,
        "all_phases": float(path == {1, 2, 3}),
        "skips_1": float(3 in path and 1 not in path),
        "skips_2": float(3 in path and 2 not in path),
        "no_phase_3": float(3 not in path),
        "solved_step": np.nan if run.solved_step is None else run.solved_step,
        **steps,
        **_ceiling_features(run.ceilings),
        **label_features(tables),
    }


def _ceiling_features(best: dict[int, float]) -> dict[str, float]:
    ncc, scc, fcc = (best.get(phase, np.nan) for phase in (1, 2, 3))
    return {"ncc_ceiling": ncc, "scc_ceiling": scc, "scc_gain": scc - ncc, "fcc_gain": fcc - scc}


def label_features(tables: Int64[np.ndarray, "T K"]) -> dict[str, float]:
    """What tells the tasks of a world apart, from the label of every class under every task.

    labels_per_task: different labels of a task, averaged over tasks; over pairs of tasks, averaged,
    shared_labels: labels of both / labels of either; count_distance: half the sum over labels of the difference
    of their counts, / K; shared_pairs: share of the classes with one label under both. NaN with one task.
    """
    counts = np.array([np.bincount(row, minlength=int(tables.max()) + 1) for row in tables])
    pairs = list(combinations(range(len(tables)), 2))

    def over_pairs(values: list[float]) -> float:
        return float(np.mean(values)) if values else np.nan

    held = counts > 0
    return {
        "labels_per_task": float(held.sum(axis=1).mean()),
        "shared_labels": over_pairs([(held[a] & held[b]).sum() / (held[a] | held[b]).sum() for a, b in pairs]),
        "count_distance": over_pairs([np.abs(counts[a] - counts[b]).sum() / 2 / tables.shape[1] for a, b in pairs]),
        "shared_pairs": over_pairs([(tables[a] == tables[b]).mean() for a, b in pairs]),
    }


def _values(runs: pd.DataFrame) -> list[dict[str, Any]]:
    places = ["configuration", "run", "world_seed", "seed"]
    long = runs.melt(places, [*OUTCOMES, *TIMES, *FEATURES], "quantity", "estimate").dropna(subset="estimate")
    rows = long.assign(statistic="value", observations=1).to_dict("records")
    return [{str(column): value for column, value in row.items()} for row in rows]


def _statistics(runs: pd.DataFrame) -> list[dict[str, Any]]:
    rows = [_rate(runs, name) for name in OUTCOMES]
    for name in TIMES:
        steps = runs[name].dropna().to_numpy(dtype=float)
        rows += [_resampled(steps, name, "median", _median), _resampled(steps, name, "quartile_decades", _quartiles)]
    worlds = runs.groupby("world_seed")[[*FORETOLD, *FEATURES]].mean()
    for name in FORETOLD:
        rows.append(_world_effect(runs, name))
        rows += [_rank_correlation(worlds, name, feature) for feature in FEATURES]
    return [row for row in rows if row["observations"]]


def _rate(runs: pd.DataFrame, name: str) -> dict[str, Any]:
    """The share of the runs, with Wilson's interval."""
    came, count = int(runs[name].sum()), len(runs)
    interval = stats.binomtest(came, count).proportion_ci(CONFIDENCE, method="wilson")
    return {"quantity": name, "statistic": "rate", "estimate": came / count, "low": interval.low,
            "high": interval.high, "observations": count}  # fmt: skip


def _median(values: Float64[np.ndarray, "..."], axis: int = -1) -> Any:
    return np.median(values, axis=axis)


def _quartiles(values: Float64[np.ndarray, "..."], axis: int = -1) -> Any:
    low, high = np.quantile(np.log10(values), [0.25, 0.75], axis=axis)
    return high - low


def _resampled(values: Float64[np.ndarray, " n"], name: str, statistic: str, measure: Any) -> dict[str, Any]:
    """A statistic of the runs' steps, with the percentile interval of the bootstrap."""
    row = {"quantity": name, "statistic": statistic, "observations": len(values)}
    if len(values) < 2:
        return row | {"estimate": float(measure(values)) if len(values) else np.nan}
    interval = stats.bootstrap(
        (values,), measure, confidence_level=CONFIDENCE, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return row | {"estimate": float(measure(values)), "low": interval.low, "high": interval.high}


def _world_effect(runs: pd.DataFrame, name: str) -> dict[str, Any]:
    """The share of the variance that lies between worlds; p from runs dealt anew to the worlds."""
    held = runs.dropna(subset=name)
    values = held[name].to_numpy(dtype=float)
    row = {"quantity": name, "statistic": "variance_between_worlds", "observations": len(held)}
    worlds = pd.get_dummies(held["world_seed"]).to_numpy(dtype=float)
    if worlds.shape[1] < 2 or np.ptp(values) == 0:
        return row
    means, sizes = worlds / worlds.sum(axis=0), worlds.sum(axis=0)

    def between(sample: Float64[np.ndarray, "..."], axis: int = -1) -> Any:
        centred = np.moveaxis(sample, axis, -1) - values.mean()
        return ((centred @ means) ** 2 @ sizes) / (len(values) * values.var())

    test = _permuted(values, between, "greater")
    return row | {"estimate": test.statistic, "p_value": test.pvalue}


def _rank_correlation(worlds: pd.DataFrame, name: str, feature: str) -> dict[str, Any]:
    """Spearman's correlation of a feature with the mean outcome of each world; p by permutation of worlds."""
    held = worlds[[name, feature]].dropna()
    row = {"quantity": name, "statistic": "rank_correlation", "predictor": feature, "observations": len(held)}
    if len(held) < 3 or (held.round(12).nunique() < 2).any():
        return row
    outcome, predictor = (stats.zscore(stats.rankdata(held[column].round(12))) for column in (name, feature))

    def correlation(sample: Float64[np.ndarray, "..."], axis: int = -1) -> Any:
        return (np.moveaxis(sample, axis, -1) * predictor).mean(axis=-1)

    test = _permuted(outcome, correlation, "two-sided")
    return row | {"estimate": test.statistic, "p_value": test.pvalue}


def _permuted(values: Float64[np.ndarray, " n"], statistic: Any, alternative: Literal["two-sided", "greater"]) -> Any:
    return stats.permutation_test(
        (values,), statistic, permutation_type="pairings", vectorized=True, n_resamples=RESAMPLES,
        alternative=alternative, rng=np.random.default_rng(0),
    )  # fmt: skip
