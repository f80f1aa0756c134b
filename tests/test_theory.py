"""The theory's ceilings against brute force, the paper's formula, sampled sequences and known values."""

import itertools
import math
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest

from circuit_phases.closed_form import paper_formula
from circuit_phases.files import UserError
from circuit_phases.schemas import THEORY
from circuit_phases.sequences import draw_sequences
from circuit_phases.settings import WorldSettings
from circuit_phases.theory import Ceiling, ceilings, misread_items, theory_table
from circuit_phases.world import World

CIRCUITS = ("ncc", "scc", "fcc")
TINY_TABLES = [
    {"label_tables": "independent", "T": 3, "K": 6, "L": 3},
    {"label_tables": "independent", "T": 2, "K": 5, "L": 4},
    {"label_tables": "shifted", "T": 3, "K": 7, "L": 3},
    {"label_tables": "balanced", "T": 2, "K": 6, "L": 3},
    {"label_tables": "disjoint", "T": 3, "K": 5, "L": 5},
]
BURSTS = [(0.0, 1), (0.5, 1), (1.0, 1), (0.5, 2), (1.0, 2), (0.3, 3)]
SKEWS = [(0.0, 0.0), (1.25, 0.5), (3.0, 1.0)]


def draw_world(seed=0, **settings):
    return World.draw(WorldSettings(**{"D": 2} | settings), seed)


def one_after_another(frequencies, picks, without=()):
    """Every ordered draw of different classes, with its probability."""
    draws = [((), 1.0)]
    for _ in range(picks):
        longer = []
        for drawn, probability in draws:
            left = [k for k in range(len(frequencies)) if k not in drawn and k not in without]
            total = sum(frequencies[k] for k in left)
            longer += [((*drawn, k), probability * frequencies[k] / total) for k in left]
        draws = longer
    return draws


