"""The abilities over training, and the table of them at the end of each phase."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from looked_at import curve, has_line
from made_tables import CEILINGS, figure_data

from circuit_phases.figures.abilities import PANELS
from circuit_phases.figures.drawing import draw
from circuit_phases.figures.style import CIRCUIT_COLOURS, GREY
from circuit_phases.phase_abilities import abilities_table


@pytest.fixture(scope="module")
def one():
    return figure_data({"p": "p"}, p={0: {}})


def panels(figure):
    return {axes.get_title(loc="left"): axes for axes in figure.axes}


def test_every_panel_shows_its_measure_of_its_split(one):
    shown = panels(draw("abilities", one))
    assert list(shown) == [title for title, *_ in PANELS]
    for title, split, measure in PANELS:
        expected = curve(one, "p", 0, split, measure)
        if not np.isnan(expected[1]).all():
            assert has_line(shown[title], expected)


def test_one_series_has_its_ceilings_and_chance_and_several_have_chance_alone(one):
    axes = panels(draw("abilities", one))["as in training (iid)"]
    for phase, best in enumerate(CEILINGS.values(), start=1):
        assert has_line(axes, ([0, 1], [best, best]), color=CIRCUIT_COLOURS[phase])
    several = figure_data({"p": "p", "q": "q"}, p={0: {}}, q={0: {}})
    shown = panels(draw("abilities", several))
    assert not any(has_line(shown["as in training (iid)"], ([0, 1], [best, best])) for best in CEILINGS.values())
    assert has_line(shown["memory, iid"], ([0, 1], [0.1, 0.1]), color=GREY)


def test_conflict_shows_the_mean_over_the_other_tasks_dashed(one):
    axes = panels(draw("abilities", one))["context of one task (conflict)"]
    rows = one.tables["training"]
    rows = rows[(rows["split"] == "conflict") & rows["task"].notna() & (rows["step"] > 0)]
    means = rows.groupby("step")["accuracy"].mean()
    (dashed,) = [line for line in axes.lines if line.get_linestyle() == "--" and len(line.get_xdata()) > 2]
    assert np.allclose(dashed.get_ydata(), means.to_numpy(float))


def test_the_table_gives_every_split_at_the_last_evaluation_of_every_phase(one):
    found = abilities_table(one)
    phases = one.tables["phases"]
    ends = phases[phases["rule"] == "plateau"].set_index("phase")["end_step"]
    training = one.tables["training"]
    for _, row in found.iterrows():
        assert row["step"] == ends[row["phase"]]
        source = training[(training["step"] == row["step"]) & (training["split"] == row["split"])]
        source = source[source["task"].isna()].iloc[0]
        for name in ("accuracy", "memory", "inference"):
            assert (pd.isna(row[name]) and pd.isna(source[name])) or row[name] == source[name]
    iid = found[found["split"] == "iid"].set_index("phase")
    assert iid["ceiling"].tolist() == list(CEILINGS.values())
    assert len(found) == 3 * 7
    assert found[found["split"] == "copy"]["chance"].tolist() == [1 / 32] * 3
