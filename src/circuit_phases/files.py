"""Files that are whole or absent, and errors that name the file and the way out."""

from __future__ import annotations

import errno
import glob
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)

WRITE = os.W_OK | os.X_OK
"""What it takes to make a name in a folder."""
LOCK = ".lock"
"""In a folder that a job keeps to itself."""
KEPT = "reference"
"""The folder in the results that no rule writes to."""
CLOCKS_DIFFER = 1.0
"""Seconds by which a file's time may lie before that of the process which wrote it."""
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""How a file system says that it keeps no locks."""


class UserError(Exception):
    """A mistake or mishap that the user can mend; its text is one line for people."""


class DamagedFile(UserError):
    """A file that cannot be trusted."""

    def __init__(self, path: Path, why: str) -> None:
        self.told = f"{path} is damaged ({why})"
        # Checkpoints are made together, so one of them cannot be made again alone.
        what = f"{path.parent}" if path.parent.name == "checkpoints" else "it"
        super().__init__(f"{self.told}. Delete {what}; `snakemake` will make it again.")


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
        _flush(temporary)
        temporary.replace(path)
        _flush_folder(path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all.

    Raises:
        UserError: if the folder cannot be made or written to, or the disk is full.
    """
    with replacing(path) as temporary:
        temporary.write_text(text)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder`; on success it takes its place.

    Raises:
        UserError: if it cannot be made or written to, or the disk is full.
    """
    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        temporary.chmod(0o777 & ~_umask())
        yield temporary
        _flush_folder(temporary)
        with suppress(UserError):
            remove_whole(folder)
        temporary.replace(folder)
        _flush_folder(folder.parent)
    except OSError as error:
        raise _cannot_write(folder, error) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def read_whole(path: Path) -> bytes:
    """What a file holds. That it cannot be read now says nothing of its content, so it is not called damaged.

    Raises:
        UserError: if it is missing, or cannot be read.
        DamagedFile: if it is a folder.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} is missing. Run `snakemake` to make it.") from None
    except IsADirectoryError:
        raise DamagedFile(path, "it is a folder") from None
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}. Mend that and run again.") from error


def remove_whole(path: Path) -> None:
    """Remove a file, a folder with all that is in it, or a link to either, but not what it leads to.

    Raises:
        UserError: if it is not there, or may not be removed.
    """
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError as error:
        raise UserError(f"Cannot remove {path}: {error.strerror or error}. Fix the permission.") from error


def move(path: Path, target: Path) -> None:
    """Give a file or folder another name.

    Raises:
        UserError: if a folder may not be written to, or a folder that is not empty has the name.
    """
    try:
        path.rename(target)
    except OSError as error:
        raise _cannot_write(target, error) from error


def link(source: Path, target: Path) -> bool:
    """Give a file a second name, or a copy where the file system knows no second names; whether it is the former."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        _flush(target)
        return False
    return True


def remove_leftovers(path: Path) -> None:
    """Remove what killed writes of a file or folder left beside it; only who keeps the place to himself may.

    Raises:
        UserError: if it may not be removed.
    """
    for left in path.parent.glob(f".{glob.escape(path.name)}.????????"):
        remove_whole(left)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a folder to this process; the lock goes with the process, however that ends.

    Where the file system keeps no locks, a process of this machine that has signed the folder's keeps others out.

    Raises:
        UserError: if another process holds it, or the folder cannot be written to.
    """
    path = folder / LOCK
    taken = UserError(f"{folder} is being written by another job. Wait for it, or stop it.")
    # The other kind of lock is a file, which outlives a process that is killed.
    lock = FileLock(path, timeout=0, fallback_to_soft=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise taken from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise _cannot_write(path, error) from error
        if is_held(folder):
            raise taken from None
        logger.warning("%s: this file system keeps no locks, so jobs of two machines could write here at once.", folder)
    try:
        _sign(path, f"{socket.gethostname()} {os.getpid()}\n")
        yield
    finally:
        _sign(path, "")
        lock.release()


def holder(folder: Path) -> tuple[str, int] | None:
    """Host and process that keep a folder to themselves, or died doing so; asking disturbs nobody."""
    try:
        host, process = (folder / LOCK).read_text().split()
        return host, int(process)
    except (OSError, ValueError):
        return None


def is_held(folder: Path) -> bool | None:
    """Whether the process that signed a folder's lock is there still; None where that cannot be known, on another host.

    A process that began after the signature has only come by the same number.
    """
    held = holder(folder)
    if held is None or held[0] != socket.gethostname():
        return None
    try:
        began = psutil.Process(held[1]).create_time()
        return began <= (folder / LOCK).stat().st_mtime + CLOCKS_DIFFER
    except (psutil.NoSuchProcess, FileNotFoundError):
        return False


def _sign(lock: Path, text: str) -> None:
    """Say in a lock's file who holds it; the lock holds without."""
    with suppress(OSError):
        lock.write_text(text)


def require_writable(folder: Path) -> None:
    """Check that a folder of results can be made and written to, without making it.

    Raises:
        UserError: if a file stands in its way, or it, or its nearest existing parent, may not be written to.
    """
    nearest = _nearest(folder)
    if not nearest.is_dir():
        raise UserError(f"results = {folder} is not allowed ({nearest} is a file). Move it, or set another folder.")
    if not os.access(nearest, WRITE):
        raise UserError(f"results = {folder} is not allowed (no permission to write to {nearest}). Set another folder.")


def require_replaceable(paths: Iterable[Path]) -> None:
    """Check that files and folders can be made, or made anew, where they are to stand.

    Raises:
        UserError: if a folder that is one of them or holds one, or is to, may not be written to.
    """
    folders = {folder for path in paths for folder in (path, path.parent)}
    for nearest in sorted({_nearest(folder) for folder in folders}):
        if nearest.is_dir() and not os.access(nearest, WRITE):
            raise UserError(f"No permission to write to {nearest}, where files are to be made. Permit it.")


def _nearest(path: Path) -> Path:
    """The path itself or, where it does not exist, its nearest parent that does."""
    return next(each for each in (path, *path.absolute().parents) if os.access(each, os.F_OK))


def _cannot_write(path: Path, error: OSError) -> UserError:
    way = "Free the disk or fix the permission."
    if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.ENOENT):
        way = "Move what stands in its way, or name another folder."
    return UserError(f"Cannot write {path}: {error.strerror or error}. {way}")


def _flush(path: Path) -> None:
    """Make what a file holds outlast a loss of power."""
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def _flush_folder(folder: Path) -> None:
    """Make a new name in a folder outlast a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        # Some network file systems refuse to flush a folder; the file itself is flushed.
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@cache
def _umask() -> int:
    """Asked once: the question sets it for a moment, for all threads."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
