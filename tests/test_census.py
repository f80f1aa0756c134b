"""The phase census: what a run and its world count as, and the statistics over runs."""

from __future__ import annotations

from itertools import combinations, permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_runs import Made, data_of
from scipy.stats import spearmanr

from circuit_phases import schemas, tables
from circuit_phases.census import FEATURES, OUTCOMES, TIMES, census_runs, census_table, label_features
from circuit_phases.evidence import trained
from circuit_phases.figure_data import FigureData
from circuit_phases.settings import RunSettings

THREE = {1: (2_000, 12_000), 2: (20_000, 36_000), 3: (60_000, 100_000)}
SKIPS_2 = {1: (2_000, 12_000), 3: (60_000, 100_000)}
UNFINISHED = {1: (2_000, 100_000)}
SKIPS_1 = {2: (20_000, 36_000), 3: (60_000, 100_000)}


def census_of(paths: dict[tuple[int, int], dict], ceilings: dict[int, float] | None = None) -> FigureData:
    """Runs by (world, seed), each with its phases; every world has label tables and an SCC ceiling of its own."""
    runs = [
        Made(
            RunSettings.from_parameters(world_seed=world), seed, phases,
            ceilings={"ncc": 0.35, "scc": (ceilings or {}).get(world, 0.7), "fcc": 1.0},
        )
        for (world, seed), phases in paths.items()
    ]  # fmt: skip
    data = data_of(runs)
    labels = []
    for run in runs:
        world = run.settings.world_seed
        table = np.random.default_rng(world).integers(1, 9, size=(3, 16))
        task, class_ = np.indices(table.shape) + 1
        columns = {"task": task.ravel(), "class": class_.ravel(), "label": table.ravel()}
        labels.append(pd.DataFrame({"run": run.settings.name, "seed": run.seed} | columns))
    data.tables["label_tables"] = pd.concat(labels, ignore_index=True)
    return data


def statistics(data: FigureData, statistic: str) -> pd.DataFrame:
    table = census_table(data)
    return table[table["statistic"] == statistic].set_index("quantity")


MIXED = {(0, 0): THREE, (0, 1): THREE, (1, 0): SKIPS_2, (1, 1): UNFINISHED, (2, 0): SKIPS_1, (2, 1): THREE}


def test_the_worlds_of_a_configuration_with_a_long_name_belong_together() -> None:
    many = {"K": 32, "L": 16, "D": 32, "eps": 0.2, "alpha": 0.5, "beta": 0.5, "heads": 2, "learning_rate": 0.02,
            "batch_size": 64, "max_steps": 50_000, "evaluation_interval": 200, "stop_after": 3,
            "forbidden": [{"layer": 1, "edges": ["self"], "until_step": 9}]}  # fmt: skip
    worlds = [RunSettings.from_parameters(**many, world_seed=world) for world in (0, 1)]
    data = data_of([Made(settings, 5, THREE) for settings in worlds])
    runs = trained(data)
    assert len({run.series.run for run in runs}) == 2
    assert {run.settings for run in runs} == {RunSettings.from_parameters(**many)}


