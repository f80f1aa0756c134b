"""What tests of several modules do."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from circuit_phases.files import DamagedFile
from circuit_phases.sequences import Sequences


def same(one: Sequences, other: Sequences) -> bool:
    """Whether sequences are equal to the bit."""
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in Sequences.__dataclass_fields__)


def damaged_message(path: Path, read: Callable[[Path], Any]) -> str:
    """What is said of a damaged file when it is read: one line with its name and the way out."""
    with pytest.raises(DamagedFile) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path} is damaged (")
    assert message.endswith("Delete it; `snakemake` will make it again.")
    assert "\n" not in message
    return message


def until(condition: Callable[[], bool], seconds: float = 120) -> None:
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
