from __future__ import annotations

import dataclasses
import subprocess
import sys

import matplotlib
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from circuit_phases.figures import FIGURES
from circuit_phases.figures.data import FigureData, Series
from circuit_phases.figures.drawing import draw, save
from circuit_phases.figures.readings import METRICS, median_curve, nearest
from circuit_phases.figures.style import CIRCUIT_COLOURS, CIRCUIT_TINTS, COLUMN, INK, PAGE, SMALL, series_looks
from circuit_phases.files import UserError
from circuit_phases.phases import PhaseSettings
from circuit_phases.tables import RUN_TABLES, to_frame

STEPS = np.arange(0, 100_001, 500)
CHECKPOINTS = np.unique(np.geomspace(1, 100_000, 60).astype(int))
CEILINGS = {"ncc": 0.36, "scc": 0.78, "fcc": 1.0}
STARTS = {1: 2_000, 2: 20_000, 3: 60_000}
N = 4


def rise(step, at):
    return 1 / (1 + (at / np.maximum(step, 1)) ** 8)


def levels(step, starts):
    """The share of every phase's circuit at a step."""
    return {phase: rise(step, 0.75 * start) for phase, start in starts.items()}


def accuracy(step, starts):
    value, below = 1 / 32, 1 / 32
    for phase, share in levels(step, starts).items():
        ceiling = list(CEILINGS.values())[phase - 1]
        value, below = value + share * (ceiling - below), ceiling
    return value


def metric(step, starts, name, layer):
    share = dict.fromkeys((1, 2, 3), 0.0) | levels(step, starts)
    ncc, scc, fcc = np.maximum(share[1] - share[2] - share[3], 0), np.maximum(share[2] - share[3], 0), share[3]
    weights = {
        ("bigram", 1): 0.1 + 0.85 * ncc,
        ("bigram", 2): 0.1 + 0.85 * (ncc + scc),
        ("label_attention", 1): 0.4 + 0.5 * scc,
        ("label_attention", 2): 0.4 - 0.35 * ncc + 0.5 * fcc,
        ("chunk_example", 1): 0.3 + 0.6 * fcc,
        ("chunk_example", 2): 0.3 + 0.0 * step,
    }
    return weights.get((name, layer), 0.3 + 0.0 * step)


def attention(step, starts, layer):
    S = 2 * N + 1
    weights = np.tri(S) / np.arange(1, S + 1)[:, None]
    chunk = metric(step, starts, "chunk_example", layer)
    for label in range(1, S - 1, 2):
        weights[label, : label + 1] *= (1 - chunk) / (1 - weights[label, label - 1])
        weights[label, label - 1] = chunk
    bigram, labels = (metric(step, starts, name, layer) for name in ("bigram", "label_attention"))
    total = max(bigram + labels, 1)
    weights[-1] = max(1 - bigram - labels, 0) / N
    weights[-1, 1:-1:2] = labels / total / N
    weights[-1, -1] = bigram / total
    return weights


def rows_of(table, columns):
    count = max(np.size(values) for values in columns.values())
    frame = pd.DataFrame({name: np.resize(values, count) for name, values in columns.items()})
    return frame[RUN_TABLES[table].names]


