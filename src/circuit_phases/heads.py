"""Which circuit each head has come to serve, and when a hidden semi-context circuit shows.

All of it is read off the table `circuits`. The two-layer circuits of the paper (Sec. 4, Table 2) use

    ncc   Bigram in the first layer,           Bigram in the last
    scc   Label Attention in the first layer,  Bigram in the last
    fcc   Chunk Example in the first layer,    Label Attention in the last
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pandas as pd

Role = Literal["NCC", "FCC"]

LEAD = 0.05
"""A head serves a circuit if its metric is so far above the mean over the heads of its layer."""
LEAST_PATH = 0.05
"""The least path weight of a circuit that shows: nine standard errors of a rise over 512 sequences."""


@dataclass(frozen=True)
class HiddenSCC:
    """When the semi-context circuit is strongest, through which (layer, head), and how strong it is, 0 to 1."""

    step: int
    reads_labels: tuple[int, int]
    keeps_query: tuple[int, int]
    path: float

    @property
    def summary(self) -> str:
        """The step and the heads in words."""
        heads = " to ".join(f"layer {layer} head {head}" for layer, head in (self.reads_labels, self.keeps_query))
        return f"step {self.step:,}, {heads}, weight {self.path:.2f}"


def head_roles(circuits: pd.DataFrame, step: int) -> dict[tuple[int, int], tuple[Role, ...]]:
    """What each (layer, head) of one run has become at a step; no role if it is like the others of its layer.

    NCC: its Bigram leads the mean over the heads of its layer by `LEAD`; FCC: its Chunk Example does in
    the first layer, its Label Attention in later ones.
    """
    rows = circuits[circuits["step"] == step].astype({"value": float})
    leads = rows["value"] - rows.groupby(["layer", "metric"])["value"].transform("mean")
    leading = rows[leads >= LEAD]
    roles: dict[tuple[int, int], tuple[Role, ...]] = {
        (int(layer), int(head)): () for layer, head in zip(rows["layer"], rows["head"], strict=True)
    }
    for layer, head in roles:
        of_head = set(leading.loc[(leading["layer"] == layer) & (leading["head"] == head), "metric"])
        metrics: dict[Role, str] = {"NCC": "bigram", "FCC": "chunk_example" if layer == 1 else "label_attention"}
        roles[layer, head] = tuple(role for role, metric in metrics.items() if metric in of_head)
    return roles


def hidden_scc(circuits: pd.DataFrame, until: int) -> HiddenSCC | None:
    """The step, up to `until`, at which the semi-context circuit of one run is strongest; None if it never shows.

    Its path weight is the rise of a first-layer head's Label Attention over the lowest that it has been,
    times the Bigram of a last-layer head. The rise, since untrained attention is even and lies on the labels
    too: a head that has never turned to them serves no circuit. The heads are those with the largest.
    """
    rows = circuits[(circuits["step"] > 0) & (circuits["step"] <= until)]
    if rows.empty:
        return None
    first, last = int(rows["layer"].min()), int(rows["layer"].max())
    labels = _by_head(rows, first, "label_attention")
    rises = labels - labels.cummin()
    query = _by_head(rows, last, "bigram")
    path = rises.max(axis=1) * query.max(axis=1)
    if path.max() < LEAST_PATH:
        return None
    at = path.argmax()
    reads, keeps = (int(table.columns.to_numpy()[table.to_numpy()[at].argmax()]) for table in (rises, query))
    return HiddenSCC(int(path.index.to_numpy()[at]), (first, reads), (last, keeps), float(path.iloc[at]))


def _by_head(rows: pd.DataFrame, layer: int, metric: str) -> pd.DataFrame:
    """A metric of a layer, a row for every step and a column for every head."""
    chosen = rows[(rows["layer"] == layer) & (rows["metric"] == metric)].astype({"value": float})
    return chosen.pivot(index="step", columns="head", values="value").sort_index()
