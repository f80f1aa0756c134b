"""Short jobs in processes that stay: to start Python and import torch takes longer than such a job."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from pathlib import Path
from types import SimpleNamespace

from circuit_phases.files import UserError

_starting = threading.Lock()


def run_script(script: Path, job: SimpleNamespace, processes: int) -> None:
    """Run a job's script, with the job as its `snakemake`, in one of so many processes, which later jobs use again.

    Raises:
        UserError: if the job failed; the log has said why.
    """
    with _starting:
        pool = _pool(processes)
    try:
        failed = pool.submit(_run, script, job).result()
    except BrokenProcessPool:
        with _starting:
            _pool.cache_clear()
        raise UserError(f"The process that ran {script.name} was killed, maybe for want of memory.") from None
    if failed:
        raise UserError(f"{script.name} failed: {job.log[0]}")


@cache
def _pool(processes: int) -> ProcessPoolExecutor:
    # Threads of the caller would not survive a fork.
    return ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), initializer=_follow_parent)


def _follow_parent() -> None:
    """Leave Ctrl-C to the parent, and end with it, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _run(script: Path, job: SimpleNamespace) -> bool:
    """Run a script; whether it failed."""
    try:
        runpy.run_path(str(script), {"snakemake": job})
    except SystemExit as end:
        return bool(end.code)
    return False
