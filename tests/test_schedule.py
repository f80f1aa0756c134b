"""Masks with a schedule: edges that attention must do without for a stretch of training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from training_runs import QUICK, overall_accuracy, results, run, summary, trainer_of

from circuit_phases import training
from circuit_phases.checkpoints import load_model, load_tensors, saved_checkpoints
from circuit_phases.model import InContextTransformer, edge_mask, edge_masks
from circuit_phases.schemas import TRAINING
from circuit_phases.sequences import TrainingBatches
from circuit_phases.settings import RunSettings
from circuit_phases.splits import evaluation_set
from circuit_phases.tables import read_frame
from circuit_phases.trainer import COMPILE_FROM_STEPS, Trainer
from circuit_phases.training import train_together
from circuit_phases.training_run import Member
from circuit_phases.world import World

Tiny = Callable[..., RunSettings]

SCHEDULE: list[dict[str, Any]] = [
    {"layer": 1, "edges": ["label_to_item", "query_to_self"], "until_step": 20},
    {"layer": 2, "edges": ["query_to_labels"], "from_step": 13, "until_step": 44},
    {"layer": 1, "edges": ["self"], "from_step": 44},
]
CHANGES = (0, 13, 20, 44)


@pytest.fixture(scope="module")
def scheduled(tiny: Tiny) -> RunSettings:
    return tiny(forbidden=SCHEDULE)


@pytest.fixture(scope="module")
def finished(scheduled: RunSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(scheduled, tmp_path_factory.mktemp("scheduled"))


def test_edges_are_forbidden_from_their_first_step_until_they_are_free_again(scheduled: RunSettings) -> None:
    causal, chunk, labels, itself, bigram = (
        edge_mask((family,), N=2)
        for family in ("causal", "label_to_item", "query_to_labels", "self", "query_to_self")  # type: ignore[arg-type]
    )
    expected = {
        0: (causal & ~chunk & ~bigram, causal), 12: (causal & ~chunk & ~bigram, causal),
        13: (causal & ~chunk & ~bigram, causal & ~labels), 19: (causal & ~chunk & ~bigram, causal & ~labels),
        20: (causal, causal & ~labels), 43: (causal, causal & ~labels), 44: (causal & ~itself, causal),
        10**6: (causal & ~itself, causal),
    }  # fmt: skip
    assert scheduled.model.mask_changes == CHANGES
    for step, masks in expected.items():
        assert torch.equal(edge_masks(scheduled.world, scheduled.model, step), torch.stack(masks)), step


def test_what_is_forbidden_is_taken_from_the_edges_that_masks_keep(tiny: Tiny) -> None:
    settings = tiny(masks=[["self"], ["causal"]], forbidden=[{"layer": 1, "edges": ["query_to_self", "label_to_item"]}])
    first, second = edge_masks(settings.world, settings.model, 5)
    assert torch.equal(first, edge_mask(("self",), 2) & ~edge_mask(("query_to_self",), 2))
    assert torch.equal(second, edge_mask(("causal",), 2))


def test_training_under_a_schedule_is_gradient_descent_on_the_textbook_form_under_the_masks_of_each_step(
    scheduled: RunSettings, finished: Path
) -> None:
    world = World.draw(scheduled.world, 0)
    model = InContextTransformer(world, scheduled.model, 0)
    batches = TrainingBatches(world, 0, scheduled.training.batch_size)
    for step in range(1, 61):
        model.masks = edge_masks(scheduled.world, scheduled.model, step)
        model.zero_grad()
        model.loss(batches[step]).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= scheduled.training.learning_rate * parameter.grad
    tensors, _ = load_tensors(saved_checkpoints(finished / "checkpoints")[60])
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(tensors[name], parameter.detach(), rtol=0, atol=1e-6)


def test_a_saved_model_is_evaluated_under_the_masks_of_its_step(scheduled: RunSettings, finished: Path) -> None:
    world = World.draw(scheduled.world, 0)
    iid = evaluation_set(world)["iid"]
    frame = read_frame(finished / "training.parquet", TRAINING)
    losses = frame[(frame["split"] == "iid") & frame["task"].isna()].set_index("step")["loss"]
    saved = saved_checkpoints(finished / "checkpoints")
    for step in sorted(set(saved) & set(losses.index)):
        model = load_model(saved[step], scheduled, world, seed=0)
        assert torch.equal(model.masks, edge_masks(scheduled.world, scheduled.model, step))
        with torch.no_grad():
            logits = model(iid).logits[:, -1].double()
        assert losses[step] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, iid.labels[:, -1])))


@pytest.mark.parametrize("step", [13, 14, 32, 44, 45])
def test_an_interrupted_run_under_a_schedule_ends_with_the_same_numbers(
    step: int, scheduled: RunSettings, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = Trainer.step

    def interrupted(self: Trainer, number: int) -> Any:
        if number == step:
            raise KeyboardInterrupt
        return take(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(training, "SECONDS_BETWEEN_SAVES", 0)
        patch.setattr(Trainer, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(scheduled, tmp_path)
    assert results(run(scheduled, tmp_path)) == results(finished)


def test_seeds_trained_together_follow_the_schedule(scheduled: RunSettings, finished: Path, tmp_path: Path) -> None:
    worlds = {seed: World.draw(scheduled.world, seed) for seed in (0, 1)}
    members = [Member(seed, world, evaluation_set(world), tmp_path / str(seed)) for seed, world in worlds.items()]
    train_together(scheduled, members, progress=False)
    losses = [
        read_frame(folder / "training.parquet", TRAINING)["loss"].tolist() for folder in (tmp_path / "0", finished)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_schedule_that_forbids_what_masks_leave_out_changes_nothing_to_the_bit(tiny: Tiny, tmp_path: Path) -> None:
    masks = [["self", "label_to_item"], ["query_to_labels"]]
    absent = [
        {"layer": 1, "edges": ["query_to_labels"]},
        {"layer": 2, "edges": ["self"], "from_step": 7, "until_step": 30},
    ]
    losses = [
        read_frame(run(tiny(masks=masks, **more), tmp_path / str(number)) / "training.parquet", TRAINING)["loss"]
        for number, more in enumerate(({}, {"forbidden": absent}))
    ]
    assert losses[0].equals(losses[1])


def test_a_solved_run_goes_on_until_its_masks_have_changed(tiny: Tiny, tmp_path: Path) -> None:
    options = QUICK | {"stop_after": 3, "max_steps": 1000}
    free = summary(run(tiny(**options), tmp_path / "free"))["steps"]
    later = [{"layer": layer, "edges": ["causal"], "from_step": free + 35} for layer in (1, 2)]
    forbidden = run(tiny(**options, forbidden=later), tmp_path / "forbidden")
    assert free + 35 < summary(forbidden)["steps"]
    accuracy, undisturbed = overall_accuracy(forbidden), overall_accuracy(tmp_path / "free")
    assert accuracy[: len(undisturbed)] == undisturbed


@pytest.mark.slow
def test_a_compiled_step_changes_with_the_masks(tiny: Tiny) -> None:
    torch._dynamo.reset()
    options = {"layers": 1, "hidden_layers": 0, "evaluation_sequences": 256}
    forbidden = [{"layer": 1, "edges": ["query_to_labels"], "from_step": 2}]
    compiled = trainer_of(tiny(**options, max_steps=COMPILE_FROM_STEPS, forbidden=forbidden))
    plain = trainer_of(tiny(**options, forbidden=forbidden))
    for step in range(1, 4):
        assert float(compiled.step(step)[0]) == pytest.approx(float(plain.step(step)[0]), rel=1e-5)
        for row, expected in zip(compiled.evaluate(step), plain.evaluate(step), strict=True):
            assert row["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    unscheduled = trainer_of(tiny(**options))
    unscheduled.parameters |= {name: tensor.clone() for name, tensor in plain.parameters.items()}
    assert unscheduled.evaluate(0)[0]["loss"] != pytest.approx(plain.evaluate(2)[0]["loss"], rel=1e-4)
