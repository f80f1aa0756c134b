"""How often each class is asked about: f(k) as set, and as observed in the evaluation sequences."""

from __future__ import annotations

import numpy as np
import pandas as pd

from circuit_phases.sequences import Sequences
from circuit_phases.world import World


def class_frequencies_table(world: World, sequences: Sequences, run: str, seed: int) -> pd.DataFrame:
    """Rows of the table `class_frequencies`: each class's share of the queries, as set and as drawn; both sum to 1."""
    K = world.settings.K
    observed = np.bincount(sequences.classes[:, -1].numpy(), minlength=K) / len(sequences)
    rows = pd.DataFrame({"class": np.arange(1, K + 1), "frequency": world.class_frequencies, "observed": observed})
    return rows.assign(run=run, seed=seed, alpha=world.settings.alpha)
