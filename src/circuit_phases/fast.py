"""The same loss and gradients as `circuit_phases.model`, with the arithmetic re-associated.

Arrays stand feature first and sequence last, `(feature, token, n)`, so that every matrix product is
one large one and attention, tiny per sequence, runs across sequences. What is saved, exactly:

- only the rows of the read-out tokens are computed in the last layer;
- K^T Q and W_O V are merged once a step where that is cheaper than two products per token;
- with fixed positions only the position columns that are ever non-zero enter the first layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from circuit_phases.model import InContextTransformer, masked_softmax, token_positions
from circuit_phases.sequences import Sequences
from circuit_phases.settings import WorldSettings

Parameters = Mapping[str, Tensor]

# A multiply-add of attention, done element by element, costs about as much as three of a matrix product.
ELEMENTWISE_COST = 3
# Above this many tokens, batched matrix products beat element-by-element sums over a compiled loop.
ELEMENTWISE_TOKENS = 20


class Batch(NamedTuple):
    """What a step needs of its sequences, as plain tensors, sequence last."""

    items: Float[Tensor, "D N+1 n"]
    labels: Int64[Tensor, "N+1 n"]
    offsets: Int64[Tensor, " n"]

    @classmethod
    def of(cls, sequences: Sequences) -> Batch:
        """The tensors of these sequences."""
        return cls(sequences.items.permute(2, 1, 0).contiguous(), sequences.labels.T.contiguous(), sequences.offsets)

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        return Batch(*(tensor.to(device) for tensor in self))


class Stream:
    """The residual stream between layers, `(d, tokens, n)`, or as much of its width as can be non-zero."""

    def __init__(self, dense: Float[Tensor, "W S n"], elementwise: bool) -> None:
        self.dense, self.elementwise = dense, elementwise
        self.width, self.tokens, self.sequences = dense.shape

    def apply(self, matrices: Float[Tensor, "heads out d"]) -> Float[Tensor, "heads out S n"]:
        """Each head's matrix applied to every token."""
        return _apply(matrices, self.dense)

    def pairs(self, matrices: Float[Tensor, "heads W W"]) -> Float[Tensor, "heads S S n"]:
        """u_j . (matrix u_i) of every pair of tokens, `(head, i, j)`."""
        return self.scores(self.apply(matrices))

    def residual(self, rows: slice) -> Float[Tensor, "d R n"]:
        """These tokens at the stream's full width."""
        return self.dense[:, rows]

    def scores(self, asked: Float[Tensor, "heads W R n"]) -> Float[Tensor, "heads R S n"]:
        """Dot products of each row's vector with every token."""
        return _scores(asked, self.dense[None], self.elementwise)

    def mix(self, p: Float[Tensor, "heads R S n"]) -> Float[Tensor, "heads W R n"]:
        """Sums of the tokens, weighted by p."""
        return _mix(p, self.dense[None], self.elementwise)

    def narrow(self, matrices: Tensor, axis: int = -1) -> Tensor:
        """What meets `dense` of an axis of full width."""
        return matrices

    def widen(self, tokens: Float[Tensor, "*heads W R n"]) -> Float[Tensor, "*heads d R n"]:
        """Full width, with zeros for what `dense` leaves out."""
        return tokens


