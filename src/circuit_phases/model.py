"""The network in its plain form: every matrix is applied to every token (paper, Sec. 3).

This is the reference. `circuit_phases.fast` computes the same loss and gradients sooner.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self, cast

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from circuit_phases.sequences import Sequences
from circuit_phases.settings import EdgeFamily, ModelSettings, WorldSettings
from circuit_phases.world import RandomStream, World, random_generator


@dataclass(frozen=True)
class Output:
    """Logits of the labels at the read-out tokens, and every layer's attention."""

    logits: Float[Tensor, "n readout L"]
    attention: Float[Tensor, "n layers heads S S"]


class InContextTransformer(nn.Module):
    """Attention layers on a residual stream of width P + D, then a classifier at the read-out tokens.

    All weights are drawn from `seed`: query, key, value ~ N(0, 1/(P + D)) per entry as in the paper,
    W_O ~ N(0, 1/fan-in), learned label vectors ~ N(0, 1/(P + D)), and linear layers uniform within
    1/sqrt(fan-in), PyTorch's default.
    """

    masks: Tensor
    readout: Tensor

    def __init__(self, world: World, settings: ModelSettings, seed: int) -> None:
        super().__init__()
        self.settings = settings
        self.world_settings = world.settings
        generator = torch.Generator().manual_seed(int(random_generator(RandomStream.weights, seed).integers(2**63 - 1)))
        width = world.settings.P + world.settings.D
        self.embedding = Embedding(world, settings, generator)
        self.layers = nn.ModuleList(Layer(width, settings, generator) for _ in range(settings.layers))
        self.classifier = nn.ModuleList(Linear(width, width, generator) for _ in range(settings.hidden_layers))
        self.classifier.append(Linear(width, world.settings.L, generator))
        self.register_buffer("masks", edge_masks(world.settings, settings), persistent=False)
        self.register_buffer("readout", readout_tokens(world.settings, settings), persistent=False)

    def forward(self, sequences: Sequences) -> Output:
        """Logits at the read-out tokens and the attention of every layer and head."""
        u = self.embedding(sequences)
        attention = []
        for layer, mask in zip(self.layers, self.masks, strict=True):
            u, p = layer(u, mask)
            attention.append(p)
        return Output(self.classify(u[:, self.readout]), torch.stack(attention, dim=1))

    def classify(self, u: Float[Tensor, "*n d"]) -> Float[Tensor, "*n L"]:
        """The classifier's logits at any tokens."""
        for hidden in self.classifier[:-1]:
            u = functional.relu(hidden(u))
        logits: Tensor = self.classifier[-1](u)
        return logits

    def attention(self, sequences: Sequences) -> Float[Tensor, "n layers heads S S"]:
        """The attention of every layer and head, without the answer."""
        u = self.embedding(sequences)
        patterns = []
        *before, last = self.layers
        for layer, mask in zip(before, self.masks[:-1], strict=True):
            u, p = layer(u, mask)
            patterns.append(p)
        return torch.stack([*patterns, cast(Layer, last).pattern(u, self.masks[-1])], dim=1)

    def at_step(self, step: int) -> Self:
        """This model, from now on without the edges that are forbidden at a step of training."""
        self.masks = edge_masks(self.world_settings, self.settings, step).to(self.masks.device)
        return self

    def loss(self, sequences: Sequences) -> Float[Tensor, ""]:
        """Mean cross-entropy (nats) of the labels at the read-out tokens."""
        logits = self(sequences).logits
        return functional.cross_entropy(logits.flatten(0, 1), target_labels(sequences, self.settings).flatten())


class Embedding(nn.Module):
    """Tokens [position one-hot, content]; labels are fixed vectors of the world or learned ones."""

    label_vectors: Tensor

    def __init__(self, world: World, settings: ModelSettings, generator: torch.Generator) -> None:
        super().__init__()
        self.world_settings = world.settings
        if settings.label_vectors == "learned":
            width = world.settings.P + world.settings.D
            self.label_vectors = normal((world.settings.L, width), width, generator)
        else:
            self.register_buffer("label_vectors", torch.from_numpy(world.label_vectors), persistent=False)

    def forward(self, sequences: Sequences) -> Float[Tensor, "n S P+D"]:
        """The residual stream before the first layer."""
        s = self.world_settings
        vectors = self.label_vectors
        tokens = torch.zeros(len(sequences), s.S, s.P + s.D, dtype=vectors.dtype, device=vectors.device)
        tokens[:, 0::2, s.P :] = sequences.items.to(vectors.dtype)
        tokens[:, 1::2, -vectors.shape[1] :] = vectors[sequences.labels[:, :-1]]
        positions = token_positions(s).to(vectors.device)
        placed = positions >= 0
        one_hot = functional.one_hot(positions[placed] + sequences.offsets[:, None], s.P).to(vectors.dtype)
        tokens[:, placed, : s.P] += one_hot
        return tokens


