from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from looked_at import has_line, maps, metric_curve, panel, visible_texts, weights_in_table
from made_tables import CHECKPOINTS, figure_data, shifted
from matplotlib.collections import QuadMesh

from circuit_phases.closed_form import paper_formula
from circuit_phases.figures.drawing import draw
from circuit_phases.figures.style import CIRCUIT_COLOURS, GREY
from circuit_phases.heads import hidden_scc
from circuit_phases.readings import METRICS, nearest

TWO_HEADS = {0: {"heads": 2}}


def swapped(data, table="circuits"):
    """The same with the numbers of two heads exchanged."""
    rows = data.tables[table]
    return replace(data, tables=data.tables | {table: rows.assign(head=3 - rows["head"])})


@pytest.mark.parametrize("name", ["maps", "sweep_maps"])
def test_maps_are_those_of_the_moments_that_were_asked_for(name):
    data = figure_data({"a": "a", "b": "b"}, {"b": ("early", "full")}, a={0: {}}, b={0: {}})
    shown = maps(draw(name, data))
    # The middle of Phase 1, from 2,000 to 12,000, is at 4,899 on a logarithmic axis.
    early, full = nearest(CHECKPOINTS, 4_899), CHECKPOINTS[first_full(data, "b") <= CHECKPOINTS][0]
    assert len(shown) == 4
    for (_, weights), (step, layer) in zip(shown, ((early, 1), (early, 2), (full, 1), (full, 2)), strict=True):
        expected = weights_in_table(data, 0, step, layer, run="b")
        np.testing.assert_array_equal(weights.filled(np.nan), expected)
    titles = [text.get_text() for text, _ in visible_texts(draw(name, data))]
    assert any(title.startswith(f"b\nseed 0, step {early:,}, accuracy 0.3") for title in titles)
    assert any(title.startswith(f"b\nseed 0, step {full:,}, accuracy 0.99") for title in titles)


def first_full(data, run):
    table = data.tables["training"]
    rows = table[(table["run"] == run) & (table["split"] == "iid") & table["task"].isna() & (table["step"] > 0)]
    return rows.loc[rows["accuracy"] >= 0.99 * rows["accuracy"].max(), "step"].min()


@pytest.mark.parametrize("name", ["fig02", "fig12", "hidden_scc", "maps", "sweep_maps"])
def test_the_small_weights_of_phase_2_are_seen_in_a_map_and_the_bar_tells_the_scale(name):
    figure = draw(name, figure_data({"p": "p"}, {"p": ("full",)}, p=TWO_HEADS))
    meshes = [mesh for axes, _ in maps(figure) for mesh in axes.collections if isinstance(mesh, QuadMesh)]
    for mesh in meshes:
        nothing, small, whole = (np.array(mesh.cmap(mesh.norm(weight))[:3]) for weight in (0, 0.07, 1))
        assert (nothing - small).max() > 0.2
        assert (small - whole).max() > 0.5
    (bar,) = [axes for axes in figure.axes if axes.get_label() == "<colorbar>"]
    named = {
        float(label.get_text()): place for place, label in zip(bar.get_yticks(), bar.get_yticklabels(), strict=True)
    }
    assert named == {weight: weight for weight in (0, 0.1, 0.25, 0.5, 1)}


@pytest.mark.parametrize("name", ["maps", "sweep_maps"])
def test_two_moments_at_one_step_are_told_apart_and_one_alone_is_not_named(name):
    data = figure_data({"p": "p"}, p={0: {}})
    # The only attention saved is that of the last step, which is nearest to every moment.
    rows = data.tables["attention"]
    data.tables["attention"] = rows[rows["step"] == rows["step"].max()]
    titles = {moments: block_titles(data, name, moments) for moments in (("early", "full"), ("full",))}
    assert titles["early", "full"] == [f"seed 0, step 100,000, accuracy 1.00, {moment}" for moment in ("early", "full")]
    assert titles["full",] == ["seed 0, step 100,000, accuracy 1.00"]


def block_titles(data, name, moments):
    asked = replace(data, series=tuple(replace(series, maps=moments) for series in data.series))
    texts = [text.get_text() for text, _ in visible_texts(draw(name, asked))]
    return [text for text in texts if text.startswith("seed 0, step ")]


def test_without_a_plateau_the_early_moment_is_half_the_way_up():
    data = figure_data({"p": "p"}, {"p": ("early",)}, p={0: shifted(1, (1,))})
    data.tables["phases"] = data.tables["phases"].iloc[:0]
    table = data.tables["training"]
    rows = table[(table["split"] == "iid") & table["task"].isna() & (table["step"] > 0)]
    half = rows.loc[rows["accuracy"] >= 0.5 * rows["accuracy"].max(), "step"].min()
    step = CHECKPOINTS[half <= CHECKPOINTS][0]
    np.testing.assert_array_equal(maps(draw("maps", data))[0][1].filled(np.nan), weights_in_table(data, 0, step, 1))


