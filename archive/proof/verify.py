"""Is an archive complete and as it was? Answered offline, with nothing but its files, as values; nothing is printed, repaired or written.

Every line is inflated once, its checksum compared and its hash taken; then writers' numbers are counted (`ledger`), hours held against
their seals (`compare` names what differs) and seals against each other (`chain`).
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

from archive.errors import NotFound
from archive.folder import QUARANTINE, hour_of, segments, strangers
from archive.proof.chain import Chain, Link, read_link
from archive.proof.compare import compare
from archive.proof.facts import MOST, Facts, read_facts
from archive.proof.ledger import Claim, Ledger
from archive.proof.manifest import Seal
from archive.proof.removal import Line, Removals
from archive.proof.report import Damaged, Gone, HourFound, Missing, Proof, Report, SetAside, Unproven
from archive.proof.seal import read_seal, sealed_hours
from archive.proof.verdict import sentence
from archive.proof.vouch import Now, unproven

__all__ = ["Missing", "Report", "verify"]


def verify(paths: Iterable[Path], *, key: str | None = None, head: str | None = None, jobs: int = 1, now: float | None = None) -> Report:
    """Check segments, and all segments and seals of folders. Blocks for as long as inflating them takes (a second per 400 MB of lines),
    in `jobs` processes. `key`: the public key that must vouch for every hour that is over, by its signature or that of a later seal of the
    chain. `head`: the `Report.head` of an earlier look, whose seal must still be in the chain. `now` (Unix seconds): the clock's when None.

    A file given by itself is held against its seal, not against its neighbours. Memory is bounded, but for 300 bytes a record of an hour
    that is not as it was sealed. Raises NotFound for a path that is not there, or is neither a folder nor a regular file, OSError for
    what the disk does. Symbolic links are not followed.
    """
    folders, files = _files(paths)
    facts = list(_looked_at(files, jobs))
    return _Judgement(folders, facts, key, head, Now(time.time() if now is None else now, facts)).report()


def _files(paths: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """The folders, and all segments; each once."""
    folders, files = list[Path](), list[Path]()
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            folders.append(path)
            files += segments(path)
        elif path.suffix == ".json":
            raise NotFound(f"{path} is no segment; `verbatim check-proof` checks a proof, and a seal is checked with its segment")
        else:
            files.append(path)
    return list(dict.fromkeys(folders)), list(dict.fromkeys(files))


def _looked_at(files: Sequence[Path], jobs: int) -> Iterator[Facts]:
    if jobs <= 1 or len(files) <= 1:
        yield from map(read_facts, files)
        return
    with ProcessPoolExecutor(min(jobs, len(files)), mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(read_facts, files)


class _Judgement:
    """What the files say together."""

    def __init__(self, folders: Sequence[Path], facts: Sequence[Facts], key: str | None, head: str | None, now: Now) -> None:
        self._folders = folders
        self._facts = facts
        self._key = key
        self._head = head
        self._now = now
        self._links: dict[Path, list[Link]] = {}
        self._there = {hour_of(each.path.name): each for each in facts}
        lines = [Line(told, each.path, proof) for each in facts if each.log.told for proof in [self._proof(each)] for told in each.log.told]
        self._removals = Removals(lines, self._there, whole=bool(folders))
        self._damaged: list[Damaged] = []
        self._damages = 0
        self._hours: list[HourFound] = []

    def report(self) -> Report:
        ledger = Ledger()
        for each in self._facts:
            self._file(each)
            ledger.add(each.log, each.path, alone=each.path.parent not in self._folders and each.seal is not None)
            if each.seal is not None:
                ledger.claim(_claims(each.seal, gone=False))
        gone, head = self._chained(ledger)
        missing, repeated = ledger.missing(), ledger.repeated()
        gaps = [gap for each in self._facts for gap in each.log.gaps]
        sound = not (self._damages or repeated)
        accounted = sound and not (missing or gone)
        whole = accounted and not any(gap.records for gap in gaps)
        doubted = self._unproven()
        report = Report(
            verdict="damaged" if not sound else "incomplete" if not whole else "unproven" if doubted else "complete",
            sentence="",
            complete=whole and not doubted,
            accounted=accounted,
            files=len(self._facts),
            bytes=sum(hour.bytes for hour in self._hours),
            members=sum(hour.records for hour in self._hours),
            exchanges=sum(hour.exchanges for hour in self._hours),
            hours=self._hours,
            damaged=self._damaged,
            damages=self._damages,
            missing=missing,
            repeated=repeated,
            gone=gone,
            gaps=gaps,
            declined=sum(each.log.declined for each in self._facts),
            removals=self._removals.told(),
            removed=self._removals.removed(),
            unproven=doubted,
            overdue=self._overdue(),
            partial=any(each.path.parent not in self._folders for each in self._facts),
            writers=ledger.writers(),
            head=head,
            worth_keeping=accounted and not doubted and head is not None,
            set_aside=[each for folder in self._folders for each in _set_aside(folder / QUARANTINE)],
            strangers=[str(folder / name) for folder in self._folders for name in strangers(folder)],
        )
        return replace(report, sentence=sentence(report))

    def _chained(self, ledger: Ledger) -> tuple[list[Gone], str | None]:
        """Hold the seals of each folder against each other: the hours that are gone, and the newest seal's hash."""
        gone, head, heads = list[Gone](), None, set(self._removals.pruned.values())
        for folder in self._folders:
            chain = self._chain(folder)
            self._add(chain.damaged())
            gone += chain.gone()
            lost = {each.segment for each in gone}
            ledger.claim(each for link in chain.links if link.seal and link.hour in lost for each in _claims(link.seal, gone=True))
            head = chain.links[-1].sha256 if chain.links else head
            heads.update(link.sha256 for link in chain.links)
        if self._head is not None and self._head not in heads:
            gone.append(Gone("", None, f"no seal here has the SHA-256 {self._head}: it was changed, or taken away with all after it"))
        return gone, head

    def _unproven(self) -> list[Unproven]:
        if self._key is None:
            return []
        return list(unproven(self._folders, [each.path for each in self._facts], self._chain, self._key, self._now))

    def _overdue(self) -> list[str]:
        """Those older than a seal are damage, and told of as that."""
        newest = {folder: max(sealed_hours(folder), default="") for folder in {each.path.parent for each in self._facts}}
        unsealed = [(each.path.parent, hour_of(each.path.name)) for each in self._facts if each.link is None]
        return [hour for folder, hour in unsealed if newest[folder] < hour and self._now.over(hour)]

    def _chain(self, folder: Path) -> Chain:
        segments_here = [each.path for each in self._facts if each.path.parent == folder]
        return Chain(self._links_of(folder), segments_here, self._removals.pruned)

    def _proof(self, facts: Facts) -> Proof:
        """What stands behind what that file says."""
        hour = hour_of(facts.path.name)
        if hour in Chain(self._links_of(facts.path.parent), [], {}).vouched(self._key):
            return "signed"
        return "not sealed" if facts.seal is None else "sealed"

    def _file(self, facts: Facts) -> None:
        """One file by itself, and beside its seal."""
        seal, damaged, damages = facts.seal, facts.damaged, facts.log.damages
        as_sealed: bool | None = None
        unpacked = False
        if seal is not None:
            hour = hour_of(facts.path.name)
            as_sealed = facts.fits(seal)
            findings = [] if as_sealed else self._compared(facts, hour)
            as_sealed = not findings
            unpacked = as_sealed and facts.plain and not self._removals.concern(hour) and facts.sha256 != seal.sha256
            told = {each.offset for each in findings}
            damaged = [replace(each, known=True) for each in damaged if each.offset not in told]
            damages = len(damaged) if len(facts.damaged) < MOST else damages
            if as_sealed and not self._removals.concern(hour) and facts.log.sealed() != seal.writers and facts.link is not None:
                findings = [Damaged(facts.link.path, 0, facts.link.size, "what it says of writers is not what the hour's records say")]
            damaged = sorted([*damaged, *findings], key=lambda each: each.offset)
            damages += len(findings)
        elif facts.link is not None and facts.path.parent not in self._folders:
            self._add([Damaged(facts.link.path, 0, facts.link.size, facts.link.why)])  # else the chain says so
        self._add(damaged, damages)
        self._hours.append(
            HourFound(
                file=facts.path,
                bytes=facts.bytes,
                records=facts.records,
                exchanges=facts.exchanges,
                line_bytes=facts.line_bytes,
                since=facts.since,
                until=facts.until,
                sealed=seal is not None,
                as_sealed=as_sealed,
                sealed_at=None if seal is None else seal.sealed_at,
                root=None if seal is None else seal.root,
                key=None if seal is None else seal.key,
                unpacked=unpacked,
            )
        )

    def _compared(self, facts: Facts, hour: str) -> list[Damaged]:
        seal = read_seal(facts.path.parent, hour)
        return [] if seal is None else compare(facts.path, seal, self._removals.taken_out(hour, seal))

    def _add(self, damaged: Iterable[Damaged], damages: int | None = None) -> None:
        several = list(damaged)
        self._damages += len(several) if damages is None else damages
        self._damaged += several[: MOST - len(self._damaged)]

    def _links_of(self, folder: Path) -> list[Link]:
        """The seals of a folder, read once; those of hours that were walked as they were then."""
        if folder not in self._links:
            known = {each.link.hour: each.link for each in self._facts if each.link is not None and each.path.parent == folder}
            links = [known.get(hour) or read_link(folder, hour) for hour in sealed_hours(folder)]
            self._links[folder] = [link for link in links if link is not None]
        return self._links[folder]


def _set_aside(folder: Path) -> list[SetAside]:
    if folder.is_symlink():
        return []  # a stranger: what it leads to is not ours
    try:
        with os.scandir(folder) as entries:
            found = [
                SetAside(Path(each.path), each.stat(follow_symlinks=False).st_size)
                for each in entries
                if each.is_file(follow_symlinks=False)
            ]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(found, key=lambda each: each.file)


def _claims(seal: Seal, *, gone: bool) -> Iterator[Claim]:
    return (Claim(each.writer, each.first, each.last, seal.segment, gone) for each in seal.writers)
