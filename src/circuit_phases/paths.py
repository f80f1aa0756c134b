"""Where worlds, trainings and logs lie below the results folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PARTIAL, ROWS = "partial", "rows"
"""In the folder of a training that is not done: the folder of its progress; in that, that of its rows."""
CHECKPOINTS = "step-*[0-9].safetensors"
FINISHED = ".finished"
"""The same folder of one that is done, until it is analysed."""


def checkpoint_file(step: int) -> str:
    """The file name of the weights at a step."""
    return f"step-{step:07d}.safetensors"


def state_file(step: int) -> str:
    """The file name of the state at a step."""
    return f"state-{step:010d}.safetensors"


def saved_states(folder: Path) -> list[Path]:
    """The states saved in the folder of a training's progress, in order of their steps."""
    return sorted(folder.glob("state-*[0-9].safetensors"))


def step_of(path: Path) -> int:
    """The step in the file name of weights or of a state."""
    return int(path.stem.rpartition("-")[2])


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
