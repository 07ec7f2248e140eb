"""The catalog against its goals: records found by id among a million, positions learned, lag behind a live writer, pages meanwhile.

    python tests/bench/catalog.py [--records 1000000] [--folder DIR]

Prints a table in Markdown. Segments are made by copying one record's member with new ids, so that making them takes seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from samples import HOUR, whole

from archive import member
from archive.catalog.follow import Follower
from archive.catalog.tables import CATALOG
from archive.folder import segment_name
from archive.line import to_line
from archive.reader import Reader
from archive.record import id_text, new_id
from archive.writer import Writer

TOKEN = "x" * 20


def fill(folder: Path, records: int, hours: int, *, size: int = 400) -> list[bytes]:
    """`records` records in `hours` segments; returns their ids."""
    text = " ".join(f"word{random.Random(1).randrange(1 << 30)}" for _ in range(size // 12)).encode()
    line = to_line(whole(body=b'{"messages":[{"role":"user","content":"' + text + b'"}]}'), writer="w", seq=0)
    assert line is not None
    packed = member.pack(line + b"\n", id=bytes(16), part=0, seq=0)
    ids: list[bytes] = []
    folder.mkdir(mode=0o700, parents=True)
    for hour in range(hours):
        begin, count = int((HOUR + 3600 * hour) * 1000), records // hours
        names = sorted(new_id(begin + at * 3_600_000 // count) for at in range(count))
        with (folder / segment_name(HOUR + 3600 * hour)).open("wb") as file:
            file.write(b"".join(_renamed(packed, name, len(ids) + at) for at, name in enumerate(names)))
        ids += names
    return ids


def _renamed(packed: bytes, name: bytes, seq: int) -> bytes:
    head = member._PREFIX + member._DATA.pack(member.FORMAT_VERSION, len(packed), name, 0, seq)
    return head + zlib.crc32(head).to_bytes(4, "little") + packed[member.HEADER_LENGTH :]


def percentiles(times: Sequence[float]) -> str:
    """p50, p99 and the longest, in ms."""
    ordered = sorted(times)
    return " / ".join(f"{1000 * ordered[min(len(ordered) - 1, int(len(ordered) * share))]:.2f}" for share in (0.5, 0.99, 1))


def timed(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    began = clock()
    work()
    return clock() - began


def cold(folder: Path) -> None:
    """Let go of what the system has in memory of the folder's files."""
    for path in [*folder.glob("*.gz"), *folder.glob("index/*")]:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def followed(folder: Path, until: Callable[[Follower], bool] = lambda _: False) -> float:
    with contextlib.closing(Follower(folder)) as follower:
        return timed(lambda: all(iter(lambda: follower.step() and not until(follower), False)))


def positions(base: Path) -> None:
    """Where 100,000 records lie, learned from one segment."""
    folder = base / "positions"
    fill(folder, 100_000, 1)
    took = []
    for _ in range(3):
        shutil.rmtree(folder / "index", ignore_errors=True)
        took.append(followed(folder, lambda it: it.positions() >= 100_000))
    print(f"| positions of 100,000 records, rows committed | {min(took):.2f} s (3 runs, worst {max(took):.2f}) | 0.5 s |", flush=True)


def lookups(base: Path, records: int, rows: bool) -> None:
    """An id among all of them, to the record decoded."""
    folder = base / "million"
    ids = fill(folder, records, 24)
    hop = followed(folder, lambda it: it.positions() >= len(ids))
    print(f"| positions of {records:,} records in 24 segments | {hop:.1f} s | |", flush=True)
    if rows:
        tell = followed(folder)
        each = (folder / "index" / CATALOG).stat().st_size / records
        print(f"| their rows and words | {tell:.0f} s, {records / tell:,.0f} records/s, {each:.0f} bytes a record | |", flush=True)
    chosen = [id_text(name) for name in random.Random(2).sample(ids, 1000)]
    cold(folder)
    reader = Reader(folder)
    first = timed(lambda: reader.get(chosen[0]))
    after = [timed(partial(reader.get, name)) for name in chosen[1:]]
    warm = [timed(partial(reader.get, name)) for name in chosen]
    print(f"| first record after a cold start | {1000 * first:.1f} ms | |")
    print(f"| id to decoded record, files cold: p50 / p99 / max | {percentiles(after)} ms | p99 5 ms |")
    busy = [timed(partial(reader.get, name), time.thread_time) for name in chosen]
    print(f"| the same, warm | {percentiles(warm)} ms | p99 5 ms |")
    print(f"| processor time of it | {percentiles(busy)} ms | |")
    print(f"| newest page of 50, new reader | {1000 * timed(lambda: Reader(folder).page()):.1f} ms | |")
    print(f"| oldest of a rare status among all | {1000 * timed(lambda: Reader(folder).page(status=404)):.1f} ms | |")
    command = [sys.executable, "-m", "gateway.cli", "ls", "--archive", str(folder)]
    for what in ("with", "without"):
        took = timed(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=Path(__file__).resolve().parents[2]))
        print(f"| `verbatim ls`, {what} the catalog | {took:.2f} s | |", flush=True)
        (folder / "index" / CATALOG).unlink(missing_ok=True)


