"""Training: what a run leaves behind, and how it stops, continues and fails."""

from __future__ import annotations

import itertools
import logging
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from circuit_phases import training
from circuit_phases.checkpoints import checkpoint_file, load_model, load_tensors, saved_checkpoints
from circuit_phases.files import DamagedFile, UserError
from circuit_phases.sequences import evaluation_set, training_batch
from circuit_phases.settings import RunSettings, TrainingSettings
from circuit_phases.tables import RUNS, TRAINING, read_frame, read_table
from circuit_phases.training import COMPILE_FROM_STEPS, Trainer, _compiled_or_plain, checkpoint_steps, train
from circuit_phases.world import World

Tiny = Callable[..., RunSettings]
# One task over few classes is learned within 300 steps.
QUICK: dict[str, Any] = {"T": 1, "L": 4, "D": 15, "P": 9, "learning_rate": 0.3, "max_steps": 300, "stop_after": 0}


def run(settings: RunSettings, folder: Path, seed: int = 0) -> Path:
    world = World.draw(settings.world, settings.resolved_world_seed(seed))
    return train(settings, world, evaluation_set(world), seed, folder, progress=False)


def trainer_of(settings: RunSettings, seed: int = 0) -> Trainer:
    world = World.draw(settings.world, settings.resolved_world_seed(seed))
    return Trainer(settings, world, evaluation_set(world), seed)


def results(folder: Path) -> dict[str, Any]:
    """What a finished run left, to the bit, but for `run.parquet`, which holds the time taken."""
    weights = {path.name: load_tensors(path) for path in sorted((folder / "checkpoints").iterdir())}
    to_the_bit = {
        name: (metadata, {key: tensor.numpy().tobytes() for key, tensor in tensors.items()})
        for name, (tensors, metadata) in weights.items()
    }
    assert not (folder / "partial").exists()
    return to_the_bit | {"training.parquet": (folder / "training.parquet").read_bytes()}


def summary(folder: Path) -> dict[str, Any]:
    (row,) = read_table(folder / "run.parquet", RUNS).to_pylist()
    return row


class Interrupted(Exception):
    """Stands for whatever ends a run from outside."""


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Lets the run save at every evaluation and breaks it off at a step."""

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


@pytest.fixture(scope="module")
def finished(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run of 60 steps, evaluated every 10, that nothing disturbed."""
    return run(tiny(), tmp_path_factory.mktemp("finished"))


# When weights are saved


@given(st.integers(3, 200), st.integers(1, 10**6), st.sampled_from(["log", "linear"]))
def test_weights_are_saved_about_as_often_as_asked_from_the_first_step_to_the_last(
    count: int, steps: int, spacing: str
) -> None:
    settings = TrainingSettings(
        checkpoints=count, max_steps=steps, evaluation_interval=1, checkpoint_spacing=spacing  # type: ignore[arg-type]
    )  # fmt: skip
    chosen = checkpoint_steps(settings)
    assert chosen == sorted(set(chosen))
    assert chosen[0] == 0
    assert chosen[-1] == steps
    possible = min(count, steps + 1)
    assert 0.8 * possible <= len(chosen) <= possible + 2


@pytest.mark.parametrize("spacing", ["log", "linear"])
def test_two_saves_are_of_the_first_and_the_last_step(spacing: str) -> None:
    settings = TrainingSettings(checkpoints=2, checkpoint_spacing=spacing)  # type: ignore[arg-type]
    assert checkpoint_steps(settings) == [0, 200_000]


def test_saved_steps_are_evenly_spaced_in_log_steps_or_in_steps() -> None:
    log = checkpoint_steps(TrainingSettings())
    assert len(log) == 80
    assert log[:6] == [0, 1, 2, 3, 4, 5]
    spread = [step for step in log if step > 200]
    ratios = np.diff(np.log(spread))
    assert ratios.max() / ratios.min() < 1.1
    linear = checkpoint_steps(TrainingSettings(checkpoints=81, checkpoint_spacing="linear"))
    assert linear == list(range(0, 200_001, 2_500))


# What a run leaves behind


