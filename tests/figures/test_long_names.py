"""Series with long names, as several varied parameters give them: every figure stays readable."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
from looked_at import is_shown, overlaps, panel, visible_texts
from made_tables import figure_data, shifted

from circuit_phases.configuration import Experiment
from circuit_phases.figure_data import Series
from circuit_phases.figures.drawing import draw
from circuit_phases.figures.style import styling, text_width, wrapped
from circuit_phases.figures.sweeps import looks

MASKS = [None, [["self", "query_to_labels"], ["self", "query_to_labels"]]]
VARIED = {
    "tables": {"label_tables": ["independent", "shifted"], "output_projection": [True, False], "heads": [1]},
    "losses": {"positions": ["fixed", "random"], "loss": ["last_label", "every_label"]},
    "masks": {"masks": MASKS, "output_projection": [True, False]},
    "many": {"positions": ["fixed", "random"], "masks": MASKS, "output_projection": [True, False]},
}
SHOW_NAMES = (
    "abilities", "curves", "fig01", "fig03", "maps", "prerequisites", "pruning", "seeds", "sweep", "sweep_maps",
    "task_map",
)  # fmt: skip
"""A drawing of each kind that names series: figures 2, 3 and 12, for example, give each a part in the same way."""


@pytest.fixture(scope="module")
def long_names():
    """Two worlds of two seeds each, under the names of each sweep; maps are asked for of two series."""
    worlds = [{"world": {"K": K, "L": 8}, "ceilings": {"ncc": 1 / K, "scc": 0.8, "fcc": 1.0}} for K in (8, 16)]
    runs = {f"run{number}": {0: shifted(1, **world), 1: shifted(1.4, **world)} for number, world in enumerate(worlds)}
    data = figure_data({"one": "run0", "two": "run1"}, **runs)

    def named(sweep):
        labels = [label for label, _ in Experiment(vary=VARIED[sweep]).combinations()]
        maps = {1: ("early", "full"), 2: ("full",)}
        series = [
            Series(label, f"run{number % 2}", (0, 1), maps.get(number, ())) for number, label in enumerate(labels)
        ]
        return replace(data, series=tuple(series))

    return named


def drawn_without_a_warning(name, data):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = draw(name, data)
        boxes = [(text.get_text(), box.padded(-1)) for text, box in visible_texts(figure)]
    cut = [text for text, box in boxes if not (figure.bbox.contains(*box.p0) and figure.bbox.contains(*box.p1))]
    assert not cut
    assert not overlaps(figure)
    return figure


def names_in_the_legend(figure):
    texts = [text.get_text().replace("\n", " ") for legend in figure.legends for text in legend.get_texts()]
    return {text for text in texts if " = " in text}


@pytest.mark.parametrize("name", SHOW_NAMES)
def test_no_long_name_is_cut_off_or_lies_over_another_text(long_names, name):
    data = long_names("masks")
    figure = drawn_without_a_warning(name, data)
    told = "\n".join(text.get_text() for text, _ in visible_texts(figure)).replace("\n", " ")
    labels = [series.label for series in data.series if series.maps or name != "maps"]
    assert all(label in told for label in labels)


@pytest.mark.parametrize(
    ("name", "sweep"), [*(("sweep", sweep) for sweep in VARIED), ("sweep_loss", "many"), ("curves", "many")]
)
def test_long_names_leave_the_curves_their_room(long_names, name, sweep):
    data = long_names(sweep)
    figure = drawn_without_a_warning(name, data)
    axes = panel(figure, "accuracy")
    assert axes.bbox.width >= 0.6 * figure.bbox.width
    assert axes.bbox.height / figure.dpi >= 0.9
    assert names_in_the_legend(figure) == {series.label for series in data.series}


def test_rows_of_phases_have_the_lines_of_the_legend_where_names_are_long(long_names):
    data = long_names("masks")
    figure = drawn_without_a_warning("sweep", data)
    (strip,) = [axes for axes in figure.axes if axes.get_ylim() == (3.5, -0.5) and is_shown(axes) and axes.collections]
    assert not [label for label in strip.get_yticklabels() if label.get_text()]
    shown = [(line.get_ydata()[0], line.get_color(), line.get_linestyle()) for line in strip.lines]
    assert shown == [(row, colour, style) for row, (_, colour, style) in enumerate(looks(data))]
    assert all(line.get_window_extent().x1 < strip.bbox.x0 for line in strip.lines)
    (legend,) = figure.legends
    assert [handle.get_color() for handle in legend.get_lines()] == [colour for _, colour, _ in looks(data)]


@styling
def test_a_name_is_broken_between_its_parameters_before_it_is_broken_within():
    name = "masks = [[self, query_to_labels], [self]], output_projection = true, label_vectors = learned"
    lines = wrapped(name, 2.3, 6.5).split("\n")
    assert lines == [
        "masks = [[self, query_to_labels], [self]],",
        "output_projection = true,",
        "label_vectors = learned",
    ]
    narrow = wrapped(name, 1.1, 6.5)
    assert "label_vectors =\nlearned" in narrow
    assert narrow.replace("\n", " ") == name
    assert text_width(narrow, 6.5) <= 1.1
    assert wrapped("T = 2", 2, 6.5) == "T = 2"
