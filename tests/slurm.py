"""The whole workflow, small, on a real Slurm: killed and cancelled on the way, and compared with an undisturbed run.

`make test-slurm` starts a Slurm node on this machine, installing Debian's packages where they are missing, once
without accounting and once with it, and stops it again. Needs root, or sudo that asks for no password.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import yaml
from faults import contents
from slurm_node import NotPossible, answer, require_slurm, slurm_node

from circuit_phases.paths import FINISHED

ROOT = Path(__file__).parents[1]
CONFIG = {
    "seconds_between_saves": 0.2,
    "defaults": {
        "T": 2, "K": 8, "L": 4, "N": 2, "D": 11, "P": 5, "evaluation_sequences": 256, "batch_size": 32,
        "max_steps": 3600, "evaluation_interval": 200, "checkpoints": 8, "stop_after": 0,
    },
    "experiments": {"base": {"seeds": 2}},
    "phases": {"dt": 200},
    "figures": {name: {"experiment": "base"} for name in ("fig01", "fig04", "fig14", "census", "animation")},
}  # fmt: skip
QUICK_CHECKS = "--slurm-init-seconds-before-status-checks=2"
TRAINING = "rule_train_"


class Project:
    """A small project whose jobs go to Slurm, and the results that it should have."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.results, self.log = folder, folder / "results", folder / "snakemake.log"
        self.started = 0.0
        folder.mkdir()
        for name in ("Snakefile", "workflow", "profiles"):
            (folder / name).symlink_to(ROOT / name)
        (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))

    def snakemake(self, *options: str) -> subprocess.Popen[bytes]:
        """Start Snakemake; what it says goes to the log."""
        environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
        self.started = time.time()
        with self.log.open("w") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "snakemake", *options],
                cwd=self.folder, env=environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def end(self) -> None:
        """Kill whatever still works in the folder: Snakemake, and jobs that outlived it."""
        for process in psutil.process_iter():
            try:
                if self.folder in (Path(process.cwd()), *Path(process.cwd()).parents):
                    process.kill()
            except psutil.Error:
                continue

    def finish(self, process: subprocess.Popen[bytes]) -> str:
        """Wait for the end; fails with the end of the log if Snakemake does. What it said."""
        assert process.wait() == 0, self.last_words()
        return self.log.read_text()

    def last_words(self) -> str:
        """The ends of Snakemake's log and of the logs of Slurm's jobs, which only those that failed leave."""
        logs = [self.log, *self.folder.glob(".snakemake/slurm_logs/*/*/*.log")]
        return "\n".join(f"{log}:\n{log.read_text()[-3000:]}" for log in logs)

    def restart(self) -> None:
        """Forget all results."""
        for name in ("results", ".snakemake"):
            shutil.rmtree(self.folder / name)

    def training(self, process: subprocess.Popen[bytes], besides: int | None = None) -> tuple[str, int]:
        """The number of a Slurm job that trains and has saved, once there is one, and its seed."""

        def found() -> Iterator[tuple[str, int]]:
            for line in _jobs("--states=RUNNING"):
                number, what = line.split("|")
                if what.startswith(TRAINING):
                    seed = int(what.rsplit("_", 1)[1])
                    if seed != besides and self._saved(seed):
                        yield number, seed

        while not (job := next(found(), None)):
            assert process.poll() is None, f"Snakemake ended too early.\n{self.last_words()}"
            time.sleep(0.1)
        return job

    def _saved(self, seed: int) -> bool:
        """Whether a training has saved since Snakemake was started."""
        states = self.results.glob(f"runs/*/seed-{seed}/partial/state-*.safetensors")
        return any(state.stat().st_mtime > self.started for state in states)

    def check_continued(self, said: str, disturbed: dict[str, int]) -> None:
        """Every disturbed job was submitted again, and went on from where it had saved."""
        submissions = re.findall(r"Job (\d+) has been submitted with SLURM jobid (\d+)", said)
        snakemake_job = {number: job for job, number in submissions}
        for number, seed in disturbed.items():
            times = [job for job, _ in submissions].count(snakemake_job[number])
            assert times == 2, f"the job of Slurm's {number} was submitted {times} times"
            (log,) = self.results.glob(f"logs/train/*/seed-{seed}.log")
            assert re.search(r"Continuing from step [1-9]", log.read_text()), log.read_text()

    def found(self) -> dict[str, bytes]:
        """The results, without second names of trainings that are not analysed yet."""
        return {name: data for name, data in contents(self.results).items() if FINISHED not in Path(name).parts}

    def check_results(self, expected: dict[str, bytes]) -> None:
        """The results have the bytes of the undisturbed run."""
        found = self.found()
        different = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
        assert not different, sorted(different)


