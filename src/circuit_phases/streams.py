"""The residual stream of the fast form, held so that products with every token cost little.

Arrays stand feature first and sequence last, `(feature, token, n)`, tokens in the order
x1 ... xN xq l1 ... lN, so that every matrix product is one large one and attention, tiny per
sequence, runs across sequences where a compiler makes that fast (`compiled`) or, with many tokens, is a product
per sequence.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from circuit_phases.products import (
    apply_per_head,
    apply_to_tokens,
    dot_products,
    weighted_sums,
)


class Stream:
    """The residual stream between layers, `(d, tokens, n)`, or as much of its width as can be non-zero."""

    reading_cost = 0
    """Multiplications per head, row and sequence in `scores` or `mix`, beside attention's sums."""
    unformed = False
    """Whether single tokens are best read without being formed."""

    def __init__(self, dense: Float[Tensor, "W S n"], compiled: bool) -> None:
        self.dense, self.compiled = dense, compiled
        self.width, self.tokens, self.sequences = dense.shape

    def cost(self, out: int) -> float:
        """Multiplications per head and sequence in `apply` with so many rows."""
        return out * self.width * self.tokens

    def cost_of_row(self, out: int) -> float:
        """Multiplications per sequence in `apply_at` with so many rows and one token."""
        return out * self.width

    def apply(self, matrices: Float[Tensor, "heads out d"]) -> Float[Tensor, "heads out S n"]:
        """Each head's matrix applied to every token."""
        return apply_to_tokens(matrices, self.dense)

    def at(self, rows: slice) -> Stream:
        """These tokens alone."""
        return Stream(self.residual(rows), self.compiled)

    def apply_at(self, matrices: Float[Tensor, "heads out d"], rows: slice) -> Float[Tensor, "heads out R n"]:
        """Each head's matrix applied to these tokens."""
        return self.at(rows).apply(matrices)

    def pairs(self, matrices: Float[Tensor, "heads W W"]) -> Float[Tensor, "heads S S n"]:
        """u_j . (matrix u_i) of every pair of tokens, `(head, i, j)`, but for the first i, which sees itself alone."""
        return functional.pad(self.scores(apply_to_tokens(matrices, self.dense[:, 1:])), (0, 0, 0, 0, 1, 0))

    def residual(self, rows: slice) -> Float[Tensor, "d R n"]:
        """These tokens at the stream's full width."""
        return self.dense[:, rows]

    def scores(self, asked: Float[Tensor, "heads W R n"]) -> Float[Tensor, "heads R S n"]:
        """Dot products of each row's vector with every token."""
        return dot_products(asked, self.dense[None], self.compiled)

    def mix(self, p: Float[Tensor, "heads R S n"]) -> Float[Tensor, "heads W R n"]:
        """Sums of the tokens, weighted by p."""
        return weighted_sums(p, self.dense[None], self.compiled)

    def scores_of(self, matrices: Float[Tensor, "heads d d"], asking: Stream) -> Float[Tensor, "heads R S n"]:
        """Dot products of each head's matrix applied to those who ask with every token."""
        return self.scores(asking.apply(self.narrow(matrices, axis=1)))

    def mix_of(
        self,
        matrices: Float[Tensor, "heads out W"],
        p: Float[Tensor, "heads R S n"],
        onto: Float[Tensor, "heads out R n"] | None = None,
    ) -> Float[Tensor, "heads out R n"]:
        """Each head's matrix applied to the sums of the tokens, weighted by p, added onto what is given."""
        return apply_per_head(matrices, self.mix(p), onto)

    def narrow(self, matrices: Tensor, axis: int = -1) -> Tensor:
        """What meets the stream's own columns, of an axis of full width."""
        return matrices

    def widen(self, tokens: Float[Tensor, "*heads W R n"]) -> Float[Tensor, "*heads d R n"]:
        """Full width, with zeros for the columns left out."""
        return tokens