class AttendedStream(Stream):
    """A stream after a layer of attention, u_j + sum_k p_jk written u_k, of which single rows alone are formed.

    What a later layer reads with one row is linear in it, so it can be read from the stream before:
    a . (p written u) = p ((written^T a) . u), and sums over tokens likewise.
    """

    def __init__(
        self, before: Stream, p: Float[Tensor, "heads S S n"], written: Float[Tensor, "heads d W"], elementwise: bool
    ) -> None:
        self.before, self.p, self.written, self.elementwise = before, p, written, elementwise
        self.width, self.tokens, self.sequences = written.shape[1], before.tokens, before.sequences

    def apply(self, matrices: Float[Tensor, "heads out d"]) -> Float[Tensor, "heads out S n"]:
        """Each head's matrix applied to every token, all formed."""
        return _apply(matrices, self.residual(slice(None)))

    def residual(self, rows: slice) -> Float[Tensor, "d R n"]:
        """These tokens at the stream's full width."""
        return self.before.residual(rows) + self._write(self.before.mix(self.p[:, rows]))

    def scores(self, asked: Float[Tensor, "heads d R n"]) -> Float[Tensor, "heads R S n"]:
        """Dot products of each row's vector with every token."""
        R, n = asked.shape[2:]
        direct = self.before.scores(self.before.narrow(asked, axis=1))
        through = torch.cat([_apply(matrix.T[None], one) for one in asked for matrix in self.written])
        reached = self.before.scores(through).view(len(asked), len(self.written), R, self.tokens, n)
        return direct + (self.p[None, :, None] * reached[:, :, :, None]).sum((1, 4))

    def mix(self, p: Float[Tensor, "heads R S n"]) -> Float[Tensor, "heads d R n"]:
        """Sums of the tokens, weighted by p."""
        reached = (p[:, None, :, :, None] * self.p[None, :, None]).sum(3)
        mixed = self.before.mix(reached.flatten(0, 1)).unflatten(0, reached.shape[:2])
        return self.before.widen(self.before.mix(p)) + torch.stack([self._write(one) for one in mixed])

    def _write(self, mixed: Float[Tensor, "heads W R n"]) -> Float[Tensor, "d R n"]:
        return _apply_per_head(self.written, mixed).sum(0)


