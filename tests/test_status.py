"""What can be told of trainings from the files that they leave."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from helpers import until

from circuit_phases.configuration import Configuration, parse_configuration
from circuit_phases.files import LOCK, UserError
from circuit_phases.logs import job_log
from circuit_phases.paths import PARTIAL, Paths
from circuit_phases.run_in_progress import RunInProgress, State
from circuit_phases.schemas import ABILITY_LEVELS
from circuit_phases.settings import RunSettings
from circuit_phases.splits import evaluation_set
from circuit_phases.status import TrainingStatus, trainings
from circuit_phases.tables import table_from_rows, write_table
from circuit_phases.training import train_together
from circuit_phases.training_run import Member
from circuit_phases.world import World

TINY = {"T": 2, "K": 8, "L": 4, "N": 2, "D": 11, "P": 5, "evaluation_sequences": 64, "ability_sequences": 0}
LONG = 4_990  # the longest that is not compiled


@pytest.fixture
def configuration(tmp_path: Path) -> Configuration:
    """Two seeds of a training, in a folder of their own."""
    experiments = {"base": {"set": TINY | {"evaluation_interval": 10, "max_steps": LONG}, "seeds": 2}}
    return parse_configuration({"results": str(tmp_path), "experiments": experiments, "figures": {}})


def settings_of(configuration: Configuration) -> RunSettings:
    return configuration.series("base")[0][1]


def folder_of(configuration: Configuration, seed: int = 0) -> Path:
    return Paths(Path(configuration.results)).run(settings_of(configuration).name, seed)


def log_of(configuration: Configuration, seed: int = 0) -> Path:
    name = settings_of(configuration).name
    return Path(configuration.results) / "logs" / "train" / name / f"seed-{seed}.log"


def train_slowly(settings: RunSettings, folder: Path, log: Path) -> None:
    torch.set_num_threads(1)
    world = World.draw(settings.world, 0)
    with job_log(log):
        train_together(settings, [Member(0, world, evaluation_set(world), folder)], seconds_between_saves=0.1)


@contextmanager
def training(configuration: Configuration) -> Iterator[multiprocessing.process.BaseProcess]:
    """A process that trains seed 0, saved twice at least."""
    folder = folder_of(configuration)
    job = multiprocessing.get_context("spawn").Process(
        target=train_slowly, args=(settings_of(configuration), folder, log_of(configuration))
    )
    job.start()
    try:
        until(lambda: (trainings(configuration)[0].speed or 0) > 0)
        yield job
    finally:
        job.kill()
        job.join()


def test_a_training_that_runs_tells_how_far_it_is_and_one_that_is_killed_where_it_stands(
    configuration: Configuration,
) -> None:
    with training(configuration) as job:
        running, waiting = trainings(configuration)
        assert (running.state, running.place) == ("running", f"{socket.gethostname()} {job.pid}")
        assert 0 < running.step < LONG
        assert running.accuracy is not None
        assert running.seconds_left == pytest.approx((LONG - running.step) / running.speed)
        assert waiting == TrainingStatus(settings_of(configuration).name, 1, "waiting", LONG)
        os.kill(job.pid, signal.SIGKILL)
        job.join()
        killed = trainings(configuration)[0]
    assert (killed.state, killed.place, killed.seconds_left) == ("stopped", None, None)
    assert killed.step >= running.step


def test_a_training_that_was_told_to_stop_says_so(configuration: Configuration) -> None:
    with training(configuration) as job:
        os.kill(job.pid, signal.SIGTERM)
        job.join()
    stopped = trainings(configuration)[0]
    assert stopped.state == "stopped"
    assert "Stopped by SIGTERM; saved at step" in stopped.words[-1]


def test_a_training_that_failed_says_why_and_how_to_look_further(configuration: Configuration) -> None:
    log = log_of(configuration)
    with pytest.raises(SystemExit), job_log(log):
        raise UserError("the loss is not finite at step 12.")
    failed = trainings(configuration)[0]
    assert failed.state == "failed"
    assert failed.words == ("the loss is not finite at step 12.", f"The job failed. To look further: less '{log}'")


def test_a_process_that_came_by_the_number_of_a_dead_job_is_not_the_job(configuration: Configuration) -> None:
    lock = folder_of(configuration) / LOCK
    (lock.parent / PARTIAL).mkdir(parents=True)
    lock.write_text(f"{socket.gethostname()} {os.getpid()}\n")
    assert trainings(configuration)[0].state == "running"
    os.utime(lock, (psutil.Process().create_time() - 60,) * 2)
    assert trainings(configuration)[0].state == "stopped"


def test_on_another_host_a_recent_sign_of_life_counts(configuration: Configuration) -> None:
    lock = folder_of(configuration) / LOCK
    lock.parent.mkdir(parents=True)
    lock.write_text("elsewhere 123\n")
    found = trainings(configuration)[0]
    assert (found.state, found.place) == ("running", "elsewhere 123")
    (lock.parent / PARTIAL).mkdir()
    os.utime(lock, (time.time() - 1000,) * 2)
    assert trainings(configuration)[0].state == "stopped"


def test_the_phase_so_far_is_that_of_the_last_plateau(configuration: Configuration) -> None:
    folder, settings = folder_of(configuration), settings_of(configuration)
    identity = {"run": settings.name, "seed": 0}
    levels = {"constant": 0.1, "ncc": 0.4, "scc": 0.7, "fcc": 1.0}
    of_iid = identity | {"split": "iid", "measure": "accuracy", "standard_error": 0.0, "method": "enumeration"}
    rows = [of_iid | {"level": name, "value": value} for name, value in levels.items()]
    write_table(folder / "ability_levels.parquet", table_from_rows(rows, ABILITY_LEVELS), ABILITY_LEVELS)

    def stand_at(accuracies: np.ndarray) -> TrainingStatus:
        others = identity | {"split": "iid", "task": None, "loss": 1.0, "sequences": 64}
        rows = {
            10 * place: [others | {"step": 10 * place, "accuracy": float(value)}]
            for place, value in enumerate(accuracies)
        }
        progress = RunInProgress(folder, {"run": settings.name, "seed": "0"})
        progress.clear()
        progress.save(State(max(rows), {}), rows)
        return trainings(configuration)[0]

    climb, first, second = np.linspace(0.25, 0.4, 20), np.full(80, 0.4), np.linspace(0.4, 0.6, 30)
    assert stand_at(climb[:10]).phase == "before 1"
    assert stand_at(np.concatenate([climb, first])).phase == "1"
    climbing = stand_at(np.concatenate([climb, first, second]))
    assert climbing.phase == "after 1"
    assert (climbing.step, climbing.accuracy) == (1290, pytest.approx(0.6))
