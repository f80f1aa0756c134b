"""Which heads to cut: the top ones by a metric, found on one half of the queries, and as many at random."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from circuit_phases.files import UserError
from circuit_phases.llm.circuits import Cut
from circuit_phases.llm.settings import CutSettings

HALVES = (0, 1)
Head = tuple[int, int]
"""Layer and head, from 0."""


def cuts(sums: pd.DataFrame, settings: CutSettings, seed: int, shots: int) -> Iterator[tuple[str, list[Cut]]]:
    """Every cut with its name: for the queries of either half, the heads found on the other half.

    Heads are ranked by the sums with gold labels and so many shots. Random heads are drawn for each half from those
    that are not its top heads.

    Raises:
        UserError: if the model has too few heads, or a half has no queries.
    """
    sums = sums[(sums["shots"] == shots) & (sums["demonstration_labels"] == "gold")]
    for number, metric in enumerate(settings.metrics):
        ranked = [_ranked(sums[(sums["half"] == 1 - half) & (sums["metric"] == metric)]) for half in HALVES]
        if min(map(len, ranked)) < (2 if settings.random_draws else 1) * settings.heads:
            raise UserError(
                f"llm.cuts.heads = {settings.heads} is not allowed ({min(map(len, ranked))} heads were measured). "
                "Set fewer heads, or ask more queries."
            )
        yield (
            f"{metric}: top {settings.heads} heads",
            [_cut(metric, heads[: settings.heads]) for heads in ranked],
        )
        for draw in range(settings.random_draws):
            chosen = []
            for half, heads in enumerate(ranked):
                stream = np.random.default_rng([seed, number, draw, half])
                places = stream.choice(np.arange(settings.heads, len(heads)), settings.heads, replace=False)
                chosen.append(_cut(metric, [heads[place] for place in places]))
            yield f"{metric}: {settings.heads} random heads, draw {draw + 1}", chosen


def _ranked(sums: pd.DataFrame) -> list[Head]:
    """Heads in falling order of a metric."""
    total = (
        sums[sums["head"].notna()].groupby(["layer", "head"])["sum"].sum().sort_values(ascending=False, kind="stable")
    )
    return [(int(layer) - 1, int(head) - 1) for layer, head in total.index]


def _cut(metric: str, heads: list[Head]) -> Cut:
    return Cut(
        metric, {layer: sorted(h for at, h in heads if at == layer) for layer in sorted({at for at, _ in heads})}
    )
