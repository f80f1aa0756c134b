"""The steps of a run at which its weights are saved."""

from __future__ import annotations

from bisect import bisect_left

import numpy as np
import torch

from circuit_phases.settings import TrainingSettings


def checkpoint_steps(settings: TrainingSettings, parameters_count: int) -> list[int]:
    """The steps at which the weights of a model with so many parameters are saved: of `spaced_steps` what has room.

    Where all would take more than is allowed, those before the first evaluation go, the first first, but for step 0;
    then the others are thinned evenly.
    """
    spaced = spaced_steps(settings)
    bytes_each = torch.float32.itemsize * parameters_count
    room = max(2, settings.checkpoint_megabytes * 1_000_000 // bytes_each) - 1
    later = [step for step in spaced if step >= settings.evaluation_interval]
    if room >= len(later):
        return [0, *spaced[1:][-room:]]
    return [0, *(later[place] for place in np.linspace(len(later) - 1, 0, room).round().astype(int)[::-1])]


def spaced_steps(settings: TrainingSettings) -> list[int]:
    """Step 0, then as many as set, spaced as set, to the last step.

    From the first evaluation on they are steps of evaluations, so that weights and accuracy belong together.
    """
    steps, interval = settings.max_steps, settings.evaluation_interval
    count = min(settings.checkpoints, interval + steps // interval + 1)

    def chosen(spaced: np.ndarray) -> list[int]:
        whole = np.where(spaced < interval, spaced.round(), (spaced / interval).round() * interval)
        return sorted({0, steps, *(int(step) for step in whole)})

    if settings.checkpoint_spacing == "linear":
        return chosen(np.linspace(0, steps, count))

    def log_spaced(asked: int) -> list[int]:
        return chosen(np.geomspace(1, steps, asked))

    # Rounding merges steps; ask for more until the asked number is left.
    candidates = range(count - 2, 8 * count)
    return log_spaced(candidates[0] + bisect_left(candidates, count, key=lambda asked: len(log_spaced(asked))))
