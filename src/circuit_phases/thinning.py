"""A table of training small enough to keep under version control (`make reference`)."""

from __future__ import annotations

import numpy as np
import pandas as pd

from circuit_phases.evidence import LAST

EVALUATIONS = 300
"""Points, even on a logarithmic axis of steps, whose nearest evaluations are kept: of a long run some 150 are left."""


def thinned(training: pd.DataFrame) -> pd.DataFrame:
    """The rows of the table `training` at some evaluations of every run: those that a curve on a log axis needs.

    The last ones stay, since a run's last accuracy is their median.
    """
    parts = [rows[rows["step"].isin(_kept(rows["step"]))] for _, rows in training.groupby(["run", "seed"], sort=False)]
    return pd.concat(parts, ignore_index=True) if parts else training


def _kept(steps: pd.Series[int]) -> set[int]:
    evaluated = np.unique(steps.to_numpy(dtype=np.int64))
    wanted = np.geomspace(max(evaluated[0], 1), max(evaluated[-1], 1), EVALUATIONS)
    nearest = np.searchsorted((evaluated[1:] + evaluated[:-1]) / 2, wanted)
    return {*evaluated[nearest].tolist(), *evaluated[-LAST:].tolist(), int(evaluated[0])}