def test_a_small_world_is_learned(tiny: Tiny, tmp_path: Path) -> None:
    frame = read_frame(run(tiny(**QUICK), tmp_path) / "training.parquet", TRAINING)
    overall = frame[(frame["split"] == "iid") & frame["task"].isna()].set_index("step")
    assert overall["accuracy"][0] < 0.5
    assert overall["loss"][0] == pytest.approx(math.log(4), abs=0.5)
    assert overall["accuracy"][300] > 0.99
    assert overall["loss"][300] < 0.1
    train_rows = frame[frame["split"] == "train"].set_index("step")
    assert train_rows["accuracy"][300] > 0.98


def test_a_finished_run_leaves_its_tables_and_weights_and_nothing_else(finished: Path, tiny: Tiny) -> None:
    steps = checkpoint_steps(tiny().training)
    assert sorted(path.name for path in finished.iterdir()) == ["checkpoints", "run.parquet", "training.parquet"]
    assert sorted(path.name for path in (finished / "checkpoints").iterdir()) == [checkpoint_file(s) for s in steps]
    assert list(saved_checkpoints(finished / "checkpoints")) == steps


def test_the_training_table_has_every_split_at_every_evaluation(finished: Path) -> None:
    frame = read_frame(finished / "training.parquet", TRAINING)
    assert set(frame["run"]) == {RunSettings.from_parameters(**read_parameters(finished)).name}
    assert set(frame["seed"]) == {0}
    for split, steps in {"iid": range(0, 61, 10), "random_label": range(0, 61, 10), "train": range(10, 61, 10)}.items():
        overall = frame[(frame["split"] == split) & frame["task"].isna()]
        assert overall["step"].tolist() == list(steps)
    assert set(frame["split"]) == {"iid", "random_label", "train"}
    assert set(frame.loc[frame["split"] == "train", "sequences"]) == {160}
    assert frame["accuracy"].between(0, 1).all()


def read_parameters(folder: Path) -> dict[str, Any]:
    row = summary(folder)
    return {name: row[name] for name in RunSettings().parameters if row[name] is not None} | {"world_seed": None}


def test_rows_of_single_tasks_average_to_the_row_of_all(tiny: Tiny, tmp_path: Path) -> None:
    settings = tiny(T=3, beta=1.0, max_steps=20)
    frame = read_frame(run(settings, tmp_path) / "training.parquet", TRAINING)
    frame = frame[frame["split"] != "train"]
    tasks = evaluation_set(World.draw(settings.world, 0))[0].tasks.numpy()
    for _, rows in frame.groupby(["step", "split"]):
        overall, each = rows[rows["task"].isna()], rows[rows["task"].notna()]
        assert each["task"].tolist() == [1, 2, 3]
        assert each["sequences"].tolist() == np.bincount(tasks).tolist()
        assert overall["sequences"].tolist() == [64]
        for column in ("accuracy", "loss"):
            average = np.average(each[column], weights=each["sequences"].astype(int))
            assert average == pytest.approx(overall[column].item(), rel=1e-12)
        assert each["loss"].nunique() == 3


def test_a_task_that_no_evaluation_sequence_has_gets_no_row(tiny: Tiny) -> None:
    trainer = trainer_of(tiny(T=4, evaluation_sequences=2))
    present = sorted({int(task) + 1 for task in trainer._evaluation["iid"].tasks})
    assert 0 < len(present) < 4
    assert [row["task"] for row in trainer.evaluate(0) if row["split"] == "iid"] == [None, *present]


def test_saved_weights_give_the_accuracy_and_loss_of_their_step_in_the_textbook_form(
    tiny: Tiny, finished: Path
) -> None:
    settings = tiny()
    world = World.draw(settings.world, 0)
    iid, permuted = evaluation_set(world)
    frame = read_frame(finished / "training.parquet", TRAINING)
    saved = saved_checkpoints(finished / "checkpoints")
    shared = sorted(set(saved) & set(frame["step"]))
    assert {0, 60} <= set(shared)
    for step, (split, sequences) in itertools.product(
        shared, {"iid": iid, "random_label": iid.with_context_labels(permuted)}.items()
    ):
        model = load_model(saved[step], settings, world, seed=0)
        with torch.no_grad():
            logits = model(sequences).logits[:, -1]
        row = frame[(frame["step"] == step) & (frame["split"] == split) & frame["task"].isna()]
        right = (logits.argmax(1) == sequences.labels[:, -1]).double().mean()
        loss = torch.nn.functional.cross_entropy(logits.double(), sequences.labels[:, -1])
        assert row["accuracy"].item() == float(right)
        assert row["loss"].item() == pytest.approx(float(loss), rel=1e-5)


