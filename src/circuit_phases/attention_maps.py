"""Attention averaged over sequences: the mean of `InContextTransformer.attention`, with the arithmetic re-associated.

Exactly the same sums, in another order; what is saved:

- K^T Q and W_O V are merged where one product per token is cheaper than two;
- before the first layer a token is known in parts (content, label, position), so a matrix is applied to the
  content of items alone, and once to every label instead of at every label token;
- sequences go through in chunks that stay in a core's cache;
- the softmax runs with sequences last, where it is one long vector operation.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from circuit_phases.model import InContextTransformer, Layer, masked_softmax, token_positions
from circuit_phases.sequences import Sequences
from circuit_phases.settings import WorldSettings

TOKENS = 2304
"""Tokens in a chunk: at the default width and S = 9, 256 sequences, a megabyte."""
LARGE_BLOCK = 31 * 2**20
"""Bytes, just below the most that glibc learns from."""

Product = Callable[[Float[Tensor, "d out"]], Float[Tensor, "n S out"]]
"""Every token times a matrix."""


class MeanAttention:
    """Attention averaged over some sequences, for any number of models that share a world."""

    def __init__(self, world: WorldSettings, sequences: Sequences) -> None:
        # Freeing a large block once lets the C library keep smaller ones, instead of asking the system for each anew.
        torch.empty(LARGE_BLOCK, dtype=torch.uint8)
        size = max(TOKENS // world.S, 1)
        self.count = len(sequences)
        self.chunks = [Chunk(world, sequences[start : start + size]) for start in range(0, len(sequences), size)]

    @torch.no_grad()
    def __call__(self, model: InContextTransformer) -> Float[Tensor, "layers heads S S"]:
        """The mean maps of one model, in float64."""
        return torch.stack([_summed_attention(model, chunk) for chunk in self.chunks]).sum(0) / self.count


def mean_attention(model: InContextTransformer, sequences: Sequences) -> Float[Tensor, "layers heads S S"]:
    """Attention maps averaged over sequences, in float64."""
    return MeanAttention(model.world_settings, sequences)(model)


class Chunk:
    """Sequences before the first layer, in parts: what items hold, which labels follow them, and positions."""

    def __init__(self, world: WorldSettings, sequences: Sequences) -> None:
        self.world, self.sequences = world, sequences
        self.labels = sequences.labels[:, :-1]
        positions = token_positions(world)
        self.at_items, self.at_labels = positions[0::2], positions[1::2]
        own = torch.eye(world.N + 1).expand(len(sequences), -1, -1)
        self.items = torch.cat([own, sequences.items], dim=2)
        unlabelled = torch.zeros(len(sequences), world.S, world.P + world.D)
        unlabelled[:, 0::2, world.P :] = sequences.items
        placed = positions >= 0
        unlabelled[:, placed, positions[placed]] += 1
        self.unlabelled = unlabelled

    def embedded(self, model: InContextTransformer) -> tuple[Float[Tensor, "n S d"], Product]:
        """The residual stream before the first layer, and products with it."""
        if self.world.positions == "random":
            u = model.embedding(self.sequences)
            return u, u.matmul
        vectors = model.embedding.label_vectors
        u = self.unlabelled.to(vectors.dtype, copy=True)
        u[:, 1::2, -vectors.shape[1] :] += functional.embedding(self.labels, vectors)
        return u, partial(self._product, vectors)

    def _product(self, vectors: Float[Tensor, "L content"], matrix: Float[Tensor, "d out"]) -> Float[Tensor, "n S out"]:
        of_items = self.items.to(vectors.dtype) @ torch.cat([matrix[self.at_items], matrix[self.world.P :]])
        of_labels = functional.embedding(self.labels, vectors @ matrix[-vectors.shape[1] :])
        tokens = matrix.new_empty(len(of_items), self.world.S, matrix.shape[1])
        tokens[:, 0::2] = of_items
        tokens[:, 1::2] = of_labels + matrix[self.at_labels] if min(self.at_labels) >= 0 else of_labels
        return tokens


def _summed_attention(model: InContextTransformer, chunk: Chunk) -> Float[Tensor, "layers heads S S"]:
    """Attention maps summed over sequences, in float64."""
    u, product = chunk.embedded(model)
    sums = []
    for number, (layer, mask) in enumerate(zip(model.layers, model.masks, strict=True), start=1):
        assert isinstance(layer, Layer)
        p = masked_softmax(_sequences_last(_scores(layer, u, product)), mask[..., None], dim=2)
        sums.append(p.sum(-1, dtype=torch.float64))
        if number < len(model.layers):
            u = _after(layer, u, product, p)
            product = u.matmul
    return torch.stack(sums)


def _scores(layer: Layer, u: Float[Tensor, "n S d"], product: Product) -> Float[Tensor, "heads n S S"]:
    """(K u_j) . (Q u_i), indexed i, j."""
    heads, w, d = layer.query.shape
    if 2 * w > d:
        merged = layer.query.transpose(1, 2) @ layer.key
        asked = product(_side_by_side(merged)).split(d, dim=-1)
        return torch.stack([one @ u.mT for one in asked])
    both = product(_side_by_side(torch.cat([layer.query, layer.key]).mT)).split(w, dim=-1)
    return torch.stack([q @ k.mT for q, k in zip(both[:heads], both[heads:], strict=True)])


def _after(
    layer: Layer, u: Float[Tensor, "n S d"], product: Product, p: Float[Tensor, "heads S S n"]
) -> Float[Tensor, "n S d"]:
    """The residual stream after a layer whose attention is known."""
    _, w, d = layer.value.shape
    value, output = layer.value.mT, layer.output
    if merged := output is not None and 2 * w > d:
        value, output = value @ output.mT, None
    weights = p.movedim(-1, 1).contiguous()
    mixed = [one @ v for one, v in zip(weights, product(_side_by_side(value)).split(value.shape[-1], -1), strict=True)]
    if merged:
        u = torch.stack([u, *mixed]).sum(0)
    elif output is None:
        u = u + torch.cat(mixed, dim=-1)
    else:
        u = u + torch.cat(mixed, dim=-1) @ output.mT.flatten(0, 1)
    return layer.transformed(u)


def _side_by_side(matrices: Float[Tensor, "heads d out"]) -> Float[Tensor, "d heads*out"]:
    return matrices.transpose(0, 1).flatten(1)


def _sequences_last(scores: Float[Tensor, "heads n S S"]) -> Float[Tensor, "heads S S n"]:
    return scores.movedim(1, -1).contiguous()
