"""What a run may be asked for, and how runs are named."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, example, given, reject
from hypothesis import strategies as st
from pydantic import ValidationError

from circuit_phases.mistakes import RuleBroken
from circuit_phases.settings import GROUPS, PARAMETERS, VARIANTS, RunSettings, Settings

make = RunSettings.from_parameters


def test_a_run_without_parameters_is_the_papers() -> None:
    papers = {
        "T": 3, "K": 64, "L": 32, "N": 4, "D": 63, "P": 65, "eps": 0.1, "p_B": 0, "B": 1, "alpha": 0, "beta": 0,
        "label_tables": "independent", "positions": "fixed", "query": "excluded",
        "architecture": "attention_only", "layers": 2, "heads": 1, "head_width": "full", "output_projection": True,
        "hidden_layers": 1, "label_vectors": "fixed", "masks": None, "loss": "last_label",
        "learning_rate": 0.01, "batch_size": 128,
    }  # fmt: skip
    parameters = make().parameters
    assert {name: parameters[name] for name in papers} == papers
    assert make() == RunSettings()
    assert make().world.S == 9


def test_the_released_code_departs_from_the_paper_where_it_does() -> None:
    released = {
        "label_tables": "shifted", "positions": "pairs", "query": "any", "head_width": "split",
        "output_projection": False, "hidden_layers": 2, "label_vectors": "learned",
    }  # fmt: skip
    assert make("released_code").parameters == make().parameters | released


RULES: dict[str, tuple[dict[str, Any], str, str, dict[str, Any]]] = {
    # what is refused, its key and value, the way out, and the nearest that is allowed
    "more labels than classes": ({"L": 65}, "L = 65", "L <= K = 64", {"L": 64}),
    "more labels than classes, lifted": (
        {"L": 65}, "L = 65", "set more_labels_than_classes: true", {"L": 65, "more_labels_than_classes": True},
    ),
    "burstiness does not divide": ({"B": 3}, "B = 3", "B must divide N = 4", {"B": 4}),
    "too few positions": ({"P": 8}, "P = 8", "P >= 2N + 1 = 9", {"P": 9}),
    "too few positions for pairs": (
        {"P": 4, "positions": "pairs"}, "P = 4", "P >= N + 1 = 5", {"P": 5, "positions": "pairs"},
    ),
    "no class left for the query": ({"K": 4, "L": 4}, "N = 4", "N < K = 4 unless p_B = 1", {"K": 5, "L": 4}),
    "no class left in the context": (
        {"K": 3, "L": 3, "query": "any"}, "N = 4", "N <= K = 3 unless p_B = 1", {"K": 4, "L": 4, "query": "any"},
    ),
    "too few classes for a bursty context": (
        {"K": 3, "L": 3, "p_B": 1.0}, "N = 4", "N / B <= K = 3", {"K": 4, "L": 4, "p_B": 1.0},
    ),
    "shifted tables coincide": (
        {"label_tables": "shifted", "T": 33}, "T = 33", "T <= L = 32", {"label_tables": "shifted", "T": 32},
    ),
    "balance impossible": (
        {"label_tables": "balanced", "K": 65}, "K = 65", "K must be a multiple of L = 32",
        {"label_tables": "balanced", "K": 96},
    ),
    "disjoint tables are permutations": (
        {"label_tables": "disjoint"}, "K = 64", "K = L = 32", {"label_tables": "disjoint", "K": 32},
    ),
    "classes too rare for exact ceilings": (
        {"alpha": 30.0}, "alpha = 30.0", "<= 10.3 with N = 4", {"alpha": 10.3},
    ),
    "too many disjoint tables": (
        {"label_tables": "disjoint", "K": 8, "L": 8, "T": 9}, "T = 9", "T <= L = 8",
        {"label_tables": "disjoint", "K": 8, "L": 8, "T": 8},
    ),
    "masks for another number of layers": (
        {"masks": [["causal"]]}, "masks = 1 rows", "one row of edge families per layer, here 2",
        {"masks": [["causal"], ["self"]]},
    ),
    "edges forbidden in a layer that is not there": (
        {"forbidden": [{"layer": 3, "edges": ["self"]}]}, "forbidden = layer 3", "layers are 1 to 2",
        {"forbidden": [{"layer": 2, "edges": ["self"]}]},
    ),
    "edges that are free before they are forbidden": (
        {"forbidden": [{"layer": 1, "edges": ["self"], "from_step": 5, "until_step": 5}]}, "until_step = 5",
        "until_step > from_step = 5", {"forbidden": [{"layer": 1, "edges": ["self"], "from_step": 5, "until_step": 6}]},
    ),
    "edges forbidden after the end": (
        {"forbidden": [{"layer": 1, "edges": ["self"], "from_step": 301}], "max_steps": 300},
        "forbidden = from_step 301", "from_step <= max_steps = 300",
        {"forbidden": [{"layer": 1, "edges": ["self"], "from_step": 300}], "max_steps": 300},
    ),
    "wide heads without an output matrix": (
        {"heads": 2, "output_projection": False}, "output_projection = false", "set head_width: split or heads: 1",
        {"heads": 2, "output_projection": False, "head_width": "split"},
    ),
    "standard transformer with a deep read-out": (
        {"architecture": "standard_transformer"}, "hidden_layers = 1", "0 with the standard transformer",
        {"architecture": "standard_transformer", "hidden_layers": 0},
    ),
    "steps that end between evaluations": (
        {"max_steps": 250}, "max_steps = 250", "multiple of evaluation_interval = 100", {"max_steps": 300},
    ),
    "heads that do not share the width": (
        {"heads": 3, "head_width": "split"}, "heads = 3", "must divide P + D = 128",
        {"heads": 4, "head_width": "split"},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("refused", "key_and_value", "way_out", "allowed"), RULES.values(), ids=RULES)
def test_values_that_do_not_go_together_are_refused_with_the_way_out(
    refused: dict[str, Any], key_and_value: str, way_out: str, allowed: dict[str, Any]
) -> None:
    with pytest.raises(RuleBroken) as caught:
        make(**refused)
    assert f"{key_and_value} is not allowed (" in str(caught.value)
    assert way_out in str(caught.value)
    make(**allowed)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("T", 0), ("T", 2.5), ("T", "3"), ("T", True), ("eps", -0.1), ("eps", float("nan")), ("eps", "0.1"),
        ("alpha", float("inf")), ("beta", -1.0), ("p_B", 1.5), ("learning_rate", 0.0), ("batch_size", 0),
        ("checkpoints", 1), ("stop_after", -1), ("layers", 0), ("heads", 0), ("hidden_layers", 3),
        ("forbidden", [{"layer": 1, "edges": ["all"]}]), ("forbidden", [{"edges": ["self"]}]), ("forbidden", []),
        ("output_projection", "yes"), ("label_tables", "random"), ("masks", [["all"], ["causal"]]), ("world_seed", -1),
    ],
)  # fmt: skip
def test_a_value_out_of_range_or_of_the_wrong_type_is_refused_in_one_line_by_its_key(name: str, value: Any) -> None:
    with pytest.raises(RuleBroken, match=rf"^{name}\b.*( is not allowed \(.*\)| is missing\. Add it).*\.$"):
        make("paper", **{name: value})


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("layer", "layers"), ("learning_rat", "learning_rate"), ("label_table", "label_tables"), ("pB", "p_B"),
        ("batchsize", "batch_size"), ("alfa", "alpha"), ("world_sed", "world_seed"),
    ],
)  # fmt: skip
def test_a_misspelt_parameter_is_refused_and_the_nearest_named(typed: str, meant: str) -> None:
    with pytest.raises(RuleBroken) as caught:
        make("paper", **{typed: 7})
    assert f"{typed} = 7: there is no such parameter (did you mean {meant}?)" in str(caught.value)


def test_an_unknown_variant_is_refused_and_the_known_ones_are_named() -> None:
    with pytest.raises(RuleBroken, match=r"variant = 'papr' is not known \(choose from paper, released_code\)"):
        make("papr")


@pytest.mark.parametrize("group", [*GROUPS.values(), RunSettings])
def test_a_group_refuses_keys_that_it_does_not_have(group: type[Settings]) -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        group.model_validate({"unheard_of": 1})


def test_settings_cannot_change_under_a_run() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        make().world.T = 5  # type: ignore[misc]


def test_every_parameter_is_described_and_belongs_to_one_group() -> None:
    fields = [(name, field) for group in GROUPS.values() for name, field in group.model_fields.items()]
    assert len(fields) == len(PARAMETERS)
    assert [name for name, field in fields if not field.description] == []


def test_masks_read_from_yaml_as_lists_equal_masks_given_as_tuples() -> None:
    masks = (("self", "query_to_labels"), ())
    assert make(masks=[list(row) for row in masks]) == make(masks=masks)
    assert make(masks=masks).model.masks == (("query_to_labels", "self"), ())


@pytest.mark.parametrize(
    ("written", "same"),
    [
        ([["self", "query_to_labels"], ["self"]], [["query_to_labels", "self"], ["self", "self"]]),
        ([["causal"], ["causal", "self"]], None),
        ([["self", "causal"], ["self"]], [["causal"], ["self"]]),
    ],
)
def test_equal_masks_are_one_run_however_they_are_written(
    written: list[list[str]], same: list[list[str]] | None
) -> None:
    assert make(masks=written) == make(masks=same)
    assert make(masks=written).name == make(masks=same).name


def test_too_few_rows_of_masks_are_told_even_if_they_keep_every_edge() -> None:
    with pytest.raises(RuleBroken, match="one row of edge families per layer, here 2"):
        make(masks=[["causal"]])


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (make(), "paper"),
        (make(T=3, eps=0.1), "paper"),
        (make(T=2), "paper,T=2"),
        (make(heads=2, T=2), "paper,T=2,heads=2"),
        (make(p_B=1, T=1), "paper,T=1,p_B=1"),
        (make(loss="every_label", learning_rate=1e-3), "paper,loss=every_label,learning_rate=0.001"),
        (make(output_projection=False), "paper,output_projection=false"),
        (make(masks=[["self", "query_to_self"], ["causal"]]), "paper,masks=query_to_self.self+causal"),
        (make(forbidden=[{"layer": 1, "edges": ["self"]}]), "paper,forbidden=layer1.self"),
        (
            make(
                forbidden=[
                    {"layer": 1, "edges": ["self", "causal"], "until_step": 9},
                    {"layer": 2, "edges": ["self"], "from_step": 7},
                ]
            ),
            "paper,forbidden=layer1.causal.self.0-9+layer2.self.7-end",
        ),
        (make(world_seed=0), "paper,world_seed=0"),
        (make("released_code"), "released_code"),
        (make(**VARIANTS["released_code"]), "released_code"),
        (make("released_code", T=2), "released_code,T=2"),
        (make("released_code", **{name: make().parameters[name] for name in VARIANTS["released_code"]}), "paper"),
    ],
)
def test_a_run_is_named_by_its_variant_and_what_differs_from_it(settings: RunSettings, name: str) -> None:
    assert settings.name == name


families = st.lists(st.sampled_from(["causal", "self", "query_to_self", "query_to_labels", "label_to_item"]))
forbidden_edges = st.fixed_dictionaries(
    {"layer": st.integers(1, 2), "edges": st.lists(st.sampled_from(["self", "label_to_item"]), min_size=1)},
    optional={"from_step": st.integers(0, 2), "until_step": st.none() | st.integers(3, 4)},
)
valid_parameters = st.fixed_dictionaries(
    {},
    optional={
        "T": st.integers(1, 5),
        "K": st.sampled_from([32, 64, 1024]),
        "eps": st.floats(0, 2).map(lambda value: round(value, 3)),
        "p_B": st.sampled_from([0, 0.25, 1.0]),
        "alpha": st.sampled_from([0.0, 0.25, 1]),
        "label_tables": st.sampled_from(["independent", "shifted"]),
        "positions": st.sampled_from(["fixed", "random", "pairs"]),
        "query": st.sampled_from(["excluded", "any"]),
        "heads": st.sampled_from([1, 2, 4]),
        "head_width": st.sampled_from(["full", "split"]),
        "output_projection": st.booleans(),
        "hidden_layers": st.integers(0, 2),
        "label_vectors": st.sampled_from(["fixed", "learned"]),
        "masks": st.none() | st.lists(families, min_size=2, max_size=2),
        "forbidden": st.none() | st.lists(forbidden_edges, min_size=1, max_size=2),
        "learning_rate": st.sampled_from([1e-3, 0.01, 0.1]),
        "world_seed": st.none() | st.integers(0, 2),
    },
)


@st.composite
def valid_settings(draw: Callable[..., Any]) -> RunSettings:
    try:
        return make(draw(st.sampled_from(list(VARIANTS))), **draw(valid_parameters))
    except RuleBroken:
        reject()


@given(valid_settings(), valid_settings(), st.data())
def test_equal_parameters_have_equal_names_and_different_ones_different_names(
    one: RunSettings, other: RunSettings, data: st.DataObject
) -> None:
    assert (one.name == other.name) == (one.parameters == other.parameters)
    # A near relation, one parameter away, is the hardest to tell apart.
    name = data.draw(st.sampled_from(sorted(one.parameters)))
    try:
        near = make(**one.parameters | {name: other.parameters[name]})
    except RuleBroken:
        reject()
    assert (one.name == near.name) == (one.parameters[name] == near.parameters[name])


@given(valid_settings())
def test_a_run_is_rebuilt_from_its_own_parameters_whatever_their_order(settings: RunSettings) -> None:
    backwards = dict(reversed(settings.parameters.items()))
    assert make(**backwards) == settings
    assert make(**backwards).name == settings.name


@given(st.floats(1e-4, 1, exclude_max=True), st.floats(1e-4, 1))
@example(0.1, 0.1 + 1e-9)
@example(0.123456789, 0.12345678)
def test_noise_levels_that_differ_in_late_digits_do_not_share_a_name(one: float, other: float) -> None:
    assume(one != other)
    assert make(eps=one).name != make(eps=other).name


@given(valid_settings(), st.integers(0, 10**9))
def test_names_serve_as_file_names_even_when_much_differs(settings: RunSettings, seed: int) -> None:
    for name in (settings.name, settings.dataset_name(seed)):
        assert len(name.encode()) <= 120
        assert not set(name) & set("/\\ \t\n'\"*?{}$:|<>")


@given(valid_settings())
@example(make(T=2, K=8, L=4, N=2, D=11, P=5, evaluation_sequences=256, ability_sequences=64, batch_size=32,
              max_steps=600, evaluation_interval=20, checkpoints=12))  # fmt: skip
def test_a_name_holds_no_number_in_part(settings: RunSettings) -> None:
    for key, value in re.findall(r"(\w+)=(-?\d[-+.\de]*)(?=,|-[0-9a-f]{16}$|$)", settings.name):
        assert float(value) == settings.parameters[key]


def test_long_names_that_begin_alike_still_differ() -> None:
    every = ["self", "query_to_self", "query_to_labels", "label_to_item"]
    masks = [every] * 5
    one, other = make(layers=5, masks=masks), make(layers=5, masks=[*masks[:4], every[:3]])
    assert one.name[:100] == other.name[:100]
    assert one.name != other.name


def test_runs_that_differ_only_in_model_or_training_share_their_world() -> None:
    run = make(T=2, heads=2, learning_rate=0.1, evaluation_interval=50)
    assert run.dataset_name(4) == make(T=2).dataset_name(4) == "world,T=2,seed=4"
    assert make().dataset_name(0) == "world,seed=0"
    assert make("released_code").dataset_name(1) == "world,label_tables=shifted,positions=pairs,query=any,seed=1"
    assert make(T=2).dataset_name(4) != make(T=2).dataset_name(5)


def test_a_world_of_the_trainings_own_seed_goes_unsaid() -> None:
    assert make(T=2, world_seed=3).at_seed(3) == make(T=2)
    assert make(T=2, world_seed=3).at_seed(0) == make(T=2, world_seed=3)
    assert make(T=2).at_seed(0) == make(T=2)


def test_a_given_world_seed_holds_for_every_training_seed_even_zero() -> None:
    assert [make(world_seed=0).resolved_world_seed(seed) for seed in (0, 1, 2)] == [0, 0, 0]
    assert make(world_seed=3).dataset_name(0) == make(world_seed=3).dataset_name(1) == make().dataset_name(3)
    assert [make().resolved_world_seed(seed) for seed in (0, 1, 2)] == [0, 1, 2]
