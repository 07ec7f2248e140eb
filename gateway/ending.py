"""SIGTERM, SIGINT and SIGHUP in a process of ours: before it can end in order they end it at once, afterwards they are handed on."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from types import FrameType

__all__ = ["Ending", "at_a_terminal"]


class Ending:
    """A context for the main thread. Handlers are called between two instructions of it: they may only set flags and wake a loop."""

    def __init__(self, *, hangup_ends: bool) -> None:
        """`hangup_ends`: SIGHUP means what SIGTERM does, not "read the settings again"."""
        self.on_end: Callable[[], None] | None = None
        """What SIGTERM and SIGINT do; None: end the process with exit code 0, nothing having begun."""
        self.on_hangup: Callable[[], None] = lambda: None
        self._hangup_ends = hangup_ends
        self._before: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> Ending:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number != signal.SIGHUP:
            if self.on_end is None:
                raise SystemExit(0)
            self.on_end()
        elif self._hangup_ends:
            signal.raise_signal(signal.SIGTERM)
        else:
            self.on_hangup()


def at_a_terminal() -> bool:
    """Whether SIGHUP is to end us: one of our standard streams is a terminal, whose closing sends it, and no `nohup` has us ignore it.

    Without a terminal (systemd, Docker, cron) nobody but an administrator sends it, and means what it means to every daemon.
    """
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return False
    return any(stream is not None and not stream.closed and stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr))
