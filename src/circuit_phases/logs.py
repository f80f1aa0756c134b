"""Logs of one job, and mistakes told in one line."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from circuit_phases.files import UserError


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
        logging.getLogger(__name__).error("%s", error)
        raise SystemExit(1) from None
    except Exception:
        if path is not None:
            logging.getLogger(__name__).exception("Unexpected failure; this is a defect worth reporting.")
            raise SystemExit(1) from None
        raise


@contextmanager
def thread_log(path: Path | str) -> Iterator[None]:
    """Log what this thread does to a file, a failure included, and leave all other logging as it is."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, mode="w")
    own = threading.get_ident()
    handler.addFilter(lambda record: record.thread == own)
    logger = logging.getLogger("circuit_phases")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    except UserError as error:
        logger.error("%s", error)
        raise
    except Exception:
        logger.exception("Unexpected failure; this is a defect worth reporting.")
        raise
    finally:
        logger.removeHandler(handler)
        handler.close()