class EmbeddedStream(Stream):
    """The residual stream before the first layer, where positions are the same in every sequence.

    Items use few columns and need no gradient. A label token is the sum of columns of a small
    table, its label's vector and its position, so a product with a label is made once for every
    column and picked. Columns that are never non-zero are left out.
    """

    def __init__(
        self,
        world: WorldSettings,
        positions: list[int],
        items: Float[Tensor, "D N+1 n"],
        labels: Int64[Tensor, "N n"],
        vectors: Float[Tensor, "L content"],
        elementwise: bool,
    ) -> None:
        self.world, self.elementwise = world, elementwise
        item_positions, label_positions = positions[: world.N + 1], positions[world.N + 1 :]
        self.placed = max(positions) + 1
        self.wide = vectors.shape[1] > world.D
        self.width = world.P + world.D if self.wide else self.placed + world.D
        self.tokens, self.sequences = 2 * world.N + 1, items.shape[-1]
        at_items = _columns(item_positions, self.placed, items)[..., None].expand(-1, -1, self.sequences)
        self.items = torch.cat([at_items, items])
        table, picks = vectors.T, _one_hot(labels, world.L, items.dtype)
        table = functional.pad(table, (0, 0, self.width - len(table), 0))
        if min(label_positions) >= 0:
            at_labels = _columns(label_positions, self.width, items)
            table = torch.cat([table, at_labels], dim=1)
            own = torch.eye(world.N, dtype=items.dtype, device=items.device)[..., None]
            picks = torch.cat([picks, own.expand(-1, -1, self.sequences)])
        self.table: Float[Tensor, "W columns"] = table
        self.picks: Float[Tensor, "columns N n"] = picks

    def apply(self, matrices: Float[Tensor, "heads out d"]) -> Float[Tensor, "heads out S n"]:
        """Each head's matrix applied to every token."""
        matrices = self.narrow(matrices)
        heads, out, width = matrices.shape
        labels = (matrices.reshape(heads * out, width) @ self.table) @ self.picks.flatten(1)
        return torch.cat(
            [_apply(self._of_items(matrices), self.items), labels.view(heads, out, *self.picks.shape[1:])], dim=2
        )

    def pairs(self, matrices: Float[Tensor, "heads W W"]) -> Float[Tensor, "heads S S n"]:
        """u_j . (matrix u_i) of every pair of tokens, `(head, i, j)`."""
        from_items, by_table = self._of_items(matrices), matrices @ self.table
        asked_by_items = _apply(self._of_items(from_items, 1), self.items)
        tables_asked = _apply(_on_left(self.table, from_items), self.items)
        asked_of_items = _apply(self._of_items(by_table, 1).transpose(1, 2), self.items)
        among_labels = _apply(_on_left(self.table, by_table), self.picks)
        rows = [
            torch.cat([_scores(asked_by_items, self.items[None], self.elementwise), self._pick(tables_asked)], dim=2),
            torch.cat([self._pick(asked_of_items).transpose(1, 2), self._pick(among_labels)], dim=2),
        ]
        return torch.cat(rows, dim=1)

    def residual(self, rows: slice) -> Float[Tensor, "d R n"]:
        """These tokens at the stream's full width."""
        items = self._items_widened(self.items)
        first = self.world.N + 1
        if range(self.tokens)[rows].stop <= first:
            return self.widen(items[:, rows])
        labels = (self.table @ self.picks.flatten(1)).view(-1, *self.picks.shape[1:])
        return self.widen(torch.cat([items, labels], dim=1)[:, rows])

    def scores(self, asked: Float[Tensor, "heads W R n"]) -> Float[Tensor, "heads R S n"]:
        """Dot products of each row's vector with every token."""
        items = _scores(self._of_items(asked, 1), self.items[None], self.elementwise)
        labels = torch.stack([_apply(self.table.T[None], one)[0] for one in asked])
        return torch.cat([items, self._pick(labels)], dim=2)

    def mix(self, p: Float[Tensor, "heads R S n"]) -> Float[Tensor, "heads W R n"]:
        """Sums of the tokens, weighted by p."""
        on_items, on_labels = p.split([self.world.N + 1, self.world.N], dim=2)
        items = self._items_widened(_mix(on_items, self.items[None], self.elementwise))
        labels = _mix(on_labels, self.picks[None], self.elementwise)
        return items + torch.stack([_apply(self.table[None], one)[0] for one in labels])

    def narrow(self, matrices: Tensor, axis: int = -1) -> Tensor:
        """The columns in use, of an axis of full width."""
        return matrices if self.wide else self._without_spare_positions(matrices, axis)

    def widen(self, tokens: Float[Tensor, "*heads W R n"]) -> Float[Tensor, "*heads d R n"]:
        """Full width, with zeros in the columns that are not in use."""
        return tokens if self.wide else self._with_spare_positions(tokens)

    def _pick(self, of_table: Float[Tensor, "heads columns R n"]) -> Float[Tensor, "heads R N n"]:
        return _scores(of_table, self.picks[None], self.elementwise)

    def _of_items(self, matrices: Tensor, axis: int = -1) -> Tensor:
        """Of the columns in use, those that items use."""
        return self._without_spare_positions(matrices, axis) if self.wide else matrices

    def _items_widened(self, items: Tensor) -> Tensor:
        return self._with_spare_positions(items) if self.wide else items

    def _without_spare_positions(self, matrices: Tensor, axis: int) -> Tensor:
        if self.placed == self.world.P:
            return matrices
        parts = matrices.narrow(axis, 0, self.placed), matrices.narrow(axis, self.world.P, self.world.D)
        return torch.cat(parts, dim=axis)

    def _with_spare_positions(self, tokens: Float[Tensor, "*heads W R n"]) -> Float[Tensor, "*heads d R n"]:
        positions, content = tokens.split([self.placed, self.world.D], dim=-3)
        gap = content.new_zeros(*content.shape[:-3], self.world.P - self.placed, *content.shape[-2:])
        return torch.cat([positions, gap, content], dim=-3)