class AttendingTokens(Stream):
    """Some tokens of a stream with what they attend to, u_i + sum_k p_ik written u_k, of which none is formed."""

    def __init__(
        self, before: Stream, rows: slice, p: Float[Tensor, "heads R S n"], written: Float[Tensor, "heads d W"]
    ) -> None:
        self.before, self.rows, self.p, self.written = before, rows, p, written

    def apply(self, matrices: Float[Tensor, "heads out d"]) -> Float[Tensor, "heads out R n"]:
        """Each head's matrix applied to these tokens."""
        own = self.before.apply_at(matrices, self.rows)
        return torch.stack([self._with_attended(one, matrix) for one, matrix in zip(own, matrices, strict=True)])

    def _with_attended(self, own: Float[Tensor, "out R n"], matrix: Float[Tensor, "out d"]) -> Float[Tensor, "out R n"]:
        for p, written in zip(self.p.split(1), self.written, strict=True):
            own = self.before.mix_of((matrix @ written)[None], p, own[None])[0]
        return own


class AttendedStream(Stream):
    """A stream after a layer of attention, u_j + sum_k p_jk written u_k, of which single rows alone are formed.

    What a later layer reads with one row is linear in it, so it can be read from the stream before:
    a . (p written u) = p ((written^T a) . u), and sums over tokens likewise.
    """

    def __init__(
        self,
        before: Stream,
        p: Float[Tensor, "heads S S n"],
        written: Float[Tensor, "heads d W"],
        compiled: bool,
        reused: bool,
    ) -> None:
        self.reused = reused
        self.before, self.p, self.written, self.compiled = before, p, written, compiled
        self.width, self.tokens, self.sequences = written.shape[1], before.tokens, before.sequences
        heads, d, W = written.shape
        self.reading_cost = heads * d * W + (1 + heads) * before.reading_cost
        # A row is asked for scores, directly and through each pair of heads, and read out.
        asked = (1 + heads) * heads * W + d
        self.unformed = reused and before.cost_of_row(asked) + asked * heads * W < heads * W * d + asked * d

    def apply(self, matrices: Float[Tensor, "heads out d"]) -> Float[Tensor, "heads out S n"]:
        """Each head's matrix applied to every token, all formed."""
        return apply_to_tokens(matrices, self.residual(slice(None)))

    def at(self, rows: slice) -> Stream:
        """These tokens alone."""
        return AttendingTokens(self.before, rows, self.p[:, rows], self.written) if self.unformed else super().at(rows)

    def residual(self, rows: slice) -> Float[Tensor, "d R n"]:
        """These tokens at the stream's full width."""
        return self.before.residual(rows) + self._write(self.before.mix(self.p[:, rows]))

    def scores(self, asked: Float[Tensor, "heads d R n"]) -> Float[Tensor, "heads R S n"]:
        """Dot products of each row's vector with every token."""
        through = torch.cat([apply_to_tokens(matrix.T[None], one) for one in asked for matrix in self.written])
        return self._reached(self.before.scores(self.before.narrow(asked, axis=1)), self.before.scores(through))

    def mix(self, p: Float[Tensor, "heads R S n"]) -> Float[Tensor, "heads d R n"]:
        """Sums of the tokens, weighted by p."""
        reached = self._weights_before(p)
        mixed = self.before.mix(reached.flatten(0, 1)).unflatten(0, reached.shape[:2])
        return self.before.widen(self.before.mix(p)) + torch.stack([self._write(one) for one in mixed])

    def scores_of(self, matrices: Float[Tensor, "heads d d"], asking: Stream) -> Float[Tensor, "heads R S n"]:
        """Dot products of each head's matrix applied to those who ask with every token."""
        if not self.reused:
            return super().scores_of(matrices, asking)
        through = torch.stack([written.T @ one for one in matrices for written in self.written])
        return self._reached(self.before.scores_of(matrices, asking), self.before.scores(asking.apply(through)))

    def mix_of(
        self,
        matrices: Float[Tensor, "heads out W"],
        p: Float[Tensor, "heads R S n"],
        onto: Float[Tensor, "heads out R n"] | None = None,
    ) -> Float[Tensor, "heads out R n"]:
        """Each head's matrix applied to the sums of the tokens, weighted by p, added onto what is given."""
        if not self.reused:
            return super().mix_of(matrices, p, onto)
        through = torch.stack([one @ written for one in matrices for written in self.written])
        by_pairs = apply_per_head(through, self.before.mix(self._weights_before(p).flatten(0, 1)))
        mixed = by_pairs.unflatten(0, (len(matrices), -1)).sum(1)
        return self.before.mix_of(self.before.narrow(matrices), p, onto) + mixed

    def _reached(
        self, direct: Float[Tensor, "heads R S n"], through: Float[Tensor, "pairs R S n"]
    ) -> Float[Tensor, "heads R S n"]:
        """Scores of the stream before, and those through what its tokens attend to, by pairs of heads."""
        by_pairs = through.unflatten(0, (len(direct), -1))
        return direct + (self.p[None, :, None] * by_pairs[:, :, :, None]).sum((1, 4))

    def _weights_before(self, p: Float[Tensor, "heads R S n"]) -> Float[Tensor, "heads before R S n"]:
        """The weights that sums over these tokens give to the tokens that they attend to."""
        return (p[:, None, :, :, None] * self.p[None, :, None]).sum(3)

    def _write(self, mixed: Float[Tensor, "heads W R n"]) -> Float[Tensor, "d R n"]:
        return apply_per_head(self.written, mixed).sum(0)


