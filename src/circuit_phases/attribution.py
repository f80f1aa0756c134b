"""Causal attribution over training: what every intervention does at every checkpoint, as a table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuit_phases.checkpoints import load_model, saved_checkpoints
from circuit_phases.interventions import SEED_WORDS, Effect, Outcome, Subject, other_sequences, under_another_task
from circuit_phases.model import InContextTransformer
from circuit_phases.sequences import Sequences
from circuit_phases.settings import RunSettings
from circuit_phases.world import World


def attribute_checkpoints(
    folder: Path,
    settings: RunSettings,
    world: World,
    splits: Mapping[str, Sequences],
    seed: int,
    count: int,
) -> pd.DataFrame:
    """The table `attribution` of every checkpoint in a folder, on the first `count` sequences of each split.

    Raises:
        UserError, DamagedFile: if there are no checkpoints, or one is damaged.
    """
    found = []
    for step, path in saved_checkpoints(folder).items():
        model = load_model(path, settings, world, seed)
        for split, sequences in splits.items():
            rows = attribution_rows(model, world, sequences[:count])
            found.append(pd.DataFrame(rows).assign(run=settings.name, seed=seed, step=step, split=split))
    return pd.concat(found, ignore_index=True)


def attribution_rows(model: InContextTransformer, world: World, sequences: Sequences) -> list[dict[str, Any]]:
    """What every intervention does to a model on these sequences; the first row is without any.

    Which other sequences and tasks are taken depends on the world and the sequences alone.
    """
    generator = np.random.default_rng([*SEED_WORDS, world.seed])
    others = other_sequences(sequences.tasks, generator)
    subject = Subject(model, sequences, others, *under_another_task(world, sequences, generator))
    clean = subject.outcome
    zero = torch.zeros_like(clean.margin)
    untouched = Effect("none", None, None, None, None, clean, zero, torch.ones_like(clean.correct))
    return [_row(untouched, clean, subject)] + [
        _row(effect, clean, subject) for effect in subject.effects() if effect.counted.any()
    ]


def _row(effect: Effect, clean: Outcome, subject: Subject) -> dict[str, Any]:
    """One effect averaged over the sequences that count, each paired with itself without the intervention."""
    counted, now = effect.counted, effect.outcome
    correct = now.correct.double() - clean.correct.double()
    accuracy, loss, logit = (
        _mean_and_error(change[counted]) for change in (correct, now.loss - clean.loss, now.margin - clean.margin)
    )
    moved = None
    if effect.position is not None:
        theirs = (now.answer == subject.other_labels) & (clean.answer != subject.other_labels)
        moved = float(theirs[counted].double().mean())
    return {
        "intervention": effect.intervention,
        "layer": effect.layer,
        "head": effect.head,
        "edge": effect.edge,
        "position": effect.position,
        "sequences": int(counted.sum()),
        "accuracy": float(now.correct[counted].double().mean()),
        "accuracy_change": accuracy[0],
        "standard_error": accuracy[1],
        "loss_change": loss[0],
        "loss_standard_error": loss[1],
        "logit_change": logit[0],
        "logit_standard_error": logit[1],
        "logit_estimate": float(effect.estimate[counted].double().mean()),
        "correlation": _correlation(effect.estimate, now.margin - clean.margin, counted),
        "moved": moved,
    }


def _mean_and_error(values: Float[Tensor, " n"]) -> tuple[float, float]:
    """The mean over sequences, and its standard error; that of a single sequence is not known."""
    values = values.double()
    return float(values.mean()), float(values.std() / len(values) ** 0.5) if len(values) > 1 else float("nan")


def _correlation(one: Float[Tensor, " n"], other: Float[Tensor, " n"], counted: Bool[Tensor, " n"]) -> float | None:
    """Pearson's correlation over sequences; none where either does not vary."""
    pair = torch.stack([one, other])[:, counted].double()
    if counted.sum() < 2 or not (pair.std(1) > 0).all():
        return None
    return float(torch.corrcoef(pair)[0, 1])
