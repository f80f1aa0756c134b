"""Asks a model every frozen split in one go, and reads its answers (paper, Sec. 3 and 4, and beyond)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from circuit_phases.abilities import SplitReading
from circuit_phases.fast import Batch
from circuit_phases.splits import PARTNERS, EvaluationSet
from circuit_phases.world import World

NUMBERS_AT_ONCE = 400_000
"""Numbers in one batch's residual stream, scores and attention: they then about fill the second-level cache."""
SEQUENCES_PER_VECTOR = 16
"""Batches of a multiple of this many sequences fill the widest vectors of a processor."""


class Evaluation:
    """The frozen splits of a world as batches of one size, each batch with two sets of labels for the same items.

    A compiled form takes one size and two sets alone. So the splits stand one after another, the last
    batch ends with sequences of the first, and a split without a partner is asked twice.
    """

    def __init__(self, evaluation: EvaluationSet, world: World, heads: int, device: torch.device) -> None:
        self._readings = {split: SplitReading(split, sequences, world) for split, sequences in evaluation.items()}
        pairs = [(split, partner) for split, partner in PARTNERS.items() if split in evaluation]
        own = [Batch.of(evaluation[split]) for split, _ in pairs]
        joined = Batch(*(torch.cat(parts, dim=-1) for parts in zip(*own, strict=True)))
        others = torch.cat([evaluation[partner or split].labels.T for split, partner in pairs], dim=-1)
        self._places: dict[str, tuple[int, slice]] = {}
        count = 0
        for split, partner in pairs:
            place = slice(count, count := count + len(evaluation[split]))
            self._places |= {split: (0, place)} | ({partner: (1, place)} if partner else {})
        s = world.settings
        batches = math.ceil(count * s.S * (s.P + s.D + 2 * heads * s.S) / NUMBERS_AT_ONCE)
        size = SEQUENCES_PER_VECTOR * math.ceil(count / batches / SEQUENCES_PER_VECTOR)
        self._batches = []
        for start in range(0, count, size):
            rows = torch.arange(start, start + size) % count
            batch = Batch(*(values[..., rows] for values in joined)).to(device)
            self._batches.append((batch, (batch.labels, others[..., rows].contiguous().to(device))))

    @torch.no_grad()
    def rows(self, answers_of: Callable[..., Any]) -> list[dict[str, Any]]:
        """What the answers to every split say, as rows of the table `training`.

        `answers_of` is `FastForm.query_answers` of some parameters.
        """
        answers = [answers_of(*batch) for batch in self._batches]
        of_labels = [
            [torch.cat(parts, dim=-1).cpu().numpy() for parts in zip(*those, strict=True)]
            for those in zip(*answers, strict=True)
        ]
        rows = []
        for split, reading in self._readings.items():
            which, place = self._places[split]
            rows += reading.rows(*(values[..., place] for values in of_labels[which]))
        return rows
