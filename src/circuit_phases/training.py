"""Training one configuration with one seed, evaluated and saved as it goes (paper, Sec. 3)."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_map
from tqdm import tqdm

from circuit_phases.checkpoints import checkpoint_file, load_tensors, save_tensors, saved_checkpoints
from circuit_phases.fast import Batch, FastForm, Parameters
from circuit_phases.files import UserError
from circuit_phases.model import InContextTransformer
from circuit_phases.sequences import Sequences, training_batch
from circuit_phases.settings import RunSettings, TrainingSettings
from circuit_phases.tables import RUNS, TRAINING, read_table, table_from_rows, write_table
from circuit_phases.world import World

logger = logging.getLogger(__name__)

COMPILE_FROM_STEPS = 5_000
"""Shorter runs end before compilation has paid for itself."""
EVALUATION_CHUNK = 256
SECONDS_BETWEEN_SAVES = 30
SECONDS_BETWEEN_LINES = 10
SOLVED = 0.999

EvaluationSet = tuple[Sequences, Int64[Tensor, "n N"]]


def checkpoint_steps(settings: TrainingSettings) -> list[int]:
    """The steps at which weights are saved: 0, then spaced as set, up to the last step."""
    count, steps = settings.checkpoints, settings.max_steps
    if settings.checkpoint_spacing == "linear":
        spaced = np.linspace(0, steps, count)
        return sorted({round(step) for step in spaced})
    # Rounding merges the first steps; ask for more until the asked number is left.
    for asked in range(count - 2, 4 * count):
        chosen = {0, steps} | {round(step) for step in np.geomspace(1, steps, asked)}
        if len(chosen) >= min(count, steps + 1):
            break
    return sorted(chosen)


class Trainer:
    """A model, its world and its compiled step; the batch at a step depends on (seed, step) alone."""

    def __init__(self, settings: RunSettings, world: World, evaluation: EvaluationSet, seed: int) -> None:
        self.settings, self.world, self.seed = settings, world, seed
        self.model = InContextTransformer(world, settings.model, seed)
        self.parameters = {name: tensor.detach() for name, tensor in self.model.named_parameters()}
        compiled = settings.training.max_steps >= COMPILE_FROM_STEPS
        plain, compilable = FastForm(self.model), FastForm(self.model, elementwise=True)
        self._step = self._gradient_step(plain)
        self._logits = plain.logits
        if compiled:
            self._step = _compiled_or_plain(self._gradient_step(compilable), self._step)
            self._logits = _compiled_or_plain(compilable.logits, self._logits)
        iid, permuted = evaluation
        self._evaluation = {"iid": iid, "random_label": iid.with_context_labels(permuted)}

    def _gradient_step(self, form: FastForm) -> Callable[[Parameters, Batch], tuple[Tensor, Tensor]]:
        learning_rate = self.settings.training.learning_rate
        differentiate = torch.func.grad_and_value(form.loss, has_aux=True)

        def step(parameters: Parameters, batch: Batch) -> tuple[Tensor, Tensor]:
            gradients, (loss, correct) = differentiate(parameters, batch)
            for name, gradient in gradients.items():
                parameters[name].sub_(gradient, alpha=learning_rate)
            return loss, correct

        return step

    def step(self, step: int) -> tuple[Tensor, Tensor]:
        """Take gradient step number `step` (from 1); gives the batch's loss and number correct."""
        batch = training_batch(self.world, self.seed, step, self.settings.training.batch_size)
        return self._step(self.parameters, Batch.of(batch))

    def evaluate(self, step: int) -> list[dict[str, Any]]:
        """Loss and accuracy on each frozen split, for all tasks together and for each task."""
        rows = []
        for split, sequences in self._evaluation.items():
            loss, correct = self._query_loss_and_correct(sequences)
            tasks = sequences.tasks.numpy()
            groups = [(None, slice(None))] + [(task + 1, tasks == task) for task in range(self.world.settings.T)]
            for task, members in groups:
                count = len(loss[members])
                if count:
                    means = {"loss": float(loss[members].mean()), "accuracy": float(correct[members].mean())}
                    rows.append({"step": step, "split": split, "task": task, "sequences": count} | means)
        return rows

    def _query_loss_and_correct(self, sequences: Sequences) -> tuple[np.ndarray, np.ndarray]:
        losses, corrects = [], []
        # A compiled form takes one size of chunk alone, so the last chunk starts early and counts only its end.
        size = min(EVALUATION_CHUNK, len(sequences))
        with torch.no_grad():
            for start in range(0, len(sequences), size):
                first = min(start, len(sequences) - size)
                chunk = sequences[first : first + size]
                logits = self._logits(self.parameters, Batch.of(chunk))[:, -1]
                target = chunk.labels[:, -1]
                losses.append(-logits.log_softmax(0).gather(0, target[None])[0, start - first :])
                corrects.append((logits.argmax(0) == target)[start - first :])
        return torch.cat(losses).double().numpy(), torch.cat(corrects).numpy()


