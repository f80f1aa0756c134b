"""Logs of one job, and mistakes told in one line."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from circuit_phases.files import UserError

logger = logging.getLogger(__name__)

FAILED = "The job failed. To look further:"
"""How the log of a job that failed ends."""
TAKE_MEMORY = "K, P, T, layers, heads, batch_size, evaluation_sequences, checkpoints"
LACK_OF_MEMORY = ("can't allocate memory", "bad_alloc", "out of memory", "Storage size calculation overflowed")
"""What torch says in a RuntimeError."""


@contextmanager
def job_log(path: Path | str | None = None) -> Iterator[None]:
    """Log to stderr and, if given, to a file; a UserError becomes one line and exit code 1."""
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(path, mode="w"))
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=handlers, force=True)
    # It tells of every glyph in a PDF.
    logging.getLogger("fontTools").setLevel(logging.WARNING)
    try:
        yield
    except UserError as error:
        logger.error("%s", error)
        _say_where_to_look(path)
        raise SystemExit(1) from None
    except Exception as error:
        if _lacks_memory(error):
            said = (str(error).splitlines() or ["no more is there"])[0]
            logger.error("Out of memory: %s. Ask for less (%s), or give more.", said, TAKE_MEMORY)
            _say_where_to_look(path)
            raise SystemExit(1) from None
        if path is not None:
            logger.exception("Unexpected failure; this is a defect worth reporting.")
            _say_where_to_look(path)
            raise SystemExit(1) from None
        raise


def last_lines(log: Path, count: int) -> list[str]:
    """The last lines of a log that say something, as many as there are."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 400 * (count + 1)))
        lines = file.read().decode(errors="replace").splitlines()
    return [line for line in lines if line.strip()][-count:]


def failed(log: Path) -> bool:
    """Whether the job of a log failed by itself; one that was killed had no time to say so."""
    return any(line.startswith(FAILED) for line in last_lines(log, 1))


def failures(logs: Iterable[Path]) -> str:
    """The last lines of some logs."""
    parts = [f"{log}:\n" + "".join(f"    {line}\n" for line in last_lines(log, 6)) for log in logs if log.exists()]
    return "\n".join(parts)


def _lacks_memory(error: Exception) -> bool:
    said = isinstance(error, RuntimeError) and any(words in str(error) for words in LACK_OF_MEMORY)
    return said or isinstance(error, MemoryError)


def _say_where_to_look(path: Path | str | None) -> None:
    if path is not None:
        logger.error("%s less '%s'", FAILED, path)
