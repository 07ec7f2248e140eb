"""Places that cannot be written to for a while: writers that wait for them, and the account afterwards.

`python rig_places.py FOLDER TIMES` prints the account of each place as one line of JSON. Root's: it mounts, and gives privileges up.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from faults.child import Child, judge
from rig_archive import filled, mounted

NOBODY = 65534
SIZES = (300, 3000, 300)
DURING = 20
"""Records while the place is taken away; the queue holds ten."""


def play(
    archive: Path, child: Child, take: Callable[[], object], give: Callable[[], object], *, size: int = 3000, trouble: str = "is paused"
) -> dict[str, int]:
    """Record, take the place away, record on, give it back: recording resumes by itself, having warned of the trouble once."""
    child.wait(lambda said: len(said.acknowledged) == len(SIZES))
    take()
    child.burst(DURING, size)
    child.wait(lambda said: any(trouble in each for each in said.warnings))
    give()
    wrong = [] if any(child.more(300) for _ in range(3)) else ["it does not go on recording"]
    said = child.close()
    counters = said.counters
    if not counters["clean"] or counters["written"] + counters["dropped"] != len(said.offered):
        wrong.append("its counters do not add up")
    if not counters["sync_failures"] and not (counters["dropped"] and counters["written"] == len(said.acknowledged)):
        wrong.append("nothing was dropped, or not all that was written was acknowledged")
    if sum(trouble in each for each in said.warnings) != 1 or any("TRACEBACK" in each for each in said.warnings):
        wrong.append("it warned more than once, or stumbled")
    if wrong:
        print(f"{archive}: {wrong} {said}", file=sys.stderr)
    verdict = judge(archive, said.acknowledged, dropped=counters["dropped"])
    return {**verdict, "trials": 1, "injected": counters["dropped"], "unreadable": verdict["unreadable"] + len(wrong)}


def somebody_elses(folder: Path) -> dict[str, int]:
    """EACCES, for a process that is not root. It works from within the folder: those above are root's alone."""

    def prepare() -> None:
        os.chdir(folder)
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)

    os.chown(folder, NOBODY, NOBODY)
    folder.chmod(0o300)  # the folder above may be written to and not be read
    child = Child(Path("archive"), SIZES, prepare=prepare, queue_records=10)
    archive = folder / "archive"
    return play(archive, child, lambda: archive.chmod(0), lambda: archive.chmod(0o700))


def moved_away(folder: Path) -> dict[str, int]:
    """ENOTDIR, and then the folder is put back."""
    archive, away = folder / "archive", folder / "away"

    def take() -> None:
        archive.rename(away)
        archive.write_text("in the way")

    def give() -> None:
        archive.unlink()
        away.rename(archive)

    return play(archive, Child(archive, SIZES, queue_records=10), take, give)


def no_descriptors(folder: Path) -> dict[str, int]:
    """EMFILE. The segment must be opened anew, since its file was moved away: the old one's descriptor serves for that, and none is left
    to sync the folder with.
    """
    archive = folder / "archive"

    def prepare() -> Callable[[], None]:
        hoard: list[int] = []

        def take_or_give() -> None:
            if hoard:
                while hoard:
                    os.close(hoard.pop())
                return
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
            with suppress(OSError):
                while True:
                    hoard.append(os.open("/dev/null", os.O_RDONLY))

        return take_or_give

    child = Child(archive, SIZES, prepare=prepare, queue_records=10)

    def take() -> None:
        child.hook()
        for path in archive.glob("*.gz"):
            path.rename(folder / "moved")

    def give() -> None:
        (folder / "moved").rename(archive / "2000-01-01T00.jsonl.gz")
        child.hook()

    return play(archive, child, take, give, trouble="(EMFILE)")


def no_inodes(folder: Path) -> dict[str, int]:
    """ENOSPC with room enough: a file system of its own that can hold no further file."""
    with mounted(folder / "disk", "1m,nr_inodes=8") as disk:
        archive = disk / "archive"
        child = Child(archive, SIZES, queue_records=10)
        others: list[Path] = []

        def take() -> None:
            for path in archive.glob("*.gz"):
                path.rename(disk / path.name)
            with suppress(OSError):
                for number in range(10):
                    (disk / f"other{number}").touch()
                    others.append(disk / f"other{number}")

        def give() -> None:
            for path in disk.glob("*.gz"):
                path.rename(archive / path.name)
            for path in others:
                path.unlink()

        return play(archive, child, take, give)


def full(folder: Path) -> dict[str, int]:
    """ENOSPC: a file system of 64 KiB is filled up, and emptied again."""
    with mounted(folder / "disk") as disk:
        archive = disk / "archive"
        child = Child(archive, SIZES, queue_records=10)
        return play(archive, child, lambda: filled(disk), lambda: (disk / "filler").unlink(), size=1500)


def too_large(folder: Path) -> dict[str, int]:
    """EFBIG: the kernel writes up to the limit, in the middle of a record."""
    archive = folder / "archive"

    def prepare() -> Callable[[], None]:
        limits = iter([12_345, resource.RLIM_INFINITY])
        return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (next(limits), resource.RLIM_INFINITY))

    child = Child(archive, SIZES, prepare=prepare, queue_records=10)
    return play(archive, child, child.hook, child.hook)


PLACES = {
    "folder of somebody else's (EACCES), not as root": somebody_elses,
    "folder moved away, and put back": moved_away,
    "no file descriptors left (EMFILE)": no_descriptors,
    "no inodes left (ENOSPC), a real file system": no_inodes,
    "disk full (ENOSPC), a real file system of 64 KiB": full,
    "file size limit (EFBIG), by the kernel": too_large,
}


def main(folder: Path, times: int) -> None:
    for name, place in PLACES.items():
        began = time.monotonic()
        total: Counter[str] = Counter()
        for number in range(times):
            at = folder / f"{place.__name__}{number}"
            at.mkdir()
            total.update(place(at))
        print(json.dumps({"campaign": name, "counts": total, "seconds": time.monotonic() - began}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
