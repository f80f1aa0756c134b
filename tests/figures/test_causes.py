"""What hangs on each circuit and edge family, as figures read and draw it."""

from __future__ import annotations

import numpy as np
import pytest
from looked_at import bands
from made_tables import CHECKPOINTS, STARTS, accuracy, figure_data, metric

from circuit_phases.figure_data import FigureData
from circuit_phases.figures.causes import circuit_importance, disagreements, lost_accuracy, moved_answers, places
from circuit_phases.figures.drawing import draw
from circuit_phases.figures.style import CIRCUIT_TINTS


def with_effects(data, change):
    """The same data with another table of attribution."""
    return FigureData(data.series, data.tables | {"attribution": change(data.tables["attribution"].copy())}, data.rules)


def test_lost_accuracy_is_that_of_the_head_whose_loss_is_largest():
    data = figure_data({"p": "p"}, p={0: {"heads": 2}})
    lost = lost_accuracy(data, "p", 0, "label_attention", 1, "mean")
    steps = lost.index.to_numpy()
    expected = 0.7 * metric(steps, STARTS, "label_attention", 1) * (accuracy(steps, STARTS) - 1 / 32)
    assert 0 not in steps
    assert len(steps) == len(np.union1d(CHECKPOINTS, [100_000]))
    np.testing.assert_allclose(lost["lost"], expected, atol=1e-6)
    assert (lost["standard_error"] == np.float32(0.01)).all()


def test_no_more_hangs_on_a_circuit_than_on_each_of_its_links(three_phases):
    importance = circuit_importance(three_phases, "paper", 3)
    links = {
        1: [("bigram", 1), ("bigram", 2)],
        2: [("label_attention", 1), ("bigram", 2)],
        3: [("chunk_example", 1), ("label_attention", 2)],
    }
    assert importance.keys() == links.keys()
    for phase, curve in importance.items():
        of_links = [lost_accuracy(three_phases, "paper", 3, *link)["lost"] for link in links[phase]]
        np.testing.assert_array_equal(curve, np.minimum(*of_links))


@pytest.mark.parametrize(
    ("weight", "lost", "error", "told"),
    [
        (0.5, 0.0, 0.01, "not needed"),
        (0.5, 0.04, 0.01, None),  # its interval reaches 0.05
        (0.5, 0.2, 0.01, None),
        (0.09, 0.2, 0.01, "hardly looked at"),
        (0.09, 0.06, 0.01, None),
        (0.2, 0.2, 0.01, None),
        (0.2, 0.0, 0.01, None),
    ],
)
def test_attention_and_effect_disagree_beyond_the_interval_alone(three_phases, weight, lost, error, told):
    data = with_effects(
        three_phases, lambda rows: rows.assign(accuracy_change=np.float32(-lost), standard_error=np.float32(error))
    )
    data.tables["circuits"] = data.tables["circuits"].assign(value=weight)
    found = disagreements(data, "paper", 3, "bigram", 1)
    risen = [step for step in lost_accuracy(data, "paper", 3, "bigram", 1).index if accuracy(step, STARTS) > 0.12]
    for kind, steps in found.items():
        assert set(steps) >= set(risen) if kind == told else not steps
        assert min(steps, default=10**9) > 300


def test_the_task_is_sought_where_it_can_stand(three_phases):
    assert places(three_phases, "paper") == [
        (0, "labels"), (1, "items"), (1, "labels"), (1, "query"), (2, "query"),
    ]  # fmt: skip
    moved = moved_answers(three_phases, "paper", 3, 0, "labels")
    np.testing.assert_allclose(moved, accuracy(moved.index.to_numpy(), STARTS) - 1 / 32, atol=1e-6)


def test_the_map_shows_every_seed_in_every_place(three_phases):
    figure = draw("task_map", three_phases)
    axes = next(axes for axes in figure.axes if "after layer 2" in str([t.get_text() for t in axes.get_yticklabels()]))
    meshes = axes.collections
    assert len(meshes) == 5 * 3
    last = meshes[-3].get_array().compressed()
    np.testing.assert_allclose(last, moved_answers(three_phases, "paper", 3, 2, "query"))


def test_causal_importance_shades_phases_and_draws_every_seed(three_phases):
    figure = draw("causal_importance", three_phases)
    named = {axes.get_title(loc="left"): axes for axes in figure.axes}
    assert list(bands(named["Accuracy"])) == [CIRCUIT_TINTS[phase] for phase in (1, 2, 3)]
    panel = named["Chunk Example, layer 1"]
    curves = [line for line in panel.lines if len(line.get_xdata()) > 10 and line.get_linestyle() != "None"]
    assert len(curves) == 3 + 2
    dark = max(curves, key=lambda line: line.get_linewidth())
    np.testing.assert_allclose(dark.get_ydata(), lost_accuracy(three_phases, "paper", 3, "chunk_example", 1)["lost"])
