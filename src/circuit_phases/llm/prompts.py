"""Few-shot prompts, and which of their tokens are texts and labels, by the tokenizer's offsets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator

from circuit_phases.files import UserError
from circuit_phases.llm.data import Text
from circuit_phases.llm.settings import PromptSettings

Span = tuple[int, int]
"""Start and stop."""
QUERIES, FIXED, DEMONSTRATIONS, PERMUTED, RANDOM, HALF = range(6)
"""What is drawn at random, each in a stream of its own."""


@dataclass(frozen=True)
class Prompt:
    """A tokenised prompt: N demonstrations, then a query whose last token is the prompt's last.

    `query` and `demonstrations` are rows of the data set, `half` is 0 or 1, `texts` are the spans of the
    demonstrations' texts among the tokens and `labels` the places of their labels.
    """

    query: int
    half: int
    label: int
    demonstrations: tuple[int, ...]
    tokens: tuple[int, ...]
    texts: tuple[Span, ...]
    labels: tuple[int, ...]


@dataclass(frozen=True)
class Wording:
    """How demonstrations are written, and read back as tokens of one model."""

    model: str
    tokenizer: Any
    settings: PromptSettings
    context_window: int | None = None

    def tokenize(
        self, demonstrations: Sequence[tuple[str, str]], query: str
    ) -> tuple[list[int], list[Span], list[Span]]:
        """Tokens of a prompt of (text, label word) pairs and a query, spans of the texts, spans of the labels."""
        before, rest = self.settings.template.split("{text}")
        between, after = rest.split("{label}")
        prompt, texts, labels = "", [], []
        for text, label in demonstrations:
            start = len(prompt + before)
            texts.append((start, start + len(text)))
            start += len(text + between)
            labels.append((start, start + len(label)))
            prompt += before + text + between + label + after
        prompt += before + query + between.rstrip(" ")
        encoded = self.tokenizer(prompt, return_offsets_mapping=True)
        offsets = encoded["offset_mapping"]
        # What stands behind the prompt's last character is a token that the tokenizer adds.
        length = 1 + max(i for i, (start, stop) in enumerate(offsets) if start < stop)
        return (
            encoded["input_ids"][:length],
            [_tokens_within(offsets, span) for span in texts],
            [_tokens_within(offsets, span) for span in labels],
        )

    def label_tokens(self) -> tuple[int, int]:
        """The token of each label word, where it follows a text.

        Raises:
            UserError: if a label word is not one token of its own.
        """
        found = []
        for word in self.settings.labels:
            tokens, _, [(start, stop)] = self.tokenize([("text", word)], "text")
            pieces = [self.tokenizer.decode([token]) for token in tokens[start:stop]]
            if len(pieces) != 1 or pieces[0].strip() != word or tokens[start] in found:
                raise UserError(
                    f"llm.prompts.labels: {word} is not one token of its own for {self.model} "
                    f"({', '.join(map(repr, pieces))}). Choose words that are one token each."
                )
            found.append(tokens[start])
        return found[0], found[1]

    def cut(self, text: str) -> str:
        """A text after at most `text_tokens` tokens."""
        if self.settings.text_tokens is None:
            return text
        offsets = self.tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)["offset_mapping"]
        return text[: offsets[self.settings.text_tokens - 1][1]] if len(offsets) > self.settings.text_tokens else text


def _tokens_within(offsets: Sequence[Span], span: Span) -> Span:
    """The tokens from the first to the last that hold a character of a span of characters; (0, 0): none does."""
    held = [i for i, (start, stop) in enumerate(offsets) if start < span[1] and stop > span[0] and start < stop]
    return (held[0], held[-1] + 1) if held else (0, 0)


def draw_queries(texts: Sequence[Text], settings: PromptSettings, shots: int, limit: int | None = None) -> list[int]:
    """The rows that are asked about, in order, at most so many; with fixed demonstrations these are left out."""
    chosen = np.arange(len(texts))
    if limit is not None and limit < len(texts):
        chosen = np.sort(_stream(settings, QUERIES).choice(len(texts), limit, replace=False))
    fixed = draw_demonstrations(texts, settings, shots, None) if settings.demonstrations == "fixed" else []
    return [int(row) for row in chosen if row not in fixed]


def shard_of(queries: Sequence[int], number: int, shards: int) -> list[int]:
    """The queries of shard `number`, from 0, of so many shards of nearly the same size."""
    return [int(query) for query in np.array_split(np.array(queries, dtype=int), shards)[number]]


def draw_demonstrations(texts: Sequence[Text], settings: PromptSettings, shots: int, query: int | None) -> list[int]:
    """The rows of a query's demonstrations, the query never among them.

    Raises:
        UserError: if there are too few texts.
    """
    stream = (
        _stream(settings, FIXED) if settings.demonstrations == "fixed" else _stream(settings, DEMONSTRATIONS, query)
    )
    others = np.array([row for row in range(len(texts)) if row != query or settings.demonstrations == "fixed"])
    groups = [others]
    if settings.demonstrations == "balanced":
        labels = np.array([texts[row].label for row in others])
        groups = [others[labels == label] for label in stream.permutation(2)]
    sizes = [len(part) for part in np.array_split(np.arange(shots), len(groups))]
    if any(size > len(group) for size, group in zip(sizes, groups, strict=True)):
        raise UserError(f"llm.prompts.shots = {shots} is not allowed (the data set has {len(texts)} texts).")
    drawn = [stream.choice(group, size, replace=False) for size, group in zip(sizes, groups, strict=True)]
    return [int(row) for row in stream.permutation(np.concatenate(drawn))]


def demonstration_labels(labels: Sequence[int], kind: str, settings: PromptSettings, query: int) -> list[int]:
    """The labels that demonstrations carry: their own, permuted among them, drawn at random, or flipped."""
    own = np.asarray(labels, dtype=int)
    if kind == "permuted":
        own = _stream(settings, PERMUTED, query).permutation(own)
    elif kind == "random":
        own = _stream(settings, RANDOM, query).integers(0, 2, size=len(own))
    elif kind == "flipped":
        own = 1 - own
    return [int(label) for label in own]


def _stream(settings: PromptSettings, purpose: int, query: int | None = None) -> Generator:
    """Random numbers that depend on the seed, on what they are for, and on the query, and on nothing else."""
    return np.random.default_rng([settings.seed, purpose, *([] if query is None else [query])])


def make_prompts(
    texts: Sequence[Text], wording: Wording, shots: int, kind: str, queries: Sequence[int]
) -> list[Prompt]:
    """A prompt for each query; a query belongs to half 0 or 1 by its row, whichever shard it is in.

    Raises:
        UserError: if a label word is not one token, or a prompt exceeds the model's context window.
    """
    settings = wording.settings
    label_tokens = wording.label_tokens()
    prompts = []
    for query in queries:
        rows = draw_demonstrations(texts, settings, shots, query)
        carried = demonstration_labels([texts[row].label for row in rows], kind, settings, query)
        pairs = [
            (wording.cut(texts[row].text), settings.labels[label]) for row, label in zip(rows, carried, strict=True)
        ]
        tokens, spans, labels = wording.tokenize(pairs, wording.cut(texts[query].text))
        if wording.context_window is not None and len(tokens) > wording.context_window:
            raise UserError(
                f"llm.prompts: the prompt of row {query + 1} has {len(tokens)} tokens, the context window of "
                f"{wording.model} {wording.context_window}. Set text_tokens to cut texts, or fewer shots."
            )
        if (0, 0) in spans:
            raise UserError(
                f"{wording.model} has no token for a text of the prompt of row {query + 1}. Remove that text."
            )
        if [tokens[start:stop] for start, stop in labels] != [[label_tokens[label]] for label in carried]:
            raise UserError(
                f"llm.prompts.template: labels run into what stands around them for {wording.model} "
                f"(row {query + 1}). Set them apart with a space before and a line break after."
            )
        places = tuple(start for start, _ in labels)
        prompts.append(
            Prompt(query, _half(settings, query), texts[query].label, tuple(rows), tuple(tokens), tuple(spans), places)
        )
    return prompts


def _half(settings: PromptSettings, query: int) -> int:
    return int(_stream(settings, HALF, query).integers(2))
