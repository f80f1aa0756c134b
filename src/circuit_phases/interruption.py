"""Ending a long job at a safe place when it is told to stop."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self

logger = logging.getLogger(__name__)

STOPS = (signal.SIGTERM, signal.SIGINT)
"""What a scheduler sends before it kills, and what a keyboard sends."""


class Stopped(SystemExit):
    """The end of a job that was told to stop."""


class StopRequest:
    """A context in which a request to stop is noted instead of obeyed at once; `signal` is None until one comes.

    Outside the main thread, where Python takes no signals, nothing is noted.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in STOPS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)

    def obey(self, how: str) -> NoReturn:
        """End the job, saying how, with the code by which shells and schedulers know one that a signal ended."""
        assert self.signal is not None
        logger.warning("Stopped by %s%s. Run again to continue.", self.signal.name, how)
        raise Stopped(128 + self.signal)
