from __future__ import annotations

from dataclasses import replace

import matplotlib
import numpy as np
import pandas as pd
import pytest
from looked_at import bars, curve, has_line, maps, metric_curve, overlaps, panel, visible_texts
from made_tables import figure_data

from circuit_phases.figures.drawing import draw
from circuit_phases.figures.style import CIRCUIT_COLOURS, series_looks
from circuit_phases.readings import METRICS, median_curve

SWEEPS = ("sweep", "sweep_loss", "sweep_tasks", "sweep_maps")


def test_curves_show_the_median_over_seeds_dark_and_every_seed_light(drawn, sweep):
    axes = panel(drawn["curves"], "accuracy")
    colours = [colour for colour, _ in series_looks([series.label for series in sweep.series])]
    for series, colour in zip(sweep.series, colours, strict=True):
        steps, _ = curve(sweep, series.run, 0)
        values = np.median([curve(sweep, series.run, seed)[1] for seed in series.seeds], axis=0)
        assert has_line(axes, (steps, values), color=colour)
        for seed in series.seeds:
            assert has_line(axes, curve(sweep, series.run, seed))


@pytest.mark.parametrize("name", METRICS)
def test_curves_show_the_metrics_in_a_row_each_and_the_layers_in_columns(drawn, sweep, name):
    grid = np.array([axes for axes in drawn["curves"].axes if axes.get_ylim() == (0, 1.04)][2:]).reshape(3, 2)
    assert [axes.get_title(loc="left") for axes in grid[0]] == ["Layer 1", "Layer 2"]
    for layer, axes in enumerate(grid[list(METRICS).index(name)], start=1):
        steps, _ = metric_curve(sweep, "T2", 0, name, layer)
        values = np.median([metric_curve(sweep, "T2", seed, name, layer)[1] for seed in (0, 1, 2)], axis=0)
        assert has_line(axes, (steps, values))


def test_curves_of_many_series_leave_their_panels_room_for_the_labels():
    data = figure_data({"p": "p"}, p={0: {}, 1: {}})
    (one,) = data.series
    series = [replace(one, label=f"T = {T}, eps = {eps}") for T in range(1, 9) for eps in (0.1, 0.25, 0.5)]
    assert not overlaps(draw("curves", replace(data, series=tuple(series))))


def test_curves_take_the_largest_metric_over_heads_and_say_so():
    data = figure_data({"p": "p"}, p={0: {"heads": 3, "layers": 5}})
    figure = draw("curves", data)
    assert not overlaps(figure)
    (axes,) = [axes for axes in figure.axes if axes.get_ylabel() == "Bigram"]
    assert has_line(axes, metric_curve(data, "p", 0, "bigram", 1, head=1))
    assert len(axes.lines) == 1
    assert "Metrics: the largest over heads" in {text.get_text() for text, _ in visible_texts(figure)}


def test_curves_list_the_phases_of_every_seed(drawn):
    (strip,) = [axes for axes in drawn["curves"].axes if axes.get_ylim() == (2.5, -0.5)]
    assert [label.get_text() for label in strip.get_yticklabels()] == ["T = 2", "T = 3", "T = 4"]
    second_row = [(start, end, colour) for start, end, row, colour in bars(strip) if 0.5 < row < 1.5]
    assert second_row[:3] == [
        (2_000, 12_000, CIRCUIT_COLOURS[1]),
        (20_000, 36_000, CIRCUIT_COLOURS[2]),
        (60_000, 100_000, CIRCUIT_COLOURS[3]),
    ]
    assert [colour for *_, colour in second_row[3:5]] == [CIRCUIT_COLOURS[1], CIRCUIT_COLOURS[3]], (
        "seed 1 skips Phase 2"
    )


def test_a_curve_of_a_single_point_is_a_dot_within_the_axes_and_others_have_none():
    data = figure_data({"p": "p"}, p={0: {}})
    figure = draw("curves", at_steps(data, "circuits", [0, 100_000]))
    assert [line.get_marker() for line in panel(figure, "accuracy").lines[:1]] == [""]
    axes = panel(figure, "Bigram")
    assert [line.get_marker() for line in axes.lines] == ["o"]
    assert axes.get_xlim()[0] < axes.lines[0].get_xdata()[0] < axes.get_xlim()[1]
    axes = panel(draw("sweep", at_steps(data, "training", [500])), "accuracy")
    assert axes.lines[0].get_marker() == "o"
    assert axes.get_xlim()[0] < 500 < axes.get_xlim()[1]


def at_steps(data, table, steps):
    """The same with these rows of a table alone."""
    rows = data.tables[table]
    return replace(data, tables=data.tables | {table: rows[rows["step"].isin(steps)]})


def test_a_run_that_ended_early_keeps_its_last_value_in_the_median():
    ended, going = pd.Series([0.5, 1.0], index=[100, 200]), pd.Series([0.1, 0.2, 0.3], index=[100, 200, 300])
    assert median_curve([ended, going, going]).tolist() == [0.1, 0.2, 0.3]
    assert median_curve([ended, ended, going]).tolist() == [0.5, 1.0, 1.0]


def test_the_median_of_two_seeds_shows_no_plateau_between_them():
    low, high = pd.Series([0.3, 0.3, 1.0], index=[1, 2, 3]), pd.Series([0.3, 1.0, 1.0], index=[1, 2, 3])
    assert median_curve([low, high]).tolist() == [0.3, 0.3, 1.0]


