"""How far the trainings of a configuration are, read from the files that they leave while they run."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
from safetensors import SafetensorError, safe_open

from circuit_phases.configuration import Configuration, RunSeed
from circuit_phases.figures import ANIMATIONS
from circuit_phases.files import LOCK, UserError, holder, is_held
from circuit_phases.logs import failed, last_lines
from circuit_phases.paths import CHECKPOINTS, PARTIAL, ROWS, Paths, saved_states, step_of
from circuit_phases.phases import PhaseSettings, find_phases, iid_accuracy, iid_levels
from circuit_phases.schemas import ABILITY_LEVELS, PHASES, RUNS, TRAINING
from circuit_phases.tables import read_frame

State = Literal["running", "failed", "stopped", "waiting", "done"]
STATES: tuple[State, ...] = ("running", "failed", "stopped", "waiting", "done")
ANALYSES = ("circuits", "theory", "phases")
LEAST_FRESH = 150.0
"""Seconds for which a sign of life on another host is believed."""


@dataclass(frozen=True)
class TrainingStatus:
    """One training as its files tell it; what they do not tell yet is None."""

    run: str
    seed: int
    state: State
    max_steps: int
    step: int | None = None
    speed: float | None = None
    """Steps a second between its last two saves."""
    accuracy: float | None = None
    phase: str | None = None
    place: str | None = None
    """Host and process of one that runs."""
    words: tuple[str, ...] = ()
    """The last lines of the log of one that failed or was stopped."""

    @property
    def seconds_left(self) -> float | None:
        """Time to the last step, less if it stops when it has been solved; None where it is not known."""
        if self.state != "running" or not self.speed or self.step is None:
            return None
        return (self.max_steps - self.step) / self.speed


def trainings(configuration: Configuration, everything: bool = True) -> list[TrainingStatus]:
    """Every training that the configuration asks for, in its order; of those done only that, unless `everything`."""
    paths = Paths(Path(configuration.results))
    fresh = max(LEAST_FRESH, 5 * configuration.seconds_between_saves)
    return [_training(each, paths, configuration.phases, fresh, everything) for each in configuration.run_seeds("runs")]


def stages(configuration: Configuration) -> dict[str, tuple[int, int]]:
    """How many results of every later stage are there, and how many are asked for."""
    results = Path(configuration.results)
    paths = Paths(results)
    found = {}
    for name in ANALYSES:
        files = [paths.run(each.settings.name, each.seed) / f"{name}.parquet" for each in configuration.run_seeds(name)]
        found[name] = files
    found["figures"] = [
        results / "figures" / f"{name}.{'gif' if configuration.drawing(name) in ANIMATIONS else 'pdf'}"
        for name in configuration.figures_in_scope
    ] + [results / "figures" / f"{name}.pdf" for name in configuration.llm_figures]
    return {name: (sum(file.exists() for file in files), len(files)) for name, files in found.items()}


def failed_logs(results: Path) -> list[Path]:
    """The logs of all jobs that failed by themselves and have not run again since; trainings apart."""
    logs = Paths(results).logs
    return [log for log in sorted(logs.rglob("*.log")) if log.relative_to(logs).parts[0] != "train" and failed(log)]


def _training(each: RunSeed, paths: Paths, rules: PhaseSettings, fresh: float, everything: bool) -> TrainingStatus:
    settings, seed = each.settings, each.seed
    folder, log = paths.run(settings.name, seed), paths.training_log(settings.name, seed)
    place = _running_at(folder, log, fresh)
    told: State
    if place is None and (folder / "run.parquet").exists() and not (folder / PARTIAL).exists():
        told = "done"
    elif place is not None:
        told = "running"
    elif log is not None and failed(log):
        told = "failed"
    elif log is not None or (folder / PARTIAL).exists():
        told = "stopped"
    else:
        told = "waiting"
    if told == "waiting" or (told == "done" and not everything):
        return TrainingStatus(settings.name, seed, told, settings.training.max_steps)
    step, speed = _progress(folder)
    curve = _curve(folder)
    return TrainingStatus(
        run=settings.name,
        seed=seed,
        state=told,
        max_steps=settings.training.max_steps,
        step=step,
        speed=speed,
        accuracy=float(curve.iloc[-1]) if len(curve) else None,
        phase=_phases(folder) if told == "done" else _phase_so_far(curve, folder, rules),
        place=place,
        words=tuple(last_lines(log, 4)) if log is not None and told in ("failed", "stopped") else (),
    )


def _running_at(folder: Path, log: Path | None, fresh: float) -> str | None:
    """Where a training runs; None if it does not.

    On this host its process is asked for. On another, and before it has begun to write, a recent sign of life counts.
    """
    held = holder(folder)
    if held is not None:
        running = is_held(folder)
        if running is not None:
            return f"{held[0]} {held[1]}" if running else None
    elif log is None or failed(log) or (folder / "run.parquet").exists():
        return None
    signs = [folder / LOCK, *saved_states(folder / PARTIAL), *([log] if log else [])]
    newest = max(map(_changed, signs))
    if time.time() - newest > fresh or (log is not None and any("Stopped by" in line for line in last_lines(log, 1))):
        return None
    return f"{held[0]} {held[1]}" if held else "starting"


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _progress(folder: Path) -> tuple[int | None, float | None]:
    """Last saved step, and steps a second before it."""
    step, speed = None, None
    try:
        with safe_open(saved_states(folder / PARTIAL)[-1], framework="np") as state:
            metadata = json.loads(state.metadata()["metadata"])
        step, speed = int(metadata["step"]), float(metadata["speed"])
    except (OSError, SafetensorError, LookupError, TypeError, ValueError):
        # Not saved yet, or just being replaced by its results.
        if (table := _frame(folder / "run.parquet", RUNS)) is not None and len(table):
            return int(table["steps"].iloc[0]), None
    steps = [step_of(path) for path in (folder / PARTIAL / "checkpoints").glob(CHECKPOINTS)]
    return max([*steps, *([] if step is None else [step])], default=None), speed


def _curve(folder: Path) -> pd.Series:
    """The accuracy on the iid split by step, as far as it is saved."""
    sources = sorted((folder / PARTIAL / ROWS).glob("*.parquet")) or [folder / "training.parquet"]
    frames = [frame for frame in (_frame(path, TRAINING) for path in sources) if frame is not None]
    if not frames:
        return pd.Series(dtype=float)
    curve = iid_accuracy(pd.concat(frames))
    return curve[~curve.index.duplicated(keep="last")].sort_index()


def _phase_so_far(curve: pd.Series, folder: Path, rules: PhaseSettings) -> str | None:
    """The phase that it is in, or `after` the last one. None without the world's ceilings."""
    levels = _frame(folder / "ability_levels.parquet", ABILITY_LEVELS)
    if levels is None or curve.empty:
        return None
    found = find_phases(curve, iid_levels(levels), rules)
    plateaus = found[(found["rule"] == "plateau") & found["phase"].notna()]
    if plateaus.empty:
        return "before 1"
    last = plateaus.iloc[-1]
    return ("" if last["end_step"] == curve.index[-1] else "after ") + str(int(last["phase"]))


def _phases(folder: Path) -> str | None:
    """The phases of a finished training that is analysed."""
    phases = _frame(folder / "phases.parquet", PHASES)
    if phases is None:
        return None
    plateaus = phases[(phases["rule"] == "plateau") & phases["phase"].notna()]
    return " ".join(str(phase) for phase in plateaus["phase"]) or "none"


def _frame(path: Path, schema: object) -> pd.DataFrame | None:
    """A table, or nothing where there is none or it is damaged: who watches does not judge."""
    try:
        return read_frame(path, schema)
    except UserError:
        return None
