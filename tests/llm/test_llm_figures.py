"""The figures of the language models."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.text import Text

from circuit_phases import schemas, tables
from circuit_phases.figure_data import FigureData
from circuit_phases.figures import LLM_FIGURES
from circuit_phases.figures.drawing import draw
from circuit_phases.figures.style import PAGE, SMALL
from circuit_phases.readings import METRICS

MODELS = {"small": (["local"], 4, 3), "trained": (["step1", "step64", "main"], 6, 2)}
LAST = {"small": "local", "trained": "main"}
CUTS = {
    "none": 0.8, "label_attention: top 2 heads": 0.55, "label_attention: 2 random heads, draw 1": 0.79,
    "chunk_example: top 2 heads": 0.6, "chunk_example: 2 random heads, draw 1": 0.78,
}  # fmt: skip
KINDS = {(0, "none"): 0.6, (2, "gold"): 0.8, (2, "permuted"): 0.75, (2, "random"): 0.7, (2, "flipped"): 0.5}


def value(revision: int, layer: int, head: int | None, metric: str) -> float:
    return (revision + 1) * (layer + len(metric)) * (1 if head is None else head) / 500


def frame(name: str, rows: list[dict[str, Any]]) -> pd.DataFrame:
    return tables.to_frame(tables.table_from_rows(rows, schemas.LLM_TABLES[name]))


@pytest.fixture(scope="module")
def data() -> FigureData:
    circuits, accuracy, sources = [], [], []
    for model, (revisions, layers, heads) in MODELS.items():
        for number, revision in enumerate(revisions):
            asked = {"model": model, "revision": revision, "dataset": "reviews"}
            for layer, head, metric, labels in itertools.product(
                range(1, layers + 1), [None, *range(1, heads + 1)], METRICS, ("gold", "flipped")
            ):
                row = {"shots": 2, "demonstration_labels": labels, "layer": layer, "head": head, "metric": metric}
                amount = value(number, layer, head, metric) * (1 if labels == "gold" else 7)
                circuits.append(asked | row | {"value": amount, "standard_error": amount / 9, "prompts": 90})
            for (shots, labels), share in KINDS.items():
                row = {"shots": shots, "demonstration_labels": labels, "cut": "none", "prompts": 90}
                accuracy.append(asked | row | {"accuracy": share, "low": share - 0.1, "high": share + 0.05})
            for cut, share in list(CUTS.items())[1:]:
                row = {"shots": 2, "demonstration_labels": "gold", "cut": cut, "prompts": 90}
                accuracy.append(asked | row | {"accuracy": share, "low": share - 0.1, "high": share + 0.05})
            same = "step64" if revision == "main" else None
            sources.append({"kind": "model", "name": model, "revision": revision, "same_as": same})
    return FigureData(
        (),
        {
            "llm_circuits": frame("llm_circuits", circuits),
            "llm_accuracy": frame("llm_accuracy", accuracy),
            "llm_sources": frame("llm_sources", sources),
        },
    )


@pytest.fixture(scope="module")
def drawn(data: FigureData) -> dict[str, Figure]:
    return {name: draw(name, data) for name in LLM_FIGURES}


def texts(figure: Figure) -> list[Text]:
    return [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]


@pytest.mark.parametrize("name", LLM_FIGURES)
def test_a_figure_fits_a_page_with_legible_text_inside_it(name: str, drawn: dict[str, Figure]) -> None:
    figure = drawn[name]
    figure.draw_without_rendering()
    assert figure.get_size_inches()[0] == PAGE
    assert min(text.get_fontsize() for text in texts(figure)) >= SMALL
    titles = [axes.title for axes in figure.axes] + [axes._left_title for axes in figure.axes]
    legends = [text for legend in figure.legends for text in legend.findobj(Text)]
    for text in [*titles, *legends, *(part._suptitle for part in figure.subfigs)]:
        box = text.get_window_extent()
        assert figure.bbox.contains(*box.p0), text.get_text()
        assert figure.bbox.contains(*box.p1), text.get_text()


@pytest.mark.parametrize("name", LLM_FIGURES)
def test_empty_tables_give_an_empty_figure(name: str, data: FigureData) -> None:
    empty = {table: rows.iloc[:0] for table, rows in data.tables.items()}
    assert not draw(name, FigureData((), empty)).findobj(QuadMesh)


def panels(figure: Figure, title: str) -> list[Any]:
    return [axes for axes in figure.axes if axes.get_title("left") == title or axes.get_title() == title]


def test_figure_10_draws_the_mean_over_heads_of_each_models_last_revision(drawn: dict[str, Figure]) -> None:
    for metric, title in METRICS.items():
        for axes, (model, (revisions, layers, _)) in zip(panels(drawn["fig10"], title), MODELS.items(), strict=True):
            (line,) = axes.lines
            expected = [value(len(revisions) - 1, layer, None, metric) for layer in range(1, layers + 1)]
            np.testing.assert_allclose(line.get_ydata(), expected)
            band = axes.collections[0].get_paths()[0].vertices[:, 1]
            assert band.max() == pytest.approx(max(expected) * (1 + 2 / 9)), model
    titles = {text.get_text() for text in texts(drawn["fig10"])}
    assert {"small (local) on reviews", "trained (main) on reviews"} <= titles


def test_maps_of_heads_show_every_head_of_the_table(drawn: dict[str, Figure]) -> None:
    for metric, title in METRICS.items():
        for axes, (revisions, layers, heads) in zip(panels(drawn["llm_heads"], title), MODELS.values(), strict=True):
            (mesh,) = [each for each in axes.collections if isinstance(each, QuadMesh)]
            expected = [
                [value(len(revisions) - 1, layer, head, metric) for head in range(1, heads + 1)]
                for layer in range(1, layers + 1)
            ]
            np.testing.assert_allclose(mesh.get_array(), expected)
            assert axes.get_ylim() == (0.5, layers + 0.5)


def dots(figure: Figure) -> list[dict[str, float]]:
    """{name: accuracy} of every panel."""
    found = []
    for axes in figure.axes:
        names = [label.get_text() for label in axes.get_yticklabels()]
        marked = [line for line in axes.lines if line.get_marker() == "o"]
        found.append({names[round(y)]: x for line in marked for x, y in zip(*line.get_data(), strict=True)})
    return found


def test_accuracies_stand_beside_the_labels_that_demonstrations_carry(drawn: dict[str, Figure]) -> None:
    names = ["no demonstrations", "gold labels", "labels permuted", "random labels", "labels flipped"]
    assert dots(drawn["llm_labels"]) == [dict(zip(names, KINDS.values(), strict=True))] * 2


def test_accuracies_stand_beside_what_is_cut(drawn: dict[str, Figure]) -> None:
    names = [
        "nothing cut", "Label Attention: top 2 heads", "Label Attention: 2 random heads", "Chunk Example: top 2 heads",
        "Chunk Example: 2 random heads",
    ]  # fmt: skip
    assert dots(drawn["llm_cuts"]) == [dict(zip(names, CUTS.values(), strict=True))] * 2


def test_metrics_over_revisions_name_repeated_weights(drawn: dict[str, Figure]) -> None:
    (axes,) = panels(drawn["llm_revisions"], "Chunk Example")
    assert [label.get_text() for label in axes.get_xticklabels()] == ["step1", "step64", "main\n= step64"]
    assert len(axes.lines) == 6
    expected = [value(number, 1, None, "chunk_example") for number in range(3)]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), expected)