def tables_of(run, seed, starts=STARTS, steps=STEPS, layers=2, heads=1, ceilings=CEILINGS):
    """Tables of a made-up run that goes through the phases of `starts`, {phase: its first step}."""
    last = steps[-1]
    noise = 0.01 * np.random.default_rng(seed).standard_normal((3, len(steps)))
    identity = {"run": run, "seed": seed}
    mean = accuracy(steps, starts)
    chance = np.minimum(mean, 0.5 * mean + 0.3 * rise(steps, 20_000))
    training = []
    for (split, values), wobble in zip(
        {"train": mean, "iid": mean, "random_label": chance}.items(), noise, strict=True
    ):
        values = np.clip(values + wobble * (1 - values), 0, 1)
        for task, offset in ((pd.NA, 0), (1, 0.2)):
            columns = identity | {"step": steps, "split": split, "loss": 3.5 * (1 - values) + offset}
            training.append(
                rows_of("training", columns | {"accuracy": values - offset, "sequences": 4096, "task": task})
            )
    saved = np.union1d(CHECKPOINTS[last > CHECKPOINTS], [0, last])
    circuits, maps = [], []
    query, key = (index + 1 for index in np.nonzero(np.tri(2 * N + 1)))
    for layer in range(1, layers + 1):
        for head in range(1, heads + 1):
            place = identity | {"layer": layer, "head": head}
            for name in ("bigram", "label_attention", "chunk_example"):
                value = np.asarray(metric(saved, starts, name, layer)) / head
                circuits.append(rows_of("circuits", place | {"step": saved, "metric": name, "value": value}))
            for step in saved:
                weight = attention(step, starts, layer)[query - 1, key - 1]
                columns = place | {"step": step, "query": query, "key": key, "weight": weight}
                maps.append(rows_of("attention", columns))
    ends = {phase: 0.6 * next((starts[p] for p in starts if p > phase), last / 0.6) for phase in starts}
    found = [rows_of("phases", {name: [] for name in RUN_TABLES["phases"].names})]
    for rule in ("plateau", "paper"):
        for phase, start in starts.items():
            columns = identity | {"rule": rule, "phase": phase, "start_step": int(start), "end_step": int(ends[phase])}
            found.append(rows_of("phases", columns | {"accuracy": 0.5, "ceiling": 0.5}))
    theory = {"circuit": list(ceilings), "accuracy": list(ceilings.values())}
    return {
        "training": pd.concat(training),
        "circuits": pd.concat(circuits),
        "attention": pd.concat(maps),
        "phases": pd.concat(found),
        "theory": rows_of("theory", identity | theory | {"standard_error": 0.0, "method": "enumeration"}),
        "class_frequencies": class_frequencies(run, seed, 0.25 * seed),
    }


def class_frequencies(run, seed, alpha, K=64):
    frequency = np.arange(1, K + 1) ** -alpha
    frequency /= frequency.sum()
    observed = np.random.default_rng(7).multinomial(4096, frequency) / 4096
    columns = {"run": run, "seed": seed, "alpha": alpha, "class": np.arange(1, K + 1), "frequency": frequency}
    return rows_of("class_frequencies", columns | {"observed": observed})


def figure_data(series, **runs):
    """Data of a figure; `runs` maps a run to {seed: arguments of `tables_of`}."""
    made = [tables_of(run, seed, **arguments) for run, seeds in runs.items() for seed, arguments in seeds.items()]
    tables = {name: as_read(name, pd.concat([one[name] for one in made])) for name in made[0]}
    shown = tuple(Series(label, run, tuple(runs[run])) for label, run in series.items())
    return FigureData(shown, tables, PhaseSettings(dt=500, threshold=0.025))


def as_read(name, table):
    """The table as it comes from its file."""
    return to_frame(pa.Table.from_pandas(table, schema=RUN_TABLES[name], preserve_index=False))


def shifted(factor, phases=(1, 2, 3), **arguments):
    """A run whose phases come earlier or later, or do not come."""
    return {"starts": {phase: int(factor * STARTS[phase]) for phase in phases}} | arguments


THREE_SEEDS = {3: {}, 1: shifted(1.3), 2: shifted(0.6, steps=STEPS[STEPS <= 60_000])}


@pytest.fixture(scope="module")
def three_phases():
    """One configuration with seeds 3, 1 and 2; the last ended early."""
    return figure_data({"the text's model": "paper"}, paper=THREE_SEEDS)


@pytest.fixture(scope="module")
def sweep():
    runs = {f"T{T}": {0: shifted(T / 3), 1: shifted(T / 3.5, (1, 3)), 2: shifted(T / 4)} for T in (2, 3, 4)}
    return figure_data({f"T = {T}": f"T{T}" for T in (2, 3, 4)}, **runs)


@pytest.fixture(scope="module")
def drawn(three_phases, sweep):
    """Every figure, each drawn once."""
    return {name: draw(name, sweep if name in ("curves", "fig14") else three_phases) for name in FIGURES}