class FastForm:
    """The re-associated form of one model: pure functions of its parameters and a batch.

    Tokens are held in the order x1 ... xN xq l1 ... lN. `elementwise` sums attention element by element
    where there are few tokens: a compiler makes that fast, and only a compiler does.
    """

    def __init__(self, model: InContextTransformer, elementwise: bool = False) -> None:
        self.world = model.world_settings
        self.settings = model.settings
        self.elementwise = elementwise and self.world.S <= ELEMENTWISE_TOKENS
        N, S = self.world.N, self.world.S
        order = torch.cat([torch.arange(0, S, 2), torch.arange(1, S, 2)])
        self.masks = model.masks[:, order][:, :, order]
        self.positions = token_positions(self.world)[order].tolist()
        every = self.settings.loss == "every_label"
        self.query = slice(N, N + 1)
        self.readout = slice(0, N + 1) if every else self.query

    def embed(self, parameters: Parameters, batch: Batch) -> Stream:
        """The residual stream before the first layer."""
        s, n = self.world, batch.items.shape[-1]
        vectors = parameters["embedding.label_vectors"]
        if s.positions != "random":
            return EmbeddedStream(s, self.positions, batch.items, batch.labels[:-1], vectors, self.elementwise)
        labels = (vectors.T @ _one_hot(batch.labels[:-1].reshape(-1), s.L, vectors.dtype)).view(-1, s.N, n)
        labels = functional.pad(labels, (0, 0, 0, 0, s.P + s.D - len(labels), 0))
        items = functional.pad(batch.items, (0, 0, 0, 0, s.P, 0))
        starts = torch.tensor(self.positions, device=batch.items.device)[:, None]
        positions = functional.pad(_one_hot(starts + batch.offsets, s.P, vectors.dtype), (0, 0, 0, 0, 0, s.D))
        return Stream(torch.cat([items, labels], dim=1) + positions, self.elementwise)

    def logits(self, parameters: Parameters, batch: Batch, readout: slice) -> Float[Tensor, "L readout n"]:
        """Logits at some tokens; `parameters` holds fixed label vectors too."""
        settings = self.settings
        stream = self.embed(parameters, batch)
        for layer in range(settings.layers):
            weights = _scoped(parameters, f"layers.{layer}.")
            last = layer == settings.layers - 1
            rows = readout if last else slice(None)
            if layer == settings.layers - 2 and self._defers(readout):
                stream = self._deferred(weights, stream, self.masks[layer])
                continue
            u = stream.residual(rows) + self._attention(weights, stream, rows, self.masks[layer])
            if settings.architecture == "standard_transformer":
                u = _feed_forward(weights, u)
            stream = Stream(u, self.elementwise)
        u = stream.residual(slice(None))
        for index in range(settings.hidden_layers + 1):
            u = _linear(_scoped(parameters, f"classifier.{index}."), u)
            if index < settings.hidden_layers:
                u = functional.relu(u)
        return u

    def loss(
        self, parameters: Parameters, constants: Parameters, batch: Batch
    ) -> tuple[Float[Tensor, ""], Int64[Tensor, ""]]:
        """Mean cross-entropy (nats), and how many of the queries' labels come out right."""
        logits = self.logits({**constants, **parameters}, batch, self.readout)
        targets = batch.labels if self.settings.loss == "every_label" else batch.labels[-1:]
        log_p = logits.log_softmax(0).gather(0, targets[None])
        correct = (logits[:, -1].argmax(0) == batch.labels[-1]).sum()
        return -log_p.mean(), correct

    def query_outcomes(
        self, parameters: Parameters, constants: Parameters, batch: Batch, labels: tuple[Int64[Tensor, "N+1 n"], ...]
    ) -> list[tuple[Float[Tensor, " n"], Bool[Tensor, " n"]]]:
        """For the same items with each of these labels, the queries' cross-entropies (nats), and which come out right.

        Compiled, what does not hang on the labels is computed once.
        """
        outcomes = []
        for those in labels:
            logits = self.logits({**constants, **parameters}, batch._replace(labels=those), self.query)[:, 0]
            outcomes.append((-logits.log_softmax(0).gather(0, those[-1:])[0], logits.argmax(0) == those[-1]))
        return outcomes

    def _defers(self, readout: slice) -> bool:
        """Whether the last layer, reading one row, had better read through the layer before it.

        That applies a matrix per pair of heads twice, and once per head, for one per head and token.
        """
        one_row = readout == self.query
        return one_row and self.settings.architecture == "attention_only" and 1 + 2 * self.settings.heads < self.world.S

    def _deferred(self, weights: Parameters, stream: Stream, mask: Tensor) -> Stream:
        value, output = weights["value"], weights.get("output")
        heads, w, _ = value.shape
        if output is not None:
            written = _product(output, stream.narrow(value))
        else:
            written = torch.stack(
                [
                    functional.pad(one, (0, 0, head * w, (heads - 1 - head) * w))
                    for head, one in enumerate(stream.narrow(value))
                ]
            )
        return AttendedStream(stream, self._pattern(weights, stream, slice(None), mask), written, self.elementwise)

    def _pattern(self, weights: Parameters, stream: Stream, rows: slice, mask: Tensor) -> Float[Tensor, "heads R S n"]:
        """The attention of these rows."""
        query, key = weights["query"], weights["key"]
        w = query.shape[1]
        W, S, R = stream.width, stream.tokens, self._count(rows)
        way = _cheapest(
            {
                "merged": (W * W * R, W, w * W * W),
                "query side": (2 * w * W * R, W, 0),
                "both sides": (w * W * (R + S), w, 0),
            },
            stream,
            R,
        )
        every = R == S
        if way == "merged" and every:
            scores = stream.pairs(_product(stream.narrow(key).transpose(1, 2), stream.narrow(query)))
        elif way == "merged":
            merged = _product(stream.narrow(key).transpose(1, 2), query)
            scores = stream.scores(_apply(merged, stream.residual(rows)))
        else:
            asked = stream.apply(query) if every else _apply(query, stream.residual(rows))
            if way == "both sides":
                scores = _scores(asked, stream.apply(key), self.elementwise)
            else:
                scores = stream.scores(_apply_per_head(stream.narrow(key).transpose(1, 2), asked))
        return masked_softmax(scores, mask[rows, :, None], dim=2)

    def _attention(self, weights: Parameters, stream: Stream, rows: slice, mask: Tensor) -> Float[Tensor, "d R n"]:
        """What the heads write into these rows."""
        value, output = weights["value"], weights.get("output")
        heads, w, d = value.shape
        W, S, R = stream.width, stream.tokens, self._count(rows)
        p = self._pattern(weights, stream, rows, mask)
        ways = {
            "project first": (w * W * S + d * w * R, w, 0),
            "mix first": (w * W * R + d * w * R, W, 0),
        }
        if output is not None:
            ways["merged"] = (d * W * S, d, d * w * W)
            ways["mix first, merged"] = (d * W * R, W, d * w * W)
        way = _cheapest(ways, stream, R)
        if way == "merged" and output is not None:
            return _mix(p, stream.apply(_product(output, value)), self.elementwise).sum(0)
        if way == "mix first, merged" and output is not None:
            return _apply_per_head(_product(output, stream.narrow(value)), stream.mix(p)).sum(0)
        if way == "project first":
            mixed = _mix(p, stream.apply(value), self.elementwise)
        else:
            mixed = _apply_per_head(stream.narrow(value), stream.mix(p))
        mixed = mixed.reshape(heads * w, R, -1)
        if output is None:
            return mixed
        joined = output.transpose(0, 1).reshape(1, d, heads * w)
        return _apply(joined, mixed)[0]

    def _count(self, rows: slice) -> int:
        return len(range(self.world.S)[rows])


