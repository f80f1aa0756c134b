"""The same loss and gradients as `circuit_phases.model`, with the arithmetic re-associated.

What is saved, exactly:

- only the rows of the read-out tokens are computed in the last layer;
- K^T Q and W_O V are merged once a step where that is cheaper than two products per token;
- with fixed positions only the position columns that are ever non-zero enter the first layer;
- the read-out row reads the layer before the last through it, attention or feed-forward
  (`circuit_phases.streams`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from circuit_phases.embedded_stream import EmbeddedStream
from circuit_phases.model import InContextTransformer, masked_softmax
from circuit_phases.products import (
    apply_per_head,
    apply_to_tokens,
    dot_products,
    numbers,
    one_hot,
    product_per_head,
    weighted_sums,
)
from circuit_phases.sequences import Sequences
from circuit_phases.streams import AttendedStream, AttendingTokens, FedForwardStream, Stream

Parameters = Mapping[str, Tensor]

# A multiply-add of attention, done element by element, costs about as much as three of a matrix product.
ELEMENTWISE_COST = 3
# Where every head sums values of its own, these come from farther away: so many times as much.
OWN_VALUES_COST = 2


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


class FastForm:
    """The re-associated form of one model: pure functions of its parameters and a batch.

    Tokens are held in the order x1 ... xN xq l1 ... lN. `compiled` sums attention element by element
    where that pays: a compiler makes it fast, and only a compiler does. `reused` parameters
    meet many batches: their products with one another are made once for all, so they cost nothing.
    """

    def __init__(self, model: InContextTransformer, compiled: bool = False, reused: bool = False) -> None:
        self.world = model.world_settings
        self.settings = model.settings
        self.compiled = compiled
        self.reused = reused
        N, S = self.world.N, self.world.S
        order = torch.cat([torch.arange(0, S, 2), torch.arange(1, S, 2)])
        self.masks = model.masks[:, order][:, :, order]
        pairs = self.world.positions == "pairs"
        self.item_positions = range(N + 1) if pairs else range(0, S, 2)
        self.label_positions = None if pairs else range(1, S, 2)
        every = self.settings.loss == "every_label"
        self.query = slice(N, N + 1)
        self.readout = slice(0, N + 1) if every else self.query

    def embed(self, parameters: Parameters, batch: Batch) -> Stream:
        """The residual stream before the first layer."""
        s, n = self.world, batch.items.shape[-1]
        vectors = parameters["embedding.label_vectors"]
        if s.positions != "random":
            fixed = self.item_positions, self.label_positions
            return EmbeddedStream(s, *fixed, batch.items, batch.labels[:-1], vectors, self.compiled, self.reused)
        labels = (vectors.T @ one_hot(batch.labels[:-1].reshape(-1), s.L, vectors.dtype)).view(-1, s.N, n)
        labels = functional.pad(labels, (0, 0, 0, 0, s.P + s.D - len(labels), 0))
        items = functional.pad(batch.items, (0, 0, 0, 0, s.P, 0))
        places = torch.cat([numbers(range(start, s.S, 2), items.device) for start in (0, 1)])
        positions = functional.pad(one_hot(places[:, None] + batch.offsets, s.P, vectors.dtype), (0, 0, 0, 0, 0, s.D))
        return Stream(torch.cat([items, labels], dim=1) + positions, self.compiled)

    def logits(self, parameters: Parameters, batch: Batch, readout: slice) -> Float[Tensor, "L readout n"]:
        """Logits at some tokens; `parameters` holds fixed label vectors too."""
        settings = self.settings
        stream = self.embed(parameters, batch)
        for layer in range(settings.layers):
            weights = _scoped(parameters, f"layers.{layer}.")
            last = layer == settings.layers - 1
            rows = readout if last else slice(None)
            standard = settings.architecture == "standard_transformer"
            read_through = layer == settings.layers - 2 and self._reads_through(readout)
            asking = stream.at(rows) if last else None
            p = self._pattern(weights, stream, asking, self.masks[layer][rows])
            if read_through and not standard:
                written = self._written(weights, stream)
                stream = AttendedStream(stream, p, written, self.compiled, self.reused)
            elif stream.unformed:
                stream = AttendingTokens(stream, rows, p, self._written(weights, stream))
            else:
                reading = asking or stream.at(rows)
                stream = Stream(reading.dense + self._attention(weights, stream, p), self.compiled)
            if standard:
                stream = self._fed_forward(weights, stream)
                if not (last or read_through):
                    stream = Stream(stream.residual(slice(None)), self.compiled)
        for index in range(settings.hidden_layers + 1):
            u = _affine(stream, _scoped(parameters, f"classifier.{index}."))
            if index < settings.hidden_layers:
                stream = Stream(functional.relu(u), self.compiled)
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

    def query_answers(
        self, parameters: Parameters, constants: Parameters, batch: Batch, labels: tuple[Int64[Tensor, "N+1 n"], ...]
    ) -> list[tuple[Float[Tensor, "L n"], Int64[Tensor, " n"]]]:
        """For the same items with each of these labels, log-probabilities of the queries' labels, and the likeliest.

        Compiled, what does not hang on the labels is computed once.
        """
        answers = []
        for those in labels:
            logits = self.logits({**constants, **parameters}, batch._replace(labels=those), self.query)[:, 0]
            answers.append((logits.log_softmax(0), logits.argmax(0)))
        return answers

    def _reads_through(self, readout: slice) -> bool:
        """Whether the last layer, reading one row, had better read through the layer before it.

        That applies a matrix per pair of heads twice, and once per head, for one per head and token.
        """
        return readout == self.query and 1 + 2 * self.settings.heads < self.world.S

    def _fed_forward(self, weights: Parameters, stream: Stream) -> FedForwardStream:
        """Layer norm, then the feed-forward of the standard transformer."""
        u = stream.residual(slice(None))
        centred = u - u.mean(0)
        u = centred * (centred.square().mean(0) + 1e-5).rsqrt()
        u = u * weights["norm.weight"][:, None, None] + weights["norm.bias"][:, None, None]
        hidden = functional.relu(_affine(Stream(u, self.compiled), _scoped(weights, "feed_forward_in.")))
        output = _scoped(weights, "feed_forward_out.")
        before = u + output["bias"][:, None, None]
        return FedForwardStream(before, hidden, output["weight"], self.compiled, self.reused)

    def _written(self, weights: Parameters, stream: Stream) -> Float[Tensor, "heads d W"]:
        """The matrices by which the heads write what they attend to."""
        value, output = weights["value"], weights.get("output")
        heads, w, _ = value.shape
        if output is not None:
            return product_per_head(output, stream.narrow(value))
        return torch.stack(
            [
                functional.pad(one, (0, 0, head * w, (heads - 1 - head) * w))
                for head, one in enumerate(stream.narrow(value))
            ]
        )

    def _pattern(
        self, weights: Parameters, stream: Stream, asking: Stream | None, mask: Tensor
    ) -> Float[Tensor, "heads R S n"]:
        """The attention of the tokens that ask (None: of every token)."""
        query, key = weights["query"], weights["key"]
        w = query.shape[1]
        W, R = stream.width, len(mask)
        reading = stream.reading_cost * R
        asked_for = stream.cost(w) if asking is None else w * W * R
        merged = stream.cost(W) if asking is None else W * W * R + reading
        way = self._cheapest(
            {
                "merged": (merged, W, w * W * W),
                "query side": (asked_for + w * W * R + reading, W, 0),
                "both sides": (asked_for + stream.cost(w), w, 0),
            },
            stream,
            R,
        )
        if way == "merged":
            if asking is None:
                scores = stream.pairs(product_per_head(stream.narrow(key).transpose(1, 2), stream.narrow(query)))
            else:
                scores = stream.scores_of(product_per_head(key.transpose(1, 2), query), asking)
        else:
            asked = stream.apply(query) if asking is None else asking.apply(query)
            if way == "both sides":
                scores = dot_products(asked, stream.apply(key), self.compiled)
            else:
                scores = stream.scores(apply_per_head(stream.narrow(key).transpose(1, 2), asked))
        return masked_softmax(scores, mask[:, :, None], dim=2)

    def _cheapest(self, ways: dict[str, tuple[float, int, int]], stream: Stream, R: int) -> str:
        """The way of the least cost: (products per sequence, features of attention's sums, products per step)."""

        def cost(way: str) -> float:
            products, features, once = ways[way]
            sums = ELEMENTWISE_COST * features * R * stream.tokens
            return (products + sums) * stream.sequences + (0 if self.reused else once)

        return min(ways, key=cost)

    def _attention(
        self, weights: Parameters, stream: Stream, p: Float[Tensor, "heads R S n"]
    ) -> Float[Tensor, "d R n"]:
        """What the heads write into the rows that ask."""
        value, output = weights["value"], weights.get("output")
        heads, w, d = value.shape
        W, R = stream.width, p.shape[1]
        reading = stream.reading_cost * R
        own = OWN_VALUES_COST if heads > 1 else 1
        ways = {
            "project first": (stream.cost(w) + d * w * R, own * w, 0),
            "mix first": (reading + w * W * R + d * w * R, W, 0),
        }
        if output is not None:
            ways["merged"] = (stream.cost(d), own * d, d * w * W)
            ways["mix first, merged"] = (reading + d * W * R, W, d * w * W)
        way = self._cheapest(ways, stream, R)
        if way == "merged" and output is not None:
            return weighted_sums(p, stream.apply(product_per_head(output, value)), self.compiled).sum(0)
        if way == "mix first, merged" and output is not None:
            return stream.mix_of(stream.narrow(product_per_head(output, value)), p).sum(0)
        if way == "project first":
            mixed = weighted_sums(p, stream.apply(value), self.compiled)
        else:
            mixed = stream.mix_of(stream.narrow(value), p)
        mixed = mixed.reshape(heads * w, R, -1)
        if output is None:
            return mixed
        joined = output.transpose(0, 1).reshape(1, d, heads * w)
        return apply_to_tokens(joined, mixed)[0]


def _affine(stream: Stream, weights: Parameters) -> Float[Tensor, "outputs R n"]:
    return stream.apply(weights["weight"][None])[0] + weights["bias"][:, None, None]


def _scoped(parameters: Parameters, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in parameters.items() if name.startswith(prefix)}
