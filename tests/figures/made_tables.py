"""Tables of made-up runs, as figures read them."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pyarrow as pa

from circuit_phases.figure_data import FigureData, Series
from circuit_phases.phases import PhaseSettings
from circuit_phases.schemas import FIGURE_TABLES, FINDING_TABLES
from circuit_phases.settings import RunSettings
from circuit_phases.stages import finding
from circuit_phases.tables import to_frame

STEPS = np.arange(0, 100_001, 500)
CHECKPOINTS = np.unique(np.geomspace(1, 100_000, 60).astype(int))
CEILINGS = {"ncc": 0.36, "scc": 0.78, "fcc": 1.0}
STARTS = {1: 2_000, 2: 20_000, 3: 60_000}
OF_A_RUN = {"dataset": "d", "parameters_count": 1, "steps": 100_000, "seconds": 1.0, "masks": None}
N = 4


def rise(step, at):
    return 1 / (1 + (at / np.maximum(step, 1)) ** 8)


def levels(step, starts):
    """The share of every phase's circuit at a step."""
    return {phase: rise(step, 0.75 * start) for phase, start in starts.items()}


def accuracy(step, starts):
    value, below = 1 / 32, 1 / 32
    for phase, share in levels(step, starts).items():
        ceiling = list(CEILINGS.values())[phase - 1]
        value, below = value + share * (ceiling - below), ceiling
    return value


def metric(step, starts, name, layer):
    share = dict.fromkeys((1, 2, 3), 0.0) | levels(step, starts)
    ncc, scc, fcc = np.maximum(share[1] - share[2] - share[3], 0), np.maximum(share[2] - share[3], 0), share[3]
    weights = {
        ("bigram", 1): 0.1 + 0.85 * ncc,
        ("bigram", 2): 0.1 + 0.85 * (ncc + scc),
        ("label_attention", 1): 0.4 + 0.5 * scc,
        ("label_attention", 2): 0.4 - 0.35 * ncc + 0.5 * fcc,
        ("chunk_example", 1): 0.3 + 0.6 * fcc,
        ("chunk_example", 2): 0.3 + 0.0 * step,
    }
    return weights.get((name, layer), 0.3 + 0.0 * step)


def attention(step, starts, layer):
    S = 2 * N + 1
    weights = np.tri(S) / np.arange(1, S + 1)[:, None]
    chunk = metric(step, starts, "chunk_example", layer)
    for label in range(1, S - 1, 2):
        weights[label, : label + 1] *= (1 - chunk) / (1 - weights[label, label - 1])
        weights[label, label - 1] = chunk
    bigram, labels = (metric(step, starts, name, layer) for name in ("bigram", "label_attention"))
    total = max(bigram + labels, 1)
    weights[-1] = max(1 - bigram - labels, 0) / N
    weights[-1, 1:-1:2] = labels / total / N
    weights[-1, -1] = bigram / total
    return weights


def rows_of(table, columns):
    count = max(np.size(values) for values in columns.values())
    frame = pd.DataFrame({name: np.resize(values, count) for name, values in columns.items()})
    return frame[FIGURE_TABLES[table].names]


ABILITIES = [("copy", pd.NA), ("novel_task", pd.NA), ("novel_class", pd.NA), ("no_context", pd.NA), ("conflict", pd.NA),
             ("conflict", 1), ("conflict", 2)]  # fmt: skip


