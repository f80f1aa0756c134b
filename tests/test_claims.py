"""Claims: the verdict over runs, and what each test asks of a run."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_runs import CEILINGS, LEVELS, Made, data_of, series_of, together

from circuit_phases import claim_tests as tests
from circuit_phases import schemas, stages, tables
from circuit_phases.claim_tests import Finding
from circuit_phases.claims import CLAIMS, TABLES, claims_table, verdict
from circuit_phases.closed_form import paper_formula
from circuit_phases.configuration import load_configuration, parse_configuration
from circuit_phases.evidence import Trained, trained
from circuit_phases.figure_data import FigureData
from circuit_phases.settings import RunSettings

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "results" / "reference" / "tables"
THREE = {1: (2_000, 12_000), 2: (20_000, 36_000), 3: (60_000, 100_000)}
SETTINGS = RunSettings.from_parameters("released_code")
CLAIM = {claim.name: claim for claim in CLAIMS}


def first(run: Made) -> Trained:
    return trained(data_of([run]))[0]


def decided(runs: list[Made], experiment: str = "base", missing: int = 0) -> pd.DataFrame:
    """The claims, where the runs are all of one experiment but for some whose training is missing."""
    parameters = {run.settings.name: run.settings.parameters for run in runs}
    asked = {experiment: [(one, parameters[one.run]) for one in series_of(runs)]}
    return claims_table(asked, together(runs[missing:])).set_index("claim")


@pytest.mark.parametrize(
    ("held", "expected", "result"),
    [
        ([True] * 5, 5, ("reproduced", None)),
        ([True] * 4 + [False], 5, ("reproduced", None)),
        ([True] * 3 + [False] * 2, 5, ("unclear", "runs disagree: 3 of 5")),
        ([True] + [False] * 4, 5, ("not reproduced", None)),
        ([False], 1, ("not reproduced", None)),
        ([True, None, None], 3, ("unclear", "1 of 3 runs can tell")),
        ([True, True, None], 3, ("reproduced", None)),
        ([True], 3, ("unclear", "1 of 3 runs can tell")),
        ([None], 1, ("unclear", "0 of 1 runs can tell")),
        ([], 3, ("unclear", "not run")),
    ],
)
def test_the_verdict_follows_from_the_runs_that_can_tell(held, expected, result) -> None:
    findings = [Finding(first(Made(SETTINGS)), one, "") for one in held]
    assert verdict(findings, expected) == result


def test_runs_with_all_three_phases_reproduce_them_and_runs_without_do_not() -> None:
    found = decided([Made(SETTINGS, seed, THREE, three_states()) for seed in range(5)])
    assert found.loc["three_phases", "verdict"] == "reproduced"
    assert found.loc["phase_2_accuracy", "numbers"] == "released_code: " + " / ".join(["0.750"] * 5)
    found = decided([Made(SETTINGS, seed, metrics=three_states()) for seed in range(5)])
    assert found.loc["three_phases", "verdict"] == "not reproduced"
    assert found.loc["three_phases", ["runs_held", "runs_decided", "runs_expected"]].tolist() == [0, 5, 5]
    assert found.loc["phase_2_accuracy", ["verdict", "reason"]].tolist() == ["unclear", "0 of 5 runs can tell"]


def test_claims_whose_runs_are_missing_are_unclear_and_say_so() -> None:
    found = decided([Made(SETTINGS, seed, THREE, three_states()) for seed in range(5)], missing=3)
    assert found.loc["three_phases", ["verdict", "reason", "seeds"]].tolist() == [
        "unclear",
        "2 of 5 runs can tell",
        "3, 4",
    ]
    others = found[~found["experiments"].str.contains("base")]
    assert set(others["verdict"]) == {"unclear"}
    assert set(others["reason"]) == {"not run"}


@pytest.mark.parametrize("table", TABLES)
def test_a_run_that_is_not_analysed_yet_counts_as_not_run(table: str) -> None:
    runs = [Made(SETTINGS, seed, THREE, metrics=three_states()) for seed in range(5)]
    kept = together(runs)
    kept[table] = kept[table][kept[table]["seed"] != 4]
    asked = {"base": [(one, SETTINGS.parameters) for one in series_of(runs)]}
    found = claims_table(asked, kept).set_index("claim")
    assert found.loc["phase_1_circuit", ["verdict", "runs_decided", "runs_expected"]].tolist() == ["reproduced", 4, 5]


def test_the_table_fits_its_schema_and_names_every_claim_once(tmp_path: Path) -> None:
    found = claims_table({}, together([Made(SETTINGS)]))
    tables.write_table(tmp_path / "claims.parquet", found, schemas.CLAIMS)
    assert found["claim"].is_unique
    assert len(found) == len(CLAIMS)


def test_every_claim_finds_its_series_in_the_shipped_config() -> None:
    configuration = load_configuration(ROOT / "config.yaml")
    for claim in CLAIMS:
        for name in claim.experiments:
            chosen = [s for _, s in configuration.series(name) if claim.where(s.parameters)]
            assert chosen, f"{claim.name} finds nothing in {name}"


def test_the_masks_of_a_phase_are_told_from_other_readings_of_them() -> None:
    configuration = load_configuration(ROOT / "config.yaml")
    labels = {
        name: [series.label for series, s in configuration.series("fig13") if CLAIM[name].where(s.parameters)]
        for name in ("phase_1_mask", "phase_2_mask", "phase_3_mask")
    }
    assert labels == {"phase_1_mask": ["NCC"], "phase_2_mask": ["SCC"], "phase_3_mask": ["FCC"]}


def test_a_series_of_two_experiments_counts_once_with_the_seeds_of_both() -> None:
    run = Made(RunSettings.from_parameters(T=3), 0, THREE, three_states())
    (one,) = series_of([run])
    more = type(one)("T = 3 again", one.run, (0, 1))
    asked = {"fig07a": [(one, run.settings.parameters)], "fig18": [(more, run.settings.parameters)]}
    found = claims_table(asked, together([run])).set_index("claim")
    assert found.loc["one_over_T", ["runs_decided", "runs_expected"]].tolist() == [1, 2]


def test_a_run_whose_world_has_its_own_seed_counts_under_the_name_it_is_kept_under() -> None:
    base = {"set": {"world_seed": 0}, "seeds": 2}
    values = {"experiments": {"base": base}, "figures": {"fig02": {"experiment": "base"}}, "headline": ["fig02"]}
    series = parse_configuration(values).kept_series("base")
    assert [(one.run, one.seeds) for one, _ in series] == [("paper", (0,)), ("paper,world_seed=0", (1,))]
    asked = {"base": [(one, settings.parameters) for one, settings in series]}
    runs = [
        Made(RunSettings.from_parameters(), 0, THREE, three_states()),
        Made(RunSettings.from_parameters(world_seed=0), 1, THREE, three_states()),
    ]
    found = claims_table(asked, together(runs)).set_index("claim").loc["three_phases"]
    assert found[["runs_decided", "runs_expected", "seeds"]].tolist() == [2, 2, "0, 1"]


# What each test asks


def test_a_skipped_phase_counts_only_where_phase_3_was_reached() -> None:
    skips = tests.skips(1, 2)
    assert skips(first(Made(SETTINGS, phases={3: (50_000, 100_000)})))[0] is True
    assert skips(first(Made(SETTINGS, phases={2: (20_000, 36_000), 3: (50_000, 100_000)})))[0] is False
    assert skips(first(Made(SETTINGS, phases={1: (2_000, 100_000)})))[0] is None


def test_a_first_phase_is_skipped_by_a_run_that_came_to_the_second_only() -> None:
    assert tests.skips(1)(first(Made(SETTINGS, phases={2: (20_000, 100_000)})))[0] is True
    assert tests.skips(2)(first(Made(SETTINGS, phases={2: (20_000, 100_000)})))[0] is None


def test_a_third_phase_without_pairs_is_not_the_full_context_circuits() -> None:
    without = first(Made(SETTINGS, phases=THREE, random_label={1: 0.35, 2: 0.75, 3: 0.98}))
    assert tests.has_path(1, 2, 3)(without) == (False, "1, 2, 3 by another circuit")
    assert tests.skips(2)(without) == (None, "1, 2, 3 by another circuit")


def test_a_second_phase_at_the_height_of_the_third_cannot_be_told_to_be_skipped() -> None:
    run = first(Made(SETTINGS, phases={3: (50_000, 100_000)}, ceilings=CEILINGS | {"scc": 0.97}))
    assert tests.skips(1, 2)(run) == (None, "3, SCC at best 0.97")
    assert tests.skips(1)(run)[0] is True


@pytest.mark.parametrize(("start", "held"), [(60_000, False), (99_000, None)])
def test_a_run_that_still_rises_at_its_last_step_cannot_tell_whether_it_learns(start, held) -> None:
    settings = RunSettings.from_parameters("released_code", max_steps=100_000)
    phases = {1: (2_000, 12_000), 3: (start, 100_000)}
    assert tests.learned(first(Made(settings, phases=phases, levels=LEVELS | {3: 0.98})))[0] is held


def test_both_tests_must_hold_and_be_able_to_tell() -> None:
    def says(held: bool | None, word: str):
        return lambda run: (held, word)

    run = first(Made(SETTINGS))
    assert tests.both(says(True, "a"), says(True, "b"))(run) == (True, "a; b")
    assert tests.both(says(True, "a"), says(False, "b"))(run) == (False, "a; b")
    assert tests.both(says(False, "a"), says(None, "b"))(run) == (None, "a; b")


@pytest.mark.parametrize(("accuracy", "held"), [(0.087, True), (0.10, False)])
def test_phase_1_is_about_a_small_1_over_T_by_the_same_share(accuracy, held) -> None:
    run = first(Made(RunSettings.from_parameters(T=12), phases=THREE, levels=LEVELS | {1: accuracy}))
    assert tests.phase_1_at_one_over_T(run)[0] is held


def test_one_phase_is_one_plateau_of_a_run_that_learned() -> None:
    assert tests.one_plateau(first(Made(SETTINGS, phases={3: (60_000, 100_000)}))) == (True, "1.00")
    assert tests.one_plateau(first(Made(SETTINGS))) == (False, "0.35, 1.00")
    assert tests.one_plateau(first(Made(SETTINGS, phases={1: (2_000, 100_000)})))[0] is False


@pytest.mark.parametrize(
    ("jumps", "held"),
    [
        ([(13_000, 15_000), (40_000, 50_000)], True),
        ([(11_000, 15_000), (35_000, 61_000)], True),
        ([(13_000, 15_000)], False),
        ([(13_000, 15_000), (40_000, 50_000), (70_000, 80_000)], False),
        ([(5_000, 6_000), (13_000, 15_000), (40_000, 50_000)], False),
    ],
)
def test_jumps_by_dAcc_must_lie_between_the_plateaus_and_nowhere_else(jumps, held) -> None:
    assert tests.jumps_are_the_boundaries(first(Made(SETTINGS, phases=THREE, jumps=jumps)))[0] is held


def attention(step: int, **values: tuple[float, float]) -> dict:
    return {(name, layer, 1): value for name, pair in values.items() for layer, value in zip((1, 2), pair, strict=True)}


def metrics(*states: tuple[int, dict]) -> dict:
    places = {place for _, state in states for place in state}
    return {place: {step: state[place] for step, state in states} for place in places}


def three_states(chunk: float = 0.4, labels: float = 0.4) -> dict:
    return metrics(
        (5_000, attention(0, bigram=(0.9, 0.95), label_attention=(0.02, 0.02), chunk_example=(0.2, 0.2))),
        (27_000, attention(0, bigram=(0.6, 0.95), label_attention=(labels, 0.03), chunk_example=(0.2, 0.2))),
        (77_000, attention(0, bigram=(0.6, 0.5), label_attention=(0.3, 0.5), chunk_example=(chunk, 0.2))),
    )


def test_the_circuits_of_section_3_are_read_in_the_middle_of_each_phase() -> None:
    run = first(Made(SETTINGS, phases=THREE, metrics=three_states()))
    assert tests.bigram_in_both_layers(run) == (True, "0.90 and 0.95")
    assert tests.layer_1_turns_to_the_labels(run) == (True, "Label Attention 1: 0.02 to 0.40, Bigram 2: 0.95")
    assert tests.pairs_are_chunked_then_read(run)[0] is True


def test_a_layer_that_is_not_there_proves_nothing() -> None:
    only_one = {place: curve for place, curve in three_states().items() if place[1] == 1}
    run = first(Made(SETTINGS, phases=THREE, metrics=only_one))
    assert tests.bigram_in_both_layers(run) == (False, "0.90 and nan")
    induction = {("chunk_example", 1, 1): {100_000: 0.9}}
    assert tests.induction_head(first(Made(SETTINGS, metrics=induction))) == (False, "0.90 and nan")


def test_circuits_that_do_not_come_are_told() -> None:
    run = first(Made(SETTINGS, phases=THREE, metrics=three_states(chunk=0.22, labels=0.05)))
    assert tests.layer_1_turns_to_the_labels(run)[0] is False
    assert tests.pairs_are_chunked_then_read(run)[0] is False
    skipped = first(Made(SETTINGS, metrics=three_states()))
    assert tests.layer_1_turns_to_the_labels(skipped)[0] is None


@pytest.mark.parametrize(("rla", "held"), [({1: 0.35, 2: 0.7}, True), ({1: 0.35, 2: 0.45}, False)])
def test_random_label_accuracy_must_rise_with_phase_2(rla, held) -> None:
    assert tests.rla_rises_with_phase_2(first(Made(SETTINGS, phases=THREE, random_label=rla)))[0] is held


@pytest.mark.parametrize(("offset", "held"), [(0.015, True), (-0.015, True), (0.025, False)])
def test_a_masked_run_must_end_within_two_hundredths(offset, held) -> None:
    settings = RunSettings.from_parameters(T=2, K=16, L=16, label_tables="disjoint")
    run = first(Made(settings, phases={1: (2_000, 12_000)}, last=paper_formula(16) - offset))
    assert tests.equals_the_formula(run)[0] is held
    run = first(Made(SETTINGS, phases={1: (2_000, 12_000)}, last=0.78 - offset))
    assert tests.ends_at_its_ceiling(2)(run)[0] is held


def test_two_heads_must_part_in_the_last_layer() -> None:
    def run(first_head: float, second_head: float) -> Trained:
        values = {("bigram", 2, 1): first_head, ("bigram", 2, 2): second_head}
        values |= {("label_attention", 2, 1): 1 - first_head, ("label_attention", 2, 2): 1 - second_head}
        values |= {(name, 1, head): 0.2 for name in ("bigram", "chunk_example") for head in (1, 2)}
        settings = RunSettings.from_parameters(heads=2)
        return first(Made(settings, metrics={place: {100_000: value} for place, value in values.items()}))

    assert tests.heads_part(run(0.9, 0.1)) == (True, "NCC and FCC")
    assert tests.heads_part(run(0.1, 0.9))[0] is True
    assert tests.heads_part(run(0.5, 0.5)) == (False, "none and none")


@pytest.mark.parametrize(
    ("phases", "steps", "held"),
    [
        ({1: (5_000, 9_000), 3: (90_000, 100_000)}, 100_000, True),
        ({1: (5_000, 100_000)}, 100_000, False),
        ({1: (5_000, 9_000), 3: (90_000, 100_000)}, 80_000, None),
        ({1: (5_000, 9_000), 3: (20_000, 50_000)}, 60_000, True),
        ({1: (5_000, 9_000)}, 9_000, None),
    ],
)
def test_a_mask_of_phase_3_can_be_told_once_its_steps_are_run(phases, steps, held) -> None:
    run = first(Made(SETTINGS, phases=phases, levels={1: 0.5, 3: 1.0}))
    training = run.data.tables["training"]
    short = FigureData(run.data.series, {"training": training[training["step"] <= steps]})
    assert tests.climbs_in_time(trained(short)[0])[0] is held


@pytest.mark.parametrize(("peak", "held"), [(30_000, True), (8_000, False)])
def test_the_hidden_circuit_must_show_about_step_30_000(peak, held) -> None:
    steps = [1_000, 8_000, 30_000, 50_000]
    curves = {("label_attention", 1, 1): {step: 0.6 if step == peak else 0.1 for step in steps}}
    curves[("bigram", 2, 1)] = dict.fromkeys(steps, 0.8)
    assert tests.hidden_scc_shows(first(Made(SETTINGS, metrics=curves)))[0] is held


def test_a_jump_of_a_metric_is_its_largest_change_within_the_given_decades() -> None:
    generator = np.random.default_rng(0)
    steps = np.unique(np.geomspace(10, 100_000, 60).astype(int))
    curves = {
        (name, layer, head): dict(zip(steps.tolist(), generator.random(len(steps)).tolist(), strict=True))
        for name in ("bigram", "label_attention", "chunk_example")
        for layer in (1, 2)
        for head in (1, 2)
    }
    run = first(Made(RunSettings.from_parameters(heads=2), metrics=curves))
    brute = max(
        abs(curve[a] - curve[b])
        for curve in curves.values()
        for a in curve
        for b in curve
        if abs(np.log10(a / b)) <= tests.JUMP
    )
    assert tests.largest_jump(run) == pytest.approx(brute)


def test_many_heads_are_compared_with_one_head_of_the_same_seed() -> None:
    runs = [Made(RunSettings.from_parameters(heads=1), seed, THREE) for seed in (0, 1)]
    runs += [Made(RunSettings.from_parameters(heads=4), 0, {3: (50_000, 100_000)})]
    runs += [Made(RunSettings.from_parameters(heads=4), 1, THREE), Made(RunSettings.from_parameters(heads=4), 2, THREE)]
    compare = CLAIM["heads_smooth"].test
    assert [(one.run.seed, one.held) for one in compare(trained(data_of(runs)))] == [
        (0, None), (1, None), (0, True), (1, False), (2, None),
    ]  # fmt: skip


# The finished runs


@pytest.fixture(scope="module")
def reference() -> dict[str, pd.DataFrame]:
    return stages.claim_evidence({name: REFERENCE / f"{name}.parquet" for name in TABLES})


def test_claims_of_the_finished_runs_are_what_their_tables_say(reference: dict[str, pd.DataFrame]) -> None:
    configuration = load_configuration(ROOT / "config.yaml")
    asked = {"base": [(series, s.parameters) for series, s in configuration.series("base")]}
    found = claims_table(asked, reference).set_index("claim")
    run = asked["base"][0][0].run
    phases = pd.read_parquet(REFERENCE / "phases.parquet")
    phases = phases[(phases["run"] == run) & (phases["rule"] == "plateau")]
    sets = phases.dropna(subset="phase").groupby("seed")["phase"].agg(set)
    assert found.loc["three_phases", "runs_held"] == (sets == {1, 2, 3}).sum()
    training = pd.read_parquet(REFERENCE / "training.parquet").sort_values("step")
    training = training[(training["run"] == run) & (training["split"] == "iid") & training["task"].isna()]
    ends = training.groupby("seed")["accuracy"].agg(lambda values: values.iloc[-10:].median())
    assert found.loc["phase_3_accuracy", "runs_held"] == (ends >= 0.99).sum()


def test_the_page_of_what_came_out_keeps_what_was_written_around_the_claims() -> None:
    page = runpy.run_path(str(ROOT / "docs" / "generate.py"))
    text = page["PAGES"]["reproduction.md"]()
    assert text.count(page["MADE_BEGIN"]) == text.count(page["MADE_END"]) == 1
    assert text.startswith("# What came out")
    assert "## The three phases" in text
    for claim in CLAIMS:
        assert f"| {claim.figure} | {claim.paper} |" in text
