"""What `circuit-phases status` and `circuit-phases disk` show."""

from __future__ import annotations

import time
from collections import Counter
from datetime import timedelta
from pathlib import Path

from rich import box
from rich.console import Console, Group, RenderableType
from rich.filesize import decimal
from rich.live import Live
from rich.table import Table
from rich.text import Text

from circuit_phases.cleanup import disk_use
from circuit_phases.configuration import Configuration
from circuit_phases.logs import failures
from circuit_phases.status import STATES, TrainingStatus, failed_logs, stages, trainings

COLOURS = {"running": "green", "failed": "red", "stopped": "yellow"}


def show_status(configuration: Configuration, everything: bool = False, every: float | None = None) -> None:
    """Print the state of all trainings and stages; again and again if `every` names seconds, until interrupted."""
    console = Console()
    if every is None:
        console.print(_status(configuration, everything))
        return
    with Live(_status(configuration, everything), console=console, auto_refresh=False) as live:
        try:
            while True:
                time.sleep(every)
                live.update(_status(configuration, everything), refresh=True)
        except KeyboardInterrupt:
            return


def show_disk_use(configuration: Configuration) -> None:
    """Print what the trainings of every experiment take, and every folder of the results."""
    uses, folders = disk_use(configuration)
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("experiment", overflow="fold")
    for name in ("trainings", "checkpoints", "tables", "shared with others"):
        table.add_column(name, justify="right")
    for one in uses:
        sizes = (decimal(part) for part in (one.checkpoints, one.rest, one.shared))
        table.add_row(one.experiment, str(one.trainings), *sizes)
    told = ", ".join(f"{name} {decimal(part)}" for name, part in folders.items())
    Console().print(table, Text(f"In {configuration.results}: {told}"))


def _status(configuration: Configuration, everything: bool) -> RenderableType:
    """A row per training that runs, failed or was stopped (or per training), and counts of all else."""
    found = trainings(configuration, everything)
    number = Counter(one.state for one in found)
    told = ", ".join(f"{number[state]} {state}" for state in STATES if number[state]) or "none asked for"
    parts: list[RenderableType] = [Text(f"Trainings: {told}")]
    rows = [one for one in found if everything or one.state in COLOURS]
    if rows:
        parts.append(_table(sorted(rows, key=lambda one: STATES.index(one.state))))
    parts += [Text(f"{one.run} seed {one.seed} {one.state}:\n" + _indented(one.words)) for one in found if one.words]
    made = ", ".join(f"{name} {there} of {asked}" for name, (there, asked) in stages(configuration).items())
    parts.append(Text(f"Made so far: {made}"))
    if others := failed_logs(Path(configuration.results)):
        parts.append(Text(failures(others)))
    return Group(*parts)


def _table(rows: list[TrainingStatus]) -> Table:
    """A row per training, within eighty columns."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("run, seed", overflow="fold", min_width=16)
    for name in ("state", "step", "steps/s", "accuracy", "phase", "left"):
        table.add_column(name, no_wrap=True, justify="left" if name in ("state", "phase") else "right")
    for one in rows:
        left = one.seconds_left
        table.add_row(
            f"{one.run}, {one.seed}",
            Text("\n".join(filter(None, [one.state, one.place])), style=COLOURS.get(one.state, "")),
            "-" if one.step is None else f"{one.step:,} {one.step / one.max_steps:4.0%}",
            "-" if one.speed is None or one.state != "running" else f"{one.speed:,.0f}",
            "-" if one.accuracy is None else f"{one.accuracy:.3f}",
            one.phase or "-",
            "-" if left is None else str(timedelta(seconds=round(left))),
        )
    return table


def _indented(lines: tuple[str, ...]) -> str:
    return "\n".join(f"    {line}" for line in lines)
