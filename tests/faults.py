"""Kill, starve and damage the workflow, run it again, and compare with a run that nothing disturbed.

`make faults` runs the whole campaign and reports; tests run a short one. Disk-full and read-only
faults need a small tmpfs, so root; without it they are reported as not run.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import yaml

ROOT = Path(__file__).parents[1]
TINY = {
    "T": 2, "K": 8, "L": 4, "N": 2, "D": 11, "P": 5, "evaluation_sequences": 256, "ability_sequences": 64,
    "batch_size": 32, "max_steps": 600, "evaluation_interval": 20, "checkpoints": 12, "stop_after": 0,
}  # fmt: skip
FIGURES = ("fig02", "fig04", "fig11")
CONFIG: dict[str, Any] = {
    "seconds_between_saves": 0.2,
    "defaults": TINY,
    "experiments": {"base": {}},
    "figures": {name: {"experiment": "base"} for name in FIGURES},
    "headline": list(FIGURES),
}
COMPILED = CONFIG | {"defaults": TINY | {"max_steps": 5000, "layers": 1, "hidden_layers": 0}}
"""Long enough to be compiled."""
TABLES = tuple(f"results/tables/{name}.parquet" for name in ("runs", "training", "circuits"))
JOBS = ("/.snakemake/scripts/", "spawn_main")
"""What the commands of processes that do jobs hold: of a training's own, and of those that stay for short jobs."""
KILLS = ("job, SIGKILL", "job, SIGTERM", "all, SIGKILL", "all, SIGINT", "snakemake, SIGKILL")


