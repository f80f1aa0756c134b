"""Shared by all tests: one thread each, reproducible examples, tiny settings, a law's goodness of fit."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike
from scipy.stats import chisquare
from torch import Tensor
from training_runs import Interrupted, run

from circuit_phases import training
from circuit_phases.settings import RunSettings
from circuit_phases.trainer import Trainer
from circuit_phases.world import World

torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("suite")

TINY: dict[str, Any] = {
    "T": 2, "K": 8, "L": 4, "N": 2, "D": 7, "P": 9, "evaluation_sequences": 64, "ability_sequences": 32,
    "batch_size": 16, "max_steps": 60, "evaluation_interval": 10, "checkpoints": 6,
}  # fmt: skip


LONG_FILES = ("test_workflow.py", "test_faults.py", "test_llm_workflow.py", "test_cache.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take minutes, so that no worker is left alone with one at the end."""
    items.sort(key=lambda item: item.path.name not in LONG_FILES)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: compiles a step, about half a minute (leave out with -m 'not slow')")


@pytest.fixture(scope="session")
def tiny() -> Callable[..., RunSettings]:
    """Settings of a tiny world, model and training, with any parameter changed."""
    return lambda **parameters: RunSettings.from_parameters(**TINY | parameters)


@pytest.fixture(scope="session")
def tiny_world(tiny: Callable[..., RunSettings]) -> Callable[..., World]:
    """A tiny world, with any parameter and its seed changed."""
    return lambda seed=0, **parameters: World.draw(tiny(**parameters).world, seed)


@pytest.fixture(scope="session")
def finished(tiny: Callable[..., RunSettings], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run of 60 steps, evaluated every 10, that nothing disturbed; not to be changed."""
    return run(tiny(), tmp_path_factory.mktemp("finished"))


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Lets the run save at every step and breaks it off at one."""

    def at(step: int) -> None:
        original = Trainer.step

        def interrupted(self: Trainer, number: int) -> tuple[Tensor, Tensor]:
            if number == step:
                monkeypatch.setattr(Trainer, "step", original)
                raise Interrupted
            return original(self, number)

        monkeypatch.setattr(training, "SECONDS_BETWEEN_SAVES", 0)
        monkeypatch.setattr(Trainer, "step", interrupted)

    return at


@pytest.fixture
def no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine without a C++ compiler, and nothing compiled before."""
    import torch._inductor.config as inductor

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    with inductor.patch({"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}):
        yield


@pytest.fixture(scope="session")
def assert_follows() -> Callable[[ArrayLike, ArrayLike], None]:
    """Fails if counts do not fit probabilities; seeds are fixed, so a right sampler passes always or never."""

    def check(counts: ArrayLike, probabilities: ArrayLike) -> None:
        counts, probabilities = np.asarray(counts, dtype=float), np.asarray(probabilities, dtype=float)
        assert np.isclose(probabilities.sum(), 1)
        possible = probabilities > 0
        assert (counts[~possible] == 0).all(), "an impossible outcome came out"
        expected = counts.sum() * probabilities[possible]
        assert expected.min() > 5, "too few draws for a chi-square test"
        assert chisquare(counts[possible], expected).pvalue > 1e-3

    return check