def test_training_rows_average_the_batches_since_the_last_evaluation(tiny: Tiny, finished: Path) -> None:
    trainer = trainer_of(tiny())
    outcomes = [trainer.step(step) for step in range(1, 21)]
    frame = read_frame(finished / "training.parquet", TRAINING)
    for start, step in ((0, 10), (10, 20)):
        row = frame[(frame["split"] == "train") & (frame["step"] == step)]
        losses, corrects = zip(*outcomes[start:step], strict=True)
        assert row["loss"].item() == pytest.approx(float(torch.stack(losses).double().mean()), rel=1e-12)
        assert row["accuracy"].item() == pytest.approx(int(sum(corrects)) / 160, rel=1e-6)


def test_evaluations_of_many_sequences_are_the_same_in_chunks_or_at_once(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(tiny(evaluation_sequences=300))
    in_chunks = trainer.evaluate(0)
    monkeypatch.setattr(training, "EVALUATION_CHUNK", 1000)
    for row, at_once in zip(in_chunks, trainer.evaluate(0), strict=True):
        assert row.keys() == at_once.keys()
        assert row["accuracy"] == at_once["accuracy"]
        assert row["loss"] == pytest.approx(at_once["loss"], rel=1e-6)
    assert in_chunks[0]["sequences"] == 300


def test_the_summary_tells_every_parameter_and_what_the_run_took(tiny: Tiny, tmp_path: Path) -> None:
    masks = [["self", "label_to_item"], ["query_to_labels"]]
    settings = tiny(masks=masks, max_steps=10)
    row = summary(run(settings, tmp_path, seed=3))
    assert (row["run"], row["seed"], row["dataset"]) == (settings.name, 3, settings.dataset_name(3))
    assert (row["T"], row["eps"], row["loss"], row["output_projection"]) == (2, 0.1, "last_label", True)
    assert row["world_seed"] == 3
    assert row["masks"] == '[["self", "label_to_item"], ["query_to_labels"]]'
    width = 16
    assert row["parameters_count"] == 2 * 4 * width**2 + (width + 1) * width + (width + 1) * 4
    assert row["steps"] == 10
    assert row["seconds"] >= 0


def test_saved_weights_name_their_run_seed_and_step(finished: Path, tiny: Tiny) -> None:
    for step, path in saved_checkpoints(finished / "checkpoints").items():
        assert load_tensors(path)[1] == {"run": tiny().name, "seed": "0", "step": str(step)}


def test_seeds_give_different_runs_and_a_shared_world_only_where_asked(tiny: Tiny, tmp_path: Path) -> None:
    folders = {
        (seed, world_seed): run(tiny(max_steps=10, world_seed=world_seed), tmp_path / f"{seed}-{world_seed}", seed)
        for seed, world_seed in ((1, None), (2, None), (1, 7), (2, 7))
    }
    losses = {
        key: read_table(folder / "training.parquet", TRAINING)["loss"].to_pylist() for key, folder in folders.items()
    }
    assert len({tuple(values) for values in losses.values()}) == 4
    assert {summary(folders[key])["dataset"] for key in ((1, 7), (2, 7))} == {tiny(world_seed=7).dataset_name(7)}


def test_a_second_run_into_the_same_folder_replaces_the_first(tiny: Tiny, finished: Path, tmp_path: Path) -> None:
    run(tiny(max_steps=20), tmp_path)
    assert results(run(tiny(), tmp_path)) == results(finished)


def test_weights_of_another_model_are_refused(finished: Path, tiny: Tiny) -> None:
    path = saved_checkpoints(finished / "checkpoints")[60]
    for other in (tiny(D=8), tiny(heads=2), tiny(layers=1), tiny(hidden_layers=2)):
        with pytest.raises(DamagedFile, match="its weights are not this model's"):
            load_model(path, other, World.draw(other.world, 0), seed=0)


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(f"{tmp_path} holds no checkpoints")):
        saved_checkpoints(tmp_path)