class Campaign:
    """A tiny project, the results that it should have, and what was done to it."""

    def __init__(
        self, folder: Path, seed: int, config: dict[str, Any] = CONFIG, targets: Sequence[str] = (*FIGURES, *TABLES)
    ) -> None:
        self.folder, self.random, self.targets = folder, random.Random(seed), targets
        self.results = folder / "results"
        self.counts: Counter[str] = Counter()
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("Snakefile", "workflow", "profiles"):
            (folder / name).symlink_to(ROOT / name)
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        start = time.monotonic()
        self.run_to_the_end()
        self.seconds = time.monotonic() - start
        self.expected = contents(self.results)
        self.size = sum(path.stat().st_size for path in self.results.rglob("*"))
        self._undisturbed = folder.with_name(f"{folder.name}-undisturbed")
        for name in ("results", ".snakemake"):
            shutil.copytree(folder / name, self._undisturbed / name)

    def start_over(self) -> None:
        """Remove all that was made, and all that was compiled."""
        self.wait_for_orphans()
        for name in ("results", ".snakemake", "compiled"):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def restore(self) -> None:
        """Put the undisturbed results back, with their times."""
        self.start_over()
        for name in ("results", ".snakemake"):
            shutil.copytree(self._undisturbed / name, self.folder / name)

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        """Snakemake on every target, in a process group of its own."""
        environment = os.environ | {
            "PYTHONPATH": str(ROOT / "src"),
            "OMP_NUM_THREADS": "1",
            "TORCHINDUCTOR_CACHE_DIR": str(self.folder / "compiled"),
        }
        command = [sys.executable, "-m", "snakemake", "--cores", "2", "--rerun-incomplete", "--nolock"]
        # To a file: a pipe would stay open as long as a training that outlives Snakemake.
        with self._said.open("w") as said:
            return subprocess.Popen(
                [*command, *options, *self.targets], cwd=self.folder, env=environment, start_new_session=True,
                stdout=said, stderr=subprocess.STDOUT, preexec_fn=hear_ctrl_c,
            )  # fmt: skip

    @property
    def _said(self) -> Path:
        return self.folder / "snakemake.txt"

    def run_to_the_end(self) -> None:
        """Run what is left; fails if Snakemake does. A training that a killed Snakemake left is waited for."""
        output, code = self.outcome()
        if code and "is being written by another job" in output:
            self.counts["rerun that was told to wait for what a killed Snakemake left"] += 1
            self.wait_for_orphans()
            output, code = self.outcome()
        assert code == 0, output[-2000:]

    def outcome(self, *options: str) -> tuple[str, int]:
        """What Snakemake prints, and its exit code."""
        code = self.start(*options).wait()
        return self._said.read_text(), code

    def check(self, fault: str) -> None:
        """All that was asked for is there, and every file is that of the undisturbed run.

        What only leads to it may be missing: Snakemake makes that again when something needs it.
        """
        found = contents(self.results)
        asked_for = {name for name in self.expected if name.startswith(("figures/", "tables/"))}
        different = [name for name in asked_for | found.keys() if self.expected.get(name) != found.get(name)]
        assert not different, f"after {fault}: {sorted(different)[:5]}"

    def kill(self, kind: str) -> bool:
        """Start, and kill after a random while; whether a job was hit."""
        process = self.start()
        end = time.monotonic() + self.random.uniform(0.05, 1) * self.seconds
        while time.monotonic() < end and process.poll() is None:
            time.sleep(0.02)
        whom, what = kind.split(", ")
        hit = process.poll() is None and self._signal(process, whom, signal.Signals[what])
        if whom == "job":
            # As for want of memory, or by a cluster's scheduler; Snakemake tries the job once more.
            process.wait()
            return hit and "Error in rule" in self._said.read_text()
        told_of_it = process.wait() > 0
        # A Snakemake that cannot tell has marked the outputs of jobs that had begun.
        hit = hit and (told_of_it or any((self.folder / ".snakemake").glob("incomplete/*")))
        if self.random.random() < 0.5:
            self.wait_for_orphans()
        return hit

    def _signal(self, process: subprocess.Popen[bytes], whom: str, number: signal.Signals) -> bool:
        parent = psutil.Process(process.pid)
        children = parent.children(recursive=True)
        jobs = [child for child in children if any(mark in part for part in _command(child) for mark in JOBS)]
        victims = {"job": jobs[:1] and [self.random.choice(jobs)], "all": [parent, *children], "snakemake": [parent]}
        for victim in victims[whom]:
            try:
                victim.send_signal(number)
            except psutil.NoSuchProcess:
                continue
        return bool(victims[whom])

    def wait_for_orphans(self) -> None:
        """Trainings outlive a killed Snakemake, and hold locks on what they write."""
        while any(str(self.folder) in " ".join(_command(process)) for process in psutil.process_iter()):
            time.sleep(0.1)

    def kills(self, count: int) -> None:
        """Kill, run to the end, compare, and start again from nothing."""
        done = 0
        while done < count:
            kind = KILLS[done % len(KILLS)]
            self.start_over()
            hit = self.kill(kind)
            self.run_to_the_end()
            self.check(f"{kind}, after {done} kills")
            if hit:
                done += 1
                self.counts[f"kill: {kind}"] += 1
                print(f"{done} kills", flush=True)
            else:
                self.counts["kill that came when no job ran"] += 1

    def kill_training(self) -> Path:
        """Kill everything while the training is under way; the folder of its progress."""
        self.start_over()
        process = self.start()
        self._wait_for_rows(process)
        time.sleep(self.random.uniform(0, 0.3))
        self._signal(process, "all", signal.SIGKILL)
        process.wait()
        return next(self.results.glob(PROGRESS))

    def _wait_for_rows(self, process: subprocess.Popen[bytes]) -> None:
        while not list(self.results.glob(f"{PROGRESS}/rows/*")):
            assert process.poll() is None, self._said.read_text()[-2000:]
            time.sleep(0.02)

    def damage_in_progress(self, pattern: str, how: Callable[[Path], None]) -> None:
        """Damage a file of a training that was killed; the log names it, and the rerun is whole."""
        progress = self.kill_training()
        path = self.random.choice(sorted(progress.glob(pattern)))
        how(path)
        self.run_to_the_end()
        said = next(self.results.glob("logs/train/*/seed-0.log")).read_text()
        assert f"{path.relative_to(self.folder)} is damaged" in said, said
        self.check(f"{how.__name__} {path.name}, in progress")
        self.counts[f"damage in progress: {how.__name__} {pattern.rsplit('/', 1)[-1]}"] += 1

    def finish_alone(self) -> None:
        """Kill Snakemake and let its training end; the rerun takes no step again."""
        self.start_over()
        process = self.start()
        self._wait_for_rows(process)
        process.kill()
        process.wait()
        self.wait_for_orphans()
        assert list(self.results.glob("runs/*/seed-0/run.parquet"))
        self.run_to_the_end()
        said = next(self.results.glob("logs/train/*/seed-0.log")).read_text()
        assert f"Continuing from step {CONFIG['defaults']['max_steps']}" in said, said
        self.check("a training that ended without Snakemake")
        self.counts["training that ended without Snakemake"] += 1

    def damage(self, pattern: str, how: Callable[[Path], None]) -> None:
        """Damage a finished file; what reads it names it, and with what it says deleted the rerun is whole."""
        self.restore()
        path = self.random.choice(sorted(self.results.glob(pattern)))
        how(path)
        output, code = self.outcome("--forcerun", DAMAGED[pattern], "--")
        told = re.search(r"(\S+) is damaged \(.*?\)\. Delete (\S+);", output)
        assert code, output[-2000:]
        assert told, f"{path} was damaged, and no one said so:\n{output[-2000:]}"
        assert Path(told[1]) == path.relative_to(self.folder), told[0]
        what = self.folder / (told[1] if told[2] == "it" else told[2])
        shutil.rmtree(what) if what.is_dir() else what.unlink()
        self.run_to_the_end()
        self.check(f"{how.__name__} {path.name}")
        self.counts[f"damage: {how.__name__} {pattern.rsplit('/', 1)[-1]}"] += 1

    def shortage(self, options: str, fault: str) -> None:
        """Run on a tmpfs that is too small or read-only, then give it room."""
        self.start_over()
        if os.geteuid() != 0 or not shutil.which("mount"):
            self.counts[f"{fault}: not run, needs root"] += 1
            return
        with tmpfs(self.results, options):
            output, code = self.outcome()
            assert code, output[-2000:]
            told = r"Cannot (write|remove)|not allowed \(no permission|No space left|Read-only"
            assert re.search(told, output), output[-2000:]
            leftovers = [path for path in self.results.rglob(".*") if path.name not in LASTING and path.is_file()]
            assert not leftovers, leftovers
            subprocess.run(["mount", "-o", "remount,rw,size=200m", str(self.results)], check=True)
            self.run_to_the_end()
            self.check(fault)
        self.counts[fault] += 1