def tables_of(run, seed, starts=STARTS, steps=STEPS, layers=2, heads=1, ceilings=CEILINGS, world=None):
    """Tables of a made-up run that goes through the phases of `starts`, {phase: its first step}."""
    last = steps[-1]
    noise = 0.01 * np.random.default_rng(seed).standard_normal((3, len(steps)))
    identity = {"run": run, "seed": seed}
    mean = accuracy(steps, starts)
    chance = np.minimum(mean, 0.5 * mean + 0.3 * rise(steps, 20_000))
    training = []
    for (split, values), wobble in zip(
        {"train": mean, "iid": mean, "random_label": chance}.items(), noise, strict=True
    ):
        values = np.clip(values + wobble * (1 - values), 0, 1)
        for task, offset in ((pd.NA, 0), (1, 0.2)):
            columns = identity | {"step": steps, "split": split, "loss": 3.5 * (1 - values) + offset}
            training.append(
                rows_of(
                    "training",
                    columns
                    | {"accuracy": values - offset, "sequences": 4096, "task": task}
                    | {"memory": None, "inference": None},
                )
            )
    training += [made_ability(identity, steps, mean, *of) for of in enumerate(ABILITIES)]
    saved = np.union1d(CHECKPOINTS[last > CHECKPOINTS], [0, last])
    circuits, maps = [], []
    query, key = (index + 1 for index in np.nonzero(np.tri(2 * N + 1)))
    for layer in range(1, layers + 1):
        for head in range(1, heads + 1):
            place = identity | {"layer": layer, "head": head}
            for name in ("bigram", "label_attention", "chunk_example"):
                value = np.asarray(metric(saved, starts, name, layer)) / head
                circuits.append(rows_of("circuits", place | {"step": saved, "metric": name, "value": value}))
            for step in saved:
                weight = attention(step, starts, layer)[query - 1, key - 1]
                columns = place | {"step": step, "query": query, "key": key, "weight": weight}
                maps.append(rows_of("attention", columns))
    ends = {phase: 0.6 * next((starts[p] for p in starts if p > phase), last / 0.6) for phase in starts}
    found = [rows_of("phases", {name: [] for name in FIGURE_TABLES["phases"].names})]
    for rule in ("plateau", "paper"):
        for phase, start in starts.items():
            columns = identity | {"rule": rule, "phase": phase, "start_step": int(start), "end_step": int(ends[phase])}
            found.append(rows_of("phases", columns | {"accuracy": 0.5, "ceiling": 0.5}))
    theory = {"circuit": list(ceilings), "accuracy": list(ceilings.values())}
    last_maps = pd.concat(one[one["step"] == last] for one in maps)
    return {
        "training": pd.concat(training),
        "circuits": pd.concat(circuits),
        "attention": pd.concat(maps),
        "example_attention": last_maps.assign(weight=last_maps["weight"] ** 2),
        "attribution": attribution(run, seed, saved, starts, layers, heads),
        "phases": pd.concat(found),
        "theory": rows_of("theory", identity | theory | {"standard_error": 0.0, "method": "enumeration"}),
        "ability_levels": ability_levels(identity, ceilings),
        "class_frequencies": class_frequencies(run, seed, 0.25 * seed),
        "runs": rows_of(
            "runs", RunSettings.from_parameters(**world or {}).parameters | identity | OF_A_RUN | {"world_seed": seed}
        ),
        "label_tables": label_tables(run, seed),
        "evaluation_sequences": evaluation_sequences(run, seed),
    }


def made_ability(identity, steps, mean, number, of):
    """A split on which accuracy is a share of its own of that on iid, and all is remembered from step 5,000 on."""
    split, task = of
    values = {"accuracy": mean / (number + 1), "memory": rise(steps, 5_000), "inference": mean, "loss": 1 - mean}
    if split == "novel_class" or not pd.isna(task):
        values |= {"memory": None, "inference": None}
    return rows_of("training", identity | {"step": steps, "split": split, "task": task, "sequences": 256} | values)


def ability_levels(identity, ceilings):
    rows = [("iid", "accuracy", level, value) for level, value in ceilings.items()]
    rows += [("iid", "memory", "chance", 0.1), ("copy", "accuracy", "chance", 1 / 32), ("copy", "accuracy", "fcc", 1.0)]
    columns = dict(zip(("split", "measure", "level", "value"), zip(*rows, strict=True), strict=True))
    columns = {name: list(values) for name, values in columns.items()}
    return rows_of("ability_levels", identity | columns | {"standard_error": 0.0, "method": "enumeration"})


