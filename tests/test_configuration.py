"""config.yaml: what it asks for, and how its mistakes are told."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from circuit_phases.configuration import RULES, Configuration, RunSeed, load_configuration, parse_configuration
from circuit_phases.files import UserError
from circuit_phases.settings import RunSettings

ROOT = Path(__file__).parents[1]
GOOD: dict[str, Any] = {
    "experiments": {
        "base": {"seeds": 5},
        "variants": {"vary": {"variant": ["paper", "released_code"]}, "seeds": [0, 3]},
        "sweep": {"set": {"K": 32}, "vary": {"T": [2, 5], "heads": [1, 2]}, "seeds": 3},
        "alpha": {"vary": {"alpha": [0, 0.5]}},
    },
    "figures": {
        "fig02": {"experiment": "base"},
        "fig14": {"experiment": "alpha"},
        "mine": {"experiment": "variants", "draw": "curves"},
    },
    "headline": ["fig02"],
}


def with_change(path: str, value: Any) -> dict[str, Any]:
    values = copy.deepcopy(GOOD)
    *parents, key = path.split(".")
    place = values
    for parent in parents:
        place = place.setdefault(parent, {})
    place[key] = value
    return values


def test_the_shipped_config_is_valid_and_names_its_headline_figures() -> None:
    configuration = load_configuration(ROOT / "config.yaml")
    assert list(configuration.headline) == ["fig02", "fig03", "fig04", "fig06", "fig12", "fig14"]


def test_the_schema_for_editors_is_that_of_the_code() -> None:
    kept = json.loads((ROOT / "workflow" / "schemas" / "config.schema.json").read_text())
    assert kept == Configuration.model_json_schema(), "run `make schema`"


def test_every_combination_of_varied_parameters_is_a_run_with_a_label() -> None:
    series = parse_configuration(GOOD).series("sweep")
    assert [each.label for each, _ in series] == [
        "T = 2, heads = 1",
        "T = 2, heads = 2",
        "T = 5, heads = 1",
        "T = 5, heads = 2",
    ]
    assert [each.run for each, _ in series][3] == "paper,T=5,K=32,heads=2"
    assert all(each.seeds == (0, 1, 2) for each, _ in series)


def test_labels_write_values_as_the_config_does_and_name_maps_so() -> None:
    masks = [None, [["self", "query_to_labels"], ["self"]]]
    vary = {"masks": masks, "output_projection": [True, False], "eps": [0.1, 1]}
    values = with_change("experiments.long", {"vary": vary})
    labels = [each.label for each, _ in parse_configuration(values).series("long")]
    assert labels[0] == "masks = null, output_projection = true, eps = 0.1"
    assert labels[-1] == "masks = [[self, query_to_labels], [self]], output_projection = false, eps = 1"
    read = [
        yaml.safe_load(label.split(" = ")[1].removesuffix(", output_projection")) for label in (labels[0], labels[-1])
    ]
    assert read == masks
    values["figures"]["f"] = {"experiment": "long", "draw": "maps", "maps": {labels[-1]: ["full"]}}
    maps = [each.maps for each, _ in parse_configuration(values).figure_series("f")]
    assert maps == [()] * 7 + [("full",)]


def test_a_mapping_in_a_label_reads_back_as_it_was_written() -> None:
    forbidden = [[{"layer": 1, "edges": ["query_to_labels"], "until_step": 500}], None]
    values = with_change("experiments.bound", {"vary": {"forbidden": forbidden}})
    labels = [each.label for each, _ in parse_configuration(values).series("bound")]
    assert [yaml.safe_load(label.removeprefix("forbidden = ")) for label in labels] == forbidden


def test_a_parameter_with_one_value_is_set_and_not_named_in_the_labels() -> None:
    entry = {"vary": {"T": [2, 5], "label_vectors": ["learned"]}}
    series = parse_configuration(with_change("experiments.one", entry)).series("one")
    assert [each.label for each, _ in series] == ["T = 2", "T = 5"]
    assert {settings.model.label_vectors for _, settings in series} == {"learned"}
    series = parse_configuration(with_change("experiments.one", {"vary": {"T": [2]}})).series("one")
    assert [each.label for each, _ in series] == ["one"]


def test_named_series_carry_their_names_and_their_own_parameters() -> None:
    entry = {"set": {"K": 32}, "series": {"full model": {}, "NCC": {"masks": [["self"], ["self"]], "K": 128}}}
    series = parse_configuration(with_change("experiments.masked", entry)).series("masked")
    assert [each.label for each, _ in series] == ["full model", "NCC"]
    assert [settings.world.K for _, settings in series] == [32, 128]
    assert [settings.model.masks for _, settings in series] == [None, (("self",), ("self",))]


def test_named_series_and_varied_parameters_are_combined() -> None:
    entry = {"series": {"wide": {"heads": 2}, "deep": {"layers": 3}}, "vary": {"T": [2, 5]}}
    series = parse_configuration(with_change("experiments.both", entry)).series("both")
    assert [each.label for each, _ in series] == ["wide, T = 2", "wide, T = 5", "deep, T = 2", "deep, T = 5"]
    assert [each.run for each, _ in series][1::2] == ["paper,T=5,heads=2", "paper,T=5,layers=3"]


def test_a_run_asked_for_twice_is_trained_once() -> None:
    runs = [(each.settings.name, each.seed) for each in parse_configuration(GOOD).run_seeds("training")]
    assert runs.count(("paper", 0)) == 1
    assert len(runs) == len(set(runs)) == 5 + 2 + 4 * 3


def test_worlds_shown_without_training_are_not_trained() -> None:
    configuration = parse_configuration(GOOD)
    assert not any("alpha" in each.settings.name for each in configuration.run_seeds("training"))
    assert len(configuration.run_seeds("class_frequencies")) == 2


def test_an_experiment_without_a_figure_gets_its_curves_drawn() -> None:
    figures = parse_configuration(GOOD).figures_in_scope
    assert figures["sweep"].draw == "curves"
    assert "base" not in figures


def test_scope_and_seeds_limit_narrow_what_is_run() -> None:
    configuration = parse_configuration(GOOD | {"scope": "headline", "seeds_limit": 2})
    assert list(configuration.figures_in_scope) == ["fig02"]
    assert [(each.settings.name, each.seed) for each in configuration.run_seeds("training")] == [
        ("paper", 0),
        ("paper", 1),
    ]


def test_the_world_follows_the_training_seed_unless_it_is_set() -> None:
    values = with_change("experiments.base", {"set": {"world_seed": 7}, "seeds": 2})
    assert {each.world_seed for each in parse_configuration(values).run_seeds("training")} >= {7}
    datasets = {each.dataset for each in parse_configuration(values).run_seeds("training") if each.world_seed == 7}
    assert datasets == {"world,seed=7"}


def test_a_run_in_its_own_world_is_trained_once_whether_the_world_is_named_or_not() -> None:
    values = with_change("experiments.worlds", {"vary": {"world_seed": [0, 1]}, "seeds": 2})
    configuration = parse_configuration(values)
    assert [series.run for series, _ in configuration.series("worlds")] == ["paper,world_seed=0", "paper,world_seed=1"]
    runs = [(each.settings.name, each.seed) for each in configuration.runs_of("worlds")]
    assert runs == [("paper", 0), ("paper,world_seed=0", 1), ("paper,world_seed=1", 0), ("paper", 1)]
    assert [each.dataset for each in configuration.runs_of("worlds")] == [f"world,seed={k}" for k in (0, 0, 1, 1)]
    before = {(each.settings.name, each.seed) for each in parse_configuration(GOOD).run_seeds("training")}
    after = {(each.settings.name, each.seed) for each in configuration.run_seeds("training")}
    assert after - before == {("paper,world_seed=0", 1), ("paper,world_seed=1", 0)}


def test_defaults_reach_every_run_and_experiments_overrule_them() -> None:
    configuration = parse_configuration(GOOD | {"defaults": {"variant": "released_code", "K": 128}})
    assert configuration.series("base")[0][1].name == "released_code,K=128"
    assert configuration.series("sweep")[0][1].world.K == 32


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("experiments.base.set", {"T": 0}, "config.yaml: experiments.base: T = 0 is not allowed (>= 1)."),
        ("experiments.base.set", {"T": "three"}, "experiments.base: T = 'three' is not allowed (a valid integer)."),
        ("experiments.base.set", {"max_steps": "1e5"}, "write numbers such as 1e5 as 100000"),
        ("experiments.base.set", {"TT": 2}, "TT = 2: there is no such parameter (did you mean T?)."),
        ("experiments.base.set", {"L": 128}, "L = 128 is not allowed (L <= K = 64"),
        ("experiments.base.set", {"B": 3}, "B = 3 is not allowed (B must divide N = 4)."),
        ("experiments.base.set", {"P": 8}, "P = 8 is not allowed (P >= 2N + 1 = 9"),
        ("experiments.base.set", {"N": 64, "P": 129}, "N = 64 is not allowed (N < K = 64 unless p_B = 1"),
        ("experiments.base.set", {"p_B": 1.5}, "p_B = 1.5 is not allowed (<= 1)."),
        ("experiments.base.set", {"eps": -0.1}, "eps = -0.1 is not allowed (>= 0)."),
        ("experiments.base.set", {"alpha": float("nan")}, "alpha = nan is not allowed"),
        ("experiments.base.set", {"positions": "sideways"}, "'fixed', 'random' or 'pairs'"),
        ("experiments.base.set", {"heads": 3, "head_width": "split"}, "split heads must divide P + D = 128"),
        ("experiments.base.set", {"label_tables": "disjoint"}, "K = L = 32 with disjoint label tables"),
        ("experiments.base.set", {"label_tables": "balanced", "K": 48}, "K must be a multiple of L = 32"),
        ("experiments.base.set", {"masks": [["self"]]}, "one row of edge families per layer, here 2"),
        ("experiments.base.set", {"output_projection": False, "heads": 2}, "set head_width: split or heads: 1"),
        ("experiments.base.set", {"max_steps": 150}, "multiple of evaluation_interval = 100"),
        ("experiments.base.set", {"checkpoints": 1}, "checkpoints = 1 is not allowed (>= 2)."),
        ("experiments.base.variant", "code", "variant = 'code' is not known (choose from paper, released_code)."),
        ("attribution", {"splits": ["copy"]}, "attribution: splits = copy is not allowed (iid must be among them"),
        (
            "experiments.base.vary",
            {"T": list(range(1, 101)), "eps": [each / 1000 for each in range(101)]},
            "experiments.base: vary = 10,100 combinations is not allowed (<= 10,000).",
        ),
        ("figures.fig04", {"experiment": "base", "draw": "maps"}, "figures.fig04: maps is missing, which draw: maps"),
        ("figures.fig04", {"experiment": "ba\nse"}, "figures.fig04: experiment = ba se is not in experiments"),
        ("results", "there/results/reference", "results = there/results/reference is not allowed"),
        ("results", "results/other/../reference", "results = results/other/../reference is not allowed"),
        ("results", "results/reference/mine", "results = results/reference/mine is not allowed"),
        ("experiments." + "n" * 101, {}, "is not allowed as a name (at most 100 letters). Shorten it."),
        (
            "experiments",
            {1: {}},
            "config.yaml: experiments: 1 is not allowed as a name (YAML reads no text). Quote it.",
        ),
        ("experiments", ["a"], "experiments = ['a'] is not allowed (a mapping of its keys)."),
        ("defaults", None, "defaults = None is not allowed (a mapping of its keys)."),
        (
            "headline",
            ["sweep"],
            "sweep is not in figures. Add it there: sweep: {experiment: sweep, draw: curves}.",
        ),
        ("experiments.base.vary", {"T": []}, "experiments.base: vary.T = [] is not allowed (at least one value)."),
        (
            "experiments.base.vary",
            {"T": [2, 3, 2]},
            "base: vary.T = [2, 3, 2] is not allowed (a list without repeats).",
        ),
        ("experiments.sweep.set", {"T": 4}, "experiments.sweep: set: T = 4 is not allowed (vary sets T too)."),
        ("experiments.variants.variant", "paper", "variants: variant = paper is not allowed (vary sets variant too)."),
        (
            "experiments.base",
            {"variant": "paper", "set": {"variant": "released_code"}},
            "experiments.base: variant = paper is not allowed (set sets variant too).",
        ),
        (
            "defaults",
            {"variant": ["paper"]},
            "defaults: variant = ['paper'] is not known (choose from paper, released_",
        ),
        ("experiments.base.set", {"variant": {}}, "experiments.base: variant = {} is not known"),
        ("experiments.base.vary", {"T": 2}, "experiments.base.vary: T = 2 is not allowed (a valid list)."),
        ("experiments.base.series", {"one": None}, "experiments.base.series: one = None is not allowed"),
        ("experiments.base.series", {"one": {"TT": 2}}, "experiments.base: TT = 2: there is no such parameter"),
        ("experiments.sweep.series", {"one": {"T": 4}}, "series.one: T = 4 is not allowed (vary sets T too)."),
        ("experiments.base.seeds", 0, "experiments.base: seeds = 0 is not allowed"),
        ("experiments.base.seeds", [1, 1], "experiments.base: seeds = [1, 1] is not allowed"),
        ("experiments.base.seed", 1, "experiments.base: seed = 1: there is no such key."),
        ("experiments", None, "experiments = None is not allowed"),
        ("defaults", {"eps": -1}, "config.yaml: defaults: eps = -1 is not allowed"),
        ("figures.fig02.experiment", "bse", "experiment = bse is not in experiments (did you mean base?)."),
        ("figures.fig99", {"experiment": "base"}, "figures.fig99: draw = fig99 is not a drawing (choose from"),
        ("figures.sweep", {"experiment": "base", "draw": "curves"}, "a figure of another experiment has this name"),
        ("figures.mine.maps", {"variant = paper": ["full"]}, "figures.mine: maps needs draw: maps or sweep_maps."),
        (
            "figures.mine",
            {"experiment": "variants", "draw": "maps", "maps": {"paper": ["full"]}},
            "figures.mine: maps.paper is not a series of it (choose from variant = paper, variant = released_code).",
        ),
        (
            "figures.mine",
            {"experiment": "variants", "draw": "maps", "maps": {"variant = paper": []}},
            "figures.mine: maps.variant = paper: [] is not allowed (early, full or both). Name one, or leave it out.",
        ),
        (
            "figures.mine",
            {"experiment": "variants", "draw": "sweep_maps", "maps": {"variant = paper": ["full", "full"]}},
            "figures.mine: maps.variant = paper: [full, full] is not allowed (a list without repeats).",
        ),
        ("experiments.a(b", {}, "config.yaml: experiments: 'a(b' is not allowed as a name (letters, digits, _ and"),
        ("experiments.a+b", {}, "experiments: 'a+b' is not allowed as a name"),
        ("figures.a/b", {"experiment": "base", "draw": "curves"}, "figures: 'a/b' is not allowed as a name"),
        ("figures.-n", {"experiment": "base", "draw": "curves"}, "figures: '-n' is not allowed as a name"),
        ("experiments.train", {}, "train: a rule of the workflow has this name, which a figure cannot have."),
        ("figures.all", {"experiment": "base", "draw": "curves"}, "all: a rule of the workflow has this name"),
        ("experiments.train_together_0", {}, "train_together_0: a rule of the workflow has this name"),
        (
            "figures.runs",
            {"experiment": "base", "draw": "census"},
            "figures.runs: a table has this name, and census keeps one too. Rename it.",
        ),
        (
            "figures.mine.draw",
            "masked_scc",
            "figures.mine: draw = masked_scc needs T = 2, and experiments.variants has T = 3. Set it there, or choose",
        ),
        (
            "experiments.base",
            {"series": {"default": {}, "T = 3": {"T": 3}}},
            "experiments.base: the series 'default' and 'T = 3' are the same run. Remove one.",
        ),
        (
            "experiments.base",
            {"vary": {"world_seed": [None, 7]}, "seeds": [7]},
            "the series 'world_seed = null' and 'world_seed = 7' are the same run. Remove one.",
        ),
        ("experiments.base.seeds", 10**10, "seeds = 10000000000 is not allowed (1 to 10000, or a list of seeds)."),
        ("experiments.base.seeds", [2**63], "9223372036854775808 is not allowed (<= 9223372036854775807)."),
        ("experiments.base.seeds", "3", "seeds = '3' is not allowed (a list) (write it without quotes; numbers within"),
        ("experiments.base", None, "experiments: base = None is not allowed (a mapping of its keys)."),
        ("experiments.base.set", {"world_seed": 2**70}, "is not allowed (<= 9223372036854775807)."),
        ("experiments.base.set", {"K": 10**30}, "is not allowed (<= 2147483647)."),
        ("experiments.base.set", {"eps": 1e200}, "eps = 1e+200 is not allowed (<= 1000000)."),
        ("experiments.base.set", {"learning_rate": 1e300}, "learning_rate = 1e+300 is not allowed (<= 1"),
        (
            "experiments.base.set",
            {"T": "3"},
            "T = '3' is not allowed (a valid integer) (write it without quotes; numbers within",
        ),
        ("attribution", {"splits": []}, "attribution: splits = [] is not allowed (at least 1)."),
        ("phases.window", 400.0, "phases: window = 400.0 is not allowed (<= 10)."),
        ("phases.slope", float("inf"), "phases: slope = inf is not allowed (<= 1000000)."),
        ("phases.dt", 10**30, "is not allowed (<= 2147483647)."),
        ("headline", "fig02", "headline = 'fig02' is not allowed (a list)."),
        ("figures.f", None, "f = None is not allowed (a mapping of its keys)."),
        ("headline", ["fig03"], "headline: fig03 is not in figures (did you mean fig02?)."),
        ("scope", "some", "scope = 'some' is not allowed ('all' or 'headline')."),
        ("seeds_limit", 0, "seeds_limit = 0 is not allowed (>= 1)."),
        ("seeds_together", 0, "seeds_together = 0 is not allowed (>= 1)."),
        ("seconds_between_saves", -1, "seconds_between_saves = -1 is not allowed (>= 0)."),
        ("device", "gpu", "device = 'gpu' is not allowed ('auto', 'cpu' or 'cuda')."),
        ("results", "", "results = '' is not allowed"),
        ("results", "~nobody-here/out", "results = '~nobody-here/out' is not allowed (there is no such home)."),
        ("results", "a\0b", "is not allowed (no path holds a null)."),
        ("results", "out{x}", "config.yaml: results = 'out{x}' is not allowed (Snakemake reads braces as wildcards)."),
        ("phases.dt", 0, "phases: dt = 0 is not allowed (>= 1)."),
        (
            "phases.dt",
            150,
            "phases.dt = 150 is not allowed (a multiple of evaluation_interval = 100, as experiments.base",
        ),
        ("phases.dtt", 1, "phases: dtt = 1: there is no such key."),
        ("outputs", "x", "outputs = 'x': there is no such key."),
    ],
)
def test_a_mistake_is_told_in_one_line_with_key_value_and_way_out(path: str, value: Any, told: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_configuration(with_change(path, value))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"a: [", "line 1"),
        (b"\x7fELF\xc3", "is not YAML"),
        (b"3", "must hold keys and values"),
        (b"", "must"),
        (b"defaults: {T: 2020-13-45}", "config.yaml: 2020-13-45 in line 1 is no value .month must be in 1..12"),
        (b"defaults: {T: !!int foo}", "config.yaml: foo in line 1 is no value"),
        (b"defaults:\n  T: !!timestamp x", "config.yaml: x in line 2 is no value"),
        (b"experiments: {}\nfigures: {}\nexperiments: {}", "the key experiments stands in lines 1 and 3."),
        (b"figures:\n  a: {experiment: b}\n  a: {experiment: c}", "the key a stands in lines 2 and 3."),
    ],
)
def test_a_file_that_is_no_config_is_told(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=told):
        load_configuration(path)


@pytest.mark.parametrize(
    "change",
    [{"T": 3}, {"label_tables": "independent"}, {"query": "any"}, {"p_B": 0.5}, {"alpha": 1}, {"beta": 1}],
    ids=str,
)
def test_the_closed_form_is_drawn_only_over_worlds_that_it_holds_in(change: dict[str, Any]) -> None:
    world = {"T": 2, "K": 8, "L": 8, "label_tables": "disjoint"}
    figures = {"fig05": {"experiment": "scc", "draw": "masked_scc"}}
    parse_configuration({"experiments": {"scc": {"set": world}}, "figures": figures})
    with pytest.raises(UserError, match=f"fig05: draw = masked_scc needs {next(iter(change))} = "):
        parse_configuration({"experiments": {"scc": {"set": world | change}}, "figures": figures})


def test_results_may_stand_in_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert parse_configuration(GOOD | {"results": "~/out"}).results == "/home/me/out"


def test_overlays_extend_the_config_in_order(tmp_path: Path) -> None:
    layers = {
        "config.yaml": "{defaults: {T: 2, K: 32}, experiments: {base: {}}, figures: {}}",
        "mine.yaml": "{defaults: {T: 3}, experiments: {mine: {}}}",
        "last.yaml": "{defaults: {eps: 0.5}, experiments: {mine: {seeds: 2}}}",
    }
    for name, text in layers.items():
        (tmp_path / name).write_text(text)
    configuration = load_configuration(*(tmp_path / name for name in layers))
    assert configuration.defaults == {"T": 3, "K": 32, "eps": 0.5}
    assert {name: entry.seeds for name, entry in configuration.experiments.items()} == {"base": (0,), "mine": (0, 1)}


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        load_configuration(tmp_path / "none.yaml")


def test_the_shipped_config_reads_the_same_through_yaml() -> None:
    values = yaml.safe_load((ROOT / "config.yaml").read_text())
    assert parse_configuration(values) == load_configuration(ROOT / "config.yaml")


def test_the_names_that_no_figure_can_have_are_those_of_the_rules() -> None:
    files = ROOT / "Snakefile", *(ROOT / "workflow" / "rules").glob("*.smk")
    rules = {name for file in files for name in re.findall(r"^ *rule (\w+):", file.read_text(), re.MULTILINE)}
    assert rules == RULES


def test_experiments_may_be_called_like_rules_and_figures_like_tables() -> None:
    values = with_change("experiments.attribution", {})
    values["figures"] |= {"mine.too": {"experiment": "attribution", "draw": "curves"}}
    values["figures"] |= {"training": {"experiment": "base", "draw": "curves"}}
    assert {"mine.too", "training"} <= parse_configuration(values).figures_in_scope.keys()


def test_seeds_are_grouped_by_configuration() -> None:
    configuration = parse_configuration(GOOD | {"seeds_together": 2})
    settings = RunSettings(), RunSettings.from_parameters(T=2)
    pairs = [RunSeed(settings[0], 0), RunSeed(settings[1], 5), RunSeed(settings[0], 1), RunSeed(settings[0], 4)]
    assert configuration.seed_groups(pairs) == [("paper", [0, 1]), ("paper", [4]), ("paper,T=2", [5])]


def test_changed_groups_of_values_are_merged_as_snakemake_does(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("defaults: {variant: released_code, heads: 1}\nexperiments: {base: {seeds: 2}}\nfigures: {}\n")
    configuration = load_configuration(path, defaults={"T": 2}, seeds_limit=1)
    assert configuration.defaults == {"variant": "released_code", "heads": 1, "T": 2}
    assert [series.seeds for series, _ in configuration.series("base")] == [(0,)]