def test_every_run_counts_by_the_phases_that_it_went_through() -> None:
    data = census_of(MIXED)
    runs = census_runs(trained(data), data).set_index(["world_seed", "seed"])
    assert [tuple(runs.loc[place, list(OUTCOMES)]) for place in MIXED] == [
        (1, 0, 0, 0), (1, 0, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (0, 1, 0, 0), (1, 0, 0, 0),
    ]  # fmt: skip
    assert runs.loc[(0, 0), ["phase_1_start", "phase_2_end", "phase_3_start"]].tolist() == [2_000, 36_000, 60_000]
    assert np.isnan(runs.loc[(1, 0), "phase_2_start"])
    assert np.isnan(runs.loc[(1, 1), "solved_step"])
    assert runs.loc[(0, 0), "scc_gain"] == pytest.approx(0.35)
    assert runs.loc[(0, 0), "fcc_gain"] == pytest.approx(0.3)


def test_label_features_are_what_counting_by_hand_gives() -> None:
    label_tables = np.array([[1, 1, 2, 3], [1, 2, 2, 2], [4, 4, 4, 4]])
    found = label_features(label_tables)
    assert found["labels_per_task"] == pytest.approx((3 + 2 + 1) / 3)
    assert found["shared_labels"] == pytest.approx((2 / 3 + 0 + 0) / 3)
    assert found["count_distance"] == pytest.approx((2 / 4 + 1 + 1) / 3)
    assert found["shared_pairs"] == pytest.approx((2 / 4 + 0 + 0) / 3)


def test_label_features_agree_with_sets_and_dictionaries() -> None:
    label_tables = np.random.default_rng(3).integers(1, 7, size=(4, 12))
    found = label_features(label_tables)
    pairs = list(combinations(label_tables.tolist(), 2))
    assert found["shared_labels"] == pytest.approx(np.mean([len({*a} & {*b}) / len({*a} | {*b}) for a, b in pairs]))
    apart = [sum(abs(a.count(label) - b.count(label)) for label in range(1, 7)) / 24 for a, b in pairs]
    assert found["count_distance"] == pytest.approx(np.mean(apart))


def test_one_task_has_nothing_to_tell_apart() -> None:
    assert np.isnan(label_features(np.array([[1, 2, 3]]))["count_distance"])


def test_rates_carry_wilsons_interval() -> None:
    rates = statistics(census_of(MIXED), "rate")
    assert rates.loc["all_phases", "estimate"] == pytest.approx(0.5)
    z, n, p = 1.959964, 6, 0.5
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert rates.loc["all_phases", ["low", "high"]].tolist() == pytest.approx([centre - half, centre + half], abs=1e-5)


def test_medians_lie_within_their_bootstrap_interval_and_the_spread_is_in_decades() -> None:
    paths = {(0, seed): {1: (2_000, 12_000), 3: (start, 100_000)} for seed, start in enumerate((2e4, 3e4, 4e4, 8e4))}
    data = census_of({place: {k: (int(a), int(b)) for k, (a, b) in phases.items()} for place, phases in paths.items()})
    median = statistics(data, "median").loc["phase_3_start"]
    assert median["estimate"] == 35_000
    assert 20_000 <= median["low"] <= 35_000 <= median["high"] <= 80_000
    low, high = np.quantile(np.log10([2e4, 3e4, 4e4, 8e4]), [0.25, 0.75])
    assert statistics(data, "quartile_decades").loc["phase_3_start", "estimate"] == pytest.approx(high - low)


def test_what_worlds_foretell_is_the_rank_correlation_with_a_p_over_all_permutations() -> None:
    worlds = {world: 0.6 + 0.05 * world for world in range(5)}
    shares = {0: 0, 1: 1, 2: 1, 3: 2, 4: 3}
    paths = {(world, seed): THREE if seed < shares[world] else SKIPS_2 for world in worlds for seed in range(3)}
    found = statistics(census_of(paths, worlds), "rank_correlation")
    row = found[(found["predictor"] == "scc_ceiling")].loc["all_phases"]
    outcome, predictor = [shares[world] for world in worlds], list(worlds.values())
    expected = spearmanr(outcome, predictor).statistic
    assert row["estimate"] == pytest.approx(expected)
    all_of_them = [spearmanr(order, predictor).statistic for order in permutations(outcome)]
    assert row["p_value"] == pytest.approx(np.mean(np.abs(all_of_them) >= expected - 1e-9))
    assert row["observations"] == 5


def test_an_outcome_that_the_world_decides_lies_between_worlds() -> None:
    decided = {(world, seed): THREE if world % 2 else SKIPS_2 for world in range(6) for seed in range(4)}
    mixed = {(world, seed): THREE if seed % 2 else SKIPS_2 for world in range(6) for seed in range(4)}
    by_world = statistics(census_of(decided), "variance_between_worlds").loc["all_phases"]
    by_seed = statistics(census_of(mixed), "variance_between_worlds").loc["all_phases"]
    assert by_world["estimate"] == pytest.approx(1)
    assert by_world["p_value"] < 0.001
    assert by_seed["estimate"] == pytest.approx(0)
    assert by_seed["p_value"] == pytest.approx(1)


def test_outcomes_that_are_all_the_same_foretell_nothing() -> None:
    data = census_of({(world, seed): THREE for world in range(3) for seed in range(2)})
    found = statistics(data, "rank_correlation").loc["all_phases"]
    assert found["estimate"].isna().all()
    assert found["p_value"].isna().all()


def test_the_table_fits_its_schema_and_holds_every_value_of_every_run(tmp_path: Path) -> None:
    data = census_of(MIXED)
    tables.write_table(tmp_path / "census.parquet", census_table(data), schemas.CENSUS)
    kept = tables.read_frame(tmp_path / "census.parquet", schemas.CENSUS)
    values = kept[kept["statistic"] == "value"].set_index(["world_seed", "seed", "quantity"])["estimate"]
    runs = census_runs(trained(data), data).set_index(["world_seed", "seed"])
    for place in MIXED:
        for name in (*OUTCOMES, *TIMES, *FEATURES):
            if np.isnan(runs.loc[place, name]):
                assert (*place, name) not in values.index
            else:
                assert values[(*place, name)] == pytest.approx(runs.loc[place, name])
