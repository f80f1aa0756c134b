"""The trainer: one step, plain and compiled, of one seed and of several, and evaluation."""

from __future__ import annotations

import ctypes
import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from training_runs import trainer_of

from circuit_phases import evaluation as evaluation_module
from circuit_phases.compilation import Compiler
from circuit_phases.fast import FastForm
from circuit_phases.files import UserError
from circuit_phases.sequences import TrainingBatches
from circuit_phases.settings import RunSettings
from circuit_phases.splits import evaluation_set
from circuit_phases.trainer import COMPILE_FROM_STEPS, Trainer, TrainerOfSeeds, torch_device

Tiny = Callable[..., RunSettings]


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="only glibc can be told to keep what is freed")
def test_what_is_freed_is_used_again_without_asking_for_new_pages() -> None:
    program = (
        "import resource, torch\n"
        "from circuit_phases.stages import prepare_torch\n"
        "prepare_torch(1)\n"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "use = lambda: [torch.ones(2**20) for _ in range(16)]\n"
        "use(), use()\n"
        "before = faults()\n"
        "use()\n"
        "print(faults() - before, 16 * 2**22 // resource.getpagesize())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    faults, pages = map(int, done.stdout.split())
    assert faults < pages / 4


def test_a_task_that_no_evaluation_sequence_has_gets_no_row(tiny: Tiny) -> None:
    trainer = trainer_of(tiny(T=4, evaluation_sequences=2))
    present = sorted({int(task) + 1 for task in evaluation_set(trainer.world)["iid"].tasks})
    assert 0 < len(present) < 4
    assert [row["task"] for row in trainer.evaluate(0) if row["split"] == "iid"] == [None, *present]


def test_evaluations_of_many_sequences_are_the_same_in_batches_or_at_once(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny(evaluation_sequences=300)
    at_once = trainer_of(settings).evaluate(0)
    monkeypatch.setattr(evaluation_module, "NUMBERS_AT_ONCE", 1000)
    monkeypatch.setattr(evaluation_module, "SEQUENCES_PER_VECTOR", 7)
    for row, in_batches in zip(at_once, trainer_of(settings).evaluate(0), strict=True):
        assert row.keys() == in_batches.keys()
        for name in ("accuracy", "memory", "inference"):
            assert row[name] == in_batches[name]
        assert row["loss"] == pytest.approx(in_batches["loss"], rel=1e-6)
    assert at_once[0]["sequences"] == 300


@pytest.mark.parametrize("variant", ["paper", "released_code"])
def test_an_uncompiled_step_is_that_of_the_form_that_is_compiled_to_the_bit(variant: str, tiny: Tiny) -> None:
    settings = tiny(variant=variant, loss="every_label")
    trainer, other = trainer_of(settings), trainer_of(settings)
    differentiate = torch.func.grad_and_value(FastForm(other.model).loss, has_aux=True)
    gradients, outcome = differentiate(other.parameters, other.constants, other.batch(1))
    assert trainer.step(1) == outcome
    for name, parameter in trainer.parameters.items():
        expected = other.parameters[name].sub(gradients[name], alpha=settings.training.learning_rate)
        torch.testing.assert_close(parameter, expected, rtol=0, atol=0)


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
        for name in ("accuracy", "memory", "inference"):
            assert row[name] == expected[name]


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


@pytest.mark.slow
def test_products_of_the_first_arguments_are_those_of_the_latest_preparation() -> None:
    def function(left: Tensor, right: Tensor, x: Tensor) -> list[Tensor]:
        return [left @ right @ x, (right + x).sin()]

    prepare = Compiler().compiled_in_stages(function, function)
    for start in range(3):
        left, right, *others = torch.arange(start, start + 36.0).view(4, 3, 3)
        prepared = prepare(left, right)
        for x in others:
            for value, expected in zip(prepared(x), function(left, right, x), strict=True):
                torch.testing.assert_close(value, expected)


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_training_goes_on_uncompiled_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    calls = []

    def plain(x: Tensor) -> Tensor:
        calls.append(x)
        return (2 * x + 1).sin()

    compiler = Compiler()
    functions = [compiler.compiled_or_plain(lambda x: (2 * x + 1).sin(), plain) for _ in range(2)]
    for start, function in itertools.product(range(3), functions):
        x = torch.arange(start, start + 40.0)
        assert torch.equal(function(x), (2 * x + 1).sin())
    assert len(calls) == 6
    assert compiler.form == "uncompiled"
    (warning,) = [message for message in caplog.messages if "Not compiled, so slower" in message]
    assert "\n" not in warning


def test_a_compiler_that_is_killed_while_it_writes_is_asked_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import torch._inductor.config as inductor

    compiler, killed = tmp_path / "compiler", tmp_path / "killed"
    die = f'[ -e {killed} ] || {{ touch {killed}; echo half >"$argument"; kill -KILL $$; }}'
    once = f'for argument; do case "$before $argument" in "-o "*.main.so*) {die};; esac; before=$argument; done'
    compiler.write_text(f'#!/bin/sh\n{once}\nexec g++ "$@"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    x = torch.arange(60.0)
    of_job = Compiler()
    with inductor.patch({"cpp.cxx": (str(compiler),)}):
        function = of_job.compiled_or_plain(lambda x: (5 * x + 1).cos(), lambda x: pytest.fail("run uncompiled"))
        assert torch.allclose(function(x), (5 * x + 1).cos())
    assert killed.exists()
    assert of_job.form == "compiled"
    assert not any("Not compiled" in message for message in caplog.messages)
    with inductor.patch({"cpp.cxx": ("no-such-compiler",)}):
        of_job.compiled_or_plain(lambda x: (7 * x + 1).cos(), lambda x: (7 * x + 1).cos())(x)
    assert of_job.form == "mixed"
    assert any("Other parts are. Numbers equal" in message for message in caplog.messages)


def test_a_compiler_without_a_place_for_its_files_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import torch._inductor.config as inductor

    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "file" / "cache"))
    x = torch.arange(50.0)
    with inductor.patch({"force_disable_caches": True}):
        function = Compiler().compiled_or_plain(lambda x: (3 * x + 1).cos(), lambda x: (3 * x + 1).cos())
        assert torch.equal(function(x), (3 * x + 1).cos())
    (warning,) = [message for message in caplog.messages if "Not compiled, so slower" in message]
    assert "Not a directory" in warning


def test_seeds_trained_together_keep_their_models_up_to_date(tiny: Tiny) -> None:
    trainers = [trainer_of(tiny(), seed) for seed in (0, 1)]
    together = TrainerOfSeeds(trainers)
    for step in range(1, 4):
        together.step(step)
    for seed, trainer in enumerate(trainers):
        alone = trainer_of(tiny(), seed)
        for step in range(1, 4):
            alone.step(step)
        for name, parameter in trainer.model.named_parameters():
            torch.testing.assert_close(parameter, alone.parameters[name], rtol=0, atol=1e-6)


def test_batches_come_from_the_training_seed_and_the_step(tiny: Tiny) -> None:
    settings = tiny(world_seed=9)
    trainer = trainer_of(settings, seed=4)
    loss, correct = trainer.step(17)
    fresh = trainer_of(settings, seed=4)
    batch = TrainingBatches(fresh.world, 4, 16)[17]
    assert float(loss) == pytest.approx(fresh.model.loss(batch).item(), rel=1e-6)
    assert int(correct) == int((fresh.model(batch).logits[:, -1].argmax(1) == batch.labels[:, -1]).sum())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA card")
def test_a_device_that_is_not_there_is_told_in_one_line() -> None:
    assert torch_device("auto") == torch_device("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match=r"device = cuda is not available .* Set device: auto or cpu\."):
        torch_device("cuda")
