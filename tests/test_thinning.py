"""The table of training that is kept: small, and still what a curve on a logarithmic axis needs."""

from __future__ import annotations

import numpy as np
import pandas as pd

from circuit_phases.thinning import EVALUATIONS, LAST, thinned


def made(run: str, last: int) -> pd.DataFrame:
    steps = np.arange(0, last + 1, 100)
    return pd.concat(
        [pd.DataFrame({"run": run, "seed": 0, "step": steps, "split": split}) for split in ("iid", "copy")],
        ignore_index=True,
    )


def test_every_kept_evaluation_is_whole_and_none_is_made_up() -> None:
    training = pd.concat([made("long", 200_000), made("short", 4_000)], ignore_index=True)
    kept = thinned(training)
    assert len(kept.merge(training)) == len(kept)
    assert (kept.groupby(["run", "step"])["split"].nunique() == 2).all()


def test_long_runs_are_thinned_evenly_on_a_log_axis_and_keep_their_ends() -> None:
    steps = np.unique(thinned(made("long", 200_000))["step"])
    assert len(steps) <= EVALUATIONS + LAST + 1
    assert steps[0] == 0
    assert steps[-LAST:].tolist() == list(range(200_000 - 100 * (LAST - 1), 200_001, 100))
    gaps = np.diff(np.log(steps[steps > 20_000]))
    assert gaps.max() < 2 * np.log(200_000) / EVALUATIONS


def test_short_runs_stay_whole() -> None:
    training = made("short", 3_000)
    assert len(thinned(training)) == len(training)
