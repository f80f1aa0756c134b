"""The metrics of a language model against full attention, and attention that is cut."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import transformers

from circuit_phases.files import UserError
from circuit_phases.llm.circuits import METRICS, Cut, Rows, Watch, row_scores, watching
from circuit_phases.llm.data import Text
from circuit_phases.llm.evaluation import answers_table, read, sums_table
from circuit_phases.llm.models import LanguageModel
from circuit_phases.llm.prompts import Prompt, Wording, make_prompts
from circuit_phases.llm.summaries import circuits_table

FAMILIES = ["gpt2", "llama", "mistral", "pythia"]


@dataclass(frozen=True)
class Measured:
    """The two tables that come from running prompts."""

    answers: pd.DataFrame
    sums: pd.DataFrame


def measured(
    model: LanguageModel,
    prompts: Sequence[Prompt],
    wording: Callable[..., Wording],
    batch_size: int = 5,
    cut: Cut | None = None,
) -> Measured:
    readings = read(model, prompts, wording().label_tokens(), batch_size, cut)
    return Measured(answers_table(prompts, readings), sums_table(prompts, readings))


def by_formula(attention: torch.Tensor, prompt: Prompt) -> dict[str, float]:
    """The metrics of one head's full attention [query, key], written out as the paper does."""
    p, query, N = attention.double(), len(prompt.tokens) - 1, len(prompt.labels)
    return {
        "bigram": float(p[query, query]),
        "label_attention": sum(float(p[query, label]) for label in prompt.labels) / N,
        "chunk_example": sum(
            float(p[label, start:stop].mean()) for label, (start, stop) in zip(prompt.labels, prompt.texts, strict=True)
        )
        / N,
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_metrics_are_those_of_full_attention(
    family: str, language_model: Any, folder_of: Any, prompts: list[Prompt], wording: Callable[..., Wording]
) -> None:
    eager = transformers.AutoModelForCausalLM.from_pretrained(folder_of(family), attn_implementation="eager").eval()
    values: dict[tuple[int, int, str], list[float]] = {}
    for prompt in prompts:
        with torch.inference_mode():
            attentions = eager(torch.tensor([prompt.tokens]), output_attentions=True).attentions
        for layer, heads in enumerate(attentions, start=1):
            for head, attention in enumerate(heads[0], start=1):
                for metric, value in by_formula(attention, prompt).items():
                    values.setdefault((layer, head, metric), []).append(value)
    sums = measured(language_model(family), prompts, wording).sums
    identity = {"model": family, "revision": "local", "dataset": "x", "shots": 2, "demonstration_labels": "gold"}
    table = circuits_table(sums.assign(**identity))
    rows = table[table["head"].notna()].set_index(["layer", "head", "metric"])
    assert set(rows.index) == set(values)
    for key, each in values.items():
        assert rows.loc[key, "value"] == pytest.approx(np.mean(each), abs=1e-5)
        assert rows.loc[key, "standard_error"] == pytest.approx(np.std(each, ddof=1) / len(each) ** 0.5, abs=1e-5)
        assert rows.loc[key, "prompts"] == len(prompts)
    for (layer, metric), heads in rows.groupby(["layer", "metric"]):
        (mean,) = table[table["head"].isna() & (table["layer"] == layer) & (table["metric"] == metric)]["value"]
        assert mean == pytest.approx(heads["value"].mean(), abs=1e-12)
    assert rows["value"].std() > 0.01, "attention is too uniform to tell anything"


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_those_of_the_plain_model(
    family: str, language_model: Any, folder_of: Any, prompts: list[Prompt], wording: Callable[..., Wording]
) -> None:
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder_of(family)).eval()
    negative, positive = wording().label_tokens()
    answers = measured(language_model(family), prompts, wording).answers.set_index("query")
    for prompt in prompts:
        with torch.inference_mode():
            logits = plain(torch.tensor([prompt.tokens])).logits[0, -1]
        margin = float(logits[positive] - logits[negative])
        assert answers.loc[prompt.query, "margin"] == pytest.approx(margin, abs=1e-4)
        assert answers.loc[prompt.query, "predicted"] == int(margin > 0)
        assert answers.loc[prompt.query, "label"] == prompt.label


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_and_the_size_of_batches_change_nothing(
    family: str, language_model: Any, prompts: list[Prompt], wording: Callable[..., Wording]
) -> None:
    alone, together = (measured(language_model(family), prompts, wording, batch_size=size) for size in (1, 12))
    assert len({len(prompt.tokens) for prompt in prompts}) > 3
    np.testing.assert_allclose(alone.sums["sum"], together.sums["sum"], atol=1e-5)
    np.testing.assert_allclose(alone.answers["margin"], together.answers["margin"], atol=1e-4)


