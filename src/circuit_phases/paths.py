"""Where every output lies below the results folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PARTIAL, STATE, ROWS = "partial", "state.safetensors", "rows"
"""In the folder of a training that is not done: the folder of its progress; in that, its last state and its rows."""


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

    @property
    def logs(self) -> Path:
        """The folder of all jobs' logs."""
        return self.results / "logs"

    def training_log(self, name: str, seed: int) -> Path | None:
        """The newest log of a training, alone or together with other seeds."""
        folder = self.logs / "train" / name
        found = [path for path in folder.glob("seed*.log") if str(seed) in path.stem.split("-")[1:]]
        return max(found, key=lambda path: path.stat().st_mtime, default=None)