def hear_ctrl_c() -> None:
    """What is started in a shell's background is deaf to it, and so are its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def contents(results: Path) -> dict[str, bytes]:
    """Every table, checkpoint and figure to the byte; of `runs`, all but the seconds that it took."""
    found = {}
    for path in sorted(results.rglob("*")):
        name = str(path.relative_to(results))
        if path.name in ("run.parquet", "runs.parquet"):
            found[name] = pd.read_parquet(path).drop(columns="seconds").to_csv().encode()
        elif path.suffix in (".parquet", ".png", ".safetensors"):
            found[name] = path.read_bytes()
    return found


@contextmanager
def tmpfs(folder: Path, options: str) -> Iterator[None]:
    """A small file system in memory at a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def truncate(path: Path) -> None:
    """Lose the end of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    """Lose all of a file."""
    path.write_bytes(b"")


def alter(path: Path) -> None:
    """Flip bits in the middle of a file."""
    content = bytearray(path.read_bytes())
    for place in range(len(content) // 10, len(content) // 5):
        content[place] ^= 0x10
    path.write_bytes(content)


LASTING = (".lock", ".snakemake_timestamp")
"""Hidden files that belong to what is finished: a run's lock, and Snakemake's mark of a finished folder."""

PROGRESS = "runs/*/seed-0/partial"
IN_PROGRESS = ("state-*.safetensors", "checkpoints/*.safetensors", "rows/*.parquet")
"""Every kind of file that a training writes on its way."""

DAMAGED = {
    "datasets/*/class_means.parquet": "train",
    "datasets/*/label_tables.parquet": "theory",
    "datasets/*/evaluation_sequences.parquet": "circuits",
    "runs/*/*/training.parquet": "phases",
    "runs/*/*/run.parquet": "table",
    "runs/*/*/checkpoints/*.safetensors": "circuits",
    "runs/*/*/circuits.parquet": "figure",
    "runs/*/*/attention.parquet": "figure",
    "runs/*/*/example_attention.parquet": "figure",
    "runs/*/*/theory.parquet": "figure",
    "runs/*/*/ability_levels.parquet": "phases",
    "runs/*/*/phases.parquet": "figure",
}
"""Every kind of file that a later job reads, and a rule whose job does."""


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def main() -> None:
    """Run a campaign and print what was done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="kills at random moments")
    parser.add_argument("--compiled-kills", type=int, default=15, help="kills of a training that is compiled")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments and choices")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(Path(folder) / "project", options.seed)
        print(f"undisturbed: {campaign.seconds:.0f} s, {len(campaign.expected)} files", flush=True)
        for pattern, how in zip(DAMAGED, itertools.cycle((truncate, empty, alter)), strict=False):
            campaign.damage(pattern, how)
        for pattern, how in itertools.product(IN_PROGRESS, (truncate, empty, alter)):
            campaign.damage_in_progress(pattern, how)
        print("damaged files done", flush=True)
        for share in (0.1, 0.3, 0.5, 0.7):
            campaign.shortage(f"size={int(share * campaign.size)}", "disk full")
        campaign.shortage("ro", "read-only folder")
        print("shortages done", flush=True)
        campaign.finish_alone()
        campaign.kills(options.kills)
        compiled = Campaign(Path(folder) / "compiled", options.seed, COMPILED, TABLES)
        print(f"compiled, undisturbed: {compiled.seconds:.0f} s", flush=True)
        compiled.kills(options.compiled_kills)
        for what, those in (("", campaign), ("compiled: ", compiled)):
            for fault, count in sorted(those.counts.items()):
                print(f"{count:4d}  {what}{fault}")
        print("All results equal those of the undisturbed run.")


if __name__ == "__main__":
    main()
