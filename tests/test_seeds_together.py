"""Several seeds trained as one batched model: the separate runs, however they stop and continue."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from faults import empty
from training_runs import QUICK, Interrupted, results, run, summary

from circuit_phases import training
from circuit_phases.checkpoints import load_tensors, saved_checkpoints
from circuit_phases.files import UserError
from circuit_phases.paths import checkpoint_file, state_file
from circuit_phases.schemas import TRAINING
from circuit_phases.settings import RunSettings
from circuit_phases.splits import evaluation_set
from circuit_phases.tables import read_frame
from circuit_phases.trainer import Outcome, Trainer, TrainerOfSeeds
from circuit_phases.training import train_together
from circuit_phases.training_run import Member
from circuit_phases.world import World

Tiny = Callable[..., RunSettings]


def together(settings: RunSettings, folders: dict[int, Path]) -> None:
    worlds = {seed: World.draw(settings.world, settings.resolved_world_seed(seed)) for seed in folders}
    members = [Member(seed, worlds[seed], evaluation_set(worlds[seed]), folder) for seed, folder in folders.items()]
    train_together(settings, members, progress=False)


def assert_close(folder: Path, other: Path) -> None:
    one, two = (read_frame(each / "training.parquet", TRAINING) for each in (folder, other))
    assert one.drop(columns="loss").equals(two.drop(columns="loss"))
    assert one["loss"].tolist() == pytest.approx(two["loss"].tolist(), rel=1e-5)
    weights, expected = (saved_checkpoints(each / "checkpoints") for each in (folder, other))
    assert weights.keys() == expected.keys()
    for step, path in weights.items():
        tensors, wanted = load_tensors(path)[0], load_tensors(expected[step])[0]
        for name in wanted:
            torch.testing.assert_close(tensors[name], wanted[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("variant", ["paper", "released_code"])
def test_seeds_trained_together_are_the_separate_runs_within_rounding(variant: str, tiny: Tiny, tmp_path: Path) -> None:
    settings = tiny(variant=variant)
    together(settings, {seed: tmp_path / f"together-{seed}" for seed in (0, 3)})
    for seed in (0, 3):
        assert_close(tmp_path / f"together-{seed}", run(settings, tmp_path / f"alone-{seed}", seed))


def test_of_seeds_trained_together_each_stops_when_it_is_solved(tiny: Tiny, tmp_path: Path) -> None:
    settings = tiny(**QUICK | {"stop_after": 3})
    together(settings, {seed: tmp_path / str(seed) for seed in (0, 1)})
    steps = [summary(tmp_path / str(seed))["steps"] for seed in (0, 1)]
    assert steps[0] != steps[1]
    for seed in (0, 1):
        assert_close(tmp_path / str(seed), run(settings, tmp_path / f"alone-{seed}", seed))


@pytest.fixture
def steps_together(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps that seeds take together from here on; each is saved, and one that is in it already breaks them off."""
    taken: list[int] = []
    take = TrainerOfSeeds.step

    def noted(self: TrainerOfSeeds, step: int) -> Outcome:
        if step in taken:
            taken.clear()
            raise Interrupted
        taken.append(step)
        return take(self, step)

    monkeypatch.setattr(training, "SECONDS_BETWEEN_SAVES", 0)
    monkeypatch.setattr(TrainerOfSeeds, "step", noted)
    return taken


@pytest.mark.parametrize("step", [35, 40])
def test_seeds_trained_together_that_are_killed_between_their_saves_lose_one_save(
    step: int, tiny: Tiny, tmp_path: Path, steps_together: list[int]
) -> None:
    folders = {seed: tmp_path / str(seed) for seed in (0, 1)}
    together(tiny(), {seed: tmp_path / f"whole-{seed}" for seed in (0, 1)})
    steps_together[:] = [step + 1]
    with pytest.raises(Interrupted):
        together(tiny(), folders)
    (folders[1] / "partial" / state_file(step)).unlink()
    together(tiny(), folders)
    assert steps_together == [*range(step, 61)]
    for seed, folder in folders.items():
        assert results(folder) == results(tmp_path / f"whole-{seed}")


def test_a_damaged_file_of_one_seed_costs_the_steps_that_it_held(
    tiny: Tiny, tmp_path: Path, steps_together: list[int]
) -> None:
    folders = {seed: tmp_path / str(seed) for seed in (0, 1)}
    together(tiny(), {seed: tmp_path / f"whole-{seed}" for seed in (0, 1)})
    steps_together[:] = [55]
    with pytest.raises(Interrupted):
        together(tiny(), folders)
    empty(folders[1] / "partial" / "checkpoints" / checkpoint_file(8))
    together(tiny(), folders)
    assert steps_together == [*range(1, 9), *range(55, 61)]
    for seed, folder in folders.items():
        assert results(folder) == results(tmp_path / f"whole-{seed}")


