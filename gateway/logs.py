"""What Verbatim says while it runs: one event is one line on stderr, written by a thread of its own so that no full pipe stops the relay.

Nothing here decides what is worth a line. Other libraries' chatter that would show URLs or headers is off at every level.
"""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections.abc import Iterator
from typing import Final, Protocol

from gateway.redaction import redact_text

__all__ = ["AccessLog", "Lines", "configure", "one_line", "set_level", "stop"]

QUIET: Final = (
    "uvicorn",
    "uvicorn.error",
    "uvicorn.asgi",
    "httpx",
    "httpcore",
    "hpack",
    "h2",
    "websockets",
    "asyncio",
    "starlette",
    "anyio",
)
"""Loggers that print targets, headers or messages at INFO or DEBUG: warnings and worse only, at every level."""
SILENT: Final = ("uvicorn.access",)
"""Prints `?key=` as it came; our own line stands in for it."""

GATHER: Final = 0.05
"""Seconds lines are gathered before they are written together: one wake-up for a burst, still at once for a person."""
MOST_LINES: Final = 10_000
"""Lines that may wait; more are dropped and counted. About 2 MB."""

_HARMFUL: Final = [*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F]
_ESCAPES: Final = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _HARMFUL} | {10: "\\n", 13: "\\r", 9: "\\t"}
"""Control characters would forge lines or drive a terminal (CWE-117); line separators and bidirectional marks would show them amiss."""


def one_line(text: str) -> str:
    """`text` on one line and harmless to a terminal: control characters, lone surrogates and bidirectional marks as escapes."""
    return text.translate(_ESCAPES).encode("utf-8", "backslashreplace").decode("utf-8")


class _Line(Protocol):
    def render(self) -> str: ...


class _Text:
    __slots__ = ("at", "level", "text")

    def __init__(self, at: float, level: str, text: str) -> None:
        self.at, self.level, self.text = at, level, text

    def render(self) -> str:
        return f"{_stamp(self.at)} {self.level:<7} {one_line(self.text)}"


class _Exchange:
    __slots__ = ("at", "values")

    def __init__(self, at: float, values: tuple[str, str, str, str, str, int | None, float, int, str]) -> None:
        self.at, self.values = at, values

    def render(self) -> str:
        exchange, client, route, method, target, status, ms, size, end = self.values
        text = f"{exchange} {client} {route} {method} {target} {status or '-'} {ms:.1f}ms {size}B {end}"
        return f"{_stamp(self.at)} access  {one_line(text)}"


