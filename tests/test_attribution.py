"""The table of causal attribution: what stands in it, and that it is the average of what was done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import torch
from training_runs import QUICK, run

from circuit_phases.attribution import attribute_checkpoints, attribution_rows
from circuit_phases.checkpoints import load_model, saved_checkpoints
from circuit_phases.interventions import EDGES, edge_families, with_edges
from circuit_phases.model import InContextTransformer
from circuit_phases.schemas import ATTRIBUTION
from circuit_phases.sequences import Sequences
from circuit_phases.settings import RunSettings, SplitOfClasses
from circuit_phases.splits import evaluation_set
from circuit_phases.tables import read_frame, write_table
from circuit_phases.world import World

Tiny = Callable[..., RunSettings]
SPLITS = sorted(get_args(SplitOfClasses))


@pytest.fixture(scope="module")
def learned(tiny: Tiny) -> RunSettings:
    """Settings of a run that has learned by its end, and answers from the weights alone."""
    return tiny(**QUICK | {"checkpoints": 3})


@pytest.fixture(scope="module")
def attributed(learned: RunSettings, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    folder = run(learned, tmp_path_factory.mktemp("learned"))
    world = World.draw(learned.world, 0)
    splits = {split: sequences for split, sequences in evaluation_set(world).items() if split in SPLITS}
    rows = attribute_checkpoints(folder / "checkpoints", learned, world, splits, 0, count=30)
    write_table(folder / "attribution.parquet", rows, ATTRIBUTION)
    return folder, read_frame(folder / "attribution.parquet", ATTRIBUTION)


def test_every_checkpoint_and_split_has_every_intervention_once(attributed: tuple[Path, pd.DataFrame]) -> None:
    folder, frame = attributed
    groups = frame.groupby(["step", "split"])
    steps = list(saved_checkpoints(folder / "checkpoints"))
    assert [key for key, _ in groups] == [(step, split) for step in steps for split in SPLITS]
    names = ["intervention", "layer", "head", "edge", "position"]
    knock_outs = dict.fromkeys(("zero", "mean", "resample"), 2 * len([*EDGES, "rest"]))
    for _, rows in groups:
        assert not rows[names].duplicated().any()
        assert rows["intervention"].value_counts().to_dict() == {"none": 1, "interchange": 9} | knock_outs
    assert (frame["sequences"][frame["intervention"] != "interchange"] == 30).all()
    assert frame["moved"].notna().equals(frame["position"].notna())


def test_rows_are_paired_averages_over_the_first_sequences(
    learned: RunSettings, attributed: tuple[Path, pd.DataFrame]
) -> None:
    folder, frame = attributed
    world = World.draw(learned.world, 0)
    sequences = evaluation_set(world)["iid"][:30]
    step, path = list(saved_checkpoints(folder / "checkpoints").items())[-1]
    model = load_model(path, learned, world, 0)
    clean, cut = (answers(model, sequences, knocked) for knocked in (False, True))
    rows = frame[(frame["step"] == step) & (frame["split"] == "iid")]
    none = rows[rows["intervention"] == "none"].iloc[0]
    assert none["accuracy"] == pytest.approx(float(clean[0].mean()))
    assert (none["accuracy_change"], none["logit_change"], none["standard_error"]) == (0, 0, 0)
    zero = rows[(rows["intervention"] == "zero") & (rows["layer"] == 2) & (rows["edge"] == "bigram")].iloc[0]
    assert zero["accuracy"] == pytest.approx(float(cut[0].mean()))
    for name, error, now, before in (
        ("accuracy_change", "standard_error", cut[0], clean[0]),
        ("loss_change", "loss_standard_error", cut[1], clean[1]),
        ("logit_change", "logit_standard_error", cut[2], clean[2]),
    ):
        change = now - before
        assert change.any()
        assert zero[name] == pytest.approx(change.mean(), rel=1e-4, abs=1e-5)
        assert zero[error] == pytest.approx(change.std(ddof=1) / np.sqrt(30), rel=1e-4, abs=1e-5)


def answers(model: InContextTransformer, sequences: Sequences, knocked: bool) -> list[np.ndarray]:
    """Right or wrong, loss and margin, without the query's attention to itself in the last layer if so asked."""
    with torch.no_grad():
        u, _ = model.layers[0](model.embedding(sequences), model.masks[0])
        layer = model.layers[1]
        p = layer.pattern(u, model.masks[1])
        if knocked:
            p = with_edges(p, edge_families(model.world_settings.N)["bigram"], torch.zeros_like(p))
        read = torch.einsum("nhij,njd,hwd->nhiw", p, u, layer.value)
        u = u + torch.einsum("nhiw,hdw->nid", read, layer.output)
        logits = model.classifier[1](torch.relu(model.classifier[0](u[:, -1]))).double().numpy()
    places, labels = np.arange(len(logits)), sequences.labels[:, -1].numpy()
    right, others = logits[places, labels], logits.copy()
    others[places, labels] = -np.inf
    loss = np.log(np.exp(logits).sum(1)) - right
    return [(right > others.max(1)).astype(float), loss, right - others.max(1)]


def test_what_is_taken_from_other_sequences_is_the_same_at_every_checkpoint_and_call(
    tiny: Tiny, tiny_world: Callable[..., World]
) -> None:
    world = tiny_world()
    sequences = evaluation_set(world)["iid"]
    model = InContextTransformer(world, tiny().model, 0)
    torch.manual_seed(5)
    first = attribution_rows(model, world, sequences)
    torch.manual_seed(6)
    np.random.seed(3)
    assert repr(attribution_rows(model, world, sequences)) == repr(first)


def test_a_world_whose_tasks_agree_has_no_exchange(tiny: Tiny) -> None:
    settings = tiny(L=1)
    world = World.draw(settings.world, 0)
    rows = attribution_rows(InContextTransformer(world, settings.model, 0), world, evaluation_set(world)["iid"])
    assert {row["intervention"] for row in rows} == {"none", "zero", "mean", "resample"}
