"""What figures read from the table `attribution`: what hangs on an edge family, and where attention says otherwise."""

from __future__ import annotations

import numpy as np
import pandas as pd

from circuit_phases.figure_data import FigureData
from circuit_phases.readings import circuit_curve

KNOCK_OUTS = {"zero": "edges zeroed", "mean": "edges at their mean", "resample": "edges resampled"}
"""The knock-outs of the table, and their names."""
POSITIONS = ("items", "labels", "query")

LOOKED_AT, HARDLY_LOOKED_AT = 0.25, 0.1
"""Attention weights that count as looking, and as not looking; even attention of the query over nine tokens gives
0.11 to itself and 0.44 to four labels."""
NEEDED = 0.05
"""The least loss of accuracy that counts as needing, beyond the 95 % interval of the paired difference."""
INTERVAL = 1.96
"""Standard errors on each side of a 95 % interval."""


def lost_accuracy(
    data: FigureData, run: str, seed: int, edge: str, layer: int, knock_out: str = "zero"
) -> pd.DataFrame:
    """Accuracy lost without the edges of one family and layer, with its standard error, by step.

    Of several heads, each knocked out alone, it is the one whose loss is largest.
    """
    rows = data.effects(run, seed, knock_out, layer, edge)
    steps = rows["step"].to_numpy(dtype=np.int64)
    lost = -rows["accuracy_change"].to_numpy(dtype=np.float64)
    errors = rows["standard_error"].to_numpy(dtype=np.float64)
    order = np.lexsort((-lost, steps))
    most = order[np.unique(steps[order], return_index=True)[1]]
    return pd.DataFrame({"lost": lost[most], "standard_error": errors[most]}, index=steps[most])


def circuit_links(layers: int) -> dict[int, tuple[tuple[str, int], tuple[str, int]]]:
    """The edge families (metric, layer) that the circuit of each phase runs through (paper, Sec. 4)."""
    return {
        1: (("bigram", 1), ("bigram", layers)),
        2: (("label_attention", 1), ("bigram", layers)),
        3: (("chunk_example", 1), ("label_attention", layers)),
    }


def circuit_importance(data: FigureData, run: str, seed: int) -> dict[int, pd.Series[float]]:
    """How much accuracy can at most hang on the circuit of each phase, by step.

    Without any one of its links a circuit is broken, so no more hangs on it than on each of them: the least loss.
    """
    layers = knocked_layers(data, run, seed)
    if not layers:
        return {}
    return {
        phase: pd.concat([lost_accuracy(data, run, seed, edge, layer)["lost"] for edge, layer in links], axis=1).min(
            axis=1
        )
        for phase, links in circuit_links(max(layers)).items()
    }


def knocked_layers(data: FigureData, run: str, seed: int | None = None) -> list[int]:
    """The layers whose edges were knocked out."""
    rows = data.table("attribution", run, seed)
    return sorted({int(layer) for layer in rows.loc[rows["intervention"] == "zero", "layer"]})


def disagreements(data: FigureData, run: str, seed: int, edge: str, layer: int) -> dict[str, list[int]]:
    """The checkpoints at which attention and its effect part: `not needed`, and `hardly looked at`.

    not needed: the metric is at least 0.25, and the accuracy lost, with its interval, lies below 0.05.
    hardly looked at: the metric is at most 0.1, and the accuracy lost, with its interval, lies above 0.05. Where
    accuracy is below 0.1 nothing can be lost, and nothing is said.
    """
    lost = lost_accuracy(data, run, seed, edge, layer)
    metric = circuit_curve(data, run, seed, edge, layer)
    accuracy = data.training_curve(run, seed)
    if lost.empty or metric.empty or accuracy.empty:
        return {"not needed": [], "hardly looked at": []}
    looked = metric.reindex(lost.index).to_numpy()
    low, high = (lost["lost"] + sign * INTERVAL * lost["standard_error"] for sign in (-1, 1))
    able = np.interp(lost.index, accuracy.index, accuracy) >= 2 * NEEDED
    not_needed = (looked >= LOOKED_AT) & (high.to_numpy() < NEEDED) & able
    hardly = (looked <= HARDLY_LOOKED_AT) & (low.to_numpy() > NEEDED) & able
    return {"not needed": list(lost.index[not_needed]), "hardly looked at": list(lost.index[hardly])}


def moved_answers(data: FigureData, run: str, seed: int, layer: int, position: str) -> pd.Series[float]:
    """Share of answers that move to the other task's label when the stream after a layer is exchanged, by step."""
    rows = data.effects(run, seed, "interchange", layer, position)
    steps = rows["step"].to_numpy(dtype=np.int64)
    return pd.Series(rows["moved"].to_numpy(dtype=np.float64), index=steps, name="moved").sort_index()


def places(data: FigureData, run: str) -> list[tuple[int, str]]:
    """The (layer, position) of the stream at which a task can stand: before the first layer only labels tell tasks
    apart, and after the last the query alone is read.
    """
    rows = data.table("attribution", run)
    rows = rows[rows["position"].notna()]
    last = int(rows["layer"].max()) if len(rows) else 0
    return [
        (layer, position)
        for layer in range(last + 1)
        for position in POSITIONS
        if rows.size and (position == "labels" or layer > 0) and (position == "query" or layer < last)
    ]
