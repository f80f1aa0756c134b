"""What the process keeps of the memory that it has freed."""

from __future__ import annotations

import ctypes
from typing import Any

# malloc.h of glibc
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def keep_what_is_freed() -> None:
    """Keep freed memory at hand for its next use, where the C library can be told to.

    glibc gives the free end of its heap back: in large settings with every step, which then waits for new pages.
    """
    set_limit = _of_the_c_library("mallopt")
    if set_limit is not None:
        set_limit(M_MMAP_THRESHOLD, 2**25)
        set_limit(M_TRIM_THRESHOLD, 2**31 - 1)


def give_back_what_is_freed() -> None:
    """Leave it to others once, such as a compiler that is about to start."""
    trim = _of_the_c_library("malloc_trim")
    if trim is not None:
        trim(0)


def _of_the_c_library(name: str) -> Any:
    return getattr(ctypes.CDLL(None), name, None)
