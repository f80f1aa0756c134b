"""Training: what a run leaves behind, and how it stops and fails."""

from __future__ import annotations

import itertools
import json
import logging
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from training_runs import QUICK, overall_accuracy, results, run, summary, trainer_of

from circuit_phases import training
from circuit_phases.checkpoint_schedule import checkpoint_steps, spaced_steps
from circuit_phases.checkpoints import load_model, load_tensors, saved_checkpoints
from circuit_phases.code_digest import code_digest
from circuit_phases.files import DamagedFile, UserError
from circuit_phases.paths import checkpoint_file
from circuit_phases.schemas import TRAINING
from circuit_phases.settings import RunSettings, TrainingSettings
from circuit_phases.splits import SPLITS, evaluation_set
from circuit_phases.tables import read_frame, read_table
from circuit_phases.training import require_trained, train
from circuit_phases.world import World

Tiny = Callable[..., RunSettings]


# When weights are saved


@example(10**9, 100, "log")
@given(st.integers(3, 200), st.integers(1, 10**6), st.sampled_from(["log", "linear"]))
def test_weights_are_saved_about_as_often_as_asked_from_the_first_step_to_the_last(
    count: int, steps: int, spacing: str
) -> None:
    settings = TrainingSettings(
        checkpoints=count, max_steps=steps, evaluation_interval=1, checkpoint_spacing=spacing  # type: ignore[arg-type]
    )  # fmt: skip
    chosen = spaced_steps(settings)
    assert chosen == sorted(set(chosen))
    assert chosen[0] == 0
    assert chosen[-1] == steps
    possible = min(count, steps + 1)
    assert 0.8 * possible <= len(chosen) <= possible + 2


@pytest.mark.parametrize("spacing", ["log", "linear"])
def test_two_saves_are_of_the_first_and_the_last_step(spacing: str) -> None:
    settings = TrainingSettings(checkpoints=2, checkpoint_spacing=spacing)  # type: ignore[arg-type]
    assert spaced_steps(settings) == [0, 200_000]


def test_saved_steps_are_evenly_spaced_in_log_steps_or_in_steps() -> None:
    log = spaced_steps(TrainingSettings())
    assert len(log) == 80
    assert log[:6] == [0, 1, 2, 3, 4, 5]
    spread = [step for step in log if step > 10_000]
    ratios = np.diff(np.log(spread))
    assert ratios.max() / ratios.min() < 1.2
    linear = spaced_steps(TrainingSettings(checkpoints=81, checkpoint_spacing="linear"))
    assert linear == list(range(0, 200_001, 2_500))


@given(st.integers(3, 200), st.integers(1, 10**4), st.sampled_from([1, 10, 100]))
def test_weights_are_saved_at_evaluations_from_the_first_on(count: int, evaluations: int, interval: int) -> None:
    settings = TrainingSettings(checkpoints=count, max_steps=evaluations * interval, evaluation_interval=interval)
    assert all(step < interval or step % interval == 0 for step in spaced_steps(settings))


@given(st.integers(3, 200), st.integers(1, 60), st.integers(1, 10**8))
def test_weights_of_a_big_model_take_no_more_room_than_allowed_by_leaving_out_the_earliest_steps(
    count: int, megabytes: int, parameters_count: int
) -> None:
    settings = TrainingSettings(checkpoints=count, checkpoint_megabytes=megabytes)
    every, chosen = spaced_steps(settings), checkpoint_steps(settings, parameters_count)
    assert set(chosen) <= set(every)
    assert (chosen[0], chosen[-1]) == (0, 200_000)
    assert len(chosen) == min(len(every), max(2, int(megabytes * 1e6 / (4 * parameters_count))))
    # Nothing later is left out while anything is kept from before the first evaluation.
    later = [step for step in every if step >= 100]
    assert set(later) <= set(chosen) or chosen[1] >= 100


# What a run leaves behind


