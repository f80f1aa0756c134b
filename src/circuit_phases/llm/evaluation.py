"""Running prompts through a model in batches: its answers, and its circuit metrics."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float32
from torch import Tensor

from circuit_phases.files import UserError
from circuit_phases.llm.circuits import METRICS, Cut, Rows, Watch, watching
from circuit_phases.llm.models import LanguageModel
from circuit_phases.llm.prompts import Prompt


@dataclass(frozen=True)
class Reading:
    """What one prompt gave: how much more likely label 1's word is (in logits), and the metrics of every head."""

    margin: float
    values: Float32[np.ndarray, "layers metrics heads"]


def read(
    language_model: LanguageModel,
    prompts: Sequence[Prompt],
    label_tokens: tuple[int, int],
    batch_size: int,
    cut: Cut | None = None,
) -> list[Reading]:
    """Run prompts, in batches of like length, each distinct one once.

    Prompts of a batch are padded at their end, where causal attention never looks, so that padding changes
    nothing and no mask is needed.

    Raises:
        UserError: if the attention of some layer does not pass through the function that reads it.
    """
    found: dict[object, Reading] = {}
    for batch in _batches({_content(prompt): prompt for prompt in prompts}.values(), batch_size):
        watch = Watch(Rows.of(batch, _longest(batch), language_model.model.device), cut)
        with watching(watch):
            margins = _margins(language_model, batch, label_tokens)
        for prompt, margin, values in zip(batch, margins, _values(language_model, watch), strict=True):
            found[_content(prompt)] = Reading(margin, values)
    return [found[_content(prompt)] for prompt in prompts]


def _content(prompt: Prompt) -> object:
    return prompt.tokens, prompt.texts, prompt.labels


def _batches(prompts: Iterable[Prompt], size: int) -> Iterator[list[Prompt]]:
    """Prompts with equally many demonstrations and of like length together, so that little is padded."""
    ordered = sorted(prompts, key=lambda prompt: (len(prompt.labels), len(prompt.tokens), prompt.query))
    for _, alike in itertools.groupby(ordered, key=lambda prompt: len(prompt.labels)):
        group = list(alike)
        yield from (group[start : start + size] for start in range(0, len(group), size))


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


def _values(language_model: LanguageModel, watch: Watch) -> Float32[np.ndarray, "prompts layers metrics heads"]:
    if len(watch.values) != language_model.layers:
        raise UserError(
            f"{language_model.name}: attention could be read in {len(watch.values)} of {language_model.layers} layers. "
            "Choose a model whose layers all attend through transformers' attention interface."
        )
    values: Float32[np.ndarray, "prompts layers metrics heads"] = (
        torch.stack(watch.values).permute(2, 0, 1, 3).float().cpu().numpy()
    )
    if not np.isfinite(values).all():
        raise UserError(f"{language_model.name}: attention is not finite. Set llm.dtype: float32.")
    return values


def answers_table(prompts: Sequence[Prompt], readings: Sequence[Reading]) -> pd.DataFrame:
    """A row per prompt: the query, its half and label, the label that is more likely next, and by how much."""
    return pd.DataFrame(
        {
            "query": [prompt.query for prompt in prompts],
            "half": [prompt.half for prompt in prompts],
            "label": [prompt.label for prompt in prompts],
            "predicted": [int(reading.margin > 0) for reading in readings],
            "margin": [reading.margin for reading in readings],
        }
    )


def sums_table(prompts: Sequence[Prompt], readings: Sequence[Reading]) -> pd.DataFrame:
    """A row per half, layer, head (null: the mean over heads) and metric: sum over prompts, sum of squares, prompts.

    Without demonstrations there is only Bigram.
    """
    metrics = METRICS if prompts[0].labels else METRICS[:1]
    tables = []
    for half in sorted({prompt.half for prompt in prompts}):
        mine = [each.values for prompt, each in zip(prompts, readings, strict=True) if prompt.half == half]
        values = np.stack(mine)[:, :, : len(metrics)].astype(np.float64)
        values = np.concatenate([values, values.mean(-1, keepdims=True)], axis=-1)
        layer, metric, head = np.indices(values.shape[1:]).reshape(3, -1)
        columns = {
            "layer": layer + 1,
            "head": pd.Series(head + 1, dtype="Int64").mask(head + 1 == values.shape[-1]),
            "metric": np.array(metrics)[metric],
            "sum": values.sum(0).ravel(),
            "sum_of_squares": (values**2).sum(0).ravel(),
        }
        tables.append(pd.DataFrame(columns).assign(half=half, prompts=len(mine)))
    return pd.concat(tables, ignore_index=True)
