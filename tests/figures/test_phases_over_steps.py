from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from looked_at import bands, bars, curve, has_line, maps, metric_curve, overlaps, panel, visible_texts, weights_in_table
from made_tables import CHECKPOINTS, figure_data, shifted
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from circuit_phases.figures.drawing import draw
from circuit_phases.figures.panels import step_axis
from circuit_phases.figures.style import CIRCUIT_COLOURS, CIRCUIT_TINTS, INK
from circuit_phases.phases import PhaseSettings
from circuit_phases.readings import METRICS, nearest


def test_figure_2_shows_every_seed_and_the_first_listed_dark(drawn, three_phases):
    for label, column in (("accuracy", "accuracy"), ("loss (nats)", "loss")):
        axes = panel(drawn["fig02"], label)
        for seed in (3, 1, 2):
            assert has_line(axes, curve(three_phases, "paper", seed, column=column))
        assert has_line(axes, curve(three_phases, "paper", 3, column=column), color=INK)
        assert sum(line.get_color() == INK for line in axes.lines) == 1
    assert "seed 3, the first listed" in {text.get_text() for text, _ in visible_texts(drawn["fig02"])}


def test_figure_2_shades_the_phases_of_the_table_and_draws_the_ceilings(drawn):
    for label in ("accuracy", "loss (nats)"):
        assert bands(panel(drawn["fig02"], label)) == {
            CIRCUIT_TINTS[1]: [(2_000, 12_000)],
            CIRCUIT_TINTS[2]: [(20_000, 36_000)],
            CIRCUIT_TINTS[3]: [(60_000, 100_000)],
        }
    axes = panel(drawn["fig02"], "accuracy")
    levels = {line.get_color(): line.get_ydata()[0] for line in axes.lines if len(line.get_xdata()) == 2}
    assert levels == {CIRCUIT_COLOURS[1]: 0.36, CIRCUIT_COLOURS[2]: 0.78, CIRCUIT_COLOURS[3]: 1.0}
    texts = {text.get_text() for text in axes.texts}
    assert texts == {"1", "2", "3", "NCC 0.36", "SCC 0.78", "FCC 1.00"}


