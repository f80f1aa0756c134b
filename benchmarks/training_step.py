"""What a training step costs: textbook, fast, fast and compiled, beside the bound of its matrix products.

`make benchmark` prints the table and writes it with a figure into results/benchmarks/training_step/.
All forms take the same steps on the same data, in turn, on one thread of one process: compare them
with each other, not with another run.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch.utils.flop_counter import FlopCounterMode

from circuit_phases.report import processor
from circuit_phases.settings import RunSettings
from circuit_phases.splits import evaluation_set
from circuit_phases.stages import prepare_torch
from circuit_phases.trainer import COMPILE_FROM_STEPS, Trainer
from circuit_phases.world import World

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "paper (default setting)": {},
    "released_code": {"variant": "released_code"},
    "N = 32 (65 tokens)": {"N": 32},
    "heads = 16, full width": {"heads": 16},
    "heads = 16, split": {"heads": 16, "head_width": "split"},
    "layers = 5": {"layers": 5},
    "standard transformer": {"architecture": "standard_transformer", "hidden_layers": 0},
    "loss on every label": {"loss": "every_label"},
}
SWEEPS: dict[str, list[int]] = {
    "N": [2, 4, 8, 16, 32],
    "K": [32, 64, 256, 1024],
    "layers": [1, 2, 3, 4, 5],
    "heads": [1, 2, 4, 8, 16],
    "batch_size": [32, 64, 128, 256, 512],
}
FORMS = ("textbook", "fast", "compiled")


def forms_of(settings: RunSettings) -> dict[str, Callable[[int], object]]:
    """A whole step (data, forward, backward, update) in each form, as a function of the step's number."""
    world = World.draw(settings.world, 0)
    evaluation = evaluation_set(world)

    def trainer(max_steps: int) -> Trainer:
        training = settings.training.model_copy(update={"max_steps": max_steps})
        return Trainer(settings.model_copy(update={"training": training}), world, evaluation, seed=0)

    textbook = trainer(100)
    optimiser = torch.optim.SGD(textbook.model.parameters(), lr=settings.training.learning_rate)

    def textbook_step(step: int) -> None:
        loss = textbook.model.loss(textbook.batches[step])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    compiled = trainer(COMPILE_FROM_STEPS)
    return {"textbook": textbook_step, "fast": trainer(100).step, "compiled": compiled.step, "data": compiled.batch} | {
        "evaluation": compiled.evaluate
    }


def seconds_of(forms: dict[str, Callable[[int], object]], rounds: int, seconds: float) -> pd.Series:
    """Median seconds of each form over rounds in which all take their turn."""
    calls = {}
    for name, form in forms.items():
        form(1)
        start = time.perf_counter()
        form(2)
        calls[name] = max(1, round(seconds / (time.perf_counter() - start)))
    steps = itertools.count(3)

    def turn(name: str) -> float:
        start = time.perf_counter()
        for _ in range(calls[name]):
            forms[name](next(steps))
        return (time.perf_counter() - start) / calls[name]

    return pd.DataFrame([{name: turn(name) for name in forms} for _ in range(rounds)]).median()


def matrix_product_flops(settings: RunSettings) -> int:
    """Floating-point operations in the matrix products of one fast step."""
    world = World.draw(settings.world, 0)
    training = settings.training.model_copy(update={"max_steps": 100})
    trainer = Trainer(settings.model_copy(update={"training": training}), world, evaluation_set(world), seed=0)
    with FlopCounterMode(display=False) as counter:
        trainer.step(1)
    return int(counter.get_total_flops())


def peak_flops_per_second(size: int = 768, seconds: float = 1.0) -> float:
    """The best rate of a large float32 matrix product on the threads in use."""
    left, right = torch.randn(size, size), torch.randn(size, size)
    best, end = np.inf, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def measure(parameters: dict[str, Any], rounds: int, seconds: float) -> dict[str, float]:
    """Milliseconds of each form, the bound of the fast form's matrix products, and the ratios."""
    torch._dynamo.reset()
    settings = RunSettings.from_parameters(**parameters)
    times = 1e3 * seconds_of(forms_of(settings), rounds, seconds)
    bound = 1e3 * matrix_product_flops(settings) / peak_flops_per_second()
    return {
        **{name: times[name] for name in (*FORMS, "data")},
        "bound": bound,
        "textbook / compiled": times["textbook"] / times["compiled"],
        "bound / compiled": bound / times["compiled"],
        "evaluation share": times["evaluation"] / (times["evaluation"] + 100 * times["compiled"]),
    }


def figure(rows: pd.DataFrame) -> Figure:
    """Milliseconds a step against each swept parameter."""
    drawn = Figure(figsize=(11, 2.6), layout="constrained")
    for axes, (name, group) in zip(drawn.subplots(1, len(SWEEPS)), rows.groupby("parameter", sort=False), strict=True):
        for form in (*FORMS, "bound"):
            axes.loglog(group["value"], group[form], ":" if form == "bound" else "o-", label=form, markersize=3)
        axes.set(xlabel=name, xticks=group["value"], xticklabels=group["value"])
        axes.minorticks_off()
    drawn.axes[0].set_ylabel("milliseconds a step")
    drawn.axes[0].legend(frameon=False)
    return drawn


def machine() -> str:
    """The processor and the versions that times hang on."""
    vectors = torch.backends.cpu.get_cpu_capability()
    peak = peak_flops_per_second() / 1e9
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{processor()}, {vectors}, {peak:.0f} GFLOP/s a core; {versions}"


def main() -> None:
    """Print the table, then draw the sweeps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="turns that each form takes")
    parser.add_argument("--seconds", type=float, default=0.5, help="seconds of each turn")
    parser.add_argument(
        "--only", nargs="*", choices=CONFIGURATIONS, default=list(CONFIGURATIONS), help="configurations to measure"
    )
    parser.add_argument("--no-sweeps", action="store_true", help="the table alone")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/training_step"))
    options = parser.parse_args()
    prepare_torch(1)
    matplotlib.rcParams["font.size"] = 8
    print(machine(), flush=True)
    table = pd.DataFrame(
        {name: measure(CONFIGURATIONS[name], options.rounds, options.seconds) for name in options.only}
    ).T
    print(table.round(2).to_markdown())
    options.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(options.out / "table.csv", float_format="%.4g")
    (options.out / "machine.txt").write_text(machine() + "\n")
    if not options.no_sweeps:
        rows = pd.DataFrame(
            {"parameter": name, "value": value} | measure({name: value}, options.rounds, options.seconds)
            for name, values in SWEEPS.items()
            for value in values
        )
        rows.to_csv(options.out / "sweeps.csv", index=False, float_format="%.4g")
        figure(rows).savefig(options.out / "sweeps.png", dpi=160)


if __name__ == "__main__":
    main()
