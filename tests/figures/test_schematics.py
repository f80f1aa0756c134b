from __future__ import annotations

import numpy as np
import pytest
from looked_at import weights_in_table
from made_tables import N, figure_data
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_hex
from matplotlib.patches import FancyArrowPatch

from circuit_phases.figures.drawing import draw
from circuit_phases.figures.style import LAYER_COLOURS
from circuit_phases.readings import METRICS

LABELS, ITEMS = range(1, 2 * N, 2), range(0, 2 * N, 2)


def sequence(data, run="paper", seed=3, number=1):
    rows = data.tables["evaluation_sequences"]
    return rows[(rows["run"] == run) & (rows["seed"] == seed) & (rows["sequence"] == number)].iloc[0]


def texts_at(axes, y):
    """The texts of a row, from left to right."""
    found = [text for text in axes.texts if text.get_position()[1] == pytest.approx(y, abs=0.05)]
    return [text.get_text() for text in sorted(found, key=lambda text: text.get_position()[0])]


def arrows(axes):
    return [patch for patch in axes.patches if isinstance(patch, FancyArrowPatch)]


def test_figure_1_shows_the_first_sequence_of_the_world(drawn, three_phases):
    axes = drawn["fig01"].axes[0]
    row = sequence(three_phases)
    assert texts_at(axes, 0) == [str(label) for label in row["labels"]]
    pictures = [mesh.get_array() for mesh in axes.collections if isinstance(mesh, QuadMesh)]
    items = np.asarray(row["items"]).reshape(N + 1, -1)
    for picture, item in zip(pictures, items, strict=True):
        np.testing.assert_allclose(picture.ravel(), item / np.abs(items).max())


def test_figure_1_gives_the_labels_of_every_task_and_marks_the_one_that_governs(drawn, three_phases):
    axes = drawn["fig01"].axes[0]
    row = sequence(three_phases)
    tables = three_phases.tables["label_tables"]
    for task in (1, 2, 3):
        mine = tables[(tables["seed"] == 3) & (tables["task"] == task)].set_index("class")["label"]
        y = -0.75 - 0.5 * task
        assert texts_at(axes, y) == [f"task {task}", *(str(mine[number]) for number in row["classes"])]
        bold = [text for text in axes.texts if text.get_position()[1] == y and text.get_weight() == "bold"]
        assert bool(bold) == (task == row["task"])
    assert [text.get_text() for text in axes.texts if text.get_weight() == "bold"] == [str(row["labels"][-1])]


def test_figure_1_points_at_the_pair_to_copy_where_there_is_one(three_phases):
    axes = draw("fig01", three_phases).axes[0]
    (arrow,) = arrows(axes)
    assert [point[0] for point in arrow._posA_posB] == [2 * N, 2]
    assert "the query's class stands in pair 2: copy its label" in {text.get_text() for text in axes.texts}
    data = figure_data({"p": "paper"}, paper={3: {}})
    rows = data.tables["evaluation_sequences"]
    data.tables["evaluation_sequences"] = rows[rows["sequence"] == 2]
    assert not arrows(draw("fig01", data).axes[0])


def test_figure_11_draws_every_weight_as_wide_as_it_is(drawn, three_phases):
    (axes,) = drawn["fig11"].axes
    for layer in (1, 2):
        weights = weights_in_table(three_phases, 3, 100_000, layer, name="example_attention")
        top = [line for line in axes.lines if len(line.get_xdata()) == 2 and line.get_ydata()[1] == 1.9 * layer - 0.12]
        drawn_widths = {tuple(map(int, line.get_xdata())): line.get_linewidth() for line in top}
        expected = {
            (key, query): 3 * weights[query, key]
            for query in range(2 * N + 1)
            for key in range(query + 1)
            if weights[query, key] >= 0.05
        }
        assert drawn_widths == pytest.approx(expected)
        coloured = {
            tuple(map(int, line.get_xdata())) for line in top if to_hex(line.get_color()) == LAYER_COLOURS[layer - 1]
        }
        circuit = set(zip(ITEMS, LABELS, strict=True)) if layer == 1 else {(label, 2 * N) for label in LABELS}
        assert coloured == circuit & set(expected)


def test_figure_11_gives_the_metrics_of_the_circuit(drawn, three_phases):
    (axes,) = drawn["fig11"].axes
    first, second = (weights_in_table(three_phases, 3, 100_000, layer, name="example_attention") for layer in (1, 2))
    chunk = np.mean([first[label, label - 1] for label in LABELS])
    labels = sum(second[-1, label] for label in LABELS)
    words = "\n".join(text.get_text() for text in axes.texts)
    assert f"{METRICS['chunk_example']} {chunk:.2f}" in words
    assert f"{METRICS['label_attention']} {labels:.2f}" in words
    assert "to predict: " + str(sequence(three_phases)["labels"][-1]) + ", the label of pair 2" in words
