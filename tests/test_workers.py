"""Short jobs in processes that stay."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import until

from circuit_phases.files import UserError
from circuit_phases.workers import run_script

Job = Callable[[str], tuple[Path, SimpleNamespace]]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A script of this text, and a job whose output and log lie beside it."""

    def of(text: str) -> tuple[Path, SimpleNamespace]:
        script = tmp_path / "script.py"
        script.write_text(f"from circuit_phases.logs import job_log\nwith job_log(snakemake.log[0]):\n    {text}\n")
        return script, SimpleNamespace(output=[str(tmp_path / "output")], log=[str(tmp_path / "log")])

    return of


def process_that_ran(script: Path, job: SimpleNamespace) -> int:
    run_script(script, job)
    return int(Path(job.output[0]).read_text())


WRITE_PROCESS = "import os; open(snakemake.output[0], 'w').write(str(os.getpid()))"


def test_jobs_run_one_after_another_in_the_same_other_process(job: Job) -> None:
    first, second = (process_that_ran(*job(WRITE_PROCESS)) for _ in range(2))
    assert first == second != os.getpid()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("from circuit_phases.files import UserError; raise UserError('K = 3 is too small.')", "K = 3 is too small."),
        (
            "from pathlib import Path; from circuit_phases.files import DamagedFile; raise DamagedFile(Path('a'), 'b')",
            "a is damaged (b)",
        ),
        ("[][0]", "IndexError"),
        ("import numpy as np; np.empty(2**59)", "Out of memory: Unable to allocate 4.00 EiB"),
        ("import torch; torch.empty(2**50)", "Out of memory: "),
    ],
)
def test_a_job_that_fails_names_its_log_which_says_why_and_the_process_goes_on(job: Job, text: str, said: str) -> None:
    script, failing = job(text)
    with pytest.raises(UserError, match=f"script.py failed: {failing.log[0]}"):
        run_script(script, failing)
    assert said in Path(failing.log[0]).read_text()
    assert process_that_ran(*job(WRITE_PROCESS))


def test_an_error_that_no_log_holds_is_raised_and_the_process_goes_on(job: Job) -> None:
    before = process_that_ran(*job(WRITE_PROCESS))
    script, failing = job("")
    script.write_text("[][0]")
    with pytest.raises(IndexError):
        run_script(script, failing)
    assert process_that_ran(*job(WRITE_PROCESS)) == before


def test_a_killed_process_fails_its_job_alone(job: Job, tmp_path: Path) -> None:
    wait = "import time\n    while not Path(snakemake.output[0]).exists(): time.sleep(0.01)"
    (tmp_path / "other").mkdir()
    script, waiting = (
        tmp_path / "other" / "waits.py",
        SimpleNamespace(output=[str(tmp_path / "go")], log=[str(tmp_path)]),
    )
    script.write_text(f"from pathlib import Path\nif True:\n    {wait}\n")
    with ThreadPoolExecutor() as threads:
        other = threads.submit(run_script, script, waiting)
        with pytest.raises(UserError, match=r"script\.py was killed"):
            run_script(*job("import os, signal; os.kill(os.getpid(), signal.SIGKILL)"))
        assert not other.done()
        (tmp_path / "go").touch()
        other.result()
    assert process_that_ran(*job(WRITE_PROCESS))


def test_processes_end_with_the_one_that_started_them(job: Job, tmp_path: Path) -> None:
    script, waiting = job(f"{WRITE_PROCESS}; import time; time.sleep(600)")
    parent = tmp_path / "parent.py"
    parent.write_text(
        "from pathlib import Path\nfrom types import SimpleNamespace\nfrom circuit_phases.workers import run_script\n"
        f"if __name__ == '__main__':\n"
        f"    run_script(Path({str(script)!r}), SimpleNamespace(**{vars(waiting)!r}))\n"
    )
    starter = subprocess.Popen([sys.executable, str(parent)])
    output = Path(waiting.output[0])
    until(lambda: output.exists() and output.read_text() != "")
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    until(lambda: not Path(f"/proc/{output.read_text()}").exists())