def test_seeds_that_are_killed_after_one_is_solved_end_with_the_same_bytes(
    tiny: Tiny, tmp_path: Path, steps_together: list[int]
) -> None:
    settings = tiny(**QUICK | {"stop_after": 3})
    folders = {seed: tmp_path / str(seed) for seed in (0, 1)}
    together(settings, {seed: tmp_path / f"whole-{seed}" for seed in (0, 1)})
    solved, last = sorted(summary(tmp_path / f"whole-{seed}")["steps"] for seed in (0, 1))
    steps_together[:] = [last - 4]
    with pytest.raises(Interrupted):
        together(settings, folders)
    together(settings, folders)
    assert solved < last - 4
    assert steps_together == [*range(last - 4, last + 1)]
    for seed, folder in folders.items():
        assert results(folder) == results(tmp_path / f"whole-{seed}")


def test_a_seed_that_is_added_costs_the_others_nothing(
    tiny: Tiny, tmp_path: Path, interrupt: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(36)
    with pytest.raises(Interrupted):
        run(tiny(), tmp_path / "0")
    taken = []
    original = Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda self, step: taken.append(step) or original(self, step))
    together(tiny(), {seed: tmp_path / str(seed) for seed in (0, 1)})
    assert taken == [*range(36, 61), *range(1, 61)]
    for seed in (0, 1):
        assert results(tmp_path / str(seed)) == results(run(tiny(), tmp_path / f"alone-{seed}", seed))


def test_a_seed_that_is_added_and_killed_leaves_the_others_where_they_were(
    tiny: Tiny, tmp_path: Path, interrupt: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = {seed: tmp_path / str(seed) for seed in (0, 1)}
    alone = {seed: results(run(tiny(), tmp_path / f"alone-{seed}", seed)) for seed in folders}
    interrupt(36)
    with pytest.raises(Interrupted):
        run(tiny(), folders[0])
    taken: list[tuple[int, int]] = []
    original = Trainer.step

    def noted(self: Trainer, step: int) -> Outcome:
        if (self.seed, step) == (1, 26) and (1, 25) in taken:
            taken.clear()
            raise Interrupted
        taken.append((self.seed, step))
        return original(self, step)

    monkeypatch.setattr(Trainer, "step", noted)
    with pytest.raises(Interrupted):
        together(tiny(), folders)
    together(tiny(), folders)
    assert taken == [(1, step) for step in range(26, 61)]
    assert {seed: results(folder) for seed, folder in folders.items()} == alone


def test_seeds_that_began_apart_go_on_apart(
    tiny: Tiny, tmp_path: Path, interrupt: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = {seed: tmp_path / str(seed) for seed in (0, 1)}
    for seed, step in ((0, 36), (1, 16)):
        interrupt(step)
        with pytest.raises(Interrupted):
            run(tiny(), folders[seed], seed)
    taken: list[tuple[int, int]] = []
    original = Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda self, step: taken.append((self.seed, step)) or original(self, step))
    together(tiny(), folders)
    assert taken == [*((0, step) for step in range(36, 61)), *((1, step) for step in range(16, 61))]


def test_seeds_that_are_killed_before_their_first_evaluation_stay_together(
    tiny: Tiny, tmp_path: Path, steps_together: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = Trainer.evaluate

    def killed(self: Trainer, step: int) -> list[dict[str, Any]]:
        if self.seed == 1:
            raise Interrupted
        return evaluate(self, step)

    folders = {seed: tmp_path / str(seed) for seed in (0, 1)}
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "evaluate", killed)
        with pytest.raises(Interrupted):
            together(tiny(), folders)
    assert (folders[0] / "partial" / "checkpoints" / checkpoint_file(0)).exists()
    together(tiny(), folders)
    assert steps_together == [*range(1, 61)]


def test_seeds_trained_together_share_their_time_and_a_seed_added_has_its_own(
    tiny: Tiny, tmp_path: Path, interrupt: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = itertools.count()
    # A clock that goes on by a second whenever it is asked.
    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: float(next(seconds))))
    interrupt(36)
    with pytest.raises(Interrupted):
        run(tiny(), tmp_path / "0")
    together(tiny(), {seed: tmp_path / str(seed) for seed in (0, 1, 2)})
    took = {seed: summary(tmp_path / str(seed))["seconds"] for seed in (0, 1, 2)}
    assert 0 < took[1] == took[2]
    assert sum(took.values()) < next(seconds)


def test_a_seed_that_diverges_leaves_the_others_saved(tiny: Tiny, tmp_path: Path) -> None:
    settings = tiny()
    worlds = {seed: World.draw(settings.world, seed) for seed in (0, 1)}
    worlds[1] = replace(worlds[1], class_means=worlds[1].class_means * float("inf"))
    members = [Member(seed, world, evaluation_set(world), tmp_path / str(seed)) for seed, world in worlds.items()]
    with pytest.raises(UserError, match=f"{settings.name} seed 1: the loss is not finite at step 1"):
        train_together(settings, members, progress=False)
    assert (tmp_path / "0" / "partial" / state_file(10)).exists()
    assert_close(run(settings, tmp_path / "0"), run(settings, tmp_path / "alone"))
