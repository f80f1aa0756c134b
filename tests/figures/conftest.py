"""Made-up runs and the figures drawn from them, each drawn once."""

from __future__ import annotations

import pytest
from made_tables import STEPS, figure_data, shifted

from circuit_phases.figures.drawing import draw

THREE_SEEDS = {3: {}, 1: shifted(1.3), 2: shifted(0.6, steps=STEPS[STEPS <= 60_000])}
OF_A_SWEEP = {"curves", "fig14", "maps", "masked_scc", "pruning", "sweep", "sweep_loss", "sweep_maps", "sweep_tasks"}


@pytest.fixture(scope="session")
def three_phases():
    """One configuration with seeds 3, 1 and 2; the last ended early."""
    return figure_data({"the text's model": "paper"}, paper=THREE_SEEDS)


@pytest.fixture(scope="session")
def sweep():
    """Three configurations in worlds of different ceilings; of the second, maps are asked for."""
    runs = {}
    for T, K in ((2, 8), (3, 16), (4, 32)):
        world = {"world": {"K": K, "L": 8}, "ceilings": {"ncc": 1 / T, "scc": 0.9 - 0.05 * T, "fcc": 1.0}}
        runs[f"T{T}"] = {0: shifted(T / 3, **world), 1: shifted(T / 3.5, (1, 3), **world), 2: shifted(T / 4, **world)}
    return figure_data({f"T = {T}": f"T{T}" for T in (2, 3, 4)}, {"T = 3": ("early", "full")}, **runs)


@pytest.fixture(scope="session")
def drawn(three_phases, sweep):
    """Every figure, by its name."""

    class Drawn(dict):
        def __missing__(self, name):
            self[name] = draw(name, sweep if name in OF_A_SWEEP else three_phases)
            return self[name]

    return Drawn()
