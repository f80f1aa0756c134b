"""What the shards of an evaluation say together: mean metrics, and how often the right label is answered."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
from scipy.stats import binomtest

IDENTITY = ["model", "revision", "dataset", "shots", "demonstration_labels"]
"""What tells evaluations apart."""
CONFIDENCE = 0.95


def circuits_table(sums: pd.DataFrame) -> pd.DataFrame:
    """Means and standard errors over all prompts, from the sums of any shards and both halves."""
    keys = [*IDENTITY, "layer", "head", "metric"]
    total = sums.groupby(keys, sort=False, dropna=False)[["sum", "sum_of_squares", "prompts"]].sum().reset_index()
    count = total["prompts"].astype(float)
    value = total["sum"] / count
    variance = (total["sum_of_squares"] / count - value**2).clip(lower=0) / (count - 1).where(count > 1)
    return total.assign(value=value, standard_error=np.sqrt(variance))


def sources_table(sources: pd.DataFrame) -> pd.DataFrame:
    """Each revision of a model that has the weights of an earlier one, named after that one."""
    first = sources.groupby(["kind", "name", "sha256"], sort=False)["revision"].transform("first")
    named = sources.assign(same_as=first.where(first != sources["revision"], None))
    for row in named[named["same_as"].notna()].itertuples():
        logging.getLogger(__name__).warning(
            "%s: the weights of revision %s are those of %s", row.name, row.revision, row.same_as
        )
    return named


def accuracy_table(answers: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of each evaluation and cut, with Wilson's interval at 95 per cent."""
    rows = []
    for key, group in answers.groupby([*IDENTITY, "cut"], sort=False):
        right, prompts = int((group["predicted"] == group["label"]).sum()), len(group)
        interval = binomtest(right, prompts).proportion_ci(CONFIDENCE, method="wilson")
        found = {"accuracy": right / prompts, "low": interval.low, "high": interval.high, "prompts": prompts}
        rows.append(dict(zip([*IDENTITY, "cut"], key, strict=True)) | found)
    return pd.DataFrame(rows, columns=[*IDENTITY, "cut", "accuracy", "low", "high", "prompts"])