@contextlib.contextmanager
def viewer(folder: Path) -> Iterator[str]:
    """A viewer process; gives its address."""
    env = {**os.environ, "VERBATIM_VIEWER_TOKEN": TOKEN, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, "-m", "dashboard.server", str(folder), "--port", "0"]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[-1].split("/?")[0]
        finally:
            process.terminate()


def asked(url: str) -> float:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {TOKEN}"})
    return timed(lambda: urllib.request.urlopen(request, timeout=30).read())


def pages(base: Path) -> None:
    """Pages of a viewer while it makes the catalog of 100,000 records."""
    folder = base / "rebuilt"
    ids = fill(folder, 100_000, 4)
    with viewer(folder) as address:
        lists, gets = [], []
        began = time.monotonic()
        while (share := _share(folder, len(ids))) < 1 and time.monotonic() - began < 120:
            lists.append(asked(f"{address}/"))
            gets.append(asked(f"{address}/exchange/{id_text(random.choice(ids))}"))
            time.sleep(0.05)
        print(f"| making the catalog of 100,000 records, pages asked for meanwhile | {time.monotonic() - began:.0f} s, {share:.0%} | |")
        print(f"| list page meanwhile: p50 / p99 / max | {percentiles(lists)} ms ({len(lists)}) | |")
        print(f"| exchange page meanwhile | {percentiles(gets)} ms | |")
        lists = [asked(f"{address}/") for _ in range(100)]
        gets = [asked(f"{address}/exchange/{id_text(random.choice(ids))}") for _ in range(100)]
        print(f"| list page afterwards | {percentiles(lists)} ms | |")
        print(f"| exchange page afterwards | {percentiles(gets)} ms | |", flush=True)


def _share(folder: Path, records: int) -> float:
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(f"file:{folder}/index/{CATALOG}?mode=ro", uri=True)) as db:
        return float(db.execute("SELECT count(*) FROM exchange").fetchone()[0] / records)
    return 0.0


def lag(base: Path, seconds: float, rate: int) -> None:
    """From `put` to the row in the catalog, with a writer and a viewer at work."""
    folder = base / "live"
    folder.mkdir()
    writer = Writer(folder, version="bench")
    writer.start()
    lags: list[float] = []
    waiting: dict[bytes, float] = {}
    with viewer(folder), contextlib.closing(_catalog(folder)) as db:
        began = time.monotonic()
        count = 0
        while (now := time.monotonic()) - began < seconds or (waiting and now - began < seconds + 10):
            while count < min(now - began, seconds) * rate:
                record = whole(time.time(), body=os.urandom(300).hex().encode(), answer=b"x" * 2000)
                assert writer.put(record)
                if count % 10 == 0:
                    waiting[record.id] = time.monotonic()
                count += 1
            seen = [it for it in waiting if db.execute("SELECT 1 FROM exchange WHERE id = ?", (it,)).fetchone()]
            lags += [time.monotonic() - waiting.pop(name) for name in seen]
            time.sleep(0.01)
    writer.close(10)
    lost = f", {len(waiting)} NOT SEEN" if waiting else ""
    print(f"| lag at {rate} records/s for {seconds:.0f} s: p50 / p99 / max | {percentiles(lags)} ms{lost} | 1 s |", flush=True)


def _catalog(folder: Path) -> sqlite3.Connection:
    path = folder / "index" / CATALOG
    while not path.exists() or not path.stat().st_size:
        time.sleep(0.05)
    time.sleep(0.2)
    return sqlite3.connect(f"file:{path}?mode=ro", uri=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the catalog.")
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--only", choices=["positions", "lookups", "pages", "lag"], action="append")
    parser.add_argument("--without-rows", action="store_true", help="look up by positions alone: making the rows takes minutes")
    parser.add_argument("--folder", type=Path, help="where to make archives; a temporary one by default")
    options = parser.parse_args()
    chosen = options.only or ["positions", "lag", "pages", "lookups"]
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        base = Path(name)
        print(f"Load at the start: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.\n\n| what | measured | goal |\n|---|--:|--:|")
        if "positions" in chosen:
            positions(base)
        if "lag" in chosen:
            lag(base, options.seconds, 500)
        if "pages" in chosen:
            pages(base)
        if "lookups" in chosen:
            lookups(base, options.records, not options.without_rows)


if __name__ == "__main__":
    main()
