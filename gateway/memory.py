"""How a process of ours treats memory: fewer page faults for large buffers, fewer walks in search of cycles, no core dumps. Called once,
at start.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import resource
import sys
from typing import Final

__all__ = ["forbid_core_dumps", "tune"]

GARBAGE: Final = (50_000, 20, 100)
"""Thresholds of the cyclic collector (the default is 700, 10, 10). Exchanges and records are freed by reference count; with thousands
of them queued, walking them took a third of the keeper's time."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""mallopt(3), of glibc."""

MMAP_FROM: Final = 4 << 20
TRIM_AT: Final = 64 << 20
"""Bytes. By default glibc maps a buffer of 128 KB afresh and gives it back when it is freed, and the kernel clears every page of it each
time: half of the relay's CPU for a 200 KB request (0.250 against 0.113 ms, for 3 MB more of resident memory)."""


def tune() -> None:
    """Set it all for this process. What a platform has no means for is left out."""
    gc.freeze()
    gc.set_threshold(*GARBAGE)
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # musl has no mallopt
            libc = ctypes.CDLL(None)
            libc.mallopt(M_MMAP_THRESHOLD, MMAP_FROM)
            libc.mallopt(M_TRIM_THRESHOLD, TRIM_AT)


def forbid_core_dumps() -> None:
    """None of this process: it would hold every key that passed.

    The limit is one byte, not none: where core dumps are piped to a program Linux heeds no other (do_coredump in fs/coredump.c), and a
    file of one byte is not begun. Where the hard limit is none already, none it is.
    """
    for most in (1, 0):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_CORE, (most, most))
            return
