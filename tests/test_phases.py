"""The two rules for phases, on curves whose phases are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from circuit_phases.phases import PhaseSettings, find_phases

LEVELS = {"constant": 0.05, "ncc": 0.36, "scc": 0.79, "fcc": 1.0}
L = 32


def curve(*climbs: tuple[float, float], last: int = 100_000, decades: float = 0.03, noise: float = 0.003) -> pd.Series:
    """Accuracy from 1/L, climbing at each given step to each given level, evaluated every 100 steps."""
    steps = np.arange(0, last + 1, 100)
    accuracy = np.full(len(steps), 1 / L)
    before = 1 / L
    for step, level in climbs:
        progress = 1 / (1 + np.exp(-(np.log10(np.maximum(steps, 1)) - np.log10(step)) / decades))
        accuracy = accuracy + (level - before) * progress
        before = level
    return pd.Series(accuracy + noise * np.random.default_rng(0).standard_normal(len(steps)), index=steps)


def plateaus(accuracy: pd.Series, **settings: float) -> pd.DataFrame:
    found = find_phases(accuracy, LEVELS, PhaseSettings(**settings))
    return found[found["rule"] == "plateau"].reset_index(drop=True)


def test_three_plateaus_at_the_ceilings_are_the_three_phases() -> None:
    found = plateaus(curve((3_000, 0.36), (15_000, 0.79), (50_000, 1.0)))
    assert list(found["phase"]) == [1, 2, 3]
    assert list(found["accuracy"]) == pytest.approx([0.36, 0.79, 1.0], abs=0.01)
    assert list(found["ceiling"]) == [0.36, 0.79, 1.0]
    assert (found["end_step"][:-1].to_numpy() < found["start_step"][1:].to_numpy()).all()
    for start, end, climb in zip(found["start_step"], found["end_step"], (8_000, 28_000, 90_000), strict=True):
        assert start < climb <= end


def test_a_skipped_phase_leaves_its_number_out() -> None:
    assert list(plateaus(curve((3_000, 0.36), (40_000, 1.0)))["phase"]) == [1, 3]
    assert list(plateaus(curve((10_000, 1.0)))["phase"]) == [3]


def test_a_run_that_stops_soon_after_it_is_solved_has_its_last_phase() -> None:
    solved = curve((3_000, 0.36), (40_000, 1.0), last=54_000, decades=0.01)
    assert list(plateaus(solved)["phase"]) == [1, 3]
    still_climbing = curve((3_000, 0.36), (40_000, 1.0), last=43_000, decades=0.01)
    assert list(plateaus(still_climbing)["phase"]) == [1]


def test_a_run_that_stops_as_soon_as_it_is_solved_has_its_last_phase_to_its_last_step() -> None:
    climbs = (10_000, 0.36), (100_000, 1.0)
    solved = plateaus(curve(*climbs, last=118_200, decades=0.01, noise=0))
    assert list(solved["phase"]) == [1, 3]
    assert solved["start_step"].iloc[-1] == pytest.approx(111_800, abs=3_000)
    assert solved["end_step"].iloc[-1] == 118_200
    assert list(plateaus(curve(*climbs, last=115_000, decades=0.01, noise=0))["phase"]) == [1]


def test_a_plateau_at_no_ceiling_has_no_number() -> None:
    found = plateaus(curve((3_000, 0.55)))
    assert found["phase"].isna().all()
    assert found["ceiling"].isna().all()
    assert len(found) == 1


def test_an_answer_that_looks_at_nothing_is_not_a_phase() -> None:
    constant = curve((300, LEVELS["constant"]), (20_000, 0.36), noise=0)
    assert list(plateaus(constant)["phase"]) == [1]
    assert plateaus(curve()).empty
    unknown = {circuit: level for circuit, level in LEVELS.items() if circuit != "constant"}
    found = find_phases(constant, unknown)
    assert list(found.loc[found["rule"] == "plateau", "phase"].isna()) == [True, False]


def test_single_dips_do_not_split_a_plateau() -> None:
    accuracy = curve((3_000, 0.36), (15_000, 1.0))
    accuracy.loc[[60_000, 75_300, 90_100]] = 0.4
    assert list(plateaus(accuracy)["phase"]) == [1, 3]


def test_a_slow_creep_is_no_plateau() -> None:
    steps = np.arange(0, 100_001, 100)
    creep = pd.Series(np.interp(np.log10(np.maximum(steps, 1)), [4, 5], [0.03, 0.7]), index=steps)
    assert plateaus(creep).empty


def test_equal_ceilings_count_as_the_simplest_circuit() -> None:
    found = find_phases(curve((3_000, 1.0)), {"ncc": 1.0, "scc": 1.0, "fcc": 1.0})
    assert list(found.loc[found["rule"] == "plateau", "phase"]) == [1]


def test_the_rule_of_the_paper_marks_fast_jumps_and_counts_from_before_the_first() -> None:
    steps = np.arange(0, 10_001, 100)
    accuracy = pd.Series(np.select([steps < 1_000, steps < 5_000], [0.03, 0.36], 1.0), index=steps)
    found = find_phases(accuracy, LEVELS)
    found = found[found["rule"] == "paper"]
    assert list(found["phase"]) == [0, 1, 2]
    assert list(found["start_step"]) == [100, 1_000, 5_000]
    assert list(found["end_step"]) == [900, 4_900, 10_000]
    assert list(found["accuracy"]) == pytest.approx([0.03, 0.36, 1.0])


def test_the_threshold_and_dt_of_the_paper_are_settings() -> None:
    slow = curve((20_000, 1.0), decades=0.1, noise=0)
    for settings, phases in ((PhaseSettings(), 1), (PhaseSettings(dt=2_000), 2), (PhaseSettings(threshold=0.002), 2)):
        found = find_phases(slow, LEVELS, settings)
        assert len(found[found["rule"] == "paper"]) == phases


@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_run_of_a_few_evaluations_is_no_error(length: int) -> None:
    accuracy = curve((100, 0.36)).iloc[:length]
    assert set(find_phases(accuracy, LEVELS)["rule"]) <= {"paper", "plateau"}
