"""Where every output lies below the results folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Paths:
    """The folders of one results folder."""

    results: Path

    def dataset(self, name: str) -> Path:
        """The folder of a world."""
        return self.results / "datasets" / name

    def run(self, name: str, seed: int) -> Path:
        """The folder of one training."""
        return self.results / "runs" / name / f"seed-{seed}"
