"""A model in its world with the step that trains it, for one seed or for several at once (paper, Sec. 3)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from circuit_phases.compilation import Compiler
from circuit_phases.evaluation import Evaluation
from circuit_phases.fast import Batch, FastForm, Parameters
from circuit_phases.files import UserError
from circuit_phases.interruption import StopRequest
from circuit_phases.model import InContextTransformer
from circuit_phases.sequences import TrainingBatches
from circuit_phases.settings import Device, RunSettings
from circuit_phases.splits import EvaluationSet
from circuit_phases.world import World

COMPILE_FROM_STEPS = 5_000
"""Shorter runs end before compilation has paid for itself."""

Built = TypeVar("Built")
Outcome = tuple[Float[Tensor, "*seeds"], Int64[Tensor, "*seeds"]]
"""A batch's mean loss (nats) and number of right answers."""
LossForm = Callable[..., Outcome]
"""A batch's outcome, of parameters, constants and the batch."""
Differentiated = Callable[..., tuple[Parameters, Outcome]]
"""Of the same, the loss's gradients in the parameters, and the outcome."""


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
        self,
        settings: RunSettings,
        world: World,
        evaluation: EvaluationSet,
        seed: int,
        device: Device = "cpu",
        stop: StopRequest | None = None,
    ) -> None:
        self.settings, self.world, self.seed = settings, world, seed
        self.device = torch_device(device)
        self.model = InContextTransformer(world, settings.model, seed).to(self.device)
        self.parameters = {name: tensor.detach() for name, tensor in self.model.named_parameters()}
        self.constants = {name: tensor for name, tensor in self.model.named_buffers() if name.startswith("embedding.")}
        self.batches = TrainingBatches(world, seed, settings.training.batch_size)
        self.compiler = Compiler(compiles(settings), stop)
        self._step_at = per_stretch(settings, lambda start: _step_of(self, start))
        self._answers_at = per_stretch(settings, self._answers_from)
        self._evaluation = Evaluation(evaluation, world, settings.model.heads, self.device)

    def batch(self, step: int) -> Batch:
        """The fresh sequences of one step."""
        return Batch.of(self.batches[step]).to(self.device)

    def step(self, step: int) -> Outcome:
        """Take gradient step number `step` (from 1)."""
        return self._step_at(step)(self.parameters, self.constants, self.batch(step))

    def evaluate(self, step: int) -> list[dict[str, Any]]:
        """What the model's answers to every frozen split say, as rows of the table `training`."""
        answers_of = self._answers_at(step)(self.parameters, self.constants)
        return [{"step": step} | row for row in self._evaluation.rows(answers_of)]

    def _answers_from(self, start: int) -> Callable[..., Callable[..., Any]]:
        """The queries' answers under a step's masks, of parameters and then of batches, compiled where that pays."""
        plain, compilable = (
            FastForm(self.model.at_step(start), compiled, reused=True).query_answers for compiled in (False, True)
        )
        return self.compiler.compiled_in_stages(compilable, plain)


class TrainerOfSeeds:
    """Several trainers of one configuration whose models take each step as one batched model.

    The parameters of each trainer and of its model become views of the batched ones, so it evaluates and saves as ever.
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
            trainer.compiler = trainers[0].compiler
            for name, parameter in trainer.model.named_parameters():
                parameter.data = self._parameters[name][index]
                trainer.parameters[name] = parameter.detach()
        self._step_at = per_stretch(
            trainers[0].settings, lambda start: _step_of(trainers[0], start, _over_seeds, _over_seeds)
        )

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


def _transformed(loss_of: LossForm) -> Differentiated:
    """A loss's gradients and value as one function, which can be traced, compiled and batched."""
    differentiated: Differentiated = torch.func.grad_and_value(loss_of, has_aux=True)
    return differentiated


def _recorded(loss_of: LossForm) -> Differentiated:
    """The same to the bit, by operations that are recorded as they run: uncompiled, in half the time."""

    def differentiate(parameters: Parameters, *others: Any) -> tuple[Parameters, Outcome]:
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in parameters.items()}
        loss, correct = loss_of(leaves, *others)
        gradients = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
        return dict(zip(leaves, gradients, strict=True)), (loss.detach(), correct)

    return differentiate


def _over_seeds(loss_of: LossForm) -> Differentiated:
    """The same of every seed, along a first axis."""
    return torch.vmap(_transformed(loss_of))


def _step_of(
    trainer: Trainer,
    start: int,
    compilable: Callable[[LossForm], Differentiated] = _transformed,
    plain: Callable[[LossForm], Differentiated] = _recorded,
) -> Callable[..., Outcome]:
    """The step of plain gradient descent under the masks of step `start`, compiled where that pays."""
    learning_rate = trainer.settings.training.learning_rate

    def by(differentiated: Callable[[LossForm], Differentiated], compiled: bool) -> Callable[..., Outcome]:
        differentiate = differentiated(FastForm(trainer.model.at_step(start), compiled).loss)

        def step(parameters: Parameters, constants: Parameters, batch: Batch) -> Outcome:
            gradients, (loss, correct) = differentiate(parameters, constants, batch)
            for name, gradient in gradients.items():
                parameters[name].sub_(gradient, alpha=learning_rate)
            return loss, correct

        return step

    return trainer.compiler.compiled_or_plain(by(compilable, compiled=True), by(plain, compiled=False))