class FedForwardStream(Stream):
    """A stream after a feed-forward, u_j + output h_j, of which single rows alone are formed.

    As with attention, what a later layer reads is linear in it: a . (output h) = (output^T a) . h.
    """

    def __init__(
        self,
        before: Float[Tensor, "d S n"],
        hidden: Float[Tensor, "hidden S n"],
        output: Float[Tensor, "d hidden"],
        compiled: bool,
        reused: bool,
    ) -> None:
        super().__init__(before, compiled)
        self.hidden, self.output, self.reused = hidden, output, reused
        self.reading_cost = output.numel()

    def apply(self, matrices: Float[Tensor, "heads out d"]) -> Float[Tensor, "heads out S n"]:
        """Each head's matrix applied to every token, all formed where its product with the output costs more."""
        heads, out, d = matrices.shape
        hidden, tokens = len(self.hidden), self.tokens * self.sequences
        once = 0 if self.reused else d * hidden / tokens
        if heads * out * (d + hidden + once) > d * (hidden + heads * out):
            return apply_to_tokens(matrices, self.residual(slice(None)))
        through = torch.stack([one @ self.output for one in matrices])
        return apply_to_tokens(matrices, self.dense) + apply_to_tokens(through, self.hidden)

    def residual(self, rows: slice) -> Float[Tensor, "d R n"]:
        """These tokens at the stream's full width."""
        return self.dense[:, rows] + apply_to_tokens(self.output[None], self.hidden[:, rows])[0]

    def scores(self, asked: Float[Tensor, "heads d R n"]) -> Float[Tensor, "heads R S n"]:
        """Dot products of each row's vector with every token."""
        through = torch.stack([apply_to_tokens(self.output.T[None], one)[0] for one in asked])
        return super().scores(asked) + dot_products(through, self.hidden[None], self.compiled)

    def mix(self, p: Float[Tensor, "heads R S n"]) -> Float[Tensor, "heads d R n"]:
        """Sums of the tokens, weighted by p."""
        mixed = weighted_sums(p, self.hidden[None], self.compiled)
        return super().mix(p) + torch.stack([apply_to_tokens(self.output[None], one)[0] for one in mixed])
