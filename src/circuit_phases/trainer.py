"""A model in its world with the step that trains it, for one seed or for several at once (paper, Sec. 3)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from circuit_phases.compilation import compiled_or_plain
from circuit_phases.fast import Batch, FastForm, Parameters
from circuit_phases.files import UserError
from circuit_phases.model import InContextTransformer
from circuit_phases.sequences import Sequences, TrainingBatches
from circuit_phases.settings import RunSettings
from circuit_phases.world import World

COMPILE_FROM_STEPS = 5_000
"""Shorter runs end before compilation has paid for itself."""
EVALUATION_CHUNK = 256

SPLITS = ("iid", "random_label")
"""The frozen splits: the evaluation sequences, and the same with the context's labels permuted."""

Built = TypeVar("Built")
EvaluationSet = tuple[Sequences, Int64[Tensor, "n N"]]
Device = Literal["auto", "cpu", "cuda"]
Outcome = tuple[Float[Tensor, "*seeds"], Int64[Tensor, "*seeds"]]
"""A batch's mean loss (nats) and number of right answers."""


def torch_device(device: Device) -> torch.device:
    """The device to train on; `auto` is a CUDA card where there is one.

    Raises:
        UserError: if CUDA is asked for and not there.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device = cuda is not available (torch finds no CUDA card). Set device: auto or cpu.")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


class Trainer:
    """A model, its world and its compiled step; the batch at a step depends on (seed, step) alone."""

    def __init__(
        self, settings: RunSettings, world: World, evaluation: EvaluationSet, seed: int, device: Device = "cpu"
    ) -> None:
        self.settings, self.world, self.seed = settings, world, seed
        self.device = torch_device(device)
        self.model = InContextTransformer(world, settings.model, seed).to(self.device)
        self.parameters = {name: tensor.detach() for name, tensor in self.model.named_parameters()}
        self.constants = {name: tensor for name, tensor in self.model.named_buffers() if name.startswith("embedding.")}
        self.batches = TrainingBatches(world, seed, settings.training.batch_size)
        self._step_at = per_stretch(settings, lambda start: _step_of(self, start))
        self._outcomes_at = per_stretch(settings, self._outcomes_from)
        self._tasks = evaluation[0].tasks.numpy()
        self._chunks = _evaluation_chunks(evaluation, self.device)

    def batch(self, step: int) -> Batch:
        """The fresh sequences of one step."""
        return Batch.of(self.batches[step]).to(self.device)

    def step(self, step: int) -> Outcome:
        """Take gradient step number `step` (from 1)."""
        return self._step_at(step)(self.parameters, self.constants, self.batch(step))

    def evaluate(self, step: int) -> list[dict[str, Any]]:
        """Loss and accuracy on each frozen split, for all tasks together and for each task."""
        groups = [(None, slice(None))] + [(task + 1, self._tasks == task) for task in range(self.world.settings.T)]
        rows = []
        for split, (loss, correct) in self._outcomes_of_splits(step).items():
            for task, members in groups:
                count = len(loss[members])
                if count:
                    means = {"loss": float(loss[members].mean()), "accuracy": float(correct[members].mean())}
                    rows.append({"step": step, "split": split, "task": task, "sequences": count} | means)
        return rows

    def _outcomes_from(self, start: int) -> Callable[..., Any]:
        """The queries' outcomes under the masks of a step, compiled where that pays."""
        plain, compilable = (
            FastForm(self.model.at_step(start), elementwise).query_outcomes for elementwise in (False, True)
        )
        return compiled_or_plain(compilable, plain) if compiles(self.settings) else plain

    def _outcomes_of_splits(self, step: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        parts: dict[str, list[tuple[Tensor, Tensor]]] = {split: [] for split in SPLITS}
        outcomes_of = self._outcomes_at(step)
        with torch.no_grad():
            for batch, labels, skipped in self._chunks:
                outcomes = outcomes_of(self.parameters, self.constants, batch, labels)
                for part, (loss, correct) in zip(parts.values(), outcomes, strict=True):
                    part.append((loss[skipped:], correct[skipped:]))
        joined = {
            split: [torch.cat(values).cpu() for values in zip(*part, strict=True)] for split, part in parts.items()
        }
        return {split: (loss.double().numpy(), correct.numpy()) for split, (loss, correct) in joined.items()}


class TrainerOfSeeds:
    """Several trainers of one configuration whose models take each step as one batched model.

    Each trainer's own parameters become a view of the batched ones, so it evaluates and saves as ever.
    """

    def __init__(self, trainers: Sequence[Trainer]) -> None:
        self.trainers = trainers
        self._constants = {
            name: torch.stack([trainer.constants[name] for trainer in trainers]) for name in trainers[0].constants
        }
        self._parameters = {
            name: torch.stack([trainer.parameters[name] for trainer in trainers]) for name in trainers[0].parameters
        }
        for index, trainer in enumerate(trainers):
            for name, stacked in self._parameters.items():
                trainer.parameters[name] = stacked[index]
        self._step_at = per_stretch(trainers[0].settings, lambda start: _step_of(trainers[0], start, torch.vmap))

    def step(self, step: int) -> Outcome:
        """Take gradient step number `step` (from 1) with every seed."""
        batches = zip(*(trainer.batch(step) for trainer in self.trainers), strict=True)
        return self._step_at(step)(self._parameters, self._constants, Batch(*map(torch.stack, batches)))


def compiles(settings: RunSettings) -> bool:
    """Whether a run is long enough to be compiled."""
    return settings.training.max_steps >= COMPILE_FROM_STEPS


def per_stretch(settings: RunSettings, build: Callable[[int], Built]) -> Callable[[int], Built]:
    """What is built, once, for each stretch of training between two changes of the masks, by step."""
    changes = settings.model.mask_changes
    built = cache(build)
    return lambda step: built(changes[bisect_right(changes, step) - 1])


def _step_of(
    trainer: Trainer, start: int, over_seeds: Callable[..., Any] = lambda function: function
) -> Callable[..., Outcome]:
    """The step of plain gradient descent under the masks of step `start`, compiled where that pays."""
    learning_rate = trainer.settings.training.learning_rate

    def of_form(elementwise: bool) -> Callable[..., Outcome]:
        form = FastForm(trainer.model.at_step(start), elementwise)
        differentiate = over_seeds(torch.func.grad_and_value(form.loss, has_aux=True))

        def step(parameters: Parameters, constants: Parameters, batch: Batch) -> Outcome:
            gradients, (loss, correct) = differentiate(parameters, constants, batch)
            for name, gradient in gradients.items():
                parameters[name].sub_(gradient, alpha=learning_rate)
            return loss, correct

        return step

    plain = of_form(elementwise=False)
    return compiled_or_plain(of_form(elementwise=True), plain) if compiles(trainer.settings) else plain


def _evaluation_chunks(
    evaluation: EvaluationSet, device: torch.device
) -> list[tuple[Batch, tuple[Int64[Tensor, "N+1 n"], ...], int]]:
    """Batches of one size, the labels of each split, and how many sequences the batch before held too."""
    iid, permuted = evaluation
    chunks: list[tuple[Batch, tuple[Tensor, ...], int]] = []
    # A compiled form takes one size alone, so the last batch starts early and counts only its end.
    size = min(EVALUATION_CHUNK, len(iid))
    for start in range(0, len(iid), size):
        rows = slice(first := min(start, len(iid) - size), first + size)
        batch = Batch.of(iid[rows]).to(device)
        other = Batch.of(iid[rows].with_context_labels(permuted[rows])).to(device)
        chunks.append((batch, (batch.labels, other.labels), start - first))
    return chunks
