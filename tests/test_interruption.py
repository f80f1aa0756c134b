"""Runs that are stopped, killed or damaged, and what they leave when they continue."""

from __future__ import annotations

import errno
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from faults import alter, empty, truncate
from permissions import BOUND
from training_runs import QUICK, Interrupted, overall_accuracy, results, run, summary

from circuit_phases import compilation, trainer, training, training_run
from circuit_phases.checkpoints import saved_checkpoints
from circuit_phases.compilation import MIXED, Compiler
from circuit_phases.files import UserError, locked, remove_leftovers
from circuit_phases.interruption import Stopped, StopRequest
from circuit_phases.paths import checkpoint_file, saved_states, step_of
from circuit_phases.run_in_progress import RunInProgress, forget_finished
from circuit_phases.settings import RunSettings
from circuit_phases.trainer import COMPILE_FROM_STEPS, Trainer

Tiny = Callable[..., RunSettings]


@pytest.fixture(scope="module")
def solved(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tiny(**QUICK | {"stop_after": 3}), tmp_path_factory.mktemp("solved"))


@pytest.fixture
def note_steps(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[int]]:
    """Called, it gives the list of the steps that are taken from then on."""

    def begin() -> list[int]:
        taken: list[int] = []
        take = Trainer.step
        monkeypatch.setattr(Trainer, "step", lambda self, step: taken.append(step) or take(self, step))
        return taken

    return begin


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


def test_an_interrupted_run_continues_from_its_last_save_not_from_the_start(
    tiny: Tiny, tmp_path: Path, interrupt: Callable[[int], None], note_steps: Callable[[], list[int]]
) -> None:
    interrupt(35)
    with pytest.raises(Interrupted):
        run(tiny(), tmp_path)
    taken = note_steps()
    run(tiny(), tmp_path)
    assert taken == list(range(35, 61))


SCRIPT = """
import os, signal, sys
from pathlib import Path
import torch
from circuit_phases import training
from circuit_phases.logs import job_log
from circuit_phases.splits import evaluation_set
from circuit_phases.settings import RunSettings
from circuit_phases.trainer import Trainer
from circuit_phases.world import World

torch.set_num_threads(1)
settings = RunSettings.model_validate_json(sys.argv[1], strict=False)
number, at, training.SECONDS_BETWEEN_SAVES = int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
take = Trainer.step

def step(self, step):
    if step == at:
        os.kill(os.getpid(), number)
    return take(self, step)

Trainer.step = step
world = World.draw(settings.world, 0)
with job_log():
    training.train(settings, world, evaluation_set(world), 0, Path(sys.argv[2]), progress=False)
"""


def run_and_signal(
    settings: RunSettings,
    folder: Path,
    number: signal.Signals,
    at: int,
    seconds_between_saves: int,
    before: tuple[str, ...] = (),
) -> subprocess.CompletedProcess[str]:
    """The run in a process of its own, which gets a signal just before a step."""
    arguments = [settings.model_dump_json(), str(folder), str(int(number)), str(at), str(seconds_between_saves)]
    return subprocess.run(
        [*before, sys.executable, "-c", SCRIPT, *arguments],
        check=False, capture_output=True, text=True,
    )  # fmt: skip


def run_bound_by_permissions(settings: RunSettings, folder: Path) -> subprocess.CompletedProcess[str]:
    """The run in a process of its own that permissions bind; no signal comes."""
    return run_and_signal(settings, folder, signal.SIGTERM, 0, 3600, BOUND)


def saved_step(folder: Path) -> int:
    return step_of(saved_states(folder / "partial")[-1])


def test_a_killed_run_ends_with_the_same_numbers(tiny: Tiny, finished: Path, tmp_path: Path) -> None:
    killed = run_and_signal(tiny(), tmp_path, signal.SIGKILL, 47, seconds_between_saves=0)
    assert killed.returncode == -signal.SIGKILL
    assert saved_step(tmp_path) == 46
    assert results(run(tiny(), tmp_path)) == results(finished)


def test_work_in_progress_that_is_cleared_is_gone_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "partial").mkdir()
    (tmp_path / "partial" / "file").touch()
    with monkeypatch.context() as killed:
        killed.setattr(shutil, "rmtree", lambda *_, **__: None)
        RunInProgress(tmp_path, {}).clear()
    assert not (tmp_path / "partial").exists()
    remove_leftovers(tmp_path / "partial")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def compiled(tiny: Tiny) -> RunSettings:
    """Long enough to be compiled, with the least of evaluations, and with one layer, which compiles fast."""
    return tiny(
        layers=1, hidden_layers=0, max_steps=COMPILE_FROM_STEPS, evaluation_interval=1000, evaluation_sequences=128
    )


