from __future__ import annotations

from looked_at import bands, curve, has_line
from made_tables import figure_data, shifted

from circuit_phases.figures.drawing import draw
from circuit_phases.figures.style import CIRCUIT_TINTS, INK


def test_seeds_have_a_panel_each_with_their_phases_and_ceilings(drawn, three_phases):
    panels = drawn["seeds"].axes
    assert [axes.get_title(loc="left") for axes in panels] == ["seed 3", "seed 1", "seed 2"]
    for axes, seed in zip(panels, (3, 1, 2), strict=True):
        assert has_line(axes, curve(three_phases, "paper", seed), color=INK)
    texts = [text.get_text() for text in panels[0].texts]
    assert {"1: 2–12k", "2: 20–36k", "3: 60k–", "NCC 0.36", "SCC 0.78", "FCC 1.00"} <= set(texts)  # noqa: RUF001
    assert bands(panels[2]) == {
        CIRCUIT_TINTS[1]: [(1_200, 7_200)],
        CIRCUIT_TINTS[2]: [(12_000, 21_600)],
        CIRCUIT_TINTS[3]: [(36_000, 60_000)],
    }
    limits = {axes.get_xlim() for axes in panels}
    assert len(limits) == 1, "seeds cannot be compared"


def test_more_seeds_than_fit_beside_each_other_stand_in_rows_as_long_as_each_other():
    data = figure_data({"a": "a", "b": "b"}, a={seed: {} for seed in range(6)}, b={0: shifted(1, ())})
    figure = draw("seeds", data)
    shown = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title(loc="left") for axes in shown] == [*(f"seed {seed}" for seed in range(6)), "seed 0"]
    heights = [round(axes.get_position().y0, 2) for axes in shown]
    assert heights[:3] == [heights[0]] * 3
    assert heights[3:6] == [heights[3]] * 3
    assert heights[3] < heights[0]
    assert "no phase" in {text.get_text() for text in shown[-1].texts}


def test_ceilings_that_are_close_are_named_together():
    ceilings = {"ncc": 1.0, "scc": 1.0, "fcc": 1.0}
    close = {"ncc": 0.3, "scc": 0.94, "fcc": 1.0}
    figure = draw("seeds", figure_data({"p": "p"}, p={0: {"ceilings": ceilings}, 1: {"ceilings": close}}))
    one, other = ({text.get_text() for text in axes.texts} for axes in figure.axes)
    assert "NCC, SCC, FCC 1.00" in one
    assert {"NCC 0.30", "SCC 0.94, FCC 1.00"} <= other
