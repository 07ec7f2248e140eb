"""Keeps one child process running: starts it, starts it again when it dies, ends it with us. Knows nothing of what it runs."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

__all__ = ["Supervisor", "python_command"]

log = logging.getLogger("verbatim.supervisor")

FIRST_PAUSE: Final = 0.5
"""Seconds before the first restart; each further one waits twice as long, so that a child that cannot start costs nothing."""
LONGEST_PAUSE: Final = 30.0
HEALTHY: Final = 60.0
"""Seconds after which a child counts as having run well: the next pause is the first again."""
STOP_TIMEOUT: Final = 5.0
"""Seconds between SIGTERM and SIGKILL."""

_START = "import sys; sys.path.append(sys.argv.pop(1)); import {module}; sys.exit({module}.main())"


def python_command(module: str, *arguments: str) -> list[str]:
    """The command that runs `module`.main() of this installation in a new interpreter.

    `-P` keeps the working directory off the import path: a folder named like one of our packages must not be run in its place.
    """
    spec = importlib.util.find_spec(module.partition(".")[0])
    if spec is None or spec.origin is None:
        raise RuntimeError(f"{module} is not installed")
    return [sys.executable, "-P", "-c", _START.format(module=module), str(Path(spec.origin).parent.parent), *arguments]


class Supervisor:
    """One child, kept running by a thread of its own. The child leads its own session: a Ctrl-C at the terminal reaches only us."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        descriptors: Sequence[int] = (),
        first_pause: float = FIRST_PAUSE,
    ) -> None:
        """`environment` is added to ours; `descriptors` stay open in the child. `name` stands in log lines; the command never does."""
        self._name = name
        self._command = list(command)
        self._environment = {**os.environ, **(environment or {})}
        self._descriptors = tuple(descriptors)
        self._first_pause = first_pause
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._keep, name=f"supervisor-{name}", daemon=True)
        self.restarts = 0
        """How often the child had to be started again."""

    @property
    def pid(self) -> int | None:
        """The child that runs now, if one does."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def start(self) -> None:
        """Start the child and keep it running. Does not wait for it; one that cannot be started is tried again like one that died."""
        self._launch()
        self._thread.start()

    def stop(self, timeout: float = STOP_TIMEOUT) -> None:
        """End the child with SIGTERM, after `timeout` seconds with SIGKILL. Blocks until it is gone; may be called twice."""
        self._stopping.set()
        with self._lock:
            process = self._process
        if process is not None:
            _end(process, timeout)
        if self._thread.ident is not None:
            self._thread.join()

    def _launch(self) -> None:
        with self._lock:
            if self._stopping.is_set():
                return
            try:
                self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                    self._command,
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    pass_fds=self._descriptors,
                    start_new_session=True,
                )
            except OSError as error:
                self._process = None
                log.warning("the %s could not be started: %s", self._name, error.strerror or "unknown reason")

    def _keep(self) -> None:
        pause = self._first_pause
        while not self._stopping.is_set():
            began = time.monotonic()
            code = self._process.wait() if self._process is not None else None
            if self._stopping.is_set():
                return
            if time.monotonic() - began >= HEALTHY:
                pause = self._first_pause
            if code is not None:
                log.warning("the %s ended (%s) and is started again in %.1f s", self._name, _how(code), pause)
            self._stopping.wait(pause)
            pause = min(pause * 2, LONGEST_PAUSE)
            if not self._stopping.is_set():
                self.restarts += 1
                self._launch()


def _how(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _end(process: subprocess.Popen[bytes], timeout: float) -> None:
    """SIGTERM, then SIGKILL. A child that is already gone is none."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