@pytest.fixture(scope="module")
def finished_compiled(compiled: RunSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(compiled, tmp_path_factory.mktemp("compiled"))


@pytest.fixture(scope="module", params=[signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
def stopped(compiled: RunSettings, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """What a compiled run left that a signal ended."""
    folder = tmp_path_factory.mktemp("stopped")
    ended = run_and_signal(compiled, folder, request.param, 2345, seconds_between_saves=1)
    assert ended.returncode in (-signal.SIGKILL, 128 + signal.SIGTERM)
    assert "Not compiled" not in ended.stderr
    assert 0 < saved_step(folder) < 2346
    return folder


@pytest.mark.slow
def test_a_compiled_run_that_is_stopped_ends_with_the_same_numbers(
    compiled: RunSettings, finished_compiled: Path, stopped: Path, tmp_path: Path
) -> None:
    assert results(run(compiled, shutil.copytree(stopped, tmp_path / "run"))) == results(finished_compiled)


@pytest.mark.slow
@pytest.mark.usefixtures("no_compiler")
@pytest.mark.parametrize("stopped", [signal.SIGKILL], indirect=True, ids=["SIGKILL"])
def test_a_compiled_run_that_goes_on_without_a_compiler_says_so(
    compiled: RunSettings, stopped: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = run(compiled, shutil.copytree(stopped, tmp_path / "run"))
    (warning,) = [message for message in caplog.messages if "to the byte" in message]
    assert warning.startswith(f"{folder}: it was compiled so far and is uncompiled from here")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
@pytest.mark.parametrize("step", [40, 43])
def test_a_run_that_is_told_to_stop_saves_first_and_says_so(
    number: signal.Signals, step: int, tiny: Tiny, finished: Path, tmp_path: Path
) -> None:
    stopped = run_and_signal(tiny(), tmp_path, number, step, seconds_between_saves=3600)
    assert stopped.returncode == 128 + number
    assert f"Stopped by {number.name}; saved at step {step}. Run again to continue." in stopped.stderr
    assert saved_step(tmp_path) == step
    assert results(run(tiny(), tmp_path)) == results(finished)


@pytest.fixture
def compile_as_it_is(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Tiny runs compile, which leaves functions as they are; called, it lets Ctrl-C end all but the first so many."""
    monkeypatch.setattr(trainer, "COMPILE_FROM_STEPS", 0)

    def begin(whole: float) -> None:
        begun: list[object] = []

        def compiled(function: Callable[..., Any], *_: object) -> Callable[..., Callable[..., Any]]:
            begun.append(function)
            if len(begun) <= whole:
                return partial(partial, function)
            signal.raise_signal(signal.SIGINT)
            raise OSError("the compiler was killed")

        monkeypatch.setattr(compilation, "_compiled", compiled)

    return begin


CHANGING = {"forbidden": [{"layer": 1, "edges": ["label_to_item"], "until_step": 30}]}
"""The masks before step 30 are others than from there on, and so are the functions to compile."""


@pytest.mark.parametrize(
    ("continued", "whole", "saved"),
    [
        # Evaluation is compiled first, at step 0.
        (None, 0, []),
        (None, 1, [0]),
        (None, 2, [0, 29]),
        (None, 3, [0]),
        (27, 0, [25, 26]),
        (27, 1, [26, 29]),
        # Step 30 is taken, and cannot be evaluated.
        (27, 2, [25, 26]),
    ],
)
def test_a_job_that_is_stopped_with_its_compiler_takes_no_uncompiled_step(
    continued: int | None,
    whole: int,
    saved: list[int],
    tiny: Tiny,
    tmp_path: Path,
    compile_as_it_is: Callable[[float], None],
    interrupt: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    compile_as_it_is(math.inf)
    undisturbed = results(run(tiny(**CHANGING), tmp_path / "undisturbed"))
    if continued:
        interrupt(continued)
        with pytest.raises(Interrupted):
            run(tiny(**CHANGING), tmp_path / "run")
        monkeypatch.setattr(training, "SECONDS_BETWEEN_SAVES", 3600)
    for compilations in (whole, 0):
        compile_as_it_is(compilations)
        with pytest.raises(Stopped) as stopped:
            run(tiny(**CHANGING), tmp_path / "run")
        assert stopped.value.code == 128 + signal.SIGINT
        assert caplog.messages[-1].startswith("Stopped by SIGINT before all was compiled; what was saved stays.")
        assert [step_of(path) for path in saved_states(tmp_path / "run" / "partial")] == saved
    compile_as_it_is(math.inf)
    assert results(run(tiny(**CHANGING), tmp_path / "run")) == undisturbed
    assert not any("compiled, so slower" in message or MIXED in message for message in caplog.messages)


def test_a_compiler_that_ctrl_c_ends_together_with_the_job_is_not_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch._inductor.config as inductor

    compiler = tmp_path / "compiler"
    compiler.write_text(f"#!/bin/sh\nkill -INT {os.getpid()}\nkill -KILL $$\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    with inductor.patch({"cpp.cxx": (str(compiler),)}), StopRequest() as stop:
        of_job = Compiler(stop=stop)
        function = of_job.compiled_or_plain(lambda x: (9 * x + 1).cos(), lambda x: pytest.fail("run uncompiled"))
        with pytest.raises(Stopped):
            function(torch.arange(70.0))
    assert stop.signal == signal.SIGINT


KILLED_WRITE = """
import os, signal, sys
from pathlib import Path
from circuit_phases.files import replacing, replacing_folder

with replacing(Path(sys.argv[1], "training.parquet")), replacing_folder(Path(sys.argv[1], "checkpoints")) as folder:
    (folder / "step-0000000.safetensors").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_write_left_goes_with_the_next_job(tiny: Tiny, finished: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED_WRITE, str(tmp_path)], check=False)
    assert len(list(tmp_path.iterdir())) == 2
    run(tiny(), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in finished.iterdir()}


def test_two_jobs_cannot_train_one_run_at_once(tiny: Tiny, tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(UserError, match=f"{tmp_path} is being written by another job"):
        run(tiny(), tmp_path)
    assert run(tiny(), tmp_path)


def a_folder_instead(path: Path) -> None:
    path.unlink()
    (path / "in the way").mkdir(parents=True)


@pytest.mark.parametrize("damage", [truncate, empty, alter, Path.unlink, a_folder_instead])
@pytest.mark.parametrize(
    ("names", "again"),
    [
        # It stands at 34 and 35; of checkpoints, at 0, 1, 3, 8, 20 and 60, it continues from those at evaluations.
        (["state-0000000035.safetensors"], [35]),
        (["state-*.safetensors"], [*range(21, 36)]),
        (["rows/*-00000030.parquet"], [*range(21, 31)]),
        (["rows/*-00000010.parquet"], [*range(1, 11)]),
        (["rows/*"], [*range(1, 31)]),
        (["checkpoints/step-0000000.safetensors"], []),
        (["checkpoints/step-0000008.safetensors"], [*range(1, 9)]),
        (["checkpoints/step-0000020.safetensors"], [*range(1, 21)]),
        (["checkpoints/step-0000003.safetensors", "rows/*-00000030.parquet"], [1, 2, 3, *range(21, 31)]),
        (["state-*.safetensors", "rows/*-00000020.parquet"], [*range(1, 36)]),
    ],
    ids=str,
)
def test_what_a_damaged_file_held_is_made_again_and_nothing_else(
    damage: Callable[[Path], None],
    names: list[str],
    again: list[int],
    tiny: Tiny,
    finished: Path,
    tmp_path: Path,
    interrupt: Callable[[int], None],
    caplog: pytest.LogCaptureFixture,
    note_steps: Callable[[], list[int]],
) -> None:
    interrupt(36)
    with pytest.raises(Interrupted):
        run(tiny(), tmp_path)
    paths = [path for name in names for path in (tmp_path / "partial").glob(name)]
    for path in paths:
        damage(path)
    taken = note_steps()
    with caplog.at_level(logging.WARNING):
        run(tiny(), tmp_path)
    assert taken == [*again, *range(36, 61)]
    named = [] if damage is Path.unlink else paths
    assert sorted(message.split(" is damaged")[0] for message in caplog.messages) == sorted(map(str, named))
    assert results(tmp_path) == results(finished)


@pytest.mark.parametrize(
    ("misplaced", "over", "why", "again"),
    [
        (
            "checkpoints/step-0000008.safetensors",
            "checkpoints/step-0000020.safetensors",
            "it holds step 8",
            range(1, 21),
        ),
        ("state-0000000034.safetensors", "checkpoints/step-0000020.safetensors", "it holds step 34", range(1, 21)),
        ("checkpoints/step-0000020.safetensors", "state-0000000020.safetensors", "it holds no state", ()),
        ("seed 1", "rows/00000010-00000010.parquet", "it holds another run", range(1, 11)),
    ],
)
def test_what_stands_in_the_place_of_something_else_is_made_again(
    misplaced: str,
    over: str,
    why: str,
    again: Iterable[int],
    tiny: Tiny,
    finished: Path,
    tmp_path: Path,
    interrupt: Callable[[int], None],
    caplog: pytest.LogCaptureFixture,
    note_steps: Callable[[], list[int]],
) -> None:
    interrupt(36)
    with pytest.raises(Interrupted):
        run(tiny(), tmp_path / "run")
    partial = tmp_path / "run" / "partial"
    other = run(tiny(), tmp_path / "other", seed=1)
    shutil.copy(other / "training.parquet" if misplaced == "seed 1" else partial / misplaced, partial / over)
    taken = note_steps()
    with caplog.at_level(logging.WARNING):
        run(tiny(), tmp_path / "run")
    assert taken == [*again, *range(36, 61)]
    assert caplog.messages == [f"{partial / over} is damaged ({why}); it is made again."]
    assert results(tmp_path / "run") == results(finished)


def test_weights_that_a_state_holds_too_are_written_from_it(
    tiny: Tiny, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished / ".finished", tmp_path / "partial")
    (tmp_path / "partial" / "checkpoints" / checkpoint_file(60)).unlink()
    monkeypatch.setattr(Trainer, "step", lambda self, step: pytest.fail(f"step {step} is taken again"))
    assert results(run(tiny(), tmp_path)) == results(finished)


def test_a_run_that_is_killed_while_it_makes_something_again_loses_nothing(
    tiny: Tiny, finished: Path, tmp_path: Path, interrupt: Callable[[int], None]
) -> None:
    for step, damaged in ((56, "rows/*-00000030.parquet"), (29, "checkpoints/step-0000001.safetensors"), (1, "rows/*")):
        interrupt(step)
        with pytest.raises(Interrupted):
            run(tiny(), tmp_path)
        for path in (tmp_path / "partial").glob(damaged):
            path.unlink()
    assert results(run(tiny(), tmp_path)) == results(finished)


# What becomes of a finished run


@pytest.mark.parametrize("lost", [("training.parquet", "run.parquet", "checkpoints"), ("checkpoints",)], ids=len)
def test_a_finished_run_whose_results_are_removed_is_put_back_until_it_is_analysed(
    lost: tuple[str, ...],
    tiny: Tiny,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    note_steps: Callable[[], list[int]],
) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    before = summary(folder)
    for path in (folder / name for name in lost):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", lambda self, step: pytest.fail(f"step {step} is taken again"))
        assert results(run(tiny(), folder)) == results(finished)
    assert summary(folder) == before
    forget_finished(folder)
    shutil.rmtree(folder / "checkpoints")
    taken = note_steps()
    assert results(run(tiny(), folder)) == results(finished)
    assert len(taken) == 60


@pytest.mark.parametrize("stops_early", [False, True])
def test_a_run_whose_last_state_was_not_saved_ends_where_it_ended(
    stops_early: bool, tiny: Tiny, finished: Path, solved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, ended = (tiny(**QUICK | {"stop_after": 3}), solved) if stops_early else (tiny(), finished)
    shutil.copytree(ended / ".finished", tmp_path / "partial")
    for state in saved_states(tmp_path / "partial"):
        state.unlink()
    monkeypatch.setattr(Trainer, "step", lambda self, step: pytest.fail(f"step {step} is taken again"))
    assert results(run(settings, tmp_path)) == results(ended)


def test_what_a_finished_run_is_put_back_from_takes_no_room(finished: Path) -> None:
    for path in (finished / "checkpoints").iterdir():
        assert path.samefile(finished / ".finished" / "checkpoints" / path.name)


def test_without_second_names_a_finished_run_is_kept_once(
    tiny: Tiny, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(os, "link", refused)
    assert results(run(tiny(), tmp_path)) == results(finished)
    assert not (tmp_path / ".finished").exists()


@pytest.mark.parametrize("what", ["code_digest", "library_versions"])
@pytest.mark.parametrize("end", [36, None], ids=["in progress", "finished"])
def test_a_run_by_other_code_or_libraries_is_begun_anew_and_said_once(
    what: str,
    end: int | None,
    tiny: Tiny,
    finished: Path,
    tmp_path: Path,
    interrupt: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    note_steps: Callable[[], list[int]],
) -> None:
    with monkeypatch.context() as patch, suppress(Interrupted):
        patch.setattr(training_run, what, lambda *_: "another")
        if end is not None:
            interrupt(end)
        run(tiny(), tmp_path)
    taken = note_steps()
    with caplog.at_level(logging.WARNING):
        run(tiny(), tmp_path)
    (message,) = caplog.messages
    assert f"trained it to step {60 if end is None else end - 1}." in message
    assert taken == list(range(1, 61))
    assert results(tmp_path) == results(finished)


def test_files_that_cannot_be_read_for_a_while_are_neither_removed_nor_called_damaged(
    tiny: Tiny,
    finished: Path,
    tmp_path: Path,
    interrupt: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    note_steps: Callable[[], list[int]],
) -> None:
    interrupt(36)
    with pytest.raises(Interrupted):
        run(tiny(), tmp_path)

    def stale(_: Path) -> bytes:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", stale)
        with pytest.raises(UserError, match=r"Cannot read \S+: Stale file handle"):
            run(tiny(), tmp_path)
    taken = note_steps()
    assert results(run(tiny(), tmp_path)) == results(finished)
    assert taken == list(range(36, 61))


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


def a_damaged_state(run: Path) -> None:
    truncate(saved_states(run / "partial")[-1])


def what_a_killed_save_left(run: Path) -> None:
    (run / "partial" / ".state-0000000036.safetensors.abcdefgh").touch()


def what_a_killed_end_left(run: Path) -> None:
    (run / ".run.parquet.abcdefgh").touch()


def a_finished_run_without_its_summary(run: Path) -> None:
    (run / "partial").rename(run / ".finished")


@pytest.mark.parametrize(
    ("prepare", "forbidden", "told"),
    [
        (a_damaged_state, "partial", "Cannot remove {}/partial/state-0000000035.safetensors: "),
        (what_a_killed_save_left, "partial", "Cannot remove {}/partial/.state-0000000036.safetensors.abcdefgh: "),
        (what_a_killed_end_left, ".", "Cannot remove {}/.run.parquet.abcdefgh: "),
        (a_finished_run_without_its_summary, ".", "Cannot write {}/partial: "),
    ],
)
def test_a_folder_that_may_not_be_written_to_is_told_in_one_line_and_nothing_is_lost(
    prepare: Callable[[Path], None],
    forbidden: str,
    told: str,
    tiny: Tiny,
    finished: Path,
    tmp_path: Path,
    interrupt: Callable[[int], None],
) -> None:
    interrupt(36)
    with pytest.raises(Interrupted):
        run(tiny(), tmp_path)
    prepare(tmp_path)
    (tmp_path / forbidden).chmod(0o555)
    refused = run_bound_by_permissions(tiny(), tmp_path)
    (tmp_path / forbidden).chmod(0o755)
    assert refused.returncode == 1
    *damaged, last = refused.stderr.splitlines()
    assert last.startswith(told.format(tmp_path) + "Permission denied. ")
    assert len(damaged) == (prepare is a_damaged_state)
    assert all(f"{saved_states(tmp_path / 'partial')[-1]} is damaged" in line for line in damaged)
    assert results(run(tiny(), tmp_path)) == results(finished)


def test_a_finished_run_whose_progress_may_not_be_put_away_is_told_in_one_line(
    tiny: Tiny, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SECONDS_BETWEEN_SAVES", 0)
    (tmp_path / "training.parquet").mkdir()
    (tmp_path / "training.parquet" / "in the way").touch()
    with pytest.raises(UserError, match="Cannot write"):
        run(tiny(), tmp_path)
    shutil.rmtree(tmp_path / "training.parquet")
    first, _ = saved_states(tmp_path / "partial")
    (tmp_path / "partial").chmod(0o555)
    refused = run_bound_by_permissions(tiny(), tmp_path)
    (tmp_path / "partial").chmod(0o755)
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1] == f"Cannot remove {first}: Permission denied. Fix the permission."
    assert results(run(tiny(), tmp_path)) == results(finished)


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
