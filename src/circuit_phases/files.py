"""Files that are whole or absent, and errors that name the file and the way out."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(Exception):
    """A mistake or mishap that the user can mend; its text is one line for people."""


class DamagedFile(UserError):
    """A file that cannot be trusted."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path} is damaged ({why}). Delete it; `snakemake` will make it again.")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`; on success the file is flushed to disk and moved into place.

    Raises:
        UserError: if the folder cannot be made or written to, or the disk is full.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(descriptor)
        temporary = Path(name)
        temporary.chmod(0o666 & ~_umask())
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    except OSError as error:
        raise UserError(
            f"Cannot write {path}: {error.strerror or error}. Free the disk or fix the permission."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def require_writable(folder: Path) -> None:
    """Check that a folder can be made and written to, without making it.

    Raises:
        UserError: if a file stands in its way, or its nearest existing parent may not be written to.
    """
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise UserError(f"results = {folder} is not allowed ({nearest} is a file). Move it, or set another folder.")
    if not os.access(nearest, os.W_OK):
        raise UserError(f"results = {folder} is not allowed (no permission to write to {nearest}). Set another folder.")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