def test_shards_together_give_what_all_prompts_give(
    language_model: Any, prompts: list[Prompt], wording: Callable[..., Wording]
) -> None:
    model = language_model("llama")
    identity = {"model": "m", "revision": "r", "dataset": "d", "shots": 2, "demonstration_labels": "gold"}
    whole = circuits_table(measured(model, prompts, wording).sums.assign(**identity))
    shards = [measured(model, prompts[start : start + 5], wording).sums for start in range(0, len(prompts), 5)]
    split = circuits_table(pd.concat(shards).assign(**identity))
    keys = ["layer", "head", "metric"]
    whole, split = whole.set_index(keys).sort_index(), split.set_index(keys).sort_index()
    pd.testing.assert_frame_equal(whole, split, atol=1e-6)


def test_without_demonstrations_only_bigram_is_measured(
    language_model: Any, reviews: list[Text], wording: Callable[..., Wording]
) -> None:
    prompts = make_prompts(reviews, wording(), 0, "none", range(6))
    assert set(measured(language_model("gpt2"), prompts, wording).sums["metric"]) == {"bigram"}


def test_many_shots_are_averaged_over(
    language_model: Any, reviews: list[Text], wording: Callable[..., Wording]
) -> None:
    (prompt,) = make_prompts(reviews, wording(), 5, "gold", [0])
    rows = Rows.of([prompt], len(prompt.tokens))
    assert torch.allclose(rows.weights.sum((2, 3)), torch.ones(len(METRICS), 1))
    assert rows.weights[2].count_nonzero() == sum(stop - start for start, stop in prompt.texts)
    assert torch.isfinite(torch.tensor(measured(language_model("gpt2"), [prompt], wording).sums["sum"])).all()


# Cut attention


@pytest.mark.parametrize("family", FAMILIES)
def test_cutting_no_head_changes_nothing(
    family: str, language_model: Any, prompts: list[Prompt], wording: Callable[..., Wording]
) -> None:
    whole = measured(language_model(family), prompts, wording).answers
    for cut in (Cut("label_attention", {}), Cut("chunk_example", {1: []})):
        uncut = measured(language_model(family), prompts, wording, cut=cut).answers
        pd.testing.assert_frame_equal(whole, uncut, check_exact=True)


