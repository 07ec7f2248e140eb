"""`verbatim` as its users start it, for tests: a process of its own, in a folder of its own, without our environment's settings."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMMAND = [sys.executable, "-P", "-W", "error", "-m", "gateway.cli"]
PATIENCE = 40.0
WITHOUT_RIGHTS = [] if os.geteuid() else ["setpriv", "--inh-caps=-all", "--bounding-set=-all"]
"""What goes before a command to whom the modes of files apply, as they do to everybody but root."""


def clean_environment(**more: str) -> dict[str, str]:
    """What a command needs and nothing that would change what it does."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR", "COVERAGE_PROCESS_START") if name in os.environ}
    coverage = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
    return {**kept, **coverage, "PYTHONPATH": str(ROOT), **more}


def verbatim(
    folder: Path, *arguments: str | Path, env: Mapping[str, str] | None = None, rights: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end in `folder`; without `rights` as one who may not read every file."""
    return subprocess.run(
        [*([] if rights else WITHOUT_RIGHTS), *COMMAND, *map(str, arguments)],
        cwd=folder,
        env=clean_environment(**(env or {})),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


class Running:
    """A command that goes on; its output is gathered as it comes."""

    def __init__(self, folder: Path, *arguments: str | Path, env: Mapping[str, str] | None = None, rights: bool = True) -> None:
        self.process = subprocess.Popen(
            [*([] if rights else WITHOUT_RIGHTS), *COMMAND, *map(str, arguments)],
            cwd=folder,
            env=clean_environment(**(env or {})),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.out: list[str] = []
        self.err: list[str] = []
        self._threads = [
            threading.Thread(target=self._gather, args=(pipe, into), daemon=True)
            for pipe, into in ((self.process.stdout, self.out), (self.process.stderr, self.err))
        ]
        for thread in self._threads:
            thread.start()

    @staticmethod
    def _gather(pipe: Iterator[str], into: list[str]) -> None:
        for line in pipe:
            into.append(line)  # noqa: PERF402 - seen by others as it comes

    @property
    def stdout(self) -> str:
        return "".join(self.out)

    @property
    def stderr(self) -> str:
        return "".join(self.err)

    def find(self, pattern: str) -> str:
        """Wait until standard output holds `pattern`, and return its first group."""
        wait_for(lambda: re.search(pattern, self.stdout) is not None or self.process.poll() is not None, lambda: self.stdout + self.stderr)
        found = re.search(pattern, self.stdout)
        assert found is not None, f"exit code {self.process.poll()}\n{self.stdout}{self.stderr}"
        return found[1]

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, wait for the end, and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Wait for the end, and return the exit code."""
        try:
            code = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        for thread in self._threads:  # they end with the last process that holds the pipes
            thread.join(PATIENCE)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
        return code


@contextmanager
def running(folder: Path, *arguments: str | Path, env: Mapping[str, str] | None = None, rights: bool = True) -> Iterator[Running]:
    """A command that is ended when the block is left."""
    command = Running(folder, *arguments, env=env, rights=rights)
    try:
        yield command
    finally:
        command.end()


def wait_for(what: Callable[[], bool], told: Callable[[], str] = str, seconds: float = PATIENCE) -> None:
    """Wait until `what` holds; fail with what `told` says when it does not in time."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, f"it did not happen in time\n{told()}"
        time.sleep(0.02)


def children(pid: int, of: str = "") -> list[int]:
    """The processes that `pid` has started and that still run, those whose command line holds `of`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state = (entry / "stat").read_text().rpartition(")")[2].split()
                command = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:  # it is gone by now
                continue
            if int(state[1]) == pid and state[0] != "Z" and of in command:
                found.append(int(entry.name))
    return found


class Upstream:
    """An upstream that answers everything with a little JSON and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                upstream.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                body = b'{"object": "list"}'
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def upstream() -> Iterator[Upstream]:
    """A running Upstream."""
    server = Upstream()
    try:
        yield server
    finally:
        server.close()