def test_numeric_labels_go_from_dark_to_light_by_value_and_names_get_the_palette():
    colours = [colour for colour, _ in series_looks(["K = 1024", "K = 32", "K = 128"])]
    brightness = [sum(matplotlib.colors.to_rgb(colour)) for colour in colours]
    assert brightness[1] < brightness[2] < brightness[0]
    names = series_looks([f"model {letter}" for letter in "abcdefghijkl"])
    assert len(set(names)) == 12
    circuits = set(CIRCUIT_COLOURS.values())
    assert not circuits & {colour for colour, _ in names}, "a series looks like a phase"


def test_a_series_named_after_a_circuit_has_its_colour_and_a_second_one_is_dashed():
    looks = series_looks(["full model", "SCC", "SCC alone", "FCC"])
    assert looks[1:] == [(CIRCUIT_COLOURS[2], "-"), (CIRCUIT_COLOURS[2], "--"), (CIRCUIT_COLOURS[3], "-")]
    assert looks[0][0] not in CIRCUIT_COLOURS.values()


@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_shows_every_seed_and_the_median(drawn, sweep, name):
    axes = next(axes for axes in drawn[name].axes if axes.get_ylabel().endswith("accuracy"))
    assert len(axes.lines) == 3 * (3 + 1)
    colours = [colour for colour, _ in series_looks([series.label for series in sweep.series])]
    for series, colour in zip(sweep.series, colours, strict=True):
        curves = [curve(sweep, series.run, seed) for seed in series.seeds]
        assert all(has_line(axes, each) for each in curves)
        assert has_line(axes, (curves[0][0], np.median([values for _, values in curves], axis=0)), color=colour)


@pytest.mark.parametrize("name", SWEEPS)
def test_ceilings_that_differ_stand_beside_the_curves_in_the_colour_of_their_series(drawn, sweep, name):
    (axes,) = [axes for axes in drawn[name].axes if axes.get_title(loc="center") == "ceilings"]
    colours = [colour for colour, _ in series_looks([series.label for series in sweep.series])]
    shown = {(line.get_color(), round(np.mean(line.get_xdata())), line.get_ydata()[0]) for line in axes.lines}
    assert shown == {
        (colour, phase, best)
        for T, colour in zip((2, 3, 4), colours, strict=True)
        for phase, best in ((1, 1 / T), (2, 0.9 - 0.05 * T), (3, 1.0))
    }
    assert [label.get_text() for label in axes.get_xticklabels()] == ["NCC", "SCC", "FCC"]
    assert axes.get_ylim() == (0, 1.04), "not on the scale of the curves"


def test_ceilings_that_are_the_same_for_all_are_lines_through_the_curves():
    worlds = {seed: {"ceilings": {"ncc": 0.3, "scc": 0.7 + 0.05 * seed, "fcc": 1.0}} for seed in (0, 1, 2)}
    figure = draw("sweep", figure_data({"one": "a", "other": "b"}, a=worlds, b=worlds))
    axes = panel(figure, "accuracy")
    levels = [line.get_ydata()[0] for line in axes.lines if len(line.get_xdata()) == 2]
    assert sorted(set(levels)) == pytest.approx([0.3, 0.7, 0.75, 0.8, 1.0])
    assert {"NCC 0.30", "SCC 0.75", "FCC 1.00"} <= {text.get_text() for text in axes.texts}
    assert not [axes for axes in figure.axes if axes.get_title(loc="center") == "ceilings"]


@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_lists_the_phases_of_every_seed(drawn, name):
    (strip,) = [axes for axes in drawn[name].axes if axes.get_ylim() == (2.5, -0.5)]
    assert [label.get_text() for label in strip.get_yticklabels()] == ["T = 2", "T = 3", "T = 4"]
    assert (2_000, 12_000, CIRCUIT_COLOURS[1]) in [(start, end, colour) for start, end, _, colour in bars(strip)]


def test_a_sweep_with_loss_shows_the_loss_of_every_seed(drawn, sweep):
    axes = panel(drawn["sweep_loss"], "loss (nats)")
    assert axes.get_ylim()[0] == 0
    assert axes.get_ylim()[1] > 1.1
    for series in sweep.series:
        assert all(has_line(axes, curve(sweep, series.run, seed, column="loss")) for seed in series.seeds)


def test_a_sweep_with_tasks_shows_each_task_below_the_average(drawn, sweep):
    rows = sweep.tables["training"]
    assert rows.loc[rows["split"] == "iid", "task"].dropna().unique().tolist() == [1]
    axes = panel(drawn["sweep_tasks"], "task 1")
    for series in sweep.series:
        of_task = rows[
            (rows["run"] == series.run) & (rows["split"] == "iid") & (rows["task"] == 1) & (rows["step"] > 0)
        ]
        for _, seed in of_task.groupby("seed"):
            assert has_line(axes, (seed["step"].to_numpy(dtype=float), seed["accuracy"].to_numpy(dtype=float)))


def test_the_maps_of_a_sweep_stand_beside_it_where_they_are_few():
    few = draw("sweep_maps", figure_data({"p": "p"}, {"p": ("full",)}, p={0: {}}))
    many = draw("sweep_maps", figure_data({"p": "p"}, {"p": ("early", "full")}, p={0: {}}))
    for figure, beside in ((few, True), (many, False)):
        curves = panel(figure, "accuracy").bbox
        for axes, _ in maps(figure):
            assert (axes.bbox.x0 > curves.x1) == beside
            assert (axes.bbox.y1 < curves.y0) != beside
