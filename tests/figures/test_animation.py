from __future__ import annotations

import sys

import numpy as np
import pytest
from looked_at import maps, weights_in_table
from made_tables import CHECKPOINTS, STEPS, figure_data
from PIL import Image

from circuit_phases.figure_data import FigureData
from circuit_phases.figures.animation import HOLD, animation, ffmpeg, save_films
from circuit_phases.files import UserError


@pytest.fixture
def film():
    """A run that learns early, so that few checkpoints are shown."""
    data = figure_data({"p": "p"}, p={0: {"steps": STEPS[STEPS <= 20_000]}})
    return data, animation(data)


def test_the_film_goes_from_step_0_over_every_checkpoint_in_view_to_the_last(film):
    _, moving = film
    first = moving.figure.axes[0].get_xlim()[0]
    in_view = [0, *(step for step in CHECKPOINTS if first <= step < 20_000), 20_000]
    assert moving.steps == in_view
    assert len(in_view) > 5


def test_a_frame_shows_the_maps_and_the_accuracy_of_its_step(film):
    data, moving = film
    step = moving.steps[-3]
    moving.show(step)
    (left, first), (right, second) = maps(moving.figure)
    assert (left.get_title(), right.get_title()) == ("Layer 1", "Layer 2")
    for layer, shown in ((1, first), (2, second)):
        np.testing.assert_array_equal(shown.filled(np.nan), weights_in_table(data, 0, step, layer))
    (dot,) = [line for line in moving.figure.axes[0].lines if line.get_marker() == "o"]
    assert dot.get_xdata() == [step]
    assert f"step {step:,}: accuracy {dot.get_ydata()[0]:.2f}" in {
        text.get_text() for text in moving.figure.findobj() if hasattr(text, "get_text")
    }


def test_both_films_are_written_with_all_frames(tmp_path, film):
    _, moving = film
    gif, mp4 = tmp_path / "film.gif", tmp_path / "film.mp4"
    save_films(moving, gif, mp4)
    with Image.open(gif) as image:
        # Equal frames at the end are kept as one that lasts longer.
        assert len(moving.steps) <= image.n_frames <= len(moving.steps) + HOLD
        assert image.size == (960, 360)
    assert mp4.read_bytes()[4:8] == b"ftyp"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film.gif", "film.mp4"]


def test_without_ffmpeg_the_way_out_is_told_and_nothing_is_left(tmp_path, film, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(UserError, match="pip install imageio-ffmpeg"):
        save_films(film[1], tmp_path / "film.gif", tmp_path / "film.mp4")
    assert not list(tmp_path.iterdir())


def test_an_ffmpeg_that_fails_is_told_of_and_nothing_is_left(tmp_path, film, monkeypatch):
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "ffmpeg"
    program.write_text("#!/bin/sh\ncat > /dev/null; echo no such encoder >&2; exit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/bin:/usr/bin")
    with pytest.raises(UserError, match="no such encoder"):
        save_films(film[1], tmp_path / "film.gif", tmp_path / "film.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


def test_an_ffmpeg_on_the_path_needs_no_package(tmp_path, monkeypatch):
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    assert ffmpeg() == str(program)


def test_a_run_without_attention_has_no_film(three_phases):
    empty = {name: table.iloc[:0] for name, table in three_phases.tables.items()}
    with pytest.raises(UserError, match="no attention maps"):
        animation(FigureData(three_phases.series, empty))