def all_class_sequences(world):
    """Every (query, context, probability); the order of a bursty context is left out, as no circuit sees more by it."""
    s, f = world.settings, world.class_frequencies
    for query in range(s.K):
        if s.p_B < 1:
            for context, probability in one_after_another(f, s.N, (query,) if s.query == "excluded" else ()):
                yield query, context, f[query] * (1 - s.p_B) * probability
        if s.p_B > 0:
            for others, probability in one_after_another(f, s.N // s.B - 1, (query,)):
                yield query, (query, *others) * s.B, f[query] * s.p_B * probability


def what_each_circuit_sees(world, task, query, context):
    labels = [int(world.label_tables[task, k]) for k in context]
    return {
        "ncc": query,
        "scc": (query, tuple(sorted(labels))),
        "fcc": (query, tuple(sorted(zip(context, labels, strict=True)))),
    }


def label_probabilities(world):
    """Per circuit, the joint probability of what it sees and the query's label."""
    joint = {circuit: defaultdict(lambda: defaultdict(float)) for circuit in CIRCUITS}
    for query, context, probability in all_class_sequences(world):
        for task, frequency in enumerate(world.task_frequencies):
            answer = int(world.label_tables[task, query])
            for circuit, seen in what_each_circuit_sees(world, task, query, context).items():
                joint[circuit][seen][answer] += frequency * probability
    return joint


def brute_force(world):
    joint = label_probabilities(world)
    return {circuit: sum(max(labels.values()) for labels in joint[circuit].values()) for circuit in CIRCUITS}


def accuracies(world, **options):
    return {ceiling.circuit: ceiling.accuracy for ceiling in ceilings(world, **options)}


@pytest.mark.parametrize("query", ["excluded", "any"])
@pytest.mark.parametrize("tables", TINY_TABLES, ids=lambda tables: f"{tables['label_tables']}-K{tables['K']}")
def test_the_ceilings_are_those_of_brute_force_over_all_class_sequences(tables, query):
    for seed, (N, (p_B, B), (alpha, beta)) in enumerate(itertools.product((2, 3), BURSTS, SKEWS)):
        if N % B:
            continue
        world = draw_world(seed, **tables, query=query, N=N, p_B=p_B, B=B, alpha=alpha, beta=beta)
        found = ceilings(world)
        assert [(c.circuit, c.method, c.standard_error) for c in found] == [(c, "enumeration", 0) for c in CIRCUITS]
        # The integral for unequal class frequencies is good to about 1e-8.
        assert {c.circuit: c.accuracy for c in found} == pytest.approx(brute_force(world), abs=3e-8), world.settings


@pytest.mark.parametrize(
    "settings",
    [
        {"K": 8, "N": 6, "alpha": 1.25},
        {"K": 6, "N": 5, "alpha": 2.0},
        {"K": 5, "N": 5, "alpha": 2.0, "query": "any"},
        {"K": 7, "N": 6, "B": 3, "p_B": 1.0, "alpha": 1.25},
        {"K": 5, "N": 8, "B": 4, "p_B": 1.0, "alpha": 0.5, "beta": 1.0},
        {"K": 6, "N": 4, "B": 4, "p_B": 0.4, "alpha": 8.0},
        {"K": 7, "N": 4, "alpha": 10.3},
        {"K": 7, "N": 4, "alpha": 10.3, "query": "any"},
    ],
    ids=str,
)
def test_long_contexts_and_steep_frequencies_are_those_of_brute_force(settings):
    world = draw_world(3, T=3, L=3, **settings)
    assert accuracies(world) == pytest.approx(brute_force(world), abs=3e-8)


@pytest.mark.parametrize("N", [16, 32])
@pytest.mark.parametrize("burst", [{}, {"p_B": 0.5}, {"p_B": 1.0, "B": 4}, {"query": "any"}], ids=str)
def test_the_integral_goes_over_into_the_closed_form_as_class_frequencies_become_equal(N, burst):
    settings = {"T": 6, "N": N, "P": 65, **burst}
    # The same sequences are drawn in both worlds, so the estimates differ by the posterior alone.
    even, nearly_even = (
        ceilings(draw_world(alpha=alpha, **settings), largest_enumeration=0, sequences=300) for alpha in (0, 1e-9)
    )
    assert even[1].method == "monte_carlo"
    assert nearly_even[1].accuracy == pytest.approx(even[1].accuracy, abs=1e-6)


@pytest.mark.parametrize("K", [8, 16, 32])
def test_the_scc_of_the_papers_simplified_world_follows_its_formula(K):
    world = draw_world(label_tables="disjoint", T=2, K=K, L=K, N=4)
    assert accuracies(world) == pytest.approx({"ncc": 0.5, "scc": paper_formula(K), "fcc": 1.0})


@pytest.mark.parametrize(("K", "N"), [(8, 1), (8, 3), (12, 5), (6, 5)])
def test_the_papers_formula_holds_for_other_context_lengths(K, N):
    world = draw_world(label_tables="disjoint", T=2, K=K, L=K, N=N)
    assert accuracies(world)["scc"] == pytest.approx(paper_formula(K, N))


def test_the_papers_formula_has_its_value_worked_out_by_hand():
    assert paper_formula(8) == pytest.approx(4 / 7 + (3 / 7) / 2)


@pytest.mark.parametrize(("K", "N"), [(4, 4), (8, 0)])
def test_the_papers_formula_refuses_a_context_that_the_world_cannot_fill(K, N):
    with pytest.raises(ValueError, match=f"N = {N} is not allowed"):
        paper_formula(K, N)


@pytest.mark.parametrize(
    ("settings", "ranges"),
    [
        ({}, {"ncc": (0.34, 0.39), "scc": (0.74, 0.87)}),
        ({"K": 32}, {"scc": (0.88, 0.97)}),
        ({"K": 128}, {"scc": (0.56, 0.71)}),
        ({"K": 256}, {"scc": (0.53, 0.60)}),
        ({"T": 2}, {"ncc": (0.5, 0.54), "scc": (0.84, 0.96)}),
        ({"T": 6}, {"scc": (0.56, 0.69)}),
        ({"label_tables": "balanced"}, {"ncc": (0.34, 0.39), "scc": (0.36, 0.41)}),
        ({"label_tables": "shifted", "query": "any"}, {"ncc": (1 / 3, 1 / 3)}),
    ],
    ids=str,
)
def test_the_papers_worlds_have_their_known_ceilings(settings, ranges):
    for seed in range(3):
        found = ceilings(draw_world(seed, **settings))
        assert {ceiling.method for ceiling in found} == {"enumeration"}
        values = {ceiling.circuit: ceiling.accuracy for ceiling in found}
        assert values["fcc"] == pytest.approx(1, abs=1e-4)
        for circuit, (lowest, highest) in ranges.items():
            assert lowest - 1e-9 <= values[circuit] <= highest + 1e-9


def test_the_papers_default_world_has_the_mean_ceilings_of_trial_runs():
    worlds = [accuracies(draw_world(seed)) for seed in range(6)]
    assert np.mean([world["ncc"] for world in worlds]) == pytest.approx(0.36, abs=0.015)
    assert np.mean([world["scc"] for world in worlds]) == pytest.approx(0.80, abs=0.03)


def test_with_one_task_every_circuit_is_right():
    assert accuracies(draw_world(T=1, p_B=1.0)) == pytest.approx(dict.fromkeys(CIRCUITS, 1.0))


@pytest.mark.parametrize(
    "settings",
    [
        {"T": 3, "K": 6, "L": 2, "N": 2},
        {"T": 3, "K": 6, "L": 2, "N": 2, "alpha": 1.25, "beta": 1.0},
        {"T": 3, "K": 6, "L": 2, "N": 2, "alpha": 0.5, "query": "any"},
        {"T": 4, "K": 6, "L": 2, "N": 1, "beta": 2.0},
        {"T": 4, "K": 8, "L": 3, "N": 4, "p_B": 0.5, "B": 2},
        {"T": 4, "K": 8, "L": 3, "N": 4, "p_B": 0.5, "B": 2, "alpha": 1.0},
        {"T": 6, "K": 64, "L": 32, "N": 4},
    ],
    ids=str,
)
def test_estimates_lie_within_four_standard_errors_of_the_exact_ceilings(settings):
    world = draw_world(5, **settings)
    estimates = ceilings(world, largest_enumeration=0, sequences=8192)
    for exact, estimate in zip(ceilings(world), estimates, strict=True):
        assert exact.method == "enumeration"
        assert estimate.method == ("enumeration" if exact.circuit == "ncc" else "monte_carlo")
        assert abs(estimate.accuracy - exact.accuracy) <= 4 * estimate.standard_error + 1e-9
        assert estimate.standard_error < 0.005


def test_stated_standard_errors_are_the_spread_of_estimates_over_seeds():
    world = draw_world(T=3, K=6, L=2, N=2, alpha=0.5)
    exact = accuracies(world)
    deviations = [
        (estimate.accuracy - exact[estimate.circuit]) / estimate.standard_error
        for seed in range(100)
        for estimate in ceilings(replace(world, seed=seed), largest_enumeration=0, sequences=400)[1:]
    ]
    # Over 100 seeds, the deviation of the two circuits' deviations has a standard error below 0.07.
    assert np.std(deviations) == pytest.approx(1, abs=0.25)
    assert np.mean(deviations) == pytest.approx(0, abs=0.4)


def test_more_tasks_than_can_be_enumerated_are_estimated():
    world = draw_world(T=18, K=8, L=2, N=2)
    fcc = ceilings(world)[2]
    assert fcc.method == "monte_carlo"
    assert abs(fcc.accuracy - brute_force(world)["fcc"]) <= 4 * fcc.standard_error


@pytest.mark.parametrize(
    "settings",
    [
        {"alpha": 1.0, "beta": 0.5},
        {"alpha": 1.0, "query": "any"},
        {"p_B": 0.6, "B": 2, "alpha": 0.5},
    ],
    ids=str,
)
def test_predictions_by_bayes_rule_on_drawn_sequences_reach_the_ceilings(settings):
    world = draw_world(2, T=3, K=6, L=3, N=2, **settings)
    joint = label_probabilities(world)
    count = 10_000
    drawn = draw_sequences(world, count, np.random.default_rng(0))
    right = dict.fromkeys(CIRCUITS, 0)
    for task, classes in zip(drawn.tasks.tolist(), drawn.classes.tolist(), strict=True):
        for circuit, seen in what_each_circuit_sees(world, task, classes[-1], classes[:-1]).items():
            labels = joint[circuit][seen]
            right[circuit] += max(labels, key=labels.get) == world.label_tables[task, classes[-1]]
    for circuit, ceiling in accuracies(world).items():
        error = math.sqrt(ceiling * (1 - ceiling) / count)
        assert abs(right[circuit] / count - ceiling) <= 4 * error + 1e-9, circuit


def test_an_estimate_depends_on_the_worlds_seed_and_not_on_its_vectors():
    settings = {"T": 3, "K": 16, "L": 8, "N": 8, "P": 17}
    options = {"largest_enumeration": 0, "sequences": 500}
    narrow, wide = draw_world(1, **settings), draw_world(1, **settings | {"D": 9})
    assert accuracies(narrow, **options) == accuracies(wide, **options)
    assert accuracies(narrow, **options)["scc"] != accuracies(replace(narrow, seed=2), **options)["scc"]


def test_a_world_beyond_reach_is_refused_in_one_line():
    world = draw_world(K=1024, N=512, P=1025, alpha=1.0)
    with pytest.raises(UserError, match=r"^T = 3, K = 1024, N = 512 with alpha = 1 is too large for the theory\. .*$"):
        ceilings(world)


@pytest.mark.parametrize(("eps", "D"), [(1, 63), (1.5, 63), (0.1, 2), (0.3, 8), (3, 63)])
def test_items_nearer_to_another_class_are_no_more_than_the_bound_on_them(eps, D):
    settings = WorldSettings(eps=eps, D=D, P=65)
    shares = []
    for seed in range(5):
        world = World.draw(settings, seed)
        sequences = draw_sequences(world, 1000, np.random.default_rng(seed))
        items = sequences.items.numpy() * math.sqrt(1 + eps**2)
        distances = np.linalg.norm(items[:, :, None] - np.asarray(world.class_means), axis=-1)
        shares.append((distances.argmin(-1) != sequences.classes.numpy()).mean())
    assert np.mean(shares) <= misread_items(settings)


def test_classes_are_told_apart_in_the_papers_world_and_not_in_much_noise():
    assert misread_items(WorldSettings()) < 1e-4
    assert misread_items(WorldSettings(eps=0)) == 0
    assert misread_items(WorldSettings(eps=1.5)) == pytest.approx(63 / 2 * (11 / 9) ** -31.5)
    assert misread_items(WorldSettings(eps=3)) == 1


def test_the_theory_table_has_a_row_per_circuit_in_its_schema():
    found = [Ceiling("ncc", 0.35, 0.0, "enumeration"), Ceiling("scc", 0.75, 0.001, "monte_carlo")]
    table = theory_table(found, "paper", 7)
    assert table.schema.equals(THEORY, check_metadata=True)
    assert table.to_pylist() == [
        {"run": "paper", "seed": 7, "circuit": "ncc", "accuracy": 0.35, "standard_error": 0.0, "method": "enumeration"},
        {
            "run": "paper",
            "seed": 7,
            "circuit": "scc",
            "accuracy": 0.75,
            "standard_error": 0.001,
            "method": "monte_carlo",
        },
    ]