def test_figure_2_maps_are_those_of_the_checkpoint_in_the_middle_of_each_phase(drawn, three_phases):
    steps = [nearest(CHECKPOINTS, middle) for middle in (4_899, 26_833, 77_460)]
    shown = maps(drawn["fig02"])
    assert [axes.get_title() for axes, _ in shown[:3]] == [
        f"Phase {phase} ({circuit})\nstep {step:,}"
        for phase, circuit, step in zip((1, 2, 3), ("NCC", "SCC", "FCC"), steps, strict=True)
    ]
    assert len(shown) == 6
    for index, (axes, weights) in enumerate(shown):
        expected = weights_in_table(three_phases, 3, steps[index % 3], layer=1 + index // 3)
        np.testing.assert_array_equal(weights.filled(np.nan), expected)
        if index % 3 == 0:
            assert axes.get_ylabel().startswith(f"Layer {1 + index // 3}\n")


def test_maps_name_their_tokens_from_the_first_item_to_the_query(drawn):
    tokens = [f"${token}_{{{k}}}$" for k in (1, 2, 3, 4) for token in ("x", r"\ell")] + ["$x_q$"]
    for axes, _ in [*maps(drawn["fig02"]), *maps(drawn["fig12"])]:
        assert [label.get_text() for label in axes.get_xticklabels()] == tokens
        assert [label.get_text() for label in axes.get_yticklabels()] == tokens
        assert list(axes.get_xticks()) == [token + 0.5 for token in range(9)]
        assert axes.yaxis_inverted(), "the first token is not at the top"


def test_figure_2_has_a_row_of_maps_for_every_head():
    figure = draw("fig02", figure_data({"p": "p"}, p={0: {"heads": 2}}))
    labels = [axes.get_ylabel().split("\n")[0] for axes, _ in maps(figure)]
    assert [label for label in labels if label] == [
        f"Layer {layer}, head {head}" for layer in (1, 2) for head in (1, 2)
    ]


def test_figure_2_gives_every_configuration_its_part():
    data = figure_data({"one": "a", "other": "b"}, a={0: {}}, b={5: shifted(1.2, (1, 3))})
    figure = draw("fig02", data)
    one, other = (axes for axes in figure.axes if axes.get_ylabel() == "accuracy")
    assert has_line(one, curve(data, "a", 0), color=INK)
    assert has_line(other, curve(data, "b", 5), color=INK)
    assert {"one", "other"} <= {text.get_text() for text, _ in visible_texts(figure)}
    assert len(maps(figure)) == 6 + 4


def test_figure_2_draws_every_configuration_at_one_scale_whatever_phases_and_heads_it_has():
    runs = {"all": {0: {}}, "one": {0: shifted(1, (3,))}, "none": {0: shifted(1, ())}, "heads": {0: {"heads": 2}}}
    figure = draw("fig02", figure_data({run: run for run in runs}, **runs))
    assert not overlaps(figure)
    curves = [axes.bbox.height for axes in figure.axes if axes.get_ylabel() == "accuracy"]
    assert max(curves) < 1.2 * min(curves)
    sizes = [axes.bbox.width for axes, _ in maps(figure)]
    assert max(sizes) < 1.2 * min(sizes)


def test_figure_3_shows_the_change_of_accuracy_over_one_evaluation(drawn, three_phases):
    steps, accuracy = curve(three_phases, "paper", 3)
    axes = panel(drawn["fig03"], "dAcc, dt = 500")
    assert has_line(axes, (steps[:-1], np.diff(accuracy)))
    assert [0.025, 0.025] in [list(line.get_ydata()) for line in axes.lines]
    low, high = axes.get_ylim()
    assert low < np.diff(accuracy).min() < np.diff(accuracy).max() < high


def test_figure_3_leaves_a_gap_in_the_evaluations_open():
    data = figure_data({"p": "p"}, p={0: {"steps": np.array([0, 500, 1000, 1500, 2500, 3000])}})
    change = np.diff(curve(data, "p", 0)[1])[[0, 1, 3]]
    assert has_line(panel(draw("fig03", data), "dAcc, dt = 500"), (np.array([500, 1000, 2500]), change))


def test_figure_3_uses_the_interval_and_threshold_that_phases_were_found_with(three_phases):
    data = dataclasses.replace(three_phases, rules=PhaseSettings(dt=1_000, threshold=0.05))
    steps, accuracy = curve(data, "paper", 3)
    axes = panel(draw("fig03", data), "dAcc, dt = 1,000")
    assert has_line(axes, (steps[:-2], accuracy[2:] - accuracy[:-2]))
    assert [0.05, 0.05] in [list(line.get_ydata()) for line in axes.lines]


def test_figure_3_compares_both_rules():
    data = figure_data({"p": "p"}, p={0: {}})
    found = data.tables["phases"]
    by_paper = (found["rule"] == "paper").to_numpy()
    data.tables["phases"] = pd.concat(
        [
            found[~by_paper],
            found[by_paper].assign(phase=[0, 1, 2], start_step=[500, 9_000, 16_000], end_step=[7_000, 15_000, 100_000]),
        ]
    )
    figure = draw("fig03", data)
    (strip,) = [
        axes
        for axes in figure.axes
        if [label.get_text() for label in axes.get_yticklabels()] == ["dAcc rule", "plateaus"]
    ]
    assert [bar[:3] for bar in bars(strip)] == [
        (500, 7_000, 0), (9_000, 15_000, 0), (16_000, 100_000, 0),
        (2_000, 12_000, 1), (20_000, 36_000, 1), (60_000, 100_000, 1),
    ]  # fmt: skip
    edges = [line.get_xdata()[0] for line in panel(figure, "accuracy").lines if line.get_linestyle() == ":"]
    assert edges == [7_000, 9_000, 15_000, 16_000]


@pytest.mark.parametrize("name", METRICS)
def test_figure_4_shows_a_metric_of_both_layers_for_every_seed(drawn, three_phases, name):
    axes = panel(drawn["fig04"], METRICS[name])
    assert len(axes.lines) == 6
    for seed in (3, 1, 2):
        for layer in (1, 2):
            assert has_line(axes, metric_curve(three_phases, "paper", seed, name, layer))
    dark = {line.get_color() for line in axes.lines if line.get_zorder() == 3}
    assert len(dark) == 2
    for layer in (1, 2):
        expected = metric_curve(three_phases, "paper", 3, name, layer)
        assert any(has_line(axes, expected, color=colour) for colour in dark), "the first seed is not dark"
    assert list(bands(axes)) == [CIRCUIT_TINTS[phase] for phase in (1, 2, 3)]


def test_figure_4_shows_every_head():
    data = figure_data({"p": "p"}, p={0: {"heads": 2}})
    axes = panel(draw("fig04", data), "Bigram")
    looks = set()
    for layer in (1, 2):
        for head in (1, 2):
            _, values = metric_curve(data, "p", 0, "bigram", layer, head)
            (line,) = [line for line in axes.lines if np.array_equal(line.get_ydata(), values)]
            looks.add((line.get_color(), line.get_linestyle()))
    assert len(looks) == 4


@pytest.mark.parametrize("split", ["train", "iid", "random_label"])
def test_figure_6_shows_every_split_of_every_seed(drawn, three_phases, split):
    axes = panel(drawn["fig06"], "accuracy")
    assert all(has_line(axes, curve(three_phases, "paper", seed, split)) for seed in (3, 1, 2))
    dark = {line.get_color() for line in axes.lines if line.get_zorder() == 3}
    assert len(dark) == 3
    assert any(has_line(axes, curve(three_phases, "paper", 3, split), color=colour) for colour in dark)


def test_figure_12_shows_the_first_and_the_last_checkpoint(drawn, three_phases):
    shown = maps(drawn["fig12"])
    assert [axes.get_title() for axes, _ in shown[:2]] == ["at the start\nstep 0", "at the end\nstep 100,000"]
    for index, (_, weights) in enumerate(shown):
        expected = weights_in_table(three_phases, 3, (0, 100_000)[index % 2], layer=1 + index // 2)
        np.testing.assert_array_equal(weights.filled(np.nan), expected)
    assert has_line(panel(drawn["fig12"], "accuracy"), curve(three_phases, "paper", 3), color=INK)


def test_figure_12_grows_with_the_heads_whose_maps_it_shows():
    one, two = (draw("fig12", figure_data({"p": "p"}, p={0: {"heads": heads}})) for heads in (1, 2))
    assert len(maps(two)) == 2 * len(maps(one))
    assert not overlaps(two)
    assert panel(two, "accuracy").bbox.height < 1.2 * panel(one, "accuracy").bbox.height


def test_figure_14_of_few_classes_has_ticks_that_keep_apart():
    data = figure_data({"p": "p"}, p={0: {}})
    rows = data.tables["class_frequencies"]
    data.tables["class_frequencies"] = rows[rows["class"] <= 8]
    figure = draw("fig14", data)
    ticks = figure.axes[0].get_xticklabels(which="both")
    boxes = sorted((box for text, box in visible_texts(figure) if text in ticks), key=lambda box: box.x0)
    assert len(boxes) > 1, "one label alone gives no scale"
    assert all(right.x0 - left.x1 > 3 for left, right in pairwise(boxes))


def test_figure_14_shows_set_and_observed_frequencies_for_every_alpha():
    data = figure_data({f"{seed}": f"a{seed}" for seed in range(6)}, **{f"a{seed}": {seed: {}} for seed in range(6)})
    figure = draw("fig14", data)
    axes = panel(figure, "frequency $f(k)$")
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert [line.get_label() for line in axes.lines[::2]] == [
        rf"$\alpha$ = {alpha}" for alpha in ("0", "0.25", "0.5", "0.75", "1", "1.25")
    ]
    for seed, line, dots in zip(range(6), axes.lines[::2], axes.lines[1::2], strict=True):
        table = data.tables["class_frequencies"]
        table = table[table["seed"] == seed]
        np.testing.assert_array_equal(line.get_ydata(), table["frequency"])
        seen = table[table["observed"] > 0]
        np.testing.assert_array_equal(dots.get_xdata(), seen["class"])
        np.testing.assert_array_equal(dots.get_ydata(), seen["observed"])
        assert line.get_color() == dots.get_color()


def test_a_plateau_at_no_known_ceiling_is_shaded_grey_and_has_no_number():
    data = figure_data({"p": "p"}, p={0: {}})
    data.tables["phases"].loc[data.tables["phases"]["phase"] == 1, "phase"] = pd.NA
    figure = draw("fig02", data)
    axes = panel(figure, "accuracy")
    assert bands(axes)[CIRCUIT_TINTS[None]] == [(2_000, 12_000)]
    assert "1" not in {text.get_text() for text in axes.texts}
    assert "plateau elsewhere" in {text.get_text() for text, _ in visible_texts(figure)}


def test_the_step_axis_begins_a_little_before_accuracy_rises(drawn, three_phases):
    (series,) = three_phases.series
    starts = []
    for seed in series.seeds:
        steps, accuracy = curve(three_phases, series.run, seed)
        starts.append(max(steps[0], steps[accuracy > 0.1][0] / 3))
    left, right = panel(drawn["fig03"], "accuracy").get_xlim()
    assert left == min(starts)
    assert 100_000 <= right < 110_000


@pytest.mark.parametrize(
    ("limits", "named"),
    [
        ((10, 60), ["20", "50"]),
        ((700, 900), ["700"]),
        ((2_800, 8_500), ["3,000", "5,000", "8,000"]),
        ((150, 9_000), ["200", "5,000"]),
        ((10, 60_000), []),
    ],
    ids=str,
)
def test_an_axis_of_steps_without_powers_of_ten_names_others(limits, named):
    figure = Figure()
    axes = figure.subplots()
    step_axis(axes, [pd.Series([0.0, 0.5, 0.6], index=[1, 3 * limits[0], limits[1]])])
    FigureCanvasAgg(figure).draw()
    assert [tick.get_text() for tick in axes.get_xticklabels(minor=True) if tick.get_text()] == named


def test_a_phase_out_of_view_does_not_spoil_the_layout():
    data = figure_data({"p": "p"}, p={0: {}})
    data.tables["phases"].loc[data.tables["phases"]["phase"] == 1, ["start_step", "end_step"]] = 1
    axes = panel(draw("fig06", data), "accuracy")
    assert axes.get_position().width > 0.8