def test_an_unwritable_place_is_told_in_one_line(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("not a folder")
    with pytest.raises(UserError, match="Cannot write") as caught:
        run(tiny(), tmp_path / "runs" / "seed-0")
    assert str(tmp_path / "runs" / "seed-0") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_long_run_tells_how_far_it_is_and_how_well_it_does(
    tiny: Tiny, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SECONDS_BETWEEN_LINES", 0)
    world = World.draw(tiny().world, 0)
    with caplog.at_level(logging.INFO):
        train(tiny(), world, evaluation_set(world), 0, tmp_path)
    accuracy = overall_accuracy(tmp_path)
    lines = [message for message in caplog.messages if "accuracy" in message]
    assert len(lines) == 6
    for step, (line, value) in enumerate(zip(lines, accuracy[1:], strict=True), start=1):
        assert f"{10 * step}/60" in line
        assert f"accuracy {value:.3f}" in line


# Stopping and continuing


@pytest.mark.parametrize("steps", [[11], [35], [60], [5], [15, 16, 52]], ids=str)
def test_an_interrupted_run_ends_with_the_same_numbers(
    steps: list[int], tiny: Tiny, finished: Path, tmp_path: Path, interrupt: Callable[[int], None]
) -> None:
    for step in steps:
        interrupt(step)
        with pytest.raises(Interrupted):
            run(tiny(), tmp_path)
        assert not (tmp_path / "training.parquet").exists()
    assert results(run(tiny(), tmp_path)) == results(finished)
    assert summary(tmp_path) | {"seconds": 0} == summary(finished) | {"seconds": 0}


def test_an_interrupted_run_continues_from_its_last_evaluation_not_from_the_start(
    tiny: Tiny, tmp_path: Path, interrupt: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(35)
    with pytest.raises(Interrupted):
        run(tiny(), tmp_path)
    taken = []
    original = Trainer.step

    def noted(self: Trainer, step: int) -> tuple[Tensor, Tensor]:
        taken.append(step)
        return original(self, step)

    monkeypatch.setattr(Trainer, "step", noted)
    run(tiny(), tmp_path)
    assert taken == list(range(31, 61))


def test_a_killed_run_ends_with_the_same_numbers(tiny: Tiny, finished: Path, tmp_path: Path) -> None:
    script = """
import json, os, signal, sys
from pathlib import Path
import torch
from circuit_phases import training
from circuit_phases.sequences import evaluation_set
from circuit_phases.settings import RunSettings
from circuit_phases.world import World

torch.set_num_threads(1)
training.SECONDS_BETWEEN_SAVES = 0
take = training.Trainer.step
training.Trainer.step = lambda self, step: os.kill(os.getpid(), signal.SIGKILL) if step == 47 else take(self, step)
settings = RunSettings.model_validate_json(sys.argv[1], strict=False)
world = World.draw(settings.world, 0)
training.train(settings, world, evaluation_set(world), 0, Path(sys.argv[2]), progress=False)
"""
    killed = subprocess.run(
        [sys.executable, "-c", script, tiny().model_dump_json(), str(tmp_path)],
        check=False, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL
    assert load_tensors(tmp_path / "partial" / "state.safetensors")[1]["step"] == "40"
    assert results(run(tiny(), tmp_path)) == results(finished)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def alter(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for place in range(len(content) // 10, len(content) // 5):
        content[place] ^= 0x10
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, empty, alter, Path.unlink])
@pytest.mark.parametrize("name", ["state.safetensors", "training.parquet"])
def test_a_damaged_state_is_told_and_the_run_starts_afresh(
    damage: Callable[[Path], None],
    name: str,
    tiny: Tiny,
    finished: Path,
    tmp_path: Path,
    interrupt: Callable[[int], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    interrupt(35)
    with pytest.raises(Interrupted):
        run(tiny(), tmp_path)
    damage(tmp_path / "partial" / name)
    with caplog.at_level(logging.WARNING):
        run(tiny(), tmp_path)
    (warning,) = caplog.messages
    assert warning.startswith("Starting from step 0: ")
    assert str(tmp_path / "partial" / name) in warning
    assert results(tmp_path) == results(finished)


@pytest.mark.parametrize(
    ("other", "seed"),
    [({"learning_rate": 0.02}, 0), ({}, 1), ({"world_seed": 1}, 0), ({"eps": 0.1 + 1e-9}, 0)],
    ids=str,
)
def test_the_state_of_another_run_is_not_continued(
    other: dict[str, Any],
    seed: int,
    tiny: Tiny,
    finished: Path,
    tmp_path: Path,
    interrupt: Callable[[int], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    interrupt(35)
    with pytest.raises(Interrupted):
        run(tiny(**other), tmp_path, seed)
    with caplog.at_level(logging.WARNING):
        run(tiny(), tmp_path)
    assert [message for message in caplog.messages if "holds another run" in message]
    assert results(tmp_path) == results(finished)


def test_a_run_that_cannot_write_its_results_loses_no_training(
    tiny: Tiny, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SECONDS_BETWEEN_SAVES", 0)
    (tmp_path / "training.parquet" / "in the way").mkdir(parents=True)
    with pytest.raises(UserError, match="Cannot write"):
        run(tiny(), tmp_path)
    (tmp_path / "training.parquet" / "in the way").rmdir()
    (tmp_path / "training.parquet").rmdir()
    monkeypatch.setattr(Trainer, "step", lambda self, step: pytest.fail(f"step {step} is taken again"))
    assert results(run(tiny(), tmp_path)) == results(finished)


def overall_accuracy(folder: Path) -> list[float]:
    frame = read_frame(folder / "training.parquet", TRAINING)
    return frame[(frame["split"] == "iid") & frame["task"].isna()]["accuracy"].tolist()


@pytest.fixture(scope="module")
def solved(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tiny(**QUICK | {"stop_after": 3}), tmp_path_factory.mktemp("solved"))


def test_training_stops_after_the_asked_number_of_solved_evaluations_in_a_row(solved: Path) -> None:
    accuracy = overall_accuracy(solved)
    streaks = [all(value >= 0.999 for value in accuracy[end - 2 : end + 1]) for end in range(2, len(accuracy))]
    assert streaks == [False] * (len(streaks) - 1) + [True]
    last = 10 * (len(accuracy) - 1)
    assert last < 300
    assert summary(solved)["steps"] == last
    assert max(saved_checkpoints(solved / "checkpoints")) == last


def test_training_goes_on_to_the_end_where_no_early_stop_is_asked_for(tiny: Tiny, solved: Path, tmp_path: Path) -> None:
    accuracy = overall_accuracy(run(tiny(**QUICK), tmp_path))
    assert len(accuracy) == 31
    stopped = overall_accuracy(solved)
    assert accuracy[: len(stopped)] == stopped


def test_an_interrupted_run_stops_early_at_the_same_step(
    tiny: Tiny, solved: Path, tmp_path: Path, interrupt: Callable[[int], None]
) -> None:
    interrupt(summary(solved)["steps"] - 5)
    settings = tiny(**QUICK | {"stop_after": 3})
    with pytest.raises(Interrupted):
        run(settings, tmp_path)
    assert results(run(settings, tmp_path)) == results(solved)


# Runs that diverge


@pytest.fixture
def diverging(tiny: Tiny) -> RunSettings:
    return tiny(learning_rate=30.0, max_steps=200, evaluation_interval=50, checkpoints=40)


def first_infinite_step(settings: RunSettings) -> int:
    trainer = trainer_of(settings)
    return next(step for step in itertools.count(1) if not math.isfinite(trainer.step(step)[0]))


def test_a_loss_that_is_not_finite_stops_the_run_and_names_run_seed_step_and_weights(
    diverging: RunSettings, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        run(diverging, tmp_path)
    message = str(caught.value)
    assert message.startswith(
        f"{diverging.name} seed 0: the loss is not finite at step {first_infinite_step(diverging)}"
    )
    assert "Lower learning_rate (now 30.0)" in message
    assert "\n" not in message
    weights = re.search(r"last weights: (.+)\.$", message)
    assert weights
    assert Path(weights[1]).exists()
    assert not (tmp_path / "training.parquet").exists()


def test_the_weights_named_after_a_diverged_run_are_the_last_good_ones(diverging: RunSettings, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        run(diverging, tmp_path)
    weights = re.search(r"last weights: (.+)\.$", str(caught.value))
    assert weights
    tensors, metadata = load_tensors(Path(weights[1]))
    assert int(metadata["step"]) < first_infinite_step(diverging)
    assert all(tensor.isfinite().all() for tensor in tensors.values())


def test_a_run_that_diverges_at_its_last_step_does_not_pass_for_finished(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not finite"):
        run(tiny(learning_rate=1e38, max_steps=1, evaluation_interval=1), tmp_path)


# The compiled step


@pytest.fixture
def compiled(tiny: Tiny) -> Callable[..., Trainer]:
    """A trainer of a run long enough that its step is compiled."""
    torch._dynamo.reset()
    return lambda **parameters: trainer_of(tiny(max_steps=COMPILE_FROM_STEPS, **parameters))


def assert_same_steps(one: Trainer, other: Trainer, steps: int = 3) -> None:
    for step in range(1, steps + 1):
        (loss, correct), (other_loss, other_correct) = one.step(step), other.step(step)
        assert float(loss) == pytest.approx(float(other_loss), rel=1e-5)
        assert int(correct) == int(other_correct)
    for name, parameter in one.parameters.items():
        torch.testing.assert_close(parameter, other.parameters[name], rtol=0, atol=1e-6)


def assert_same_evaluation(one: Trainer, other: Trainer) -> None:
    for row, expected in zip(one.evaluate(0), other.evaluate(0), strict=True):
        assert row["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        assert row["accuracy"] == expected["accuracy"]


@pytest.mark.slow
def test_a_compiled_step_and_evaluation_equal_the_plain_ones(tiny: Tiny, compiled: Callable[..., Trainer]) -> None:
    trainer, plain = compiled(evaluation_sequences=512), trainer_of(tiny(evaluation_sequences=512))
    assert_same_steps(trainer, plain)
    assert_same_evaluation(trainer, plain)


@pytest.mark.slow
def test_two_compiled_runs_in_one_process_keep_their_own_settings(tiny: Tiny, compiled: Callable[..., Trainer]) -> None:
    for learning_rate in (0.01, 0.2):
        options = {"layers": 1, "hidden_layers": 0, "learning_rate": learning_rate}
        assert_same_steps(compiled(**options), trainer_of(tiny(**options)))


@pytest.mark.slow
def test_a_compiled_run_evaluates_any_number_of_sequences(tiny: Tiny, compiled: Callable[..., Trainer]) -> None:
    options = {"layers": 1, "hidden_layers": 0, "evaluation_sequences": 300}
    assert_same_evaluation(compiled(**options), trainer_of(tiny(**options)))


@pytest.fixture
def no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import torch._inductor.config as inductor

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    with inductor.patch({"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}):
        yield


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_training_goes_on_uncompiled_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    calls = []

    def plain(x: Tensor) -> Tensor:
        calls.append(x)
        return (2 * x + 1).sin()

    function = _compiled_or_plain(lambda x: (2 * x + 1).sin(), plain)
    for start in range(3):
        x = torch.arange(start, start + 40.0)
        assert torch.equal(function(x), (2 * x + 1).sin())
    assert len(calls) == 3
    (warning,) = [message for message in caplog.messages if "Not compiled, so slower" in message]
    assert "\n" not in warning


def test_batches_come_from_the_training_seed_and_the_step(tiny: Tiny) -> None:
    settings = tiny(world_seed=9)
    trainer = trainer_of(settings, seed=4)
    loss, correct = trainer.step(17)
    fresh = trainer_of(settings, seed=4)
    batch = training_batch(fresh.world, 4, 17, 16)
    assert float(loss) == pytest.approx(fresh.model.loss(batch).item(), rel=1e-6)
    assert int(correct) == int((fresh.model(batch).logits[:, -1].argmax(1) == batch.labels[:, -1]).sum())
