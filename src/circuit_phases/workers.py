"""Short jobs in processes that stay: to start Python and import torch takes longer than such a job."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import SimpleNamespace

from circuit_phases.files import UserError

_idle: list[ProcessPoolExecutor] = []
"""Processes that wait for a job; each is a pool of its own, so that one that is killed takes no other with it."""


def run_script(script: Path, job: SimpleNamespace) -> None:
    """Run a job's script, with the job as its `snakemake`, in a process that stays for later ones.

    Raises:
        UserError: if the job failed; the log has said why.
    """
    try:
        process = _idle.pop()
    except IndexError:
        # Threads of the caller would not survive a fork.
        process = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_follow_parent)
    ran = process.submit(_run, script, job)
    if isinstance(ran.exception(), BrokenProcessPool):
        raise UserError(f"The process that ran {script.name} was killed, maybe for want of memory.")
    _idle.append(process)
    if ran.result():
        raise UserError(f"{script.name} failed: {job.log[0]}")


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
