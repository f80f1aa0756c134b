"""The three metrics of the paper's Sec. 6, read from a few rows of attention while a model runs.

Each metric averages attention weights p[row, token] with fixed weights, and the rows are few: the query's and
the demonstrations' labels'. Those rows are computed beside the model's own attention kernel, layer by layer,
and nothing of a layer is kept but its sums.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuit_phases.files import UserError
from circuit_phases.llm.prompts import Prompt

ATTENTION = "circuit_phases"
"""The name under which transformers knows `watched_attention`."""
METRICS = ("bigram", "label_attention", "chunk_example")


@dataclass(frozen=True)
class Rows:
    """The attending tokens of a batch of prompts, and how each metric averages what they attend to.

    Row 0 is the query, the last token; rows 1 to N are the labels. `weights` of a metric sum to 1 over the
    rows and tokens of a prompt; where they are not 0 lie the metric's edges.
    """

    places: Int[Tensor, "prompts rows"]
    weights: Float[Tensor, "metrics prompts rows tokens"]

    @classmethod
    def of(cls, prompts: Sequence[Prompt], tokens: int, device: Any = "cpu") -> Rows:
        """The rows of prompts with equally many demonstrations, padded to so many tokens (paper, Sec. 6)."""
        N = len(prompts[0].labels)
        weights = torch.zeros(len(METRICS), len(prompts), 1 + N, tokens)
        for i, prompt in enumerate(prompts):
            weights[0, i, 0, len(prompt.tokens) - 1] = 1
            for k, (label, (start, stop)) in enumerate(zip(prompt.labels, prompt.texts, strict=True)):
                weights[1, i, 0, label] = 1 / N
                weights[2, i, 1 + k, start:stop] = 1 / N / (stop - start)
        places = torch.tensor([[len(prompt.tokens) - 1, *prompt.labels] for prompt in prompts])
        return cls(places.to(device), weights.to(device))


@dataclass(frozen=True)
class Cut:
    """The edges of one metric, taken out of the attention of some heads: {layer: heads}, from 0."""

    metric: str
    heads: Mapping[int, Sequence[int]]


@dataclass
class Watch:
    """What is read, and cut, during one forward pass: `values` grows by (metrics, prompts, heads) a layer."""

    rows: Rows
    cut: Cut | None = None
    values: list[Float[Tensor, "metrics prompts heads"]] = field(default_factory=list)

    def layer(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None, output: Tensor
    ) -> None:
        """Read one layer; where it is cut, put the outputs of the cut heads' rows into `output`."""
        scores = row_scores(query, key, mask, scaling, self.rows.places)
        attention = scores.softmax(-1)
        heads = self.cut.heads.get(len(self.values), ()) if self.cut else ()
        self.values.append(torch.einsum("bhrs,mbrs->mbh", attention, self.rows.weights))
        if self.cut and heads:
            edges = self.rows.weights[METRICS.index(self.cut.metric)] > 0
            _replace_outputs(output, scores, value, edges, self.rows.places, list(heads))


def row_scores(
    query: Float[Tensor, "prompts heads tokens width"],
    key: Float[Tensor, "prompts key_heads tokens width"],
    mask: Tensor | None,
    scaling: float | None,
    places: Int[Tensor, "prompts rows"],
) -> Float[Tensor, "prompts heads rows tokens"]:
    """Attention logits of some rows, -inf where a row may not look; without a mask, attention is causal."""
    prompts, heads, _, width = query.shape
    rows = query.take_along_dim(places[:, None, :, None], dim=2)
    # Heads that share their keys (grouped-query attention) stand together.
    grouped = rows.reshape(prompts, key.shape[1], -1, width) @ key.transpose(-1, -2)
    scores = grouped.reshape(prompts, heads, -1, key.shape[2]).float() * (width**-0.5 if scaling is None else scaling)
    if mask is None:
        later = torch.arange(key.shape[2], device=key.device) > places[:, None, :, None]
        return scores.masked_fill(later, -torch.inf)
    allowed = mask[..., : key.shape[2]].expand(prompts, -1, -1, -1).take_along_dim(places[:, None, :, None], dim=2)
    return scores.masked_fill(~allowed, -torch.inf) if mask.dtype == torch.bool else scores + allowed.float()


def _replace_outputs(
    output: Float[Tensor, "prompts tokens heads width"],
    scores: Float[Tensor, "prompts heads rows tokens"],
    value: Float[Tensor, "prompts key_heads tokens width"],
    edges: Bool[Tensor, "prompts rows tokens"],
    places: Int[Tensor, "prompts rows"],
    heads: list[int],
) -> None:
    """Attention of some heads without some edges, the rest renormalised; rows without such edges stay untouched."""
    rows = edges.any(-1).any(0).nonzero()[:, 0]
    shared = scores.shape[1] // value.shape[1]
    kept = scores[:, heads].masked_fill(edges[:, None], -torch.inf)[:, :, rows].softmax(-1)
    mixed = kept.to(value.dtype) @ value[:, [head // shared for head in heads]]
    prompts = torch.arange(len(output), device=output.device)
    chosen = torch.tensor(heads, device=output.device)
    output[prompts[:, None, None], places[:, rows, None], chosen] = mixed.transpose(1, 2)


# The attention function that transformers calls

_WATCH: ContextVar[Watch | None] = ContextVar("watch", default=None)


@contextmanager
def watching(watch: Watch) -> Iterator[Watch]:
    """Read, and cut, the attention of every layer of the model that runs inside."""
    token = _WATCH.set(watch)
    try:
        yield watch
    finally:
        _WATCH.reset(token)


def watched_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Transformers' scaled dot-product attention, with a look at some rows.

    Raises:
        UserError: if the model changes attention weights in a way that these rows do not know of.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    unknown = [name for name in ("softcap", "s_aux", "position_bias") if options.get(name) is not None]
    if unknown:
        raise UserError(
            f"{type(module).__name__} attends with {unknown[0]}, which is not supported. Choose another model."
        )
    output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    watch = _WATCH.get()
    if watch is not None:
        watch.layer(query, key, value, attention_mask, options.get("scaling"), output)
    return output, None


def register_attention() -> str:
    """Let transformers know the attention function, with the masks of its own kernel; returns its name."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(ATTENTION, watched_attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    return ATTENTION
