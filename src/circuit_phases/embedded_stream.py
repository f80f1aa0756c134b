"""The residual stream before the first layer of the fast form, where items and labels need few columns each."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from circuit_phases.products import (
    ACROSS_SEQUENCES_TOKENS,
    apply_to_tokens,
    chosen,
    dot_products,
    numbers,
    one_hot,
    weighted_sums,
)
from circuit_phases.settings import WorldSettings
from circuit_phases.streams import Stream


class EmbeddedStream(Stream):
    """The residual stream before the first layer, where positions are the same in every sequence.

    Items use few columns, `in_items` of them, and need no gradient. A label token is the sum of columns
    of a small table, its label's vector and its position, so a product with a label is made once for every
    column and picked. Where label vectors are as wide as the model, the stream has the columns of items and
    then those of the table; else both share the columns that are ever non-zero.
    """

    def __init__(
        self,
        world: WorldSettings,
        item_positions: range,
        label_positions: range | None,
        items: Float[Tensor, "D N+1 n"],
        labels: Int64[Tensor, "N n"],
        vectors: Float[Tensor, "L content"],
        compiled: bool,
        reused: bool,
    ) -> None:
        self.world, self.compiled, self.reused = world, compiled, reused
        self.at_items, self.in_items = item_positions, world.N + 1 + world.D
        self.apart = vectors.shape[1] > world.D
        self.tokens, self.sequences = 2 * world.N + 1, items.shape[-1]
        own = torch.eye(world.N + 1, dtype=items.dtype, device=items.device)[..., None]
        self.items = torch.cat([own.expand(-1, -1, self.sequences), items])
        self.placed = world.P if self.apart else item_positions[-1] + 1
        height = self.placed + world.D
        table = functional.pad(vectors.T, (0, 0, height - vectors.shape[1], 0))
        picks = one_hot(labels, world.L, items.dtype)
        if label_positions is None and compiled and self.tokens <= ACROSS_SEQUENCES_TOKENS:
            # Scattered, they stand in memory; compared, each sum that reads them would form them anew.
            picks = torch.zeros_like(picks).scatter(0, labels[None], 1.0)
        elif label_positions is not None:
            at_labels = one_hot(numbers(label_positions, items.device), height, items.dtype)
            table = torch.cat([table, at_labels], dim=1)
            picks = torch.cat([picks, own[:-1, :-1].expand(-1, -1, self.sequences)])
        self.table: Float[Tensor, "height columns"] = table
        self.picks: Float[Tensor, "columns N n"] = picks
        self.labels = labels
        self.width = self.in_items + len(picks) if self.apart else height
        self.reading_cost = 0 if self.apart else height * len(picks)

    def cost(self, out: int) -> float:
        """Multiplications per head and sequence in `apply` with so many rows.

        Tokens need no gradient, which is a third of a product's work; two sets of labels share the items.
        """
        items, labels = self.in_items * (self.world.N + 1), len(self.picks) * self.world.N
        return out * (items / 2 + labels if self.reused else 2 * (items + labels) / 3)

    def cost_of_row(self, out: int) -> float:
        """Multiplications per sequence in `apply_at` with so many rows and one item, which two sets of labels share."""
        return out * self.in_items / 2

    def apply(self, matrices: Float[Tensor, "heads out d"]) -> Float[Tensor, "heads out S n"]:
        """Each head's matrix applied to every token."""
        matrices = self.narrow(matrices)
        labels = self._for_labels(matrices)
        return torch.cat(
            [apply_to_tokens(self._for_items(matrices), self.items), apply_to_tokens(labels, self.picks)], dim=2
        )

    def apply_at(self, matrices: Float[Tensor, "heads out d"], rows: slice) -> Float[Tensor, "heads out R n"]:
        """Each head's matrix applied to these items."""
        return apply_to_tokens(self._of_items(self._without_spare_positions(matrices, -1), -1), self.items[:, rows])

    def pairs(self, matrices: Float[Tensor, "heads W W"]) -> Float[Tensor, "heads S S n"]:
        """u_j . (matrix u_i) of every pair of tokens, `(head, i, j)`."""
        from_items, from_labels = self._for_items(matrices), self._for_labels(matrices)
        # The first item sees nothing but itself, and no label sees the query: their scores are never asked.
        later, earlier = self.items[:, 1:], self.items[:, :-1]
        asked_by_items = apply_to_tokens(self._for_items(from_items, 1), later)
        labels_asked = apply_to_tokens(self._for_labels(from_items, 1), later)
        asked_of_items = apply_to_tokens(self._for_items(from_labels, 1).transpose(1, 2), earlier)
        among_labels = apply_to_tokens(self._for_labels(from_labels, 1), self.picks)
        by_items = torch.cat(
            [dot_products(asked_by_items, self.items[None], self.compiled), self._pick(labels_asked)], dim=2
        )
        of_items = functional.pad(self._pick(asked_of_items).transpose(1, 2), (0, 0, 0, 1))
        by_labels = torch.cat([of_items, self._pick(among_labels)], dim=2)
        return torch.cat([functional.pad(by_items, (0, 0, 0, 0, 1, 0)), by_labels], dim=1)

    def residual(self, rows: slice) -> Float[Tensor, "d R n"]:
        """These tokens at the stream's full width."""
        if range(self.tokens)[rows].stop <= self.world.N + 1:
            return self._spread(self.items[:, rows], self.world.P)
        labels = self._of_table(self.picks)
        return torch.cat([self._spread(self.items, self.world.P), labels], dim=1)[:, rows]

    def scores(self, asked: Float[Tensor, "heads W R n"]) -> Float[Tensor, "heads R S n"]:
        """Dot products of each row's vector with every token."""
        items = dot_products(self._for_items(asked, 1), self.items[None], self.compiled)
        return torch.cat([items, self._pick(self._for_labels(asked, 1))], dim=2)

    def mix(self, p: Float[Tensor, "heads R S n"]) -> Float[Tensor, "heads W R n"]:
        """Sums of the tokens, weighted by p."""
        on_items, on_labels = p.split([self.world.N + 1, self.world.N], dim=2)
        items = weighted_sums(on_items, self.items[None], self.compiled)
        labels = weighted_sums(on_labels, self.picks[None], self.compiled)
        if self.apart:
            return torch.cat([items, labels], dim=1)
        of_labels = torch.stack([apply_to_tokens(self.table[None], one)[0] for one in labels])
        return self._spread(items, self.placed) + of_labels

    def narrow(self, matrices: Tensor, axis: int = -1) -> Tensor:
        """What meets the stream's own columns, of an axis of full width."""
        if not self.apart:
            return self._without_spare_positions(matrices, axis)
        return torch.cat([self._of_items(matrices, axis), self._through_table(matrices, axis)], dim=axis)

    def widen(self, tokens: Float[Tensor, "heads W R n"]) -> Float[Tensor, "heads d R n"]:
        """Full width, with zeros in the columns that are not in use."""
        if not self.apart:
            return self._with_spare_positions(tokens)
        items, labels = tokens.split([self.in_items, len(self.picks)], dim=1)
        return self._spread(items, self.world.P) + torch.stack([self._of_table(one) for one in labels])

    def _pick(self, of_table: Float[Tensor, "heads columns R n"]) -> Float[Tensor, "heads R N n"]:
        """The sums over the columns that each label is the sum of: its vector and, where it has one, its place."""
        L = self.world.L
        of_vectors = chosen(of_table[:, :L], self.labels, self.picks[:L], self.compiled)
        return of_vectors if of_table.shape[1] == L else of_vectors + of_table[:, L:].transpose(1, 2)

    def _for_items(self, matrices: Tensor, axis: int = -1) -> Tensor:
        """What meets an item, of an axis that meets the stream's columns."""
        return matrices.narrow(axis, 0, self.in_items) if self.apart else self._of_items(matrices, axis)

    def _for_labels(self, matrices: Tensor, axis: int = -1) -> Tensor:
        """What meets a column of the table, of an axis that meets the stream's columns."""
        if self.apart:
            return matrices.narrow(axis, self.in_items, len(self.picks))
        return self._through_table(matrices, axis)

    def _through_table(self, matrices: Tensor, axis: int) -> Tensor:
        if axis == -1:
            return matrices @ self.table
        return torch.stack([apply_to_tokens(self.table.T[None], one)[0] for one in matrices])

    def _of_table(self, picked: Float[Tensor, "columns R n"]) -> Float[Tensor, "d R n"]:
        tokens = apply_to_tokens(self.table[None], picked)[0]
        return tokens if self.apart else self._with_spare_positions(tokens)

    def _of_items(self, matrices: Tensor, axis: int) -> Tensor:
        """What meets an item, of an axis of `placed` positions and the content."""
        positions = [slice(None)] * matrices.dim()
        positions[axis] = slice(0, self.at_items[-1] + 1, self.at_items.step)
        return torch.cat([matrices[tuple(positions)], matrices.narrow(axis, self.placed, self.world.D)], dim=axis)

    def _spread(self, items: Float[Tensor, "*heads in_items R n"], positions: int) -> Float[Tensor, "*heads c R n"]:
        """Items' columns among so many positions and the content."""
        own, content = items.split([len(self.at_items), self.world.D], dim=-3)
        if self.at_items.step == 2:
            own = torch.stack([own, torch.zeros_like(own)], dim=-3).flatten(-4, -3).narrow(-3, 0, self.at_items[-1] + 1)
        spare = content.new_zeros(*content.shape[:-3], positions - own.shape[-3], *content.shape[-2:])
        return torch.cat([own, spare, content], dim=-3)

    def _without_spare_positions(self, matrices: Tensor, axis: int) -> Tensor:
        if self.placed == self.world.P:
            return matrices
        parts = matrices.narrow(axis, 0, self.placed), matrices.narrow(axis, self.world.P, self.world.D)
        return torch.cat(parts, dim=axis)

    def _with_spare_positions(self, tokens: Float[Tensor, "*heads W R n"]) -> Float[Tensor, "*heads d R n"]:
        positions, content = tokens.split([self.placed, self.world.D], dim=-3)
        gap = content.new_zeros(*content.shape[:-3], self.world.P - self.placed, *content.shape[-2:])
        return torch.cat([positions, gap, content], dim=-3)
