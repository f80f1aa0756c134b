"""Sequences x1 l1 ... xN lN xq of a world, drawn without a loop over sequences (paper, Sec. 3)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float32, Int64

from circuit_phases.settings import WorldSettings
from circuit_phases.world import RandomStream, World, random_generator

STEPS_DRAWN_TOGETHER = 16
"""Steps whose sequences come from one generator; a few large draws cost less than many small ones."""
CLOCKS_UP_TO = 512
"""Above so many classes, drawing again beats a clock for every class."""
RARE = 0.25
"""Drawing again beats clocks too where a draw repeats another of its row with a probability below this."""
LIKELY = 0.5
"""Least share of the classes that are left which makes drawing again end soon, whatever was drawn before."""


@dataclass(frozen=True)
class Sequences:
    """n sequences. Items stand in order x1 ... xN xq; labels are l1 ... lN and, last, the query's."""

    tasks: Int64[torch.Tensor, " n"]
    classes: Int64[torch.Tensor, "n N+1"]
    labels: Int64[torch.Tensor, "n N+1"]
    items: Float32[torch.Tensor, "n N+1 D"]
    offsets: Int64[torch.Tensor, " n"]

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, rows: slice) -> Sequences:
        return Sequences(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    def with_context_labels(self, labels: Int64[torch.Tensor, "n N"]) -> Sequences:
        """The same sequences with other labels in the context; the query's own label stays."""
        return replace(self, labels=torch.cat([labels, self.labels[:, -1:]], dim=1))


class TrainingBatches:
    """The fresh sequences of every training step, each a function of (world, seed, step) alone."""

    def __init__(self, world: World, seed: int, batch_size: int) -> None:
        self.world, self.seed, self.batch_size = world, seed, batch_size
        self._number: int | None = None
        self._noise_seeds: np.ndarray = np.empty(0)
        self._drawn: dict[str, torch.Tensor] = {}

    def __getitem__(self, step: int) -> Sequences:
        """The sequences of one step (from 1)."""
        number, place = divmod(step - 1, STEPS_DRAWN_TOGETHER)
        if number != self._number:
            generator = random_generator(RandomStream.batch, self.seed, number)
            self._drawn = _draw_all_but_items(self.world, STEPS_DRAWN_TOGETHER * self.batch_size, generator)
            self._noise_seeds = generator.integers(2**63 - 1, size=STEPS_DRAWN_TOGETHER)
            self._number = number
        rows = slice(place * self.batch_size, (place + 1) * self.batch_size)
        drawn = {name: tensor[rows] for name, tensor in self._drawn.items()}
        return Sequences(**drawn, items=draw_items(self.world, drawn["classes"], int(self._noise_seeds[place])))


def draw_sequences(world: World, count: int, generator: np.random.Generator) -> Sequences:
    """Draw `count` sequences of a world.

    The task follows f(tau). The query's class follows f(k); the context's N classes are then drawn
    one after another from the classes that are left, by f(k) ("excluded"), or the N classes of the
    context are drawn so and the query's class by f(k) without regard to them ("any"). With
    probability p_B a sequence is bursty: N / B classes, the query's among them, stand B times each
    in random order. Items are x = (mu_k + eps * eta) / sqrt(1 + eps^2), eta ~ N(0, 1/D) per entry.
    """
    drawn = _draw_all_but_items(world, count, generator)
    return Sequences(**drawn, items=draw_items(world, drawn["classes"], int(generator.integers(2**63 - 1))))


def _draw_all_but_items(world: World, count: int, generator: np.random.Generator) -> dict[str, torch.Tensor]:
    s = world.settings
    tasks = _categorical(world.task_frequencies, count, generator)
    query, context = _draw_classes(world, count, generator)
    classes = np.concatenate([context, query[:, None]], axis=1)
    offsets = draw_offsets(s, count, generator)
    labels = world.label_tables[tasks[:, None], classes]
    arrays = {"tasks": tasks, "classes": classes, "labels": labels}
    return {name: torch.from_numpy(array) for name, array in arrays.items()} | {"offsets": offsets}


def draw_offsets(s: WorldSettings, count: int, generator: np.random.Generator) -> Int64[torch.Tensor, " count"]:
    """The position of each sequence's first token, random or 0."""
    if s.positions == "random":
        return torch.from_numpy(generator.integers(s.P - s.S + 1, size=count))
    return torch.zeros(count, dtype=torch.long)


def draw_items(
    world: World, classes: Int64[torch.Tensor, "n N+1"], noise_seed: int
) -> Float32[torch.Tensor, "n N+1 D"]:
    """Items x = (mu_k + eps * eta) / sqrt(1 + eps^2) of these classes, the noise from a seed."""
    s, (n, tokens) = world.settings, classes.shape
    # Held feature first in memory, as the fast form of the model reads it.
    noise = torch.randn((s.D, tokens * n), generator=torch.Generator().manual_seed(noise_seed))
    means = world.scaled_class_means.index_select(1, classes.T.flatten())
    items = means.add_(noise, alpha=float(s.eps / np.sqrt((1 + s.eps**2) * s.D)))
    return items.view(s.D, tokens, n).permute(2, 1, 0)


def _draw_classes(
    world: World, count: int, generator: np.random.Generator
) -> tuple[Int64[np.ndarray, " count"], Int64[np.ndarray, "count N"]]:
    s = world.settings
    arrivals = _without_replacement(world.class_frequencies, min(s.N + 1, s.K), count, generator)
    if s.p_B < 1:
        if s.query == "excluded":
            query, context = arrivals[:, 0], arrivals[:, 1:]
        else:
            query, context = _categorical(world.class_frequencies, count, generator), arrivals[:, : s.N]
    if s.p_B > 0:
        bursty_context = generator.permuted(np.repeat(arrivals[:, : s.N // s.B], s.B, axis=1), axis=1)
        if s.p_B == 1:
            return arrivals[:, 0], bursty_context
        bursty = generator.random(count) < s.p_B
        query = np.where(bursty, arrivals[:, 0], query)
        context = np.where(bursty[:, None], bursty_context, context)
    return query, context


def _without_replacement(
    frequencies: np.ndarray, picks: int, count: int, generator: np.random.Generator
) -> Int64[np.ndarray, "count picks"]:
    """Rows of different classes, each drawn by its frequency among the classes that are left."""
    least_left = 1 - np.sort(frequencies)[len(frequencies) - picks + 1 :].sum()
    many = len(frequencies) > CLOCKS_UP_TO and len(frequencies) > picks**2 and least_left > LIKELY
    rarely_equal = picks * frequencies.max() < RARE
    return (_redrawn if many or rarely_equal else _first_to_ring)(frequencies, picks, count, generator)


def _first_to_ring(
    frequencies: np.ndarray, picks: int, count: int, generator: np.random.Generator
) -> Int64[np.ndarray, "count picks"]:
    """The order in which exponential clocks with these rates ring has the law of drawing what is left.

    Efraimidis and Spirakis 2006.
    """
    rings = generator.standard_exponential((count, len(frequencies)), dtype=np.float32)
    rings /= frequencies.astype(np.float32)
    first = np.argpartition(rings, picks - 1, axis=1)[:, :picks]
    order = np.argsort(np.take_along_axis(rings, first, axis=1), axis=1)
    return np.take_along_axis(first, order, axis=1)


def _redrawn(
    frequencies: np.ndarray, picks: int, count: int, generator: np.random.Generator
) -> Int64[np.ndarray, "count picks"]:
    """Draw with replacement, and draw again what stands earlier in its row; fast where that is rare."""
    drawn = _categorical(frequencies, count * picks, generator).reshape(picks, count)
    rows = np.arange(count)
    while len(rows):
        part = drawn[:, rows]
        repeated = np.stack([(part[:pick] == part[pick]).any(axis=0) for pick in range(picks)])
        part[repeated] = _categorical(frequencies, int(repeated.sum()), generator)
        drawn[:, rows] = part
        rows = rows[repeated.any(axis=0)]
    return drawn.T


def _categorical(frequencies: np.ndarray, count: int, generator: np.random.Generator) -> Int64[np.ndarray, " count"]:
    if np.ptp(frequencies) == 0:
        return generator.integers(len(frequencies), size=count)
    draws = np.searchsorted(np.cumsum(frequencies), generator.random(count), side="right")
    return np.minimum(draws, len(frequencies) - 1)