def by_masking(model: Any, prompt: Prompt, metric: str, layer: int, head: int) -> torch.Tensor:
    """Logits of the plain eager model with the edges of one head set to -inf before its softmax."""
    query = len(prompt.tokens) - 1
    mask = torch.full((len(prompt.tokens),) * 2, -torch.inf).triu(1)
    heads = model.config.num_attention_heads
    additive = mask.repeat(1, heads, 1, 1)
    if metric == "label_attention":
        additive[0, head, query, list(prompt.labels)] = -torch.inf
    else:
        for label, (start, stop) in zip(prompt.labels, prompt.texts, strict=True):
            additive[0, head, label, start:stop] = -torch.inf
    modules = [module for module in model.modules() if type(module).__name__.endswith("Attention")]

    def replace(_: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return arguments, options | {"attention_mask": additive}

    handle = modules[layer].register_forward_pre_hook(replace, with_kwargs=True)
    with torch.inference_mode():
        logits = model(torch.tensor([prompt.tokens])).logits[0, -1]
    handle.remove()
    return logits


@pytest.mark.parametrize("family", ["gpt2", "llama", "pythia"])
@pytest.mark.parametrize("metric", ["label_attention", "chunk_example"])
def test_a_cut_head_attends_as_if_its_edges_were_masked(
    family: str,
    metric: str,
    language_model: Any,
    folder_of: Any,
    prompts: list[Prompt],
    wording: Callable[..., Wording],
) -> None:
    eager = transformers.AutoModelForCausalLM.from_pretrained(folder_of(family), attn_implementation="eager").eval()
    negative, positive = wording().label_tokens()
    whole = measured(language_model(family), prompts, wording).answers.set_index("query")["margin"]
    moved = 0.0
    for layer, head in ((0, 1), (1, 3)):
        cut = Cut(metric, {layer: [head]})
        margins = measured(language_model(family), prompts, wording, cut=cut).answers.set_index("query")["margin"]
        for prompt in prompts[:6]:
            logits = by_masking(eager, prompt, metric, layer, head)
            assert margins[prompt.query] == pytest.approx(float(logits[positive] - logits[negative]), abs=1e-4)
        moved = max(moved, float((margins - whole).abs().max()))
    assert moved > 1e-3, "the cut does nothing"


def test_a_prompt_asked_twice_is_run_once(
    language_model: Any, prompts: list[Prompt], wording: Callable[..., Wording], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, run = language_model("gpt2"), []
    monkeypatch.setattr(model.model, "forward", _counting(model.model.forward, run))
    once, twice = (measured(model, each, wording) for each in (prompts[:5], [*prompts[:5], *prompts[:5]]))
    assert run == [5, 5]
    assert len(twice.answers) == 10
    np.testing.assert_allclose(twice.sums["sum"], 2 * once.sums["sum"])


def _counting(forward: Callable[..., Any], run: list[int]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def counted(**inputs: Any) -> Any:
        run.append(len(inputs["input_ids"]))
        return forward(**inputs)

    return counted


# What cannot be read


def test_a_mask_of_either_kind_is_heeded() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(2, 4, 6, 8), torch.randn(2, 2, 6, 8)
    places = torch.tensor([[5, 1], [4, 2]])
    allowed = torch.ones(6, 6).tril().triu(-2).bool().repeat(2, 1, 1, 1)
    additive = torch.zeros(2, 1, 6, 6).masked_fill(~allowed, torch.finfo(torch.float32).min)
    full = (query @ key.repeat_interleave(2, 1).transpose(2, 3) * 0.5).masked_fill(~allowed, -torch.inf).softmax(-1)
    expected = torch.stack([full[i][:, places[i]] for i in range(2)])
    for mask in (allowed, additive):
        found = row_scores(query, key, mask, 0.5, places).softmax(-1)
        torch.testing.assert_close(found, expected)


def test_a_layer_that_is_not_seen_is_told(
    language_model: Any, prompts: list[Prompt], wording: Callable[..., Wording], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = language_model("gpt2")
    monkeypatch.setattr(model.model.config, "n_layer", 4)
    with pytest.raises(UserError, match="attention could be read in 3 of 4 layers"):
        measured(model, prompts, wording)


def test_nothing_is_watched_outside(language_model: Any, prompts: list[Prompt]) -> None:
    model, tokens = language_model("gpt2").model, torch.tensor([prompts[0].tokens])
    watch = Watch(Rows.of(prompts[:1], len(prompts[0].tokens)))
    with torch.inference_mode():
        with watching(watch):
            model(tokens)
        seen = len(watch.values)
        model(tokens)
    assert len(watch.values) == seen == 3
