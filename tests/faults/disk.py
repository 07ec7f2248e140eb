"""The test's end of a faulty disk: mounts it, tells it what to fail, stops it, and reads the log of what was done to it."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from faults.fusedisk import Change

__all__ = ["FaultyDisk", "faulty_disk", "why_not"]


def why_not() -> str:
    """Why no such disk can be mounted here; empty when one can."""
    if os.geteuid() != 0:
        return "mounting needs root"
    if not os.path.exists("/dev/fuse"):
        return "no /dev/fuse here (in a container: --device /dev/fuse --cap-add SYS_ADMIN)"
    if not (shutil.which("mount") and shutil.which("mountpoint")):
        return "no mount(8) here"
    return ""


class FaultyDisk:
    """A mounted disk. `path` is where; what lies there is in memory only."""

    def __init__(self, path: Path, server: subprocess.Popen[str]) -> None:
        self.path = path
        self._server = server

    def fail(self, *what: str, at: int = 1, error: int, lasting: bool = False, short: bool = False, where: str = ".jsonl") -> None:
        """The `at`-th call from now on of the kinds `what` fails, on files whose path holds `where`."""
        self._order({"fault": {"what": what, "at": at, "error": error, "lasting": lasting, "short": short, "where": where}})

    def heal(self) -> None:
        """Nothing fails any more."""
        self._order({"fault": None})

    def seen(self) -> tuple[int, int]:
        """Calls of the kind told to fail, and how many of them did."""
        told = self._order({"seen": True})
        return told["seen"], told["hits"]

    def changes(self, into: Path) -> tuple[list[Change], dict[int, str]]:
        """All that was done since the beginning or `forget`, in order, and where each node lay. Goes through the file `into`."""
        self._order({"log": str(into)})
        with into.open("rb") as file:
            log, paths = pickle.load(file)
        return [Change(*each) for each in log], paths

    def forget(self) -> None:
        self._order({"forget": True})

    def stop(self) -> None:
        """From now on the disk answers nothing: whoever asks it for something hangs."""
        os.kill(self._server.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self._server.pid, signal.SIGCONT)

    def _order(self, order: dict[str, Any]) -> Any:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(order) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())


@contextmanager
def faulty_disk(path: Path) -> Iterator[FaultyDisk]:
    """Mount one at `path`, which is made. Whoever still hangs on it at the end gets an error."""
    path.mkdir()
    command: Sequence[str] = [sys.executable, str(Path(__file__).with_name("fusedisk.py")), str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True) as server:
        assert server.stdout is not None
        assert server.stdin is not None
        if json.loads(server.stdout.readline() or "null") != "mounted":
            raise RuntimeError("the faulty disk could not be mounted")
        subprocess.run(["mountpoint", "-q", str(path)], check=True)
        disk = FaultyDisk(path, server)
        try:
            yield disk
        finally:
            disk.go_on()
            server.stdin.close()
            try:
                server.wait(20)
            finally:
                server.kill()
                server.wait()
                if f" {path} " in Path("/proc/self/mounts").read_text():
                    subprocess.run(["umount", "--lazy", "-i", "-n", str(path)], check=False)