def test_a_run_whose_weights_take_much_room_saves_them_as_often_as_it_may_and_says_so(
    tiny: Tiny, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = tiny(D=63, P=65, checkpoint_megabytes=2)
    caplog.set_level("INFO")
    saved = saved_checkpoints(run(settings, tmp_path) / "checkpoints")
    assert list(saved) == [0, 20, 60]
    assert 1e6 < sum(path.stat().st_size for path in saved.values()) < 2e6
    assert "Weights are saved at 3 of 6 steps, as checkpoint_megabytes = 2 asks" in caplog.messages
    require_trained(settings, 0, tmp_path)


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
    steps = spaced_steps(tiny().training)
    assert sorted(path.name for path in finished.iterdir()) == [
        ".finished",
        ".lock",
        "checkpoints",
        "run.parquet",
        "training.parquet",
    ]
    assert sorted(path.name for path in (finished / "checkpoints").iterdir()) == [checkpoint_file(s) for s in steps]
    assert list(saved_checkpoints(finished / "checkpoints")) == steps


def test_the_training_table_has_every_split_at_every_evaluation(finished: Path) -> None:
    frame = read_frame(finished / "training.parquet", TRAINING)
    assert set(frame["run"]) == {RunSettings.from_parameters(**read_parameters(finished)).name}
    assert set(frame["seed"]) == {0}
    for split in (*SPLITS, "train"):
        overall = frame[(frame["split"] == split) & frame["task"].isna()]
        assert overall["step"].tolist() == list(range(10 if split == "train" else 0, 61, 10))
    assert set(frame["split"]) == {*SPLITS, "train"}
    assert set(frame.loc[frame["split"] == "train", "sequences"]) == {160}
    assert frame["accuracy"].between(0, 1).all()


def read_parameters(folder: Path) -> dict[str, Any]:
    row = summary(folder)
    return {name: row[name] for name in RunSettings().parameters if row[name] is not None} | {"world_seed": None}


def test_rows_of_single_tasks_average_to_the_row_of_all(tiny: Tiny, tmp_path: Path) -> None:
    settings = tiny(T=3, beta=1.0, max_steps=20)
    frame = read_frame(run(settings, tmp_path) / "training.parquet", TRAINING)
    frame = frame[frame["split"].isin(("iid", "random_label"))]
    tasks = evaluation_set(World.draw(settings.world, 0))["iid"].tasks.numpy()
    for _, rows in frame.groupby(["step", "split"]):
        overall, each = rows[rows["task"].isna()], rows[rows["task"].notna()]
        assert each["task"].tolist() == [1, 2, 3]
        assert each["sequences"].tolist() == np.bincount(tasks).tolist()
        assert overall["sequences"].tolist() == [64]
        for column in ("accuracy", "loss"):
            average = np.average(each[column], weights=each["sequences"].astype(int))
            assert average == pytest.approx(overall[column].item(), rel=1e-12)
        assert each["loss"].nunique() == 3


def test_saved_weights_give_the_accuracy_and_loss_of_their_step_in_the_textbook_form(
    tiny: Tiny, finished: Path
) -> None:
    settings = tiny()
    world = World.draw(settings.world, 0)
    frame = read_frame(finished / "training.parquet", TRAINING)
    saved = saved_checkpoints(finished / "checkpoints")
    shared = sorted(set(saved) & set(frame["step"]))
    assert {0, 60} <= set(shared)
    for step, (split, sequences) in itertools.product(shared, evaluation_set(world).items()):
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


def test_the_summary_tells_every_parameter_and_what_the_run_took(tiny: Tiny, tmp_path: Path) -> None:
    masks = [["label_to_item", "self"], ["query_to_labels"]]
    forbidden = [{"layer": 1, "edges": ["self"], "from_step": 4}]
    settings = tiny(masks=masks, forbidden=forbidden, max_steps=10)
    row = summary(run(settings, tmp_path, seed=3))
    assert (row["run"], row["seed"], row["dataset"]) == (settings.name, 3, settings.dataset_name(3))
    assert (row["T"], row["eps"], row["loss"], row["output_projection"]) == (2, 0.1, "last_label", True)
    assert row["world_seed"] == 3
    assert row["masks"] == '[["label_to_item", "self"], ["query_to_labels"]]'
    assert row["forbidden"] == '[{"layer": 1, "edges": ["self"], "from_step": 4, "until_step": null}]'
    width = 16
    assert row["parameters_count"] == 2 * 4 * width**2 + (width + 1) * width + (width + 1) * 4
    assert row["steps"] == 10
    assert row["seconds"] >= 0


def test_saved_weights_name_their_run_seed_step_and_what_made_them(finished: Path, tiny: Tiny) -> None:
    for step, path in saved_checkpoints(finished / "checkpoints").items():
        metadata = load_tensors(path)[1]
        assert json.loads(metadata.pop("libraries"))["torch"] == torch.__version__.partition("+")[0]
        identity = {"run": tiny().name, "seed": "0", "code": code_digest("training")}
        assert metadata == identity | {"step": str(step)}


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
    assert len(lines) == 60
    for step, line in enumerate(lines, start=1):
        assert f"{step}/60" in line
        assert f"accuracy {accuracy[step // 10]:.3f}" in line


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
