from __future__ import annotations

import subprocess
import sys

import matplotlib
import pytest
from looked_at import bands, overlaps, visible_texts
from made_tables import figure_data, shifted

from circuit_phases.figure_data import FigureData
from circuit_phases.figures import FIGURES
from circuit_phases.figures.drawing import draw, save
from circuit_phases.figures.style import CIRCUIT_TINTS, COLUMN, PAGE, SMALL
from circuit_phases.files import UserError


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_fits_a_column_or_a_page(drawn, name):
    width, height = drawn[name].get_size_inches()
    assert width in (COLUMN, PAGE)
    assert height < 9


@pytest.mark.parametrize("name", FIGURES)
def test_every_text_is_six_points_or_larger(drawn, name):
    texts = visible_texts(drawn[name])
    assert len(texts) > 10
    assert min(text.get_fontsize() for text, _ in texts) >= SMALL >= 6


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_is_cut_off_or_lies_over_another(drawn, name):
    figure = drawn[name]
    boxes = [(text.get_text(), box.padded(-1)) for text, box in visible_texts(figure)]
    cut = [text for text, box in boxes if not (figure.bbox.contains(*box.p0) and figure.bbox.contains(*box.p1))]
    assert not cut
    assert not overlaps(figure)


@pytest.mark.parametrize("name", FIGURES)
def test_empty_tables_give_an_empty_figure(three_phases, name):
    empty = {table: frame.iloc[:0] for table, frame in three_phases.tables.items()}
    for series in (three_phases.series, ()):
        figure = draw(name, FigureData(series, empty))
        lines = [line for axes in figure.axes for line in axes.lines]
        assert not any(len(line.get_xdata()) > 2 for line in lines)
        assert not any(map(bands, figure.axes))


@pytest.mark.parametrize("name", ["fig02", "fig03", "fig04", "fig06", "fig12", "seeds"])
def test_a_run_that_skips_phases_is_shaded_where_it_has_them(name):
    kept = {"none": (), "one": (3,), "two": (1, 3)}
    runs = {run: {0: shifted(0.9, phases)} for run, phases in kept.items()}
    figure = draw(name, figure_data({run: run for run in kept}, **runs))
    panels = [axes for axes in figure.axes if axes.get_ylabel().startswith("accuracy")]
    assert [list(bands(axes)) for axes in panels] == [
        [CIRCUIT_TINTS[phase] for phase in phases] for phases in kept.values()
    ]


@pytest.mark.parametrize("name", ["fig12", "seeds"])
def test_the_same_tables_give_the_same_bytes(tmp_path, three_phases, name):
    files = []
    for folder in ("one", "two"):
        pdf, png = tmp_path / folder / "figure.pdf", tmp_path / folder / "figure.png"
        with matplotlib.rc_context({"axes.grid": folder == "two"}):
            save(draw(name, three_phases), pdf, png)
        files.append((pdf.read_bytes(), png.read_bytes()))
    assert files[0] == files[1]
    pdf, png = files[0]
    assert pdf.startswith(b"%PDF")
    assert png.startswith(b"\x89PNG")
    assert b"/FontFile2" in pdf, "the fonts are not TrueType"
    assert b"/Type3" not in pdf


def test_a_figure_that_cannot_be_written_whole_leaves_no_file(tmp_path, drawn):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot write"):
        save(drawn["fig14"], tmp_path / "figure.pdf", tmp_path / "file" / "figure.png")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_unknown_figure_is_refused_by_name(three_phases):
    with pytest.raises(UserError, match=r"'fig99' is not known .*fig02"):
        draw("fig99", three_phases)


def test_drawing_needs_no_torch_and_opens_no_window():
    program = (
        "import sys\n"
        "from circuit_phases.figures import FIGURES\n"
        "from circuit_phases.figure_data import FigureData, Series\n"
        "from circuit_phases.figures.drawing import draw\n"
        "from circuit_phases.schemas import FIGURE_TABLES, FINDING_TABLES\n"
        "from circuit_phases.tables import to_frame\n"
        "tables = {name: to_frame(schema.empty_table()) for name, schema in (FIGURE_TABLES | FINDING_TABLES).items()}\n"
        "for name in FIGURES: draw(name, FigureData((Series('p', 'p', (0,)),), tables))\n"
        "from matplotlib import pyplot\n"
        "print('torch' in sys.modules, pyplot.get_fignums())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False []"
