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
from jaxtyping import Float, Int64
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


class Stream:
    """The residual stream between layers, `(d, tokens, n)`."""

    def __init__(self, dense: Float[Tensor, "d S n"]) -> None:
        self.dense = dense

    def apply(self, matrices: Float[Tensor, "heads out d"]) -> Float[Tensor, "heads out S n"]:
        """Each head's matrix applied to every token."""
        return _apply(matrices, self.dense)

    def residual(self, rows: slice) -> Float[Tensor, "d R n"]:
        """These tokens at the stream's full width."""
        return self.dense[:, rows]

    def restrict(self, matrices: Float[Tensor, "heads out d"]) -> Float[Tensor, "heads out columns"]:
        """The columns of the matrices that meet `dense`."""
        return matrices


class EmbeddedStream(Stream):
    """The residual stream before the first layer, where positions are the same in every sequence.

    Items use few columns and need no gradient; a matrix is applied to the L label vectors once,
    then looked up by a product with one-hot columns, whose gradient needs no scattered additions.
    `dense` leaves out the position columns that are never non-zero.
    """

    def __init__(
        self,
        world: WorldSettings,
        positions: list[int],
        items: Float[Tensor, "D N+1 n"],
        vectors: Float[Tensor, "L content"],
        one_hot: Float[Tensor, "L N*n"],
    ) -> None:
        self.world, self.vectors, self.one_hot = world, vectors, one_hot
        self.item_positions, self.label_positions = positions[: world.N + 1], positions[world.N + 1 :]
        self.columns = max(positions) + 1
        self.has_label_positions = min(self.label_positions) >= 0
        n = items.shape[-1]
        self.items = torch.cat([self._placed(self.item_positions, items).expand(-1, -1, n), items])
        labels = (vectors.T @ one_hot).view(-1, world.N, n)
        self.wide_labels = len(labels) > world.D
        if self.wide_labels:
            items, spare = self._widened(self.items), world.P + world.D - self.columns
            if self.has_label_positions:
                labels = labels + functional.pad(self._placed(self.label_positions, labels), (0, 0, 0, 0, 0, spare))
        else:
            items = self.items
            labels = torch.cat([self._placed(self.label_positions, labels).expand(-1, -1, n), labels])
        super().__init__(torch.cat([items, labels], dim=1))

    def apply(self, matrices: Float[Tensor, "heads out d"]) -> Float[Tensor, "heads out S n"]:
        """Each head's matrix applied to every token, by look-up for the labels."""
        heads, out, d = matrices.shape
        n = self.items.shape[-1]
        items = _apply(self._narrowed(matrices), self.items)
        flat = matrices.reshape(heads * out, d)
        looked_up = (flat[:, -self.vectors.shape[1] :] @ self.vectors.T) @ self.one_hot
        labels = looked_up.view(heads, out, self.world.N, n)
        if self.has_label_positions:
            first = self.label_positions[0]
            step = self.label_positions[1] - first if len(self.label_positions) > 1 else 1
            labels = labels + matrices[:, :, first : self.label_positions[-1] + 1 : step, None]
        return torch.cat([items, labels], dim=2)

    def residual(self, rows: slice) -> Float[Tensor, "d R n"]:
        """These tokens at the stream's full width."""
        tokens = self.dense[:, rows]
        return tokens if self.wide_labels else self._widened(tokens)

    def restrict(self, matrices: Float[Tensor, "heads out d"]) -> Float[Tensor, "heads out columns"]:
        """The columns of the matrices that meet `dense`."""
        return matrices if self.wide_labels else self._narrowed(matrices)

    def _narrowed(self, matrices: Tensor) -> Tensor:
        return torch.cat([matrices[..., : self.columns], matrices[..., self.world.P :]], dim=-1)

    def _widened(self, tokens: Tensor) -> Tensor:
        gap = tokens.new_zeros(self.world.P - self.columns, *tokens.shape[1:])
        return torch.cat([tokens[: self.columns], gap, tokens[self.columns :]])

    def _placed(self, positions: list[int], like: Tensor) -> Float[Tensor, "columns tokens 1"]:
        numbers = torch.tensor(positions, device=like.device)
        return _one_hot(numbers, self.columns, like.dtype)[..., None]


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
        self.readout = slice(0, N + 1) if every else slice(N, N + 1)
        self.fixed_label_vectors: Tensor | None = None
        if self.settings.label_vectors == "fixed":
            self.fixed_label_vectors = model.embedding.label_vectors

    def embed(self, parameters: Parameters, batch: Batch) -> Stream:
        """The residual stream before the first layer."""
        s, n = self.world, batch.items.shape[-1]
        fixed = self.fixed_label_vectors
        vectors = parameters["embedding.label_vectors"] if fixed is None else fixed
        one_hot = _one_hot(batch.labels[:-1].reshape(-1), s.L, vectors.dtype)
        if s.positions != "random":
            return EmbeddedStream(s, self.positions, batch.items, vectors, one_hot)
        labels = (vectors.T @ one_hot).view(-1, s.N, n)
        labels = functional.pad(labels, (0, 0, 0, 0, s.P + s.D - len(labels), 0))
        items = functional.pad(batch.items, (0, 0, 0, 0, s.P, 0))
        starts = torch.tensor(self.positions, device=batch.items.device)[:, None]
        positions = functional.pad(_one_hot(starts + batch.offsets, s.P, vectors.dtype), (0, 0, 0, 0, 0, s.D))
        return Stream(torch.cat([items, labels], dim=1) + positions)

    def logits(self, parameters: Parameters, batch: Batch) -> Float[Tensor, "L readout n"]:
        """Logits at the read-out tokens."""
        settings = self.settings
        stream = self.embed(parameters, batch)
        for layer in range(settings.layers):
            weights = _scoped(parameters, f"layers.{layer}.")
            rows = self.readout if layer == settings.layers - 1 else slice(None)
            u = stream.residual(rows) + self._attention(weights, stream, rows, self.masks[layer])
            if settings.architecture == "standard_transformer":
                u = _feed_forward(weights, u)
            stream = Stream(u)
        for index in range(settings.hidden_layers + 1):
            u = _linear(_scoped(parameters, f"classifier.{index}."), u)
            if index < settings.hidden_layers:
                u = functional.relu(u)
        return u

    def loss(self, parameters: Parameters, batch: Batch) -> tuple[Float[Tensor, ""], Int64[Tensor, ""]]:
        """Mean cross-entropy (nats), and how many of the queries' labels come out right."""
        logits = self.logits(parameters, batch)
        targets = batch.labels if self.settings.loss == "every_label" else batch.labels[-1:]
        log_p = logits.log_softmax(0).gather(0, targets[None])
        correct = (logits[:, -1].argmax(0) == batch.labels[-1]).sum()
        return -log_p.mean(), correct

    def _attention(self, weights: Parameters, stream: Stream, rows: slice, mask: Tensor) -> Float[Tensor, "d R n"]:
        query, key, value = weights["query"], weights["key"], weights["value"]
        output = weights.get("output")
        u = stream.dense
        W, S, n = u.shape
        heads, w, d = query.shape
        R = len(range(S)[rows])
        every = R == S

        def cost(products: int, features: int) -> int:
            return products * n + ELEMENTWISE_COST * features * R * S * n

        scores_cost = {
            "merged": cost(W * W * R, W) + w * W * W,
            "query side": cost(2 * w * W * R, W),
            "both sides": cost(w * W * (R + S), w),
        }
        way = min(scores_cost, key=scores_cost.__getitem__)
        if way == "merged":
            merged = _product(stream.restrict(key).transpose(1, 2), query)
            asked = stream.apply(merged) if every else _apply(merged, stream.residual(rows))
            scores = self._scores(asked, u[None])
        else:
            asked = stream.apply(query) if every else _apply(query, stream.residual(rows))
            if way == "both sides":
                scores = self._scores(asked, stream.apply(key))
            else:
                scores = self._scores(_apply_per_head(stream.restrict(key).transpose(1, 2), asked), u[None])
        p = masked_softmax(scores, mask[rows, :, None], dim=2)

        values_cost = {
            "project first": cost(w * W * S + d * w * R, w),
            "mix first": cost(w * W * R + d * w * R, W),
        }
        if output is not None:
            values_cost["merged"] = cost(d * W * S, d) + d * w * W
        way = min(values_cost, key=values_cost.__getitem__)
        if way == "merged" and output is not None:
            return self._mix(p, stream.apply(_product(output, value))).sum(0)
        if way == "project first":
            mixed = self._mix(p, stream.apply(value))
        else:
            mixed = _apply_per_head(stream.restrict(value), self._mix(p, u[None]))
        mixed = mixed.reshape(heads * w, R, n)
        if output is None:
            return mixed
        joined = output.transpose(0, 1).reshape(1, d, heads * w)
        return _apply(joined, mixed)[0]

    def _scores(
        self, query: Float[Tensor, "heads W R n"], key: Float[Tensor, "keys W S n"]
    ) -> Float[Tensor, "heads R S n"]:
        """Dot products over the features; a key axis of 1 serves every head."""
        if self.elementwise:
            return (query[:, :, :, None] * key[:, :, None]).sum(1)
        return torch.einsum("hwrn,hwsn->hrsn", query, key.expand(len(query), -1, -1, -1))

    def _mix(
        self, p: Float[Tensor, "heads R S n"], values: Float[Tensor, "keys W S n"]
    ) -> Float[Tensor, "heads W R n"]:
        """Sums over the tokens attended to; a key axis of 1 serves every head."""
        if self.elementwise:
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
