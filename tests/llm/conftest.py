"""Tiny language models with random weights, tokenizers of several kinds, and a few reviews."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from circuit_phases.llm.data import Text
from circuit_phases.llm.models import LanguageModel, load_model
from circuit_phases.llm.prompts import Prompt, Wording, make_prompts
from circuit_phases.llm.settings import PromptSettings

LINE = "a an the film story plot acting is was n't dull bright slow warm funny too and but very good bad never"
MARKS = ["", " .", " !", " ...", "  --  so", " naïve café", " 100%", " ''quoted''", " \N{FILM PROJECTOR}", " don't"]


def _reviews(count: int) -> list[Text]:
    stream = np.random.default_rng(7)
    return [
        Text(
            " ".join(stream.choice(LINE.split(), int(stream.integers(1, 12)))) + str(stream.choice(MARKS)),
            int(stream.integers(2)),
        )
        for _ in range(count)
    ]


REVIEWS = _reviews(40)
CORPUS = [f"Review: {each.text}\nSentiment: {word}\n" for each in REVIEWS for word in ("Positive", "Negative")]


def _byte_level(pattern: str | None = None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    if pattern is None:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet))
    return tokenizer


def _metaspace() -> Tokenizer:
    """As SentencePiece does it: a space is part of the word after it, unknown characters are bytes."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("\n|▁?[^▁\n]+|▁"), "isolated")
    special = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=700, special_tokens=special))
    from tokenizers.processors import TemplateProcessing

    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def _leading_space() -> Tokenizer:
    """As in newer byte-level vocabularies: marks take the line break after them into their token."""
    return _byte_level(r" ?\p{L}+| ?[^\s\p{L}]+[\r\n]*|\s*[\r\n]+|\s+")


def _words() -> Tokenizer:
    """Whole words, and a token at the end that belongs to no text."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(CORPUS, trainers.WordLevelTrainer(special_tokens=["<unk>", "</s>"]))
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer


TOKENIZERS = {
    "byte-level": _byte_level, "metaspace": _metaspace, "leading-space": _leading_space, "words": _words,
}  # fmt: skip


@pytest.fixture(scope="session")
def tokenizers() -> dict[str, Any]:
    return {
        name: transformers.PreTrainedTokenizerFast(tokenizer_object=make(), clean_up_tokenization_spaces=False)
        for name, make in TOKENIZERS.items()
    }


CONFIGS: dict[str, Callable[[int], Any]] = {
    "gpt2": lambda vocabulary: transformers.GPT2Config(
        vocab_size=vocabulary, n_layer=3, n_head=4, n_embd=32, n_positions=512
    ),
    "llama": lambda vocabulary: transformers.LlamaConfig(
        vocab_size=vocabulary, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, hidden_size=32,
        intermediate_size=64, max_position_embeddings=512,
    ),
    "mistral": lambda vocabulary: transformers.MistralConfig(
        vocab_size=vocabulary, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=1, hidden_size=32,
        intermediate_size=64, max_position_embeddings=512, sliding_window=24, head_dim=16,
    ),
    "pythia": lambda vocabulary: transformers.GPTNeoXConfig(
        vocab_size=vocabulary, num_hidden_layers=2, num_attention_heads=4, hidden_size=32, intermediate_size=64,
        max_position_embeddings=512,
    ),
}  # fmt: skip


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory, tokenizers: dict[str, Any]) -> Callable[[str], Path]:
    """The folder of a tiny model, large enough in its weights that attention is far from uniform."""
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            torch.manual_seed(1)
            tokenizer = tokenizers["byte-level"]
            model = transformers.AutoModelForCausalLM.from_config(CONFIGS[name](len(tokenizer)))
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.dim() > 1:
                        parameter.normal_(0, 0.3)
            made[name] = tmp_path_factory.mktemp(name)
            model.save_pretrained(made[name])
            tokenizer.save_pretrained(made[name])
        return made[name]

    return folder


@pytest.fixture(scope="session")
def language_model(folder_of: Callable[[str], Path]) -> Callable[[str], LanguageModel]:
    opened: dict[str, LanguageModel] = {}
    return lambda name: opened.setdefault(name, load_model(name, folder_of(name)))


@pytest.fixture(scope="session")
def wording(tokenizers: dict[str, Any]) -> Callable[..., Wording]:
    return lambda tokenizer="byte-level", **settings: Wording(
        tokenizer, tokenizers[tokenizer], PromptSettings(**settings)
    )


@pytest.fixture(scope="session")
def reviews() -> list[Text]:
    return REVIEWS


@pytest.fixture(scope="session")
def prompts(wording: Callable[..., Wording]) -> list[Prompt]:
    return make_prompts(REVIEWS, wording(), 2, "gold", range(12))