def curve(data, run, seed, split="iid", column="accuracy"):
    """Steps and values as the table has them."""
    table = data.tables["training"]
    rows = table[(table["run"] == run) & (table["seed"] == seed) & (table["split"] == split) & table["task"].isna()]
    rows = rows[rows["step"] > 0]
    return rows["step"].to_numpy(dtype=float), rows[column].to_numpy(dtype=float)


def metric_curve(data, run, seed, name, layer, head=1):
    table = data.tables["circuits"]
    rows = table[(table["run"] == run) & (table["seed"] == seed) & (table["metric"] == name) & (table["step"] > 0)]
    rows = rows[(rows["layer"] == layer) & (rows["head"] == head)]
    return rows["step"].to_numpy(dtype=float), rows["value"].to_numpy(dtype=float)


def panel(figure, label):
    """The axes whose y axis has this label."""
    (axes,) = [axes for axes in figure.axes if axes.get_ylabel() == label]
    return axes


def has_line(axes, expected, **looks):
    """Whether a line of the axes has exactly these points, and this colour if one is given."""
    steps, values = expected
    return any(
        np.array_equal(line.get_xdata(), steps)
        and np.array_equal(line.get_ydata(), values)
        and all(getattr(line, f"get_{name}")() == value for name, value in looks.items())
        for line in axes.lines
    )


def bands(axes: Axes):
    """{colour: [(start, end), ...]} of the shaded bands."""
    found: dict[str, list[tuple[float, float]]] = {}
    for patch in axes.patches:
        if isinstance(patch, Rectangle):
            found.setdefault(to_hex(patch.get_facecolor()), []).append(
                (patch.get_x(), patch.get_x() + patch.get_width())
            )
    return found


def bars(axes):
    """[(start, end, row, colour), ...] of a strip of phases."""
    return [
        (box.x0, box.x1, round((box.y0 + box.y1) / 2, 6), to_hex(bar.get_facecolor()[0]))
        for bar in axes.collections
        for box in [bar.get_paths()[0].get_extents()]
    ]


def maps(figure):
    """The attention maps in rows from left to right: [(axes, weights), ...]."""
    found = [(axes, mesh) for axes in figure.axes for mesh in axes.collections if isinstance(mesh, QuadMesh)]
    return [(axes, mesh.get_array()) for axes, mesh in found if axes.get_label() != "<colorbar>"]


def weights_in_table(data, seed, step, layer):
    table = data.tables["attention"]
    rows = table[(table["seed"] == seed) & (table["step"] == step) & (table["layer"] == layer)]
    weights = np.full((2 * N + 1, 2 * N + 1), np.nan)
    weights[rows["query"].to_numpy(dtype=int) - 1, rows["key"].to_numpy(dtype=int) - 1] = rows["weight"]
    return weights


def visible_texts(figure):
    """Every text that is to be read, with its box in pixels."""
    ticks = {}
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                shown = axes.axison and low <= tick.get_loc() <= high
                ticks[tick.label1] = shown and tick.label1.get_visible()
                ticks[tick.label2] = shown and tick.label2.get_visible()
    renderer = figure._get_renderer()
    return [
        (text, text.get_window_extent(renderer))
        for text in figure.findobj(Text)
        if text.get_text().strip() and text.get_visible() and ticks.get(text, True) and is_shown(text)
    ]


def is_shown(artist):
    return artist.axes is None or artist.axes.axison


# All figures


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
    overlaps = [
        (one, other)
        for i, (one, box) in enumerate(boxes)
        for other, other_box in boxes[i + 1 :]
        if box.overlaps(other_box)
    ]
    assert not overlaps


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