def _compiled_or_plain(compilable: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function at its first call; where that fails (no compiler), run the plain one and say so once."""
    working: Callable[..., Any] | None = None

    def call(*arguments: Any) -> Any:
        nonlocal working
        if working is None:
            try:
                working = _compiled(compilable, arguments)
                return working(*arguments)
            except (torch._dynamo.exc.TorchDynamoException, torch._inductor.exc.InductorError) as error:
                logger.warning("Not compiled, so slower: %s", str(error).strip().splitlines()[0])
                working = plain
        return working(*arguments)

    return call


def _compiled(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Callable[..., Any]:
    """A compiled form for arguments of these shapes alone.

    Tracing first gives each form a code object of its own: compiled code is kept by code object, and
    its guards, which would tell one world's constants from another's, are left out since checking
    them takes longer than a small kernel.
    """
    examples = tree_map(lambda value: value.clone(), arguments)
    traced = make_fx(lambda *values: function(*values))(*examples)
    options: dict[str, Any] = {
        "guard_filter_fn": torch.compiler.skip_all_guards_unsafe,
        # Keep attention weights in memory: written into the sums that read them, they are divided again each time.
        "realize_opcount_threshold": 4,
    }
    compiled: Callable[..., Any] = torch.compile(traced, dynamic=False, options=options)
    return compiled


def train(
    settings: RunSettings,
    world: World,
    evaluation: EvaluationSet,
    seed: int,
    folder: Path,
    progress: bool = True,
) -> Path:
    """Train to the end and leave `training.parquet`, `run.parquet` and `checkpoints/` in `folder`.

    Work in progress lies in `folder/partial`; a run that was stopped continues from there and ends
    with the same numbers as one that was not.

    Raises:
        UserError: if the loss becomes NaN or infinite, or a file cannot be written.
    """
    run = _Run(settings, world, evaluation, seed, folder)
    run.resume()
    run.train(progress)
    return run.finish()


class _Run:
    """The bookkeeping of one training run: rows, checkpoints, and the state to resume from."""

    def __init__(self, settings: RunSettings, world: World, evaluation: EvaluationSet, seed: int, folder: Path) -> None:
        self.trainer = Trainer(settings, world, evaluation, seed)
        self.settings, self.seed, self.folder = settings, seed, folder
        self.partial = folder / "partial"
        self.identity = {"run": settings.name, "seed": str(seed)}
        self.fingerprint = json.dumps(settings.parameters, sort_keys=True) + f" seed {seed}"
        self.checkpoint_at = set(checkpoint_steps(settings.training))
        self.rows: list[dict[str, Any]] = []
        self.step, self.seconds, self.solved = 0, 0.0, 0

    def resume(self) -> None:
        """Continue from `partial` if it holds a good state of this very run; else start afresh."""
        if not any((self.partial / name).exists() for name in ("state.safetensors", "training.parquet")):
            shutil.rmtree(self.partial, ignore_errors=True)
            self._start()
            return
        try:
            tensors, state = load_tensors(self.partial / "state.safetensors")
            if state["fingerprint"] != self.fingerprint:
                raise UserError(f"{self.partial} holds another run")
            rows = read_table(self.partial / "training.parquet", TRAINING).to_pylist()
            self.step, self.seconds, self.solved = int(state["step"]), float(state["seconds"]), int(state["solved"])
        except UserError as reason:
            logger.warning("Starting from step 0: %s", reason)
            shutil.rmtree(self.partial)
            self._start()
            return
        self.rows = [row for row in rows if row["step"] <= self.step]
        for name, tensor in tensors.items():
            self.trainer.parameters[name].copy_(tensor)
        logger.info("Continuing from step %d", self.step)

    def _start(self) -> None:
        self.rows = self._with_identity(self.trainer.evaluate(0))
        self._checkpoint()

    def train(self, progress: bool) -> None:
        """Take every step that is left, or stop early if that is asked for."""
        training = self.settings.training
        interval = training.evaluation_interval
        started = last_save = time.monotonic()
        before, first = self.seconds, self.step
        last_line = started
        while self.step < training.max_steps and not self._solved_long_enough():
            outcomes = [self._one_step() for _ in range(interval)]
            losses, corrects = (torch.stack(values) for values in zip(*outcomes, strict=True))
            self._check_finite(losses)
            self._record(losses, corrects)
            now = time.monotonic()
            self.seconds = before + now - started
            if now - last_save > SECONDS_BETWEEN_SAVES:
                self._save_state()
                last_save = time.monotonic()
            if progress and now - last_line > SECONDS_BETWEEN_LINES:
                logger.info(self._progress_line(now - started, first))
                last_line = now

    def finish(self) -> Path:
        """Move the finished run into place."""
        self._checkpoint()
        self._save_state()
        write_table(self.folder / "training.parquet", table_from_rows(self.rows, TRAINING), TRAINING)
        write_table(self.folder / "run.parquet", table_from_rows([self._summary()], RUNS), RUNS)
        checkpoints = self.folder / "checkpoints"
        shutil.rmtree(checkpoints, ignore_errors=True)
        (self.partial / "state.safetensors").unlink()
        (self.partial / "checkpoints").replace(checkpoints)
        shutil.rmtree(self.partial)
        return self.folder

    def _progress_line(self, elapsed: float, first: int) -> str:
        return tqdm.format_meter(
            self.step,
            self.settings.training.max_steps,
            elapsed,
            bar_format="{desc}: {n_fmt}/{total_fmt} steps [{elapsed}<{remaining}, {rate_fmt}{postfix}]",
            prefix=f"{self.settings.name} seed {self.seed}",
            unit="step",
            initial=first,
            postfix=f"accuracy {self._latest('iid')['accuracy']:.3f}",
        )

    def _summary(self) -> dict[str, Any]:
        settings, seed = self.settings, self.seed
        parameters = settings.parameters | {"world_seed": settings.resolved_world_seed(seed)}
        if parameters["masks"] is not None:
            parameters["masks"] = json.dumps(parameters["masks"])
        return parameters | {
            "run": settings.name,
            "seed": seed,
            "dataset": settings.dataset_name(seed),
            "parameters_count": sum(tensor.numel() for tensor in self.trainer.parameters.values()),
            "steps": self.step,
            "seconds": round(self.seconds, 1),
        }

    def _one_step(self) -> tuple[Tensor, Tensor]:
        self.step += 1
        outcome = self.trainer.step(self.step)
        if self.step in self.checkpoint_at:
            self._checkpoint()
        return outcome

    def _record(self, losses: Tensor, corrects: Tensor) -> None:
        count = len(losses) * self.settings.training.batch_size
        rows = [
            {
                "step": self.step,
                "split": "train",
                "task": None,
                "loss": float(losses.double().mean()),
                "accuracy": float(corrects.sum() / count),
                "sequences": count,
            },
            *self.trainer.evaluate(self.step),
        ]
        self.rows += self._with_identity(rows)
        if not np.isfinite(self._latest("iid")["loss"]):
            self._stop_diverged(self.step)
        self.solved = self.solved + 1 if self._latest("iid")["accuracy"] >= SOLVED else 0

    def _latest(self, split: str) -> dict[str, Any]:
        return next(row for row in reversed(self.rows) if row["split"] == split and row["task"] is None)

    def _solved_long_enough(self) -> bool:
        return 0 < self.settings.training.stop_after <= self.solved

    def _check_finite(self, losses: Tensor) -> None:
        if not bool(losses.isfinite().all()):
            self._stop_diverged(self.step - len(losses) + 1 + int((~losses.isfinite()).nonzero()[0]))

    def _stop_diverged(self, first: int) -> NoReturn:
        saved = saved_checkpoints(self.partial / "checkpoints")
        good = max(step for step in saved if step < first)
        raise UserError(
            f"{self.settings.name} seed {self.seed}: the loss is not finite at step {first}. "
            f"Lower learning_rate (now {self.settings.training.learning_rate}); last weights: {saved[good]}."
        )

    def _checkpoint(self) -> None:
        path = self.partial / "checkpoints" / checkpoint_file(self.step)
        save_tensors(path, self.trainer.parameters, self.identity | {"step": str(self.step)})

    def _save_state(self) -> None:
        write_table(self.partial / "training.parquet", table_from_rows(self.rows, TRAINING), TRAINING)
        state = {"step": self.step, "seconds": self.seconds, "solved": self.solved, "fingerprint": self.fingerprint}
        save_tensors(
            self.partial / "state.safetensors",
            self.trainer.parameters,
            {name: str(value) for name, value in state.items()},
        )

    def _with_identity(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{"run": self.settings.name, "seed": self.seed} | row for row in rows]