def test_maps_of_several_heads_have_a_row_per_layer_and_tell_what_each_head_has_become():
    data = figure_data({"p": "p"}, {"p": ("full",)}, p=TWO_HEADS)
    # At the end head 1 has twice the Chunk Example and Label Attention of head 2, and as little Bigram.
    titles = [axes.get_title(loc="left") for axes, _ in maps(draw("maps", data))]
    assert titles == ["layer 1, head 1: FCC", "layer 1, head 2", "layer 2, head 1: FCC", "layer 2, head 2"]
    titles = [axes.get_title(loc="left") for axes, _ in maps(draw("maps", swapped(data)))]
    assert titles == ["layer 1, head 1", "layer 1, head 2: FCC", "layer 2, head 1", "layer 2, head 2: FCC"]


def test_many_layers_stand_in_one_row():
    data = figure_data({"p": "p"}, {"p": ("full",)}, p={0: {"layers": 5}})
    boxes = [axes.get_position() for axes, _ in maps(draw("maps", data))]
    assert len({round(box.y0, 3) for box in boxes}) == 1
    assert [box.x0 for box in boxes] == sorted(box.x0 for box in boxes)


def test_head_metrics_give_every_head_the_colour_of_what_it_has_become():
    data = swapped(figure_data({"p": "p"}, p=TWO_HEADS))
    figure = draw("head_metrics", data)
    for metric, name in METRICS.items():
        axes = panel(figure, name)
        assert has_line(axes, metric_curve(data, "p", 0, metric, 1, head=2), color=CIRCUIT_COLOURS[3])
        assert has_line(axes, metric_curve(data, "p", 0, metric, 1, head=1), color=CIRCUIT_COLOURS[None])


def test_the_hidden_scc_is_drawn_through_its_own_heads_at_its_own_step():
    data = swapped(figure_data({"p": "p"}, p=TWO_HEADS))
    found = hidden_scc(data.tables["circuits"], 100_000)
    figure = draw("hidden_scc", data)
    axes = panel(figure, "metric of the hidden SCC's head")
    assert has_line(axes, metric_curve(data, "p", 0, "label_attention", 1, head=2))
    assert has_line(axes, metric_curve(data, "p", 0, "bigram", 2, head=2))
    assert [line.get_xdata()[0] for line in axes.lines if line.get_color() == GREY] == [found.step]
    titles = [axes.get_title(loc="left") for axes, _ in maps(figure)]
    assert titles == ["layer 1, head 1", "layer 1, head 2: SCC", "layer 2, head 1", "layer 2, head 2: SCC"]
    np.testing.assert_array_equal(maps(figure)[0][1].filled(np.nan), weights_in_table(data, 0, found.step, 1, head=1))


def test_a_seed_without_a_hidden_scc_is_told():
    data = figure_data({"p": "p"}, p={0: {}, 1: {}})
    rows = data.tables["circuits"]
    rows.loc[(rows["seed"] == 1) & (rows["metric"] == "label_attention"), "value"] = 0.01
    texts = "\n".join(text.get_text() for text, _ in visible_texts(draw("hidden_scc", data)))
    assert "seed 0: step " in texts
    assert "seed 1: no hidden SCC before full accuracy" in texts


def test_pruning_draws_exactly_the_edges_that_attention_keeps():
    data = figure_data({"full model": "full", "NCC": "ncc"}, full={0: {}}, ncc={0: {}})
    rows = data.tables["attention"]
    cut = (rows["run"] == "ncc") & (rows["query"] != rows["key"])
    rows.loc[cut, "weight"] = 0.0
    full, ncc = (weights for _, weights in maps(draw("pruning", data))[:2])
    assert full.compressed().all()
    assert full.count() == 9 * 10 / 2
    np.testing.assert_array_equal(ncc.filled(0).astype(bool), np.eye(9, dtype=bool))


def test_the_masked_scc_is_compared_with_the_closed_form_and_the_exact_ceiling(drawn, sweep):
    left, right = (axes for axes in drawn["masked_scc"].axes if axes.get_ylabel().startswith("accuracy"))
    levels = [line.get_ydata()[0] for line in left.lines if len(line.get_xdata()) == 2]
    assert levels == [paper_formula(K) for K in (8, 16, 32)]
    form, *points = right.lines
    assert dict(zip(form.get_xdata(), form.get_ydata(), strict=True))[16] == paper_formula(16)
    exact, trained = points[::2], points[1::2]
    for line, K, best in zip(exact, (8, 16, 32), (0.8, 0.75, 0.7), strict=True):
        assert (line.get_xdata()[0], line.get_ydata()[0]) == (K, pytest.approx(best))
    for line, series in zip(trained, sweep.series, strict=True):
        ends = []
        for seed in series.seeds:
            rows = sweep.table("training", series.run, seed)
            rows = rows[(rows["split"] == "iid") & rows["task"].isna() & (rows["step"] >= 90_000)]
            ends.append(float(rows["accuracy"].median()))
        assert line.get_ydata().tolist() == ends
