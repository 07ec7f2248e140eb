"""Search over simulated traffic: how fast it is indexed, how large the index is, how long a page of 50 takes.

`python tests/bench/search.py [--megabytes N] [--traffic agents|unique] [--rounds N]`. Makes an archive of N MB of lines in a temporary
folder, follows it as the viewer does, and searches it through the reader, so each figure is what a page waits for: candidates from the
index, each confirmed on its record. `find` is the index alone. One process, so on a busy machine look at CPU seconds.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from traffic import Made, agents, language, segments_of, unique, upto

from archive.catalog.follow import Follower
from archive.folder import INDEX
from archive.reader import Reader
from archive.words.days import Query, Words

PAGE = 50


@dataclass(slots=True)
class Times:
    """Milliseconds, ascending: as a clock has them, and of CPU."""

    wall: list[float]
    cpu: list[float]


@dataclass(slots=True)
class Figures:
    """What was measured."""

    made: Made
    seconds: float = 0.0
    """Of CPU, to follow it all."""
    catalog: int = 0
    words: int = 0
    tidied: int = 0
    """Bytes of the words once the day is over."""
    pages: dict[str, Times] = field(default_factory=dict)
    finds: dict[str, Times] = field(default_factory=dict)


def measure(folder: Path, megabytes: float, kind: str, rounds: int) -> Figures:
    """Make it, index it, search it."""
    expected = int(megabytes * 1e6 / (230_000 if kind == "agents" else 32_000)) + 10
    rng = Random(2)
    numbers = rng.sample(range(expected), min(rounds, expected // 2))
    planted = {number: f"zq{number}x" for number in numbers}
    per_second = expected / 3500
    if kind == "agents":
        records = agents(sessions=60, per_second=per_second, planted=planted)
    else:
        records = unique(per_second=per_second, planted=planted)
    figures = Figures(segments_of(folder, upto(records, megabytes)))
    begun = time.process_time()
    with closing(Follower(folder)) as follower:
        while follower.step():
            pass
    figures.seconds = time.process_time() - begun
    index = folder / INDEX
    figures.catalog = sum(path.stat().st_size for path in index.glob("catalog.sqlite*"))
    figures.words = sum(path.stat().st_size for path in index.glob("words-*"))
    searches = _searches(list(planted.values()), rounds)
    reader = Reader(folder)
    reader.refresh()
    for what, asked in searches.items():
        figures.pages[what] = _timed(asked, lambda query: len(reader.page(text=query, limit=PAGE).entries))
    with closing(Words(index, readonly=True)) as words:
        for what, asked in searches.items():
            figures.finds[what] = _timed(asked, lambda query: len(list(islice(words.find(Query.parse(query)), PAGE))))
    figures.tidied = _tidied(index)
    return figures


def _searches(rare: list[str], rounds: int) -> dict[str, list[str]]:
    """What is searched for, by kind."""
    tongue, rng = language(), Random(3)
    common = tongue.words[:rounds]
    middling = tongue.words[1000 : 1000 + 20 * rounds : 20]
    return {
        "a word that one exchange or session says": rare,
        "one of the 100 most frequent words": common,
        "a word of middling frequency": middling,
        "two words of middling frequency": [f"{a} {b}" for a, b in zip(middling, reversed(middling), strict=True)],
        "a frequent and a rare one": [f"{a} {b}" for a, b in zip(common, rare, strict=False)],
        "a phrase of three words": [f'"{" ".join(rng.choice(tongue.phrases).split()[:3]).strip(",.")}"' for _ in range(rounds)],
        "a word nobody says": [f"{word}xq" for word in middling],
        "a beginning of four letters": [f"{word[:4]}*" for word in tongue.words[6000 : 6000 + rounds]],
    }


def _timed(asked: Sequence[str], work: Callable[[str], int]) -> Times:
    wall, cpu = [], []
    for query in asked:
        begun, used = time.perf_counter(), time.process_time()
        work(query)
        wall.append(1e3 * (time.perf_counter() - begun))
        cpu.append(1e3 * (time.process_time() - used))
    return Times(sorted(wall), sorted(cpu))


def _tidied(index: Path) -> int:
    """The size of the day's file when it is over."""
    words = Words(index)
    with closing(words):
        (day,) = words.days()[:1]
        words.add("9999-12-31", b"\xff" * 16, [])
        words.commit()
        while words.tidy():
            pass
    return (index / f"words-{day}.sqlite").stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=200)
    parser.add_argument("--rounds", type=int, default=100, help="searches of each kind, each for another word")
    parser.add_argument("--traffic", choices=["agents", "unique"], action="append")
    chosen = parser.parse_args()
    for kind in chosen.traffic or ["agents", "unique"]:
        with tempfile.TemporaryDirectory() as folder:
            report(kind, measure(Path(folder), chosen.megabytes, kind, chosen.rounds))


def report(kind: str, it: Figures) -> None:
    made = it.made
    print(f"\n{kind}: {made.records:,} exchanges, {made.line_bytes / 1e6:,.0f} MB of lines, {made.file_bytes / 1e6:,.1f} MB on disk")
    print(f"  indexed (catalog and words) at {made.line_bytes / 1e6 / it.seconds:.0f} MB of lines a CPU second")
    for what, size in (("catalog", it.catalog), ("words", it.words), ("words of a day that is over", it.tidied)):
        share, each = 100 * size / made.file_bytes, size / made.records
        print(f"  {what}: {size / 1e6:.2f} MB, {share:.1f} % of the archive, {each:.0f} bytes an exchange")
    print(f"  {'first 50, ms':44} {'page p50':>9} {'p99':>8} {'CPU p50':>9} {'p99':>8} {'find p50':>9} {'p99':>8}")
    for what, pages in it.pages.items():
        cells = [each[len(each) * part // 100] for each in (pages.wall, pages.cpu, it.finds[what].wall) for part in (50, 99)]
        print(f"  {what:44} " + " ".join(f"{cell:{width}.1f}" for cell, width in zip(cells, (9, 8) * 3, strict=True)))


if __name__ == "__main__":
    main()