def _jobs(*options: str) -> list[str]:
    """Number and comment, which names the rule and its wildcards, of the jobs in the queue."""
    return answer("squeue", "--noheader", "--format=%i|%k", *options).splitlines()


def kill_training(number: str) -> None:
    """SIGKILL to the process that trains in a job of Slurm."""
    for process in psutil.process_iter():
        try:
            if process.environ().get("SLURM_JOB_ID") == number and process.cmdline()[-1].endswith(".train.py"):
                process.kill()
                return
        except psutil.Error:
            continue
    raise AssertionError(f"job {number} trains nothing")


def without_accounting(project: Project, expected: dict[str, bytes]) -> None:
    """The profile as it stands: Snakemake killed, one training cancelled, another killed."""
    assert not answer("sacct"), "sacct answers: there is accounting"
    slurm = ("--workflow-profile=slurm", QUICK_CHECKS)

    snakemake = project.snakemake(*slurm)
    project.training(snakemake)
    snakemake.kill()
    snakemake.wait()
    print("Snakemake killed", flush=True)
    # The recovery of docs/cluster.md.
    (name,) = re.findall(r"SLURM run ID: (\S+)", project.log.read_text())
    subprocess.run(["scancel", f"--name={name}"], check=True)
    while _jobs(f"--name={name}"):
        time.sleep(0.1)
    project.finish(project.snakemake("--unlock"))

    snakemake = project.snakemake(*slurm)
    cancelled, seed = project.training(snakemake)
    subprocess.run(["scancel", cancelled], check=True)
    killed, other_seed = project.training(snakemake, besides=seed)
    kill_training(killed)
    print("one training cancelled, another killed", flush=True)
    said = project.finish(snakemake)
    project.check_continued(said, {cancelled: seed, killed: other_seed})
    assert len(re.findall(r"submitted with SLURM jobid \d+ .*group_analysis", said)) == 1, "analyses were sent apart"
    project.check_results(expected)


def with_accounting(project: Project, expected: dict[str, bytes]) -> None:
    """The profile as it stands, for one table, with a training cancelled."""
    assert answer("sacct"), "sacct answers nothing: there is no accounting"
    table = "tables/runs.parquet"
    snakemake = project.snakemake("--workflow-profile=slurm", QUICK_CHECKS, f"results/{table}")
    cancelled, seed = project.training(snakemake)
    subprocess.run(["scancel", cancelled], check=True)
    print("a training cancelled", flush=True)
    project.check_continued(project.finish(snakemake), {cancelled: seed})
    # Why the profile does not leave the question to the plugin, which takes only the plain word for an end.
    assert answer("sacct", "-X", "-n", "-P", "--format=State", f"--jobs={cancelled}").startswith("CANCELLED by ")
    found = project.found()
    project.check_results({name: expected[name] for name in found})
    assert table in found


def main() -> None:
    """Prove it, or tell in one line why it cannot be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--if-possible", action="store_true", help="where Slurm cannot be had, say so and succeed")
    options = parser.parse_args()
    if os.geteuid() != 0 and subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0:
        os.execvp("sudo", ["sudo", "-n", "--preserve-env=PATH", sys.executable, *sys.argv])
    os.environ["PATH"] += ":/usr/sbin"  # where daemons are, and not every user looks
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    start = time.monotonic()
    try:
        require_slurm()
    except NotPossible as reason:
        print(f"test-slurm: not run: {reason}")
        raise SystemExit(0 if options.if_possible else 1) from None
    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder) / "project")
        project.finish(project.snakemake("--cores=2"))
        expected = contents(project.results)
        print(f"{time.monotonic() - start:.0f} s: an undisturbed local run, {len(expected)} files", flush=True)
        for proof, accounting in ((without_accounting, False), (with_accounting, True)):
            project.restart()
            with slurm_node(accounting):
                try:
                    proof(project, expected)
                finally:
                    project.end()
            what = proof.__name__.replace("_", " ")
            print(f"{time.monotonic() - start:.0f} s: Slurm {what}: equal to the byte", flush=True)


if __name__ == "__main__":
    main()
