"""Products and sums of the fast form, over arrays that stand feature first and sequence last."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd.function import FunctionCtx

ACROSS_SEQUENCES_TOKENS = 20
"""Above this many tokens attention of several rows is a matrix product per sequence."""


def across_sequences(rows: int, tokens: int) -> bool:
    """Whether element-by-element sums over a compiled loop beat one matrix product per sequence."""
    return rows == 1 or tokens <= ACROSS_SEQUENCES_TOKENS


def dot_products(
    asked: Float[Tensor, "heads W R n"], keys: Float[Tensor, "keys W S n"], compiled: bool
) -> Float[Tensor, "heads R S n"]:
    """Dot products over the features; a key axis of 1 serves every head."""
    if compiled and across_sequences(asked.shape[2], keys.shape[2]):
        return (asked[:, :, :, None] * keys[:, :, None]).sum(1)
    return product_per_sequence(asked.transpose(1, 2), keys)


def weighted_sums(
    p: Float[Tensor, "heads R S n"], values: Float[Tensor, "keys W S n"], compiled: bool
) -> Float[Tensor, "heads W R n"]:
    """Sums over the tokens attended to; a key axis of 1 serves every head."""
    if compiled and across_sequences(*p.shape[1:3]):
        return (p[:, None] * values[:, :, None]).sum(3)
    return product_per_sequence(values, p.transpose(1, 2))


def chosen(
    values: Float[Tensor, "heads L R n"],
    labels: Int64[Tensor, "N n"],
    one_hot_labels: Float[Tensor, "L N n"],
    compiled: bool,
) -> Float[Tensor, "heads R N n"]:
    """Of the values of every label, those of the labels that stand in the sequence."""
    return _Chosen.apply(values, labels, one_hot_labels, compiled)


class _Chosen(torch.autograd.Function):
    """Gathered, which `dot_products(values, one_hot_labels[None])` equals; the gradient is that of the products."""

    generate_vmap_rule = True

    @staticmethod
    def forward(values: Tensor, labels: Tensor, one_hot_labels: Tensor, compiled: bool) -> Tensor:
        heads, _, rows, n = values.shape
        return values.gather(1, labels[None, :, None].expand(heads, -1, rows, n)).transpose(1, 2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, bool], output: Tensor) -> None:
        ctx.save_for_backward(inputs[2])
        ctx.compiled = inputs[3]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (one_hot_labels,) = ctx.saved_tensors
        return weighted_sums(gradient, one_hot_labels[None], ctx.compiled), None, None, None


def apply_to_tokens(
    matrices: Float[Tensor, "heads out W"], u: Float[Tensor, "W S n"]
) -> Float[Tensor, "heads out S n"]:
    """Each head's matrix applied to the same tokens, as one product."""
    heads, out, W = matrices.shape
    return (matrices.reshape(heads * out, W) @ u.reshape(W, -1)).view(heads, out, *u.shape[1:])


def apply_per_head(
    matrices: Float[Tensor, "heads out W"],
    u: Float[Tensor, "heads W S n"],
    onto: Float[Tensor, "heads out S n"] | None = None,
) -> Float[Tensor, "heads out S n"]:
    """Each head's matrix applied to that head's own tokens, added onto what is given."""
    if onto is None:
        products = product_per_head(matrices, u.flatten(2))
    else:
        # Compiled, such a sum stands in memory, where a sum of products would be formed by each who reads it.
        products = torch.stack(
            [torch.addmm(*those) for those in zip(onto.flatten(2), matrices, u.flatten(2), strict=True)]
        )
    return products.view(*matrices.shape[:2], *u.shape[2:])


def product_per_head(left: Float[Tensor, "heads a b"], right: Float[Tensor, "heads b c"]) -> Float[Tensor, "heads a c"]:
    """One matrix product per head; a batched product is several times slower for few large matrices."""
    return torch.stack([a @ b for a, b in zip(left, right, strict=True)])


def product_per_sequence(
    left: Float[Tensor, "heads a b n"], right: Float[Tensor, "heads b c n"]
) -> Float[Tensor, "heads a c n"]:
    """One matrix product per head and sequence; a head axis of 1 serves every head."""
    by_sequence = (matrices.permute(0, 3, 1, 2).contiguous() for matrices in (left, right))
    return _InOneBlock.apply(torch.matmul(*by_sequence)).permute(0, 2, 3, 1)


class _InOneBlock(torch.autograd.Function):
    """The same values with a gradient in one block too: of any other layout a batched product copies each matrix."""

    generate_vmap_rule = True

    @staticmethod
    def forward(values: Tensor) -> Tensor:
        return values.contiguous()

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Tensor], output: Tensor) -> None:
        """Nothing of the values is needed backward."""

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        return gradient.contiguous()


def numbers(these: range, device: torch.device) -> Int64[Tensor, " count"]:
    """A range as a tensor that is computed: of a constant, each trace would hold another."""
    return torch.arange(these.start, these.stop, these.step, device=device)


def one_hot(indices: Int64[Tensor, "..."], count: int, dtype: torch.dtype) -> Float[Tensor, "count ..."]:
    """One-hot columns along a new first axis."""
    columns = torch.arange(count, device=indices.device)
    return (columns.view(-1, *[1] * indices.dim()) == indices).to(dtype)
