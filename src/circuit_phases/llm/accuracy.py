"""How often the right label word is the more likely one."""

from __future__ import annotations

import pandas as pd
from scipy.stats import binomtest

from circuit_phases.llm.evaluation import IDENTITY

CONFIDENCE = 0.95


def accuracy_table(answers: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of each evaluation and cut, with Wilson's interval at 95 per cent."""
    rows = []
    for key, group in answers.groupby([*IDENTITY, "cut"], sort=False):
        right, prompts = int((group["predicted"] == group["label"]).sum()), len(group)
        interval = binomtest(right, prompts).proportion_ci(CONFIDENCE, method="wilson")
        found = {"accuracy": right / prompts, "low": interval.low, "high": interval.high, "prompts": prompts}
        rows.append(dict(zip([*IDENTITY, "cut"], key, strict=True)) | found)
    return pd.DataFrame(rows, columns=[*IDENTITY, "cut", "accuracy", "low", "high", "prompts"])
