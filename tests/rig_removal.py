"""Removals as a process does them, and an archive to remove from; each removal killed before every one of its steps that changes a disk.

Run as a program it does the killing, in a process without threads: `kill_everywhere` starts it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from samples import HOUR, Shelf, in_parts, whole

from archive.keeping import forget, prune, retention
from archive.keeping.clerk import Removals, alone
from archive.keeping.upkeep import finish, sweep
from archive.record import Record

NOW = HOUR + 4 * 3600 + 60
CANARY = b"canary-of-what-is-forgotten"


def furnished(folder: Path) -> tuple[Shelf, list[Record], list[Record]]:
    """Three hours of exchanges by one writer, some of them of the canary: the shelf, records to forget, and records to keep."""
    shelf = Shelf(folder)
    shelf.open(HOUR)
    doomed, kept = [], []
    for number in range(9):
        at = HOUR + number % 3 * 3600 + number
        (doomed if number % 2 else kept).append(whole(at, body=b'{"said": "%s"}' % CANARY if number % 2 else b'{"said": "this"}'))
    parts = in_parts([CANARY, b"b", CANARY], at=HOUR + 3590)
    doomed += parts
    for record in sorted([*kept, *(it for it in doomed if it not in parts)], key=lambda it: it.at):
        shelf.put(record)
    for number, part in enumerate(parts):
        shelf.put(part, at=HOUR + 3590 + number * 10)
    return shelf, doomed, kept


def forget_doomed(folder: Path) -> None:
    """Forget what lies in the file `doomed` beside the folder of the archive."""
    ids = {bytes.fromhex(line) for line in (folder / "doomed").read_text().split()}
    with alone(folder / "archive"):
        finish(folder / "archive", Removals(folder / "archive"), version="t", clock=lambda: NOW)
        forget.carry_out(folder / "archive", ids, by="me@here", why="asked for", version="t", clock=lambda: NOW)


def prune_all(folder: Path) -> None:
    """Remove every hour but the current one."""
    archive = folder / "archive"
    with alone(archive):
        finish(archive, Removals(archive), version="t", clock=lambda: NOW)
        made = retention.plan(archive, keep_days=0, keep_bytes=1, now=NOW)
        prune.carry_out(archive, made.doomed, by="me@here", version="t", clock=lambda: NOW)


def finish_all(folder: Path) -> None:
    """What the next run of the upkeep does."""
    archive = folder / "archive"
    with alone(archive):
        finish(archive, Removals(archive), version="t", clock=lambda: NOW)
        sweep(archive)


# The killing.

ROOT = Path(__file__).resolve().parent.parent
STEPS = ("write", "writev", "pwrite", "fsync", "fdatasync", "ftruncate", "unlink", "remove", "rename", "replace", "copy_file_range")
MOST = 300


def kill_everywhere(work: str, folder: Path, into: Path) -> list[Path]:
    """Do `work`, a function of this module, to copies of `folder` in `into`: the first is killed before its first step that changes a disk,
    the next before its second, and so on; the last ran to its end. The copies."""
    command = [sys.executable, "-P", "-W", "error", str(Path(__file__)), work, str(folder), str(into)]
    subprocess.run(command, check=True, timeout=100, env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"})
    return sorted(into.iterdir(), key=lambda path: int(path.name))


def _main(work: str, folder: Path, into: Path) -> None:
    into.mkdir()
    for number in range(1, MOST):
        copy = into / str(number)
        shutil.copytree(folder, copy)
        if not _killed_before(number, globals()[work], copy):
            assert number > 3, "too few steps: nothing was done"
            return
    raise AssertionError("it does not end")


def _killed_before(number: int, work: Callable[[Path], None], folder: Path) -> bool:
    pid = os.fork()
    if not pid:
        _kill_before(number)
        work(folder)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    killed = os.WIFSIGNALED(status)
    assert killed or os.waitstatus_to_exitcode(status) == 0
    return killed


def _kill_before(number: int) -> None:
    left = number

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **options)

        return step

    for name in STEPS:
        setattr(os, name, counted(getattr(os, name)))


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
