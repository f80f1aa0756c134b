"""A Slurm cluster of one node on loopback, with its own state and ports: for tests, as root, without systemd."""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

# A job's steps find their configuration nowhere else: the executor takes SLURM_CONF from them.
SETTINGS = Path("/etc/slurm")
MARK = "# A test of circuit-phases wrote this file, and removes it.\n"
PORTS = {"slurmctld": 16817, "slurmd": 16818, "slurmdbd": 16819, "mariadbd": 16820}
PACKAGES = {
    "munged": "munge",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
    "slurmdbd": "slurmdbd",
    "mariadbd": "mariadb-server-core",
    "mariadb": "mariadb-client-core",
}
PR_SET_PDEATHSIG = 1


class NotPossible(Exception):
    """Slurm cannot be had on this machine; the message says why, and the way out."""


def require_slurm() -> None:
    """See that a node can be started here; install what is missing of Debian's packages.

    Raises:
        NotPossible: without root, where this machine has a Slurm of its own, or where nothing can be installed.
    """
    if os.geteuid() != 0:
        raise NotPossible("Slurm's daemons need root. Run as root, or where sudo asks for no password.")
    for name in ("slurm.conf", "slurmdbd.conf"):
        if (SETTINGS / name).exists() and not (SETTINGS / name).read_text().startswith(MARK):
            raise NotPossible(f"{SETTINGS / name} is there: this machine has a Slurm of its own. Use a container.")
    for name, port in PORTS.items():
        if _listens(name):
            raise NotPossible(f"port {port} is taken. Wait until another `make test-slurm` has ended.")
    missing = [package for command, package in PACKAGES.items() if not shutil.which(command)]
    if not missing:
        return
    if not shutil.which("apt-get"):
        raise NotPossible(f"{', '.join(missing)} is missing, and there is no apt-get. Install it by hand.")
    print(f"installing {' '.join(missing)}", flush=True)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "--yes", "--no-install-recommends", *missing]):
        outcome = subprocess.run(["apt-get", "--quiet", *command], env=environment, capture_output=True, text=True)
        if outcome.returncode:
            last = (outcome.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise NotPossible(f"apt-get {command[0]} failed ({last}). Install {' '.join(missing)} by hand.")


def answer(*command: str) -> str:
    """What a command prints; empty if it fails."""
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def checked(*command: str) -> None:
    """Run a command; if it fails, raise with what it said."""
    outcome = subprocess.run(command, capture_output=True, text=True)
    if outcome.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{outcome.stdout}{outcome.stderr}")


@contextmanager
def slurm_node(accounting: bool) -> Iterator[Path]:
    """A node with two processors that takes jobs; all of it is stopped at the end. Yields the folder of its logs."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True)))
        folder.chmod(0o755)
        SETTINGS.mkdir(exist_ok=True)

        def configure(name: str, text: str) -> None:
            stack.callback((SETTINGS / name).unlink, missing_ok=True)
            (SETTINGS / name).write_text(MARK + text)
            (SETTINGS / name).chmod(0o600 if name == "slurmdbd.conf" else 0o644)

        def daemon(*command: str, is_up: Callable[[], object]) -> None:
            stack.enter_context(_daemon(folder, *command, is_up=is_up))

        munge = folder / "munge"
        munge.mkdir(mode=0o755)
        (munge / "key").write_bytes(secrets.token_bytes(128))
        (munge / "key").chmod(0o400)
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        daemon(
            "munged", "--foreground", "--force", *(f"--{option}={munge / name}" for option, name in files.items()),
            is_up=(munge / "socket").exists,
        )  # fmt: skip
        if accounting:
            _start_database(folder, daemon)
            configure("slurmdbd.conf", slurmdbd_conf(folder))
            daemon("slurmdbd", "-D", is_up=lambda: _listens("slurmdbd"))
        configure("slurm.conf", slurm_conf(folder, accounting))
        if accounting:
            checked("sacctmgr", "--immediate", "add", "cluster", "circuits")
        daemon("slurmctld", "-D", "-c", is_up=lambda: _listens("slurmctld"))
        daemon("slurmd", "-D", "-N", socket.gethostname(), is_up=lambda: answer("sinfo", "-h", "-o", "%T") == "idle")
        stack.callback(_end_jobs)
        yield folder


def slurm_conf(folder: Path, accounting: bool) -> str:
    """The settings of the cluster; what is not named, MinJobAge for one, is as Slurm ships it."""
    host = socket.gethostname()
    kind = "slurmdbd" if accounting else "none"
    return f"""ClusterName=circuits
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=2
KillWait=5
SlurmctldPort={PORTS["slurmctld"]}
SlurmdPort={PORTS["slurmd"]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/{kind}
AccountingStorageHost=127.0.0.1
AccountingStoragePort={PORTS["slurmdbd"]}
AccountingStoragePass={folder}/munge/socket
JobAcctGatherType=jobacct_gather/none
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=8000
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def slurmdbd_conf(folder: Path) -> str:
    """The settings of the accounting daemon."""
    return f"""AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={PORTS["slurmdbd"]}
SlurmUser=root
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={PORTS["mariadbd"]}
StorageUser=slurm
StoragePass=slurm
StorageLoc=accounting
"""


def _start_database(folder: Path, daemon: Callable[..., None]) -> None:
    data, link = folder / "database", folder / "database.socket"
    checked("mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={data}", "--skip-test-db")
    daemon(
        "mariadbd", "--no-defaults", "--user=root", f"--datadir={data}", f"--socket={link}",
        f"--pid-file={folder}/mariadbd.pid", "--bind-address=127.0.0.1", f"--port={PORTS['mariadbd']}",
        "--innodb-lock-wait-timeout=900", is_up=lambda: _listens("mariadbd"),
    )  # fmt: skip
    user = "slurm@127.0.0.1"
    queries = (
        f"CREATE DATABASE accounting; CREATE USER {user} IDENTIFIED BY 'slurm'; GRANT ALL ON accounting.* TO {user}"
    )
    checked("mariadb", "--no-defaults", f"--socket={link}", "--user=root", "--execute", queries)


@contextmanager
def _daemon(folder: Path, name: str, *arguments: str, is_up: Callable[[], object]) -> Iterator[None]:
    """A daemon in the foreground; it ends with this block, or with this process if that is killed."""
    (folder / "state").mkdir(exist_ok=True)
    (folder / "spool").mkdir(exist_ok=True)
    libc = ctypes.CDLL(None)
    log = folder / f"{name}.log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [name, *arguments], stdout=stream, stderr=stream, stdin=subprocess.DEVNULL, start_new_session=True,
            preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM),
        )  # fmt: skip
    try:
        end = time.monotonic() + 60
        while not is_up():
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{name} did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _listens(name: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", PORTS[name])) == 0


def _end_jobs() -> None:
    """Cancel what still runs, and wait until its processes are gone."""
    answer("scancel", "--user=root")
    end = time.monotonic() + 30
    while answer("squeue", "--noheader") and time.monotonic() < end:
        time.sleep(0.2)
