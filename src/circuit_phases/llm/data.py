"""Labelled texts: SST-2 as Parquet or TSV, and snippets of reviews with human ratings."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from circuit_phases.files import UserError


@dataclass(frozen=True)
class Text:
    """A text and its label, 0 (negative) or 1 (positive)."""

    text: str
    label: int


def read_texts(path: Path, name: str) -> list[Text]:
    """Read labelled texts; the ending tells the format. White space around a text is dropped.

    `.parquet` and `.tsv` hold the columns `sentence` and `label`; `.txt` holds lines of number, rating and
    text without a header, where a rating above 0 is positive, below 0 negative, and 0 is left out.

    Raises:
        UserError: if the file cannot be read, or a row has no text or no such label.
    """
    if path.suffix not in _READERS:
        raise UserError(f"{name}: {path.name} has no known ending (choose from {', '.join(_READERS)}).")
    try:
        rows = _READERS[path.suffix](path)
    except (pa.ArrowException, pd.errors.ParserError, UnicodeDecodeError, OSError, KeyError, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        raise UserError(f"{name}: {path} cannot be read ({why}). Replace the file.") from error
    for number, (text, label) in enumerate(rows, start=1):
        if not text:
            raise UserError(f"{name}: {path}: the text of row {number} is empty. Remove the row.")
        if label not in {"0", "1"}:
            raise UserError(f"{name}: {path}: the label of row {number} is {label!r}. It must be 0 or 1.")
    if len({label for _, label in rows}) < 2:
        raise UserError(f"{name}: {path} must hold texts of both labels.")
    return [Text(text, int(label)) for text, label in rows]


def texts_digest(texts: Sequence[Text]) -> str:
    """Checksum of texts and labels in their order, the same from whichever format they were read."""
    return hashlib.sha256("".join(f"{each.label}\t{each.text}\n" for each in texts).encode()).hexdigest()


def _parquet(path: Path) -> list[tuple[str, str]]:
    return _columns(pq.read_table(path, columns=["sentence", "label"]).to_pandas())


def _tsv(path: Path) -> list[tuple[str, str]]:
    return _columns(pd.read_csv(path, sep="\t", dtype=str, quoting=csv.QUOTE_NONE, keep_default_na=False))


def _columns(frame: pd.DataFrame) -> list[tuple[str, str]]:
    pairs = zip(frame["sentence"], frame["label"], strict=True)
    return [(str(text if text is not None else "").strip(), str(label).strip()) for text, label in pairs]


def _rated(path: Path) -> list[tuple[str, str]]:
    lines = (line.split("\t", 2) for line in path.read_text(encoding="utf-8").splitlines() if line)
    rated = [(text.strip(), float(rating)) for _, rating, text in lines]
    return [(text, str(int(rating > 0))) for text, rating in rated if rating]


_READERS: dict[str, Callable[[Path], list[tuple[str, str]]]] = {".parquet": _parquet, ".tsv": _tsv, ".txt": _rated}
