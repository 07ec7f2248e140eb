"""System calls of the real writer that fail on the real file system, as strace injects it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import NamedTuple

import pytest
from faults.account import LONG, account
from faults.child import judge

from archive.folder import segment_name

RIG = Path(__file__).with_name("rig_traced.py")


def why_not() -> str:
    """Why strace cannot inject here; empty when it can."""
    if shutil.which("strace") is None:
        return "no strace here"
    tried = subprocess.run(
        ["strace", "-f", "-qq", "-e", "trace=fsync", "-e", "inject=fsync:error=EIO:when=1..2", "true"], capture_output=True, check=False
    )
    return "" if not tried.returncode else "strace cannot inject here: it is older than 6.0, or tracing is not allowed"


pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not() or "strace can inject")


class Kind(NamedTuple):
    calls: str
    errors: tuple[int, ...]


KINDS = {
    "write": Kind("write,writev", (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EROFS)),
    "fsync": Kind("fsync,fdatasync", (errno.EIO, errno.ENOSPC, errno.EDQUOT)),
    "open": Kind("openat", (errno.EMFILE, errno.ENFILE, errno.EACCES, errno.EROFS, errno.ENOSPC)),
    "lock": Kind("flock,fstat,newfstatat", (errno.ENOLCK, errno.EIO)),
}


def trial(archive: Path, kind: Kind, error: int, at: int, times: int) -> tuple[dict[str, int], int]:
    """A writer whose calls from the `at`-th on fail `times` times. The verdict, and how many did."""
    names = {segment_name(time.time() + ahead) for ahead in (0, 120)}
    paths = [part for path in (archive, *(archive / name for name in sorted(names))) for part in ("-P", str(path))]
    log = archive.with_name("strace.log")
    inject = f"inject={kind.calls}:error={errno.errorcode[error]}:when={at}..{at + times - 1}"
    command = ["strace", "-f", "--seccomp-bpf", "-qq", "-o", str(log), *paths, "-e", f"trace={kind.calls}", "-e", inject]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([*command, sys.executable, str(RIG), str(archive)], env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:] + log.read_text()[-2000:]
    said = json.loads(done.stdout)
    verdict = judge(archive, said["acknowledged"], dropped=said["counters"]["dropped"])
    assert said["counters"]["clean"] or said["counters"]["sync_failures"], said  # the last sync may be the one that failed
    assert said["counters"]["written"] + said["counters"]["dropped"] == len(said["offered"])
    assert not [each for each in said["warnings"] if "TRACEBACK" in each or "stumbled" in each], said
    return verdict, log.read_text().count("(INJECTED)")


def cases(kind: Kind) -> Iterator[Iterator[tuple[int, int, int]]]:
    """(error, N, times): every N with each error, once and nine times; or, in short, some N with the next of them each time."""
    ways = [(error, times) for error in kind.errors for times in (1, 9)]
    if LONG:
        yield from (((error, at, times) for at in count(1)) for error, times in ways)
    else:
        yield iter((*ways[at % len(ways)][:1], at, ways[at % len(ways)][1]) for at in (1, 3, 6))


@pytest.mark.campaign
@pytest.mark.slow
@pytest.mark.timeout(600 if LONG else 90)
@pytest.mark.parametrize("name", KINDS)
def test_a_call_that_fails_on_a_real_disk_loses_nothing_acknowledged(tmp_path: Path, name: str) -> None:
    began = time.monotonic()
    total: Counter[str] = Counter()
    for number, some in enumerate(cases(KINDS[name])):
        for error, at, times in some:
            folder = tmp_path / f"{number}-{at}"
            folder.mkdir()
            verdict, hits = trial(folder / "archive", KINDS[name], error, at, times)
            total.update({**verdict, "trials": 1, "injected": hits})
            if not hits:
                break
    account(f"strace: the Nth {name} fails, once and nine times", total, time.monotonic() - began)