def test_drawing_needs_neither_torch_nor_a_display():
    program = (
        "import sys\n"
        "from circuit_phases.figures import FIGURES\n"
        "from circuit_phases.figures.data import FigureData, Series\n"
        "from circuit_phases.figures.drawing import draw\n"
        "from circuit_phases.tables import RUN_TABLES, to_frame\n"
        "tables = {name: to_frame(schema.empty_table()) for name, schema in RUN_TABLES.items()}\n"
        "for name in FIGURES: draw(name, FigureData((Series('p', 'p', (0,)),), tables))\n"
        "print([name for name in ('torch', 'matplotlib.pyplot') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Each figure


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
    edges = [line.get_xdata()[0] for line in panel(figure, "accuracy, seed 0").lines if line.get_linestyle() == ":"]
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
    grid = np.array([axes for axes in drawn["curves"].axes if axes.get_ylim() == (0, 1.04)][1:]).reshape(3, 2)
    assert [axes.get_title(loc="left") for axes in grid[0]] == ["Layer 1", "Layer 2"]
    for layer, axes in enumerate(grid[list(METRICS).index(name)], start=1):
        steps, _ = metric_curve(sweep, "T2", 0, name, layer)
        values = np.median([metric_curve(sweep, "T2", seed, name, layer)[1] for seed in (0, 1, 2)], axis=0)
        assert has_line(axes, (steps, values))


def test_curves_take_the_largest_metric_over_heads_and_say_so():
    data = figure_data({"p": "p"}, p={0: {"heads": 3}})
    figure = draw("curves", data)
    (axes,) = [axes for axes in figure.axes if axes.get_ylabel() == "Bigram"]
    assert has_line(axes, metric_curve(data, "p", 0, "bigram", 1, head=1))
    assert len(axes.lines) == 1
    assert axes.get_title(loc="left") == "Layer 1 (largest over heads)"


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
    assert names[0][0] == "#0072b2"


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


def test_more_seeds_than_fit_beside_each_other_go_on_in_the_next_row():
    data = figure_data({"a": "a", "b": "b"}, a={seed: {} for seed in range(6)}, b={0: shifted(1, ())})
    figure = draw("seeds", data)
    shown = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title(loc="left") for axes in shown] == [*(f"seed {seed}" for seed in range(6)), "seed 0"]
    heights = [round(axes.get_position().y0, 2) for axes in shown]
    assert heights[:4] == [heights[0]] * 4
    assert heights[4] == heights[5] < heights[0]
    assert "no phase" in {text.get_text() for text in shown[-1].texts}


def test_ceilings_that_are_close_are_named_together():
    ceilings = {"ncc": 1.0, "scc": 1.0, "fcc": 1.0}
    close = {"ncc": 0.3, "scc": 0.94, "fcc": 1.0}
    figure = draw("seeds", figure_data({"p": "p"}, p={0: {"ceilings": ceilings}, 1: {"ceilings": close}}))
    one, other = ({text.get_text() for text in axes.texts} for axes in figure.axes)
    assert "NCC, SCC, FCC 1.00" in one
    assert {"NCC 0.30", "SCC 0.94, FCC 1.00"} <= other


def test_a_plateau_at_no_known_ceiling_is_shaded_grey_and_has_no_number():
    data = figure_data({"p": "p"}, p={0: {}})
    data.tables["phases"].loc[data.tables["phases"]["phase"] == 1, "phase"] = pd.NA
    figure = draw("fig02", data)
    axes = panel(figure, "accuracy")
    assert bands(axes)[CIRCUIT_TINTS[None]] == [(2_000, 12_000)]
    assert "1" not in {text.get_text() for text in axes.texts}
    assert "plateau elsewhere" in {text.get_text() for text, _ in visible_texts(figure)}


def test_the_step_axis_begins_a_little_before_accuracy_rises(drawn, three_phases):
    steps, accuracy = curve(three_phases, "paper", 3)
    left, right = panel(drawn["fig03"], "accuracy, seed 3").get_xlim()
    assert left == steps[accuracy > 0.1][0] / 3
    assert 100_000 <= right < 110_000


def test_a_phase_out_of_view_does_not_spoil_the_layout():
    data = figure_data({"p": "p"}, p={0: {}})
    data.tables["phases"].loc[data.tables["phases"]["phase"] == 1, ["start_step", "end_step"]] = 1
    axes = panel(draw("fig06", data), "accuracy")
    assert axes.get_position().width > 0.8