def attribution(run, seed, steps, starts, layers, heads):
    """Interventions whose effect is the attention paid, times the accuracy; the task stands where Phase 3 reads it."""
    gained = accuracy(steps, starts) - 1 / 32
    effects = [({"intervention": "none"}, 0 * gained, None)]
    for layer, head, kind, edge in product(
        range(1, layers + 1), range(1, heads + 1), ("zero", "mean", "resample"),
        ("bigram", "label_attention", "chunk_example", "item_attention", "rest"),
    ):  # fmt: skip
        lost = {"zero": 1, "mean": 0.7, "resample": 0.8}[kind] * metric(steps, starts, edge, layer) * gained
        effects.append(({"intervention": kind, "layer": layer, "head": head, "edge": edge}, lost / head, None))
    for layer, position in product(range(layers + 1), ("items", "labels", "query")):
        whole = (layer, position) in {(0, "labels"), (layers, "query")}
        moved = gained * (whole or (levels(steps, starts).get(3, 0) if position == "labels" and layer < layers else 0))
        effects.append(({"intervention": "interchange", "layer": layer, "position": position}, moved, moved))
    rows = []
    for place, lost, moved in effects:
        numbers = {
            "accuracy": gained + 1 / 32 - lost, "accuracy_change": -lost, "logit_change": -10 * lost,
            "logit_estimate": -4 * lost, "moved": moved, "loss_change": 5 * lost,
            **dict.fromkeys(("standard_error", "loss_standard_error", "logit_standard_error"), 0.01),
        }  # fmt: skip
        empty = dict.fromkeys(("layer", "head", "edge", "position", "correlation"))
        columns = {"run": run, "seed": seed, "step": steps, "split": "iid", "sequences": 1024}
        rows.append(rows_of("attribution", empty | columns | place | numbers))
    return pd.concat(rows)


def label_tables(run, seed, T=3, K=16, L=32):
    task, number = (index.ravel() + 1 for index in np.indices((T, K)))
    label = np.random.default_rng(seed).integers(1, L + 1, size=T * K)
    return rows_of("label_tables", {"run": run, "seed": seed, "task": task, "class": number, "label": label})


def evaluation_sequences(run, seed, D=6):
    """Two sequences by the label tables; in the first the query is like x2, in the second like none."""
    labels = label_tables(run, seed).set_index(["task", "class"])["label"]
    rows = []
    for sequence, (task, classes) in enumerate([(2, [5, 9, 1, 16, 9]), (3, [5, 9, 1, 16, 2])], start=1):
        means = np.random.default_rng(7).standard_normal((17, D))
        told = [int(labels[task, number]) for number in classes]
        rows.append({"run": run, "seed": seed, "split": "iid", "sequence": sequence, "task": task, "offset": 0,
                     "classes": classes, "labels": told, "partner_labels": told,
                     "items": means[classes].ravel()})  # fmt: skip
    return pd.DataFrame(rows)


def class_frequencies(run, seed, alpha, K=64):
    frequency = np.arange(1, K + 1) ** -alpha
    frequency /= frequency.sum()
    observed = np.random.default_rng(7).multinomial(4096, frequency) / 4096
    columns = {"run": run, "seed": seed, "alpha": alpha, "class": np.arange(1, K + 1), "frequency": frequency}
    return rows_of("class_frequencies", columns | {"observed": observed})


def figure_data(series, maps=None, **runs):
    """Data of a figure; `runs` maps a run to {seed: arguments of `tables_of`}, `maps` a label to moments."""
    made = [tables_of(run, seed, **arguments) for run, seeds in runs.items() for seed, arguments in seeds.items()]
    tables = {name: as_read(name, pd.concat([one[name] for one in made])) for name in made[0]}
    shown = tuple(Series(label, run, tuple(runs[run]), (maps or {}).get(label, ())) for label, run in series.items())
    data = FigureData(shown, tables, PhaseSettings(dt=500, threshold=0.025))
    found = {name: as_read(name, finding(name, data)) for name in FINDING_TABLES}
    return FigureData(data.series, tables | found, data.rules)


def as_read(name, table):
    """The table as it comes from its file."""
    schema = (FIGURE_TABLES | FINDING_TABLES)[name]
    return to_frame(pa.Table.from_pandas(table, schema=schema, preserve_index=False))


def shifted(factor, phases=(1, 2, 3), **arguments):
    """A run whose phases come earlier or later, or do not come."""
    return {"starts": {phase: int(factor * STARTS[phase]) for phase in phases}} | arguments


THREE_SEEDS = {3: {}, 1: shifted(1.3), 2: shifted(0.6, steps=STEPS[STEPS <= 60_000])}
