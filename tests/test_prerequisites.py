"""Phases with edges forbidden, against the free run of the same seed."""

from __future__ import annotations

import pytest
from made_runs import Made, data_of

from circuit_phases.prerequisites import prerequisites_table
from circuit_phases.settings import RunSettings

FREE = RunSettings()
BOUND = RunSettings.from_parameters(forbidden=[{"layer": 1, "edges": ["label_to_item"], "until_step": 50_000}])


def test_each_phase_is_compared_with_the_free_run_of_its_seed() -> None:
    runs = [
        Made(FREE, 0, {1: (2_000, 12_000), 3: (60_000, 100_000)}),
        Made(FREE, 1, {1: (1_000, 12_000), 2: (20_000, 30_000)}),
        Made(BOUND, 0, {1: (3_000, 12_000), 2: (20_000, 30_000), 3: (90_000, 100_000)}),
        Made(BOUND, 1, {1: (500, 12_000)}),
        Made(BOUND, 2, {1: (500, 12_000)}),
    ]
    table = prerequisites_table(data_of(runs))
    assert set(table["run"]) == {BOUND.name}
    assert set(table["free_run"]) == {FREE.name}
    rows = table.set_index(["seed", "quantity"])
    assert set(rows.index.get_level_values("seed")) == {0, 1}, "seed 2 has no free run to be compared with"
    assert rows.loc[(0, "phase_1_start"), ["step", "free_step", "ratio"]].tolist() == [3_000, 2_000, 1.5]
    assert rows.loc[(0, "phase_3_start"), "ratio"] == 1.5
    assert rows.loc[(1, "phase_1_start"), "ratio"] == 0.5
    came = rows[["step", "free_step"]].notna()
    assert came.loc[(0, "phase_2_start")].tolist() == [True, False]
    assert came.loc[(1, "phase_2_start")].tolist() == [False, True]
    assert rows.loc[[(0, "phase_2_start"), (1, "phase_2_start")], "ratio"].isna().all()
    solved = runs[0].accuracy()
    assert rows.loc[(0, "solved_step"), "free_step"] == pytest.approx(100 * (1 + (solved >= 0.99).argmax()))
    assert not came.loc[(1, "solved_step")].any()
