"""Is an archive complete and as it was? Answered offline, with nothing but its files, as values; nothing is printed, repaired or written.

Every line is inflated once, its checksum compared and its hash taken; then writers' numbers are counted (`ledger`), hours held against
their seals (`compare` names what differs) and seals against each other (`chain`).
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

from archive.errors import NotFound
from archive.folder import QUARANTINE, hour_of, segments, strangers
from archive.proof.chain import Chain, Link, read_link
from archive.proof.compare import compare
from archive.proof.facts import MOST, Facts, read_facts
from archive.proof.ledger import Claim, Ledger, Removed, Told
from archive.proof.manifest import DIGEST_LENGTH, Seal
from archive.proof.report import Damaged, Gap, Gone, HourFound, Missing, Numbers, Removal, Report, SetAside, WriterFound, sentence
from archive.proof.seal import read_seal, sealed_hours

__all__ = ["Damaged", "Gap", "Gone", "HourFound", "Missing", "Numbers", "Removal", "Report", "SetAside", "WriterFound", "verify"]


def verify(paths: Iterable[Path], *, key: str | None = None, head: str | None = None, jobs: int = 1) -> Report:
    """Check segments, and all segments and seals of folders. Blocks for as long as inflating them takes (a second per 400 MB of lines),
    in `jobs` processes. `key`: the public key that must have signed. `head`: the `Report.head` of an earlier look, whose seal must still
    be in the chain.

    A file given by itself is held against its seal, not against its neighbours. Memory is bounded, but for 300 bytes a record of an hour
    that is not as it was sealed. Raises NotFound for a path that is not there, or is neither a folder nor a regular file, OSError for
    what the disk does. Symbolic links are not followed.
    """
    folders, files = _files(paths)
    return _Judgement(folders, list(_looked_at(files, jobs)), key, head).report()


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

    def __init__(self, folders: Sequence[Path], facts: Sequence[Facts], key: str | None, head: str | None) -> None:
        self._folders = folders
        self._facts = facts
        self._key = key
        self._head = head
        self._told = [told for each in facts for told in each.log.told]
        self._removed: dict[str, list[tuple[str, Removed]]] = {}
        """Of each hour what forget lines tell of, and when they did."""
        for told in self._told:
            for it in told.records:
                self._removed.setdefault(it.segment, []).append((told.at, it))
        self._pruned = {hour.segment: hour.seal for told in self._told for hour in told.hours}
        self._there = {hour_of(each.path.name): each for each in facts}
        self._damaged: list[Damaged] = []
        self._damages = 0
        self._hours: list[HourFound] = []

    def report(self) -> Report:
        ledger = Ledger()
        for each in self._facts:
            self._file(each)
            ledger.add(each.log, alone=each.path.parent not in self._folders and each.seal is not None)
            if each.seal is not None:
                ledger.claim(_claims(each.seal, gone=False))
        gone, head, heads = list[Gone](), None, set(self._pruned.values())
        for folder in self._folders:
            links = self._links(folder)
            chain = Chain(links, [each.path for each in self._facts if each.path.parent == folder], self._pruned)
            self._add(chain.damaged() if self._key is None else (*chain.damaged(), *chain.unvouched(self._key)))
            gone += chain.gone()
            lost = {each.segment for each in gone}
            ledger.claim(each for link in links if link.seal and link.hour in lost for each in _claims(link.seal, gone=True))
            head = links[-1].sha256 if links else head
            heads.update(link.sha256 for link in links)
        if self._head is not None and self._head not in heads:
            gone.append(Gone("", None, f"no seal here has the SHA-256 {self._head}: it was changed, or taken away with all after it"))
        missing, repeated = ledger.missing(), ledger.repeated()
        gaps = [gap for each in self._facts for gap in each.log.gaps]
        sound = not (self._damages or repeated)
        accounted = sound and not (missing or gone)
        complete = accounted and not any(gap.records for gap in gaps)
        report = Report(
            verdict="complete" if complete else "incomplete" if sound else "damaged",
            sentence="",
            complete=complete,
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
            removals=[self._removal(told) for told in self._told],
            writers=ledger.writers(),
            head=head,
            set_aside=[each for folder in self._folders for each in _set_aside(folder / QUARANTINE)],
            strangers=[str(folder / name) for folder in self._folders for name in strangers(folder)],
        )
        return replace(report, sentence=sentence(report))

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
            unpacked = as_sealed and facts.plain and hour not in self._removed and facts.sha256 != seal.sha256
            told = {each.offset for each in findings}
            damaged = [replace(each, known=True) for each in damaged if each.offset not in told]
            damages = len(damaged) if len(facts.damaged) < MOST else damages
            if as_sealed and hour not in self._removed and facts.log.sealed() != seal.writers and facts.link is not None:
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
        return [] if seal is None else compare(facts.path, seal, self._taken_out(hour, seal))

    def _taken_out(self, hour: str, seal: Seal) -> dict[int, str]:
        """The records that forget lines tell of, by their number in the seal. What was told of before is in it only if it went later."""
        digests = [seal.lines[at : at + DIGEST_LENGTH].hex() for at in range(0, len(seal.lines), DIGEST_LENGTH)]
        return {
            it.index: it.digest
            for at, it in self._removed.get(hour, ())
            if at > seal.sealed_at or digests[it.index : it.index + 1] == [it.digest[: 2 * DIGEST_LENGTH]]
        }

    def _add(self, damaged: Iterable[Damaged], damages: int | None = None) -> None:
        several = list(damaged)
        self._damages += len(several) if damages is None else damages
        self._damaged += several[: MOST - len(self._damaged)]

    def _links(self, folder: Path) -> list[Link]:
        """The seals of a folder; those of hours that were walked as they were then."""
        known = {each.link.hour: each.link for each in self._facts if each.link is not None and each.path.parent == folder}
        links = [known.get(hour) or read_link(folder, hour) for hour in sealed_hours(folder)]
        return [link for link in links if link is not None]

    def _removal(self, told: Told) -> Removal:
        if told.kind == "forget":
            hours = {it.segment for it in told.records}
            still = sum(self._there[it.segment].log.holds(it.writer, it.seq) for it in told.records if it.segment in self._there)
            return Removal("forget", told.at, told.by, told.why, told.count, len(hours), still)
        still = sum(hour.segment in self._there for hour in told.hours)
        return Removal("prune", told.at, told.by, told.why, told.count, len(told.hours), still)


def _set_aside(folder: Path) -> list[SetAside]:
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