def _cheapest(ways: dict[str, tuple[int, int, int]], stream: Stream, R: int) -> str:
    """The way of the least cost: (products per sequence, features of attention's sums, products per step)."""

    def cost(way: str) -> int:
        products, features, once = ways[way]
        return (products + ELEMENTWISE_COST * features * R * stream.tokens) * stream.sequences + once

    return min(ways, key=cost)


def _scores(
    asked: Float[Tensor, "heads W R n"], keys: Float[Tensor, "keys W S n"], elementwise: bool
) -> Float[Tensor, "heads R S n"]:
    """Dot products over the features; a key axis of 1 serves every head."""
    if elementwise:
        return (asked[:, :, :, None] * keys[:, :, None]).sum(1)
    return torch.einsum("hwrn,hwsn->hrsn", asked, keys.expand(len(asked), -1, -1, -1))


def _mix(
    p: Float[Tensor, "heads R S n"], values: Float[Tensor, "keys W S n"], elementwise: bool
) -> Float[Tensor, "heads W R n"]:
    """Sums over the tokens attended to; a key axis of 1 serves every head."""
    if elementwise:
        return (p[:, None] * values[:, :, None]).sum(3)
    return torch.einsum("hrsn,hwsn->hwrn", p, values.expand(len(p), -1, -1, -1))


