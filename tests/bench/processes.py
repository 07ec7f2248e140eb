"""A process under measurement: started on given cores, watched through /proc as a whole tree, ended by its group. Linux only."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

TICK = 1.0 / os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


def cores() -> tuple[str, str]:
    """The cores of (proxy, load and origin) as taskset's lists; the same list twice where there is but one core."""
    free = sorted(os.sched_getaffinity(0))
    return str(free[-1]), ",".join(map(str, free[:-1] or free))


def free_port() -> int:
    """A port of 127.0.0.1 that the system says is free; not reserved, so use it soon."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def pinned(command: Sequence[str], on: str) -> list[str]:
    """`command` on the cores `on`; as it is where taskset is missing."""
    taskset = shutil.which("taskset")
    return [taskset, "-c", on, *command] if taskset else list(command)


def warm(folder: Path, size: int) -> None:
    """Have `size` bytes of page cache in use and let go again, by a file in `folder` that is then deleted.

    A virtual machine gets its memory from the host page by page as it touches it for the first time, and writing a file into such
    pages takes ten times as long (2.5 ms a MB against 0.2): that is the machine's cost, and only once.
    """
    piece = bytes(4 << 20)  # in large pieces, for which the kernel takes large pages: small ones can be cut from those, not the reverse
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        for _ in range(size // len(piece)):
            file.write(piece)


class Tree:
    """A child process, its descendants, and what they cost."""

    def __init__(
        self, command: Sequence[str], *, on: str, folder: Path, log: Path, environment: Mapping[str, str] | None = None, pipe: bool = False
    ) -> None:
        with log.open("ab") as errors:
            self.process: subprocess.Popen[bytes] = subprocess.Popen(
                pinned(command, on),
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipe else errors,
                stderr=errors,
                start_new_session=True,
            )

    @property
    def out(self) -> IO[bytes]:
        assert self.process.stdout
        return self.process.stdout

    def pids(self) -> list[int]:
        """The child and all that descend from it, as of now."""
        parents: dict[int, list[int]] = {}
        for entry in os.scandir("/proc"):
            if entry.name.isdigit() and (fields := _stat(int(entry.name))):
                parents.setdefault(int(fields[1]), []).append(int(entry.name))
        found = [self.process.pid]
        for pid in found:
            found.extend(parents.get(pid, ()))
        return found

    def cpu(self) -> float:
        """Seconds of user and system time of the tree so far, its ended and awaited children included; steps of one clock tick (10 ms)."""
        return sum(sum(map(int, fields[11:15])) for pid in self.pids() if (fields := _stat(pid))) * TICK

    def rss(self) -> float:
        """Resident memory of the tree in MB (1e6 bytes); pages shared between processes count in each."""
        total = 0
        for pid in self.pids():
            try:
                total += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            except (OSError, IndexError):
                continue
        return total * PAGE / 1e6

    def settle(self, quiet: float, limit: float = 30.0) -> None:
        """Wait until the tree does nothing more (at most one tick per `quiet` seconds), for at most `limit` seconds."""
        deadline = time.monotonic() + limit
        before = self.cpu()
        while time.monotonic() < deadline:
            time.sleep(quiet)
            now = self.cpu()
            if now - before <= TICK * 1.5:
                return
            before = now

    def stop(self, limit: float = 20.0) -> int | None:
        """SIGTERM, then SIGKILL to the whole group after `limit` seconds. The exit code, or None where it had to be killed."""
        code: int | None = None
        if self.process.poll() is None:
            self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            code = self.process.wait(limit)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()
        return code


class PeakMemory:
    """The highest `Tree.rss` while the `with` block runs, sampled ten times a second by a thread."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.peak = tree.rss()
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self.stopped.wait(0.1):
            self.peak = max(self.peak, self.tree.rss())

    def __enter__(self) -> PeakMemory:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self.thread.join()


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on (proc(5) field 3 is index 0: ppid 1, utime 11, stime 12, cutime 13, cstime 14)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