class Layer(nn.Module):
    """u + W_O [heads], head_i = sum_j p_ij V u_j, p_ij = softmax_j<=i((K u_j) . (Q u_i)), not scaled.

    In the standard transformer, layer norm and then a residual feed-forward of 4 x width follow.
    """

    def __init__(self, width: int, settings: ModelSettings, generator: torch.Generator) -> None:
        super().__init__()
        head_width = width if settings.head_width == "full" else width // settings.heads
        shape = (settings.heads, head_width, width)
        self.query = normal(shape, width, generator)
        self.key = normal(shape, width, generator)
        self.value = normal(shape, width, generator)
        self.output: nn.Parameter | None = None
        if settings.output_projection:
            self.output = normal((settings.heads, width, head_width), settings.heads * head_width, generator)
        self.standard = settings.architecture == "standard_transformer"
        if self.standard:
            self.norm = nn.LayerNorm(width)
            self.feed_forward_in = Linear(width, 4 * width, generator)
            self.feed_forward_out = Linear(4 * width, width, generator)

    def forward(
        self, u: Float[Tensor, "n S d"], mask: Bool[Tensor, "S S"]
    ) -> tuple[Float[Tensor, "n S d"], Float[Tensor, "n heads S S"]]:
        """The residual stream after the layer, and the attention p[query token, key token]."""
        p = self.pattern(u, mask)
        v = torch.einsum("njd,hwd->nhjw", u, self.value)
        return self.written(u, torch.einsum("nhij,nhjw->nihw", p, v)), p

    def written(self, u: Float[Tensor, "n R d"], heads: Float[Tensor, "n R heads w"]) -> Float[Tensor, "n R d"]:
        """The residual stream of some tokens after the layer, given what their heads have read."""
        u = u + (heads.flatten(2) if self.output is None else torch.einsum("nihw,hdw->nid", heads, self.output))
        return self.transformed(u)

    def transformed(self, u: Float[Tensor, "n S d"]) -> Float[Tensor, "n S d"]:
        """What follows attention: in the standard transformer layer norm and feed-forward, else nothing."""
        if not self.standard:
            return u
        u = self.norm(u)
        return u + self.feed_forward_out(functional.relu(self.feed_forward_in(u)))

    def pattern(self, u: Float[Tensor, "n S d"], mask: Bool[Tensor, "S S"]) -> Float[Tensor, "n heads S S"]:
        """The attention p[query token, key token]."""
        q = torch.einsum("nid,hwd->nhiw", u, self.query)
        k = torch.einsum("njd,hwd->nhjw", u, self.key)
        return masked_softmax(torch.einsum("nhiw,nhjw->nhij", q, k), mask, dim=-1)


class Linear(nn.Linear):
    """A linear layer whose weights come from a given generator, by PyTorch's default law."""

    def __init__(self, inputs: int, outputs: int, generator: torch.Generator) -> None:
        super().__init__(inputs, outputs)
        bound = 1 / math.sqrt(inputs)
        with torch.no_grad():
            self.weight.uniform_(-bound, bound, generator=generator)
            self.bias.uniform_(-bound, bound, generator=generator)


def normal(shape: tuple[int, ...], fan_in: int, generator: torch.Generator) -> nn.Parameter:
    """A parameter ~ N(0, 1/fan_in) per entry."""
    return nn.Parameter(torch.randn(shape, generator=generator) / math.sqrt(fan_in))


def masked_softmax(scores: Tensor, mask: Bool[Tensor, "..."], dim: int) -> Tensor:
    """Softmax over the keys that the mask allows; a token with none attends to nothing."""
    p = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(dim)
    return p * mask


def token_positions(s: WorldSettings) -> Int64[Tensor, " S"]:
    """The position of every token before the random offset; -1 where a token carries none."""
    tokens = torch.arange(s.S)
    if s.positions == "pairs":
        return torch.where(tokens % 2 == 0, tokens // 2, -1)
    return tokens


def readout_tokens(world: WorldSettings, model: ModelSettings) -> Int64[Tensor, " readout"]:
    """The tokens at which labels are predicted: the query, or with loss on every label each item."""
    return torch.arange(0 if model.loss == "every_label" else world.S - 1, world.S, 2)


def target_labels(sequences: Sequences, model: ModelSettings) -> Int64[Tensor, "n readout"]:
    """The labels to predict at the read-out tokens."""
    return sequences.labels if model.loss == "every_label" else sequences.labels[:, -1:]


def edge_masks(world: WorldSettings, model: ModelSettings, step: int = 0) -> Bool[Tensor, "layers S S"]:
    """Which key tokens (last axis) each query token may attend to, per layer, at a step of training."""
    rows: tuple[tuple[EdgeFamily, ...], ...] = model.masks or (("causal",),) * model.layers
    masks = torch.stack([edge_mask(families, world.N) for families in rows])
    for each in model.forbidden or ():
        if each.from_step <= step and (each.until_step is None or step < each.until_step):
            masks[each.layer - 1] &= ~edge_mask(each.edges, world.N)
    return masks


def edge_mask(families: tuple[EdgeFamily, ...], N: int) -> Bool[Tensor, "S S"]:
    """The union of edge families among the tokens x1 l1 ... xN lN xq."""
    S = 2 * N + 1
    mask = torch.zeros(S, S, dtype=torch.bool)
    labels = torch.arange(1, S, 2)
    for family in families:
        match family:
            case "causal":
                mask |= torch.ones(S, S, dtype=torch.bool).tril()
            case "self":
                mask |= torch.eye(S, dtype=torch.bool)
            case "query_to_self":
                mask[-1, -1] = True
            case "query_to_labels":
                mask[-1, labels] = True
            case "label_to_item":
                mask[labels, labels - 1] = True
    return mask