def _apply(matrices: Float[Tensor, "heads out W"], u: Float[Tensor, "W S n"]) -> Float[Tensor, "heads out S n"]:
    heads, out, W = matrices.shape
    return (matrices.reshape(heads * out, W) @ u.reshape(W, -1)).view(heads, out, *u.shape[1:])


def _apply_per_head(
    matrices: Float[Tensor, "heads out W"], u: Float[Tensor, "heads W S n"]
) -> Float[Tensor, "heads out S n"]:
    return _product(matrices, u.flatten(2)).view(*matrices.shape[:2], *u.shape[2:])


def _product(left: Float[Tensor, "heads a b"], right: Float[Tensor, "heads b c"]) -> Float[Tensor, "heads a c"]:
    """One matrix product per head; a batched product is several times slower for few large matrices."""
    return torch.stack([a @ b for a, b in zip(left, right, strict=True)])


def _on_left(
    table: Float[Tensor, "W columns"], matrices: Float[Tensor, "heads W b"]
) -> Float[Tensor, "heads columns b"]:
    return torch.stack([table.T @ one for one in matrices])


def _columns(positions: list[int], width: int, like: Tensor) -> Float[Tensor, "width tokens"]:
    return _one_hot(torch.tensor(positions, device=like.device), width, like.dtype)


def _one_hot(indices: Int64[Tensor, "..."], count: int, dtype: torch.dtype) -> Float[Tensor, "count ..."]:
    """One-hot columns along a new first axis; a negative index gives zeros."""
    numbers = torch.arange(count, device=indices.device)
    return (numbers.view(-1, *[1] * indices.dim()) == indices).to(dtype)


def _feed_forward(weights: Parameters, u: Float[Tensor, "d R n"]) -> Float[Tensor, "d R n"]:
    centred = u - u.mean(0)
    u = centred * (centred.square().mean(0) + 1e-5).rsqrt()
    u = u * weights["norm.weight"][:, None, None] + weights["norm.bias"][:, None, None]
    hidden = functional.relu(_linear(_scoped(weights, "feed_forward_in."), u))
    return u + _linear(_scoped(weights, "feed_forward_out."), hidden)


def _linear(weights: Parameters, u: Float[Tensor, "inputs R n"]) -> Float[Tensor, "outputs R n"]:
    product = weights["weight"] @ u.reshape(u.shape[0], -1)
    return (product + weights["bias"][:, None]).view(-1, *u.shape[1:])


def _scoped(parameters: Parameters, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in parameters.items() if name.startswith(prefix)}