def _stamp(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{int(at % 1 * 1000):03d}Z"


class Lines:
    """Lines on their way to a file descriptor. `put` may be called from any thread and never waits; a thread renders and writes."""

    def __init__(self, fd: int, most: int = MOST_LINES) -> None:
        self._fd, self._most = fd, most
        self._waiting: list[_Line] = []
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closed = False
        self.dropped = 0
        """Lines lost since the beginning because the reader of our output did not read."""
        self._told = 0
        self._thread = threading.Thread(target=self._run, name="verbatim-log", daemon=True)
        self._thread.start()

    def put(self, line: _Line) -> None:
        """Take a line, or drop and count it when too many wait."""
        with self._lock:
            if self._closed or len(self._waiting) >= self._most:
                self.dropped += 1
                return
            self._waiting.append(line)
        if not self._wake.is_set():
            self._wake.set()

    def close(self, timeout: float = 1.0) -> None:
        """Write what waits, for at most `timeout` seconds; later lines are dropped. Blocks; may be called twice."""
        with self._lock:
            self._closed = True
        self._wake.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        while True:
            self._wake.wait()
            if not self._closed:
                time.sleep(GATHER)
            self._wake.clear()
            with self._lock:
                batch, self._waiting = self._waiting, []
                closed, dropped = self._closed, self.dropped
            self._write(batch, dropped)
            if closed:
                return

    def _write(self, batch: list[_Line], dropped: int) -> None:
        texts = [line.render() for line in batch]
        if dropped > self._told and texts:
            texts.append(
                _Text(time.time(), "WARNING", f"{dropped - self._told} log lines were dropped: nobody reads them fast enough").render()
            )
            self._told = dropped
        try:
            for text in _together([(text + "\n").encode("utf-8") for text in texts]):
                data = memoryview(text)
                while data:
                    data = data[os.write(self._fd, data) :]
        except OSError:  # the terminal or pipe is gone: nobody is left to tell
            with self._lock:
                self.dropped += len(batch)


def _together(lines: list[bytes]) -> Iterator[bytes]:
    """Whole lines, as many as a pipe takes in one piece (PIPE_BUF, pipe(7)): other processes of ours write to the same one."""
    batch: list[bytes] = []
    size = 0
    for line in lines:
        if batch and size + len(line) > select.PIPE_BUF:
            yield b"".join(batch)
            batch, size = [], 0
        batch.append(line)
        size += len(line)
    if batch:
        yield b"".join(batch)


class AccessLog:
    """One line for each exchange. `line` never waits and never raises; it may be called from any thread."""

    def __init__(self, lines: Lines | None = None) -> None:
        """Writes to `lines`, else beside the other log lines, else to stderr."""
        self._own = lines is None and _lines is None
        self._lines = lines or _lines or Lines(2)

    @property
    def dropped(self) -> int:
        return self._lines.dropped

    def line(self, id: str, client: str, route: str, method: str, target: str, status: int | None, ms: float, size: int, end: str) -> None:
        """Log an exchange that ended. `target` is already redacted; `ms` is its duration, `size` the answer's wire bytes."""
        self._lines.put(_Exchange(time.time(), (id, client, route, method, target, status, ms, size, end)))

    def close(self, timeout: float = 1.0) -> None:
        """Write what waits, for at most `timeout` seconds. Blocks. Lines shared with the other loggers stay open."""
        if self._own:
            self._lines.close(timeout)


class _Handler(logging.Handler):
    """Hands log records over as lines; never blocks, whatever the other end of stderr does."""

    def __init__(self, lines: Lines) -> None:
        super().__init__()
        self._lines = lines
        self._formatter = logging.Formatter("%(message)s")

    def emit(self, record: logging.LogRecord) -> None:
        try:
            # An exception's text may quote a URL or a header: the same rules as for the archive
            text = redact_text(self._formatter.format(record))
        except Exception:  # a bad log call must not break what it reports on
            text = f"a log line of {record.name} could not be written"
        self._lines.put(_Text(record.created, record.levelname, text))


_lines: Lines | None = None


def configure(level: str, fd: int = 2) -> None:
    """Send log lines of `level` ("debug", "info", "warning", "error") and above to `fd`. Called once, by a command's beginning."""
    global _lines  # noqa: PLW0603 - a process has one log
    stop()
    _lines = Lines(fd)
    root = logging.getLogger()
    root.handlers[:] = [_Handler(_lines)]
    set_level(level)
    for name in SILENT:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = False
        logger.disabled = True
    logging.getLogger("uvicorn.error").addFilter(_says_something)
    logging.captureWarnings(True)


def set_level(level: str) -> None:
    """From now on log lines of `level` and above."""
    root = logging.getLogger()
    root.setLevel(level.upper())
    for name in QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def _says_something(record: logging.LogRecord) -> bool:
    """Not uvicorn's "Cancel 0 running task(s)" at the grace's end: our exchanges are no tasks, and the relay says how many were cut."""
    return not str(record.msg).startswith("Cancel %s running task")


def stop(timeout: float = 1.0) -> None:
    """Write what waits and let go of the log; what is logged later is lost. Blocks for at most `timeout` seconds."""
    global _lines  # noqa: PLW0603 - a process has one log
    if _lines is not None:
        root = logging.getLogger()
        root.handlers[:] = [handler for handler in root.handlers if not isinstance(handler, _Handler)]
        _lines.close(timeout)
        _lines = None
