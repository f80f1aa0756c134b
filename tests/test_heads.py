"""Which circuit a head serves, and when the hidden semi-context circuit shows, on hand-made tables."""

from __future__ import annotations

import pandas as pd
import pytest

from circuit_phases.heads import LEAD, HiddenSCC, head_roles, hidden_scc

METRICS = ("bigram", "label_attention", "chunk_example")


def circuits(values: dict[tuple[int, int, int], tuple[float, float, float]]) -> pd.DataFrame:
    """A table from {(step, layer, head): (Bigram, Label Attention, Chunk Example)}."""
    return pd.DataFrame(
        [
            {"step": step, "layer": layer, "head": head, "metric": metric, "value": value}
            for (step, layer, head), row in values.items()
            for metric, value in zip(METRICS, row, strict=True)
        ]
    )


def test_the_head_that_attends_to_itself_is_ncc_and_the_one_that_chunks_or_reads_labels_is_fcc() -> None:
    table = circuits(
        {
            (9, 1, 1): (0.9, 0.4, 0.2), (9, 1, 2): (0.1, 0.4, 0.8),
            (9, 2, 1): (0.1, 0.8, 0.3), (9, 2, 2): (0.7, 0.2, 0.3),
        }
    )  # fmt: skip
    assert head_roles(table, 9) == {(1, 1): ("NCC",), (1, 2): ("FCC",), (2, 1): ("FCC",), (2, 2): ("NCC",)}


def test_label_attention_makes_no_fcc_of_the_first_layer_nor_chunk_example_of_the_last() -> None:
    table = circuits({(9, 1, 1): (0, 0.9, 0), (9, 1, 2): (0, 0, 0), (9, 2, 1): (0, 0, 0.9), (9, 2, 2): (0, 0, 0)})
    assert set(head_roles(table, 9).values()) == {()}


def test_roles_are_read_at_the_step_asked_for() -> None:
    table = circuits({(1, 1, 1): (0.9, 0, 0), (1, 1, 2): (0, 0, 0), (2, 1, 1): (0, 0, 0), (2, 1, 2): (0.9, 0, 0)})
    assert head_roles(table, 1)[1, 1] == ("NCC",)
    assert head_roles(table, 2)[1, 2] == ("NCC",)


def test_one_head_can_serve_both_and_several_the_same() -> None:
    heads = {(9, 1, 1): (0.9, 0, 0.9), (9, 1, 2): (0.9, 0, 0.1), (9, 1, 3): (0.1, 0, 0.1), (9, 1, 4): (0.1, 0, 0.1)}
    roles = head_roles(circuits(heads), 9)
    assert [roles[1, head] for head in (1, 2, 3, 4)] == [("NCC", "FCC"), ("NCC",), (), ()]


@pytest.mark.parametrize(("lead", "role"), [(LEAD + 0.01, ("NCC",)), (LEAD - 0.01, ())])
def test_a_head_needs_a_lead_over_the_mean_of_its_layer(lead: float, role: tuple[str, ...]) -> None:
    table = circuits({(9, 1, 1): (0.5 + lead, 0, 0), (9, 1, 2): (0.5 - lead, 0, 0)})
    assert head_roles(table, 9)[1, 1] == role


def test_a_single_head_has_no_role_since_nothing_sets_it_apart() -> None:
    assert head_roles(circuits({(9, 1, 1): (1, 1, 1), (9, 2, 1): (1, 1, 1)}), 9) == {(1, 1): (), (2, 1): ()}


def hidden(steps: dict[int, tuple[float, float]]) -> pd.DataFrame:
    """Label Attention of layer 1, head 2 and Bigram of layer 3, head 1, by step; all else is low."""
    low = (0.05, 0.05, 0.05)
    return circuits(
        {
            (step, layer, head): {(1, 2): (0.9, labels, 0), (3, 1): (query, 0.9, 0)}.get((layer, head), low)
            for step, (labels, query) in steps.items()
            for layer in (1, 2, 3)
            for head in (1, 2)
        }
    )


def test_the_hidden_scc_is_where_its_path_weight_is_largest() -> None:
    table = hidden({5: (0.2, 0.1), 10: (0.9, 0.2), 20: (0.7, 0.6), 30: (0.5, 0.9)})
    found = hidden_scc(table, until=30)
    assert found == HiddenSCC(step=20, reads_labels=(1, 2), keeps_query=(3, 1), path=pytest.approx(0.3))
    assert found.summary == "step 20, layer 1 head 2 to layer 3 head 1, weight 0.30"


def test_the_hidden_scc_is_sought_after_the_start_and_before_accuracy_is_full() -> None:
    table = hidden({0: (0, 1), 5: (0.1, 0.5), 10: (0.5, 0.5), 20: (0.9, 0.9)})
    assert hidden_scc(table, until=10).step == 10
    assert hidden_scc(table, until=5) is None
    assert hidden_scc(table, until=4) is None


@pytest.mark.parametrize(
    "steps",
    [
        {10: (0.3, 0.3), 20: (0.4, 0.4)},
        # Untrained attention lies on the labels while the last layer turns to the query: no circuit.
        {10: (0.44, 0.1), 20: (0.44, 0.9), 30: (0.02, 1.0)},
    ],
)
def test_a_circuit_that_never_shows_is_not_found(steps) -> None:
    assert hidden_scc(hidden(steps), until=30) is None
