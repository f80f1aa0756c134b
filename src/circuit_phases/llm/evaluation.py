"""Running prompts through a model in batches: its answers, and the sums of its circuit metrics."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float64
from torch import Tensor

from circuit_phases.files import UserError
from circuit_phases.llm.circuits import METRICS, Cut, Rows, Watch, watching
from circuit_phases.llm.models import LanguageModel
from circuit_phases.llm.prompts import Prompt

HALVES = (0, 1)


@dataclass(frozen=True)
class Measured:
    """What some prompts gave.

    `answers` has a row per prompt: query and label, the label that is more likely next, and by how much (the
    difference of logits, positive minus negative). `sums` has a row per half, layer, head (null: the mean over
    heads) and metric: the sum over prompts, the sum of squares, and how many prompts.
    """

    answers: pd.DataFrame
    sums: pd.DataFrame


def measure(
    language_model: LanguageModel,
    prompts: Sequence[Prompt],
    label_tokens: tuple[int, int],
    batch_size: int,
    cuts: Sequence[Cut | None] = (None, None),
) -> Measured:
    """Run prompts with equally many demonstrations; `cuts` are those of either half's prompts.

    Prompts of a batch are padded at their end, where causal attention never looks, so that padding changes
    nothing and no mask is needed.

    Raises:
        UserError: if the attention of some layer does not pass through the function that reads it.
    """
    answers: list[dict[str, Any]] = []
    sums = []
    for half in HALVES:
        moments: Float64[np.ndarray, "moments layers metrics heads"] | None = None
        mine = [prompt for prompt in prompts if prompt.half == half]
        for batch in _batches(mine, batch_size):
            watch = Watch(Rows.of(batch, _longest(batch), language_model.model.device), cuts[half])
            with watching(watch):
                margins = _margins(language_model, batch, label_tokens)
            read = _with_mean(_read(language_model, watch))
            together = np.stack([read.sum(2), (read**2).sum(2)])
            moments = together if moments is None else moments + together
            answers += [
                {"query": prompt.query, "half": half, "label": prompt.label, "predicted": int(margin > 0), "margin": margin}
                for prompt, margin in zip(batch, margins, strict=True)
            ]
        if moments is not None:
            shown = METRICS if prompts[0].labels else METRICS[:1]
            sums.append(_sums_table(moments, shown).assign(half=half, prompts=len(mine)))
    return Measured(pd.DataFrame(answers).sort_values("query"), pd.concat(sums, ignore_index=True))


def _batches(prompts: Sequence[Prompt], size: int) -> Iterator[list[Prompt]]:
    """Prompts of like length together, so that little is padded."""
    by_length = sorted(prompts, key=lambda prompt: (len(prompt.tokens), prompt.query))
    return (by_length[start : start + size] for start in range(0, len(by_length), size))


def _longest(batch: Sequence[Prompt]) -> int:
    return max(len(prompt.tokens) for prompt in batch)


def _margins(language_model: LanguageModel, batch: Sequence[Prompt], label_tokens: tuple[int, int]) -> list[float]:
    """Logit of label 1 minus logit of label 0 after the last token of each prompt."""
    model, width = language_model.model, _longest(batch)
    tokens = torch.tensor([prompt.tokens + (0,) * (width - len(prompt.tokens)) for prompt in batch])
    last = torch.tensor([len(prompt.tokens) - 1 for prompt in batch])
    kept, place = last.unique(return_inverse=True)
    options = {"logits_to_keep": kept.to(model.device)}
    if "logits_to_keep" not in inspect.signature(model.forward).parameters:
        options, place = {}, last
    with torch.inference_mode():
        logits: Tensor = model(input_ids=tokens.to(model.device), use_cache=False, **options).logits
    negative, positive = logits[torch.arange(len(batch)), place.to(model.device)][:, list(label_tokens)].T.double()
    return [float(margin) for margin in positive - negative]


def _read(language_model: LanguageModel, watch: Watch) -> Float64[np.ndarray, "layers metrics prompts heads"]:
    if len(watch.values) != language_model.layers:
        raise UserError(
            f"{language_model.name}: attention could be read in {len(watch.values)} of {language_model.layers} layers. "
            "Choose a model whose layers all attend through transformers' attention interface."
        )
    read = torch.stack(watch.values).double().cpu().numpy()
    if not np.isfinite(read).all():
        raise UserError(f"{language_model.name}: attention is not finite in {watch.values[0].dtype}. Set llm.dtype: float32.")
    return read


def _with_mean(values: Float64[np.ndarray, "*any heads"]) -> Float64[np.ndarray, "*any heads_and_mean"]:
    return np.concatenate([values, values.mean(-1, keepdims=True)], axis=-1)


def _sums_table(moments: Float64[np.ndarray, "moments layers metrics heads"], metrics: Sequence[str]) -> pd.DataFrame:
    moments = moments[:, :, : len(metrics)]
    layer, metric, head = np.indices(moments.shape[1:]).reshape(3, -1)
    return pd.DataFrame(
        {
            "layer": layer + 1,
            "head": pd.Series(head + 1, dtype="Int64").mask(head + 1 == moments.shape[-1]),
            "metric": np.array(metrics)[metric],
            "sum": moments[0].ravel(),
            "sum_of_squares": moments[1].ravel(),
        }
    )


IDENTITY = ["model", "revision", "dataset", "shots", "demonstration_labels"]
"""What tells evaluations apart."""


def circuits_table(sums: pd.DataFrame) -> pd.DataFrame:
    """Means and standard errors over all prompts, from the sums of any shards and both halves."""
    keys = [*IDENTITY, "layer", "head", "metric"]
    total = sums.groupby(keys, sort=False, dropna=False)[["sum", "sum_of_squares", "prompts"]].sum().reset_index()
    count = total["prompts"].astype(float)
    value = total["sum"] / count
    variance = (total["sum_of_squares"] / count - value**2).clip(lower=0) * count / (count - 1).where(count > 1)
    return total.assign(value=value, standard_error=(variance / count).map(math.sqrt))
