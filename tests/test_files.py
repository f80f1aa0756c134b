"""Files that are whole or absent: text, tables and weights alike."""

from __future__ import annotations

import errno
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from helpers import damaged_message
from permissions import BOUND

from circuit_phases import files
from circuit_phases.checkpoints import load_tensors, save_tensors
from circuit_phases.files import DamagedFile, UserError, read_whole, replacing, replacing_folder, require_writable
from circuit_phases.schemas import LABEL_TABLES
from circuit_phases.tables import read_table, table_from_rows, write_table

TENSORS = {"layers.0.query": torch.arange(12.0).view(1, 3, 4), "classifier.0.bias": torch.tensor([0.5, -1.0])}
METADATA = {"run": "paper,T=2", "seed": "0", "step": "40"}


def write_text(path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text("whole" * 500)


def write_label_tables(path: Path) -> None:
    rows = [{"task": task, "class": item_class, "label": 1} for task in (1, 2) for item_class in range(1, 2000)]
    write_table(path, table_from_rows(rows, LABEL_TABLES), LABEL_TABLES)


def write_weights(path: Path) -> None:
    save_tensors(path, TENSORS | {"large": torch.rand(5000)}, METADATA)


WRITERS = [write_text, write_label_tables, write_weights]
each_writer = pytest.mark.parametrize("write", WRITERS)


def in_a_process(script: str, *arguments: Path | str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run a script with `sys` and `Path`, warnings of ours on its standard error."""
    return subprocess.run(
        [*before, sys.executable, "-c", f"import sys; from pathlib import Path\n{script}", *map(str, arguments)],
        check=False, capture_output=True, text=True,
    )  # fmt: skip


def asked_by_one_bound_by_permissions(question: str, folder: Path) -> str:
    """What a call says of a folder."""
    said = in_a_process(
        "from circuit_phases.files import UserError, require_replaceable, require_writable\n"
        "folder = Path(sys.argv[1])\n"
        "try:\n"
        f"    {question}\n"
        "except UserError as error:\n"
        "    print(error)\n",
        folder,
        before=BOUND,
    )
    assert not said.stderr
    return said.stdout


@contextmanager
def disk_full_after(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: the kernel then fails the write, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_file_is_seen_only_when_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with path.open() as reader:
        with replacing(path) as temporary:
            temporary.write_text("new")
            assert path.read_text() == "old"
            assert temporary.parent == path.parent
        # Moved into place, not written over: who was reading the old file still reads it whole.
        assert reader.read() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_interrupted_write_keeps_the_old_file_and_leaves_no_other(
    error: type[BaseException], tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write_half() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half of the n")
            raise error

    with pytest.raises(error):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    script = (
        "import os, signal, sys; from pathlib import Path; from circuit_phases.files import replacing\n"
        "with replacing(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half of the n')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_text() == "old"


@each_writer
def test_folders_on_the_way_are_made(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path / "results" / "runs" / "file")
    assert (tmp_path / "results" / "runs" / "file").stat().st_size > 0


@each_writer
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_file_has_the_permissions_that_the_user_asks_for(
    write: Callable[[Path], None], umask: int, tmp_path: Path
) -> None:
    before = os.umask(umask)
    files._umask.cache_clear()
    try:
        write(tmp_path / "file")
    finally:
        os.umask(before)
        files._umask.cache_clear()
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~umask


@each_writer
def test_a_file_where_a_folder_should_be_is_told_in_one_line(write: Callable[[Path], None], tmp_path: Path) -> None:
    (tmp_path / "results").write_text("not a folder")
    path = tmp_path / "results" / "file"
    with pytest.raises(UserError) as caught:
        write(path)
    assert str(caught.value).startswith(f"Cannot write {path}: ")
    assert "\n" not in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["results"]


@each_writer
def test_a_folder_where_the_file_should_be_is_told_and_nothing_half_written_left(
    write: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "file"
    (path / "inside").mkdir(parents=True)
    with pytest.raises(UserError) as caught:
        write(path)
    assert str(caught.value).startswith(f"Cannot write {path}: ")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@each_writer
def test_a_full_disk_is_told_and_keeps_the_old_file_alone(write: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(UserError) as caught, disk_full_after(100):
        write(path)
    assert str(caught.value).startswith(f"Cannot write {path}: ")
    assert "Free the disk" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("inside", ["", "results", "results/deep"])
def test_a_file_in_the_way_of_the_results_is_named_before_anything_runs(inside: str, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    folder = tmp_path / "taken" / inside
    with pytest.raises(UserError) as caught:
        require_writable(folder)
    assert str(caught.value).startswith(f"results = {folder} is not allowed ({tmp_path / 'taken'} is a file)")


@pytest.mark.parametrize("mode", [0o555, 0o600])
def test_results_where_the_user_may_not_write_are_refused_before_anything_runs(mode: int, tmp_path: Path) -> None:
    tmp_path.chmod(mode)
    said = asked_by_one_bound_by_permissions("require_writable(folder)", tmp_path / "results" / "deep")
    assert f"no permission to write to {tmp_path}" in said


@pytest.mark.parametrize("forbidden", ["tables", "runs/one/seed-0", "runs/one/seed-0/checkpoints"])
def test_a_folder_where_something_is_to_be_made_anew_and_may_not_is_named(forbidden: str, tmp_path: Path) -> None:
    for folder in ("tables", "runs/one/seed-0/checkpoints", "finished"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "finished").chmod(0o555)
    outputs = ("tables/runs.parquet", "runs/one/seed-0/run.parquet", "runs/one/seed-0/checkpoints", "new/file")
    question = f"require_replaceable(folder / path for path in {outputs})"
    assert asked_by_one_bound_by_permissions(question, tmp_path) == ""
    (tmp_path / forbidden).chmod(0o555)
    said = asked_by_one_bound_by_permissions(question, tmp_path)
    assert said == f"No permission to write to {tmp_path / forbidden}, where files are to be made. Permit it.\n"


@each_writer
def test_a_file_that_cannot_be_read_is_not_called_damaged(
    write: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write(path)

    def broken(_: Path) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "read_bytes", broken)
    for read in (load_tensors, lambda path: read_table(path, LABEL_TABLES), read_whole):
        with pytest.raises(UserError) as caught:
            read(path)
        assert str(caught.value) == f"Cannot read {path}: Input/output error. Mend that and run again."


def test_a_folder_takes_the_place_of_a_link_and_what_that_leads_to_stays(tmp_path: Path) -> None:
    kept = tmp_path / "store" / "file"
    kept.parent.mkdir()
    kept.touch()
    (tmp_path / "folder").symlink_to(kept.parent)
    with replacing_folder(tmp_path / "folder") as temporary:
        (temporary / "new").touch()
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["new"]
    assert kept.exists()


WITHOUT_LOCKS = (
    "import errno, fcntl, os, signal; from circuit_phases.files import locked\n"
    "def refuse(*_):\n"
    "    raise OSError(int(sys.argv[2]), os.strerror(int(sys.argv[2])))\n"
    "fcntl.flock = refuse\n"
    "with locked(Path(sys.argv[1])):\n"
)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP], ids=errno.errorcode.get)
def test_where_the_file_system_keeps_no_locks_a_folder_is_free_once_its_holder_was_killed(
    number: int, tmp_path: Path
) -> None:
    killed = in_a_process(WITHOUT_LOCKS + "    os.kill(os.getpid(), signal.SIGKILL)\n", tmp_path, str(number))
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / files.LOCK).read_text()
    again = in_a_process(WITHOUT_LOCKS + "    print('mine')\n", tmp_path, str(number))
    assert again.stdout == "mine\n", again.stderr
    assert f"{tmp_path}: this file system keeps no locks" in again.stderr


def test_where_the_file_system_keeps_no_locks_a_process_of_this_machine_keeps_others_out(tmp_path: Path) -> None:
    (tmp_path / files.LOCK).write_text(f"{socket.gethostname()} {os.getpid()}\n")
    refused = in_a_process(WITHOUT_LOCKS + "    print('mine')\n", tmp_path, str(errno.ENOSYS))
    assert refused.returncode == 1
    assert "is being written by another job" in refused.stderr


@pytest.mark.parametrize("inside", ["", "results", "results/deep"])
def test_asking_whether_results_can_be_written_makes_no_folder(inside: str, tmp_path: Path) -> None:
    require_writable(tmp_path / inside)
    assert list(tmp_path.iterdir()) == []


def test_saved_weights_come_back_to_the_bit(tmp_path: Path) -> None:
    path = tmp_path / "step-0000040.safetensors"
    odd = {"nan": torch.tensor([float("nan"), -0.0, 1e-45]), "empty": torch.zeros(0, 3), "view": torch.rand(4, 6).T}
    save_tensors(path, TENSORS | odd, METADATA)
    tensors, metadata = load_tensors(path)
    assert metadata == METADATA
    assert tensors.keys() == (TENSORS | odd).keys()
    for name, tensor in (TENSORS | odd).items():
        assert tensors[name].dtype == tensor.dtype
        assert tensors[name].shape == tensor.shape
        assert tensors[name].numpy().tobytes() == tensor.contiguous().numpy().tobytes()


def test_equal_weights_are_equal_files(tmp_path: Path) -> None:
    for number in range(8):
        save_tensors(tmp_path / f"{number}.safetensors", TENSORS, METADATA)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_missing_weights_are_named_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "step-0000040.safetensors"
    with pytest.raises(UserError) as caught:
        load_tensors(path)
    assert str(caught.value) == f"{path} is missing. Run `snakemake` to make it."


def test_weights_cut_short_anywhere_are_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_tensors(path, TENSORS, METADATA)
    whole = path.read_bytes()
    for size in range(0, len(whole), 3):
        path.write_bytes(whole[:size])
        assert "truncated" in damaged_message(path, load_tensors)


@pytest.mark.parametrize("content", [b"", b"\0" * 64, b"not safetensors, a text", b"{}"], ids=repr)
def test_a_file_that_holds_no_weights_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    damaged_message(path, load_tensors)


def test_weights_with_any_byte_altered_are_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_tensors(path, TENSORS, METADATA)
    whole = path.read_bytes()
    padding = len(whole) - sum(4 * tensor.numel() for tensor in TENSORS.values())
    while whole[padding - 1 : padding] == b" ":
        padding -= 1
    for place in [*range(padding), len(whole) - 1]:
        for bits in (0x01, 0x10):
            altered = bytearray(whole)
            altered[place] ^= bits
            path.write_bytes(altered)
            damaged_message(path, load_tensors)


@pytest.mark.parametrize(
    ("written", "altered"),
    [
        (rb"\"step\": \"40\"", rb"\"step\": \"50\""),
        (rb"\"seed\": \"0\"", rb"\"seed\": \"1\""),
        (b"layers.0.query", b"layers.1.query"),
        (b'"dtype":"F32"', b'"dtype":"I32"'),
        (b'"shape":[1,3,4]', b'"shape":[1,4,3]'),
    ],
    ids=str,
)
def test_weights_with_an_altered_header_are_named(written: bytes, altered: bytes, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_tensors(path, TENSORS, METADATA)
    whole = path.read_bytes()
    assert whole.count(written) >= 1
    path.write_bytes(whole.replace(written, altered))
    assert "altered" in damaged_message(path, load_tensors)


def test_weights_of_other_software_are_not_taken_for_ours(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "weights.safetensors"
    save_file(TENSORS, path)
    damaged_message(path, load_tensors)


def test_a_table_where_weights_should_be_is_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    write_label_tables(path)
    damaged_message(path, load_tensors)
    write_weights(path)
    with pytest.raises(DamagedFile):
        read_table(path, LABEL_TABLES)
