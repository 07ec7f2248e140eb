"""What one segment says by itself: its numbers, its damage, its sums, and the seal beside it. Judges nothing: `verify` does."""

from __future__ import annotations

import fcntl
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from archive.errors import DamagedMember, NotFound
from archive.folder import SEGMENT_NAME, hour_of, segments
from archive.handle import Handle, Plain, open_file
from archive.line import SERVICE_PART
from archive.member import Damage, Tag
from archive.proof.chain import Link, read_link
from archive.proof.ledger import Log
from archive.proof.manifest import Seal
from archive.proof.merkle import Frontier
from archive.proof.report import Damaged
from archive.proof.walk import Checked, Walk
from archive.record import id_text

__all__ = ["MOST", "Facts", "read_facts"]

MOST: Final = 1000
"""Damages listed one by one; more are counted."""
_PATIENCE: Final = 1.0
"""Seconds to wait for a writer in the middle of a batch; a disk that hangs must not keep us."""


@dataclass(slots=True)
class Facts:
    """What one file holds; small, whatever the file's size."""

    path: Path
    bytes: int
    log: Log
    sha256: str | None = None
    root: str = ""
    records: int = 0
    exchanges: int = 0
    line_bytes: int = 0
    since: str | None = None
    until: str | None = None
    damaged: list[Damaged] = field(default_factory=list)
    plain: bool = True
    link: Link | None = None

    @property
    def seal(self) -> Seal | None:
        return None if self.link is None else self.link.seal

    def fits(self, seal: Seal) -> bool:
        """Whether the sums are those of the seal. A packed hour has the same lines in another file."""
        lines = (self.root, self.records, self.line_bytes) == (seal.root, seal.records, seal.line_bytes)
        return lines and (not self.plain or (self.sha256, self.bytes) == (seal.sha256, seal.bytes))


def read_facts(path: Path) -> Facts:
    """Look at one segment from end to end. Blocks for a second per 400 MB of lines. Raises OSError, and NotFound: also for a file that
    is no segment, neither by its name nor by anything in it."""
    link = read_link(path.parent, hour_of(path.name)) if SEGMENT_NAME.fullmatch(path.name) else None
    with _open(path) as handle:
        walk = Walk(handle, end=handle.end() if link is not None else _end_between_batches(handle))
        facts = Facts(path.with_name(handle.name), 0, Log(), plain=isinstance(handle, Plain), link=link)
        frontier = Frontier()
        for each in walk:
            if isinstance(each, Damage):
                _damage(facts, each, walk.headers.get(each.offset))
            else:
                _record(facts, frontier, each)
    facts.bytes, facts.sha256 = walk.bytes, walk.sha256
    facts.root, facts.records = frontier.root().hex(), len(frontier)
    if not (facts.records or walk.headers or SEGMENT_NAME.fullmatch(path.name)):
        raise NotFound(f"{path} is no segment: it has neither the name of one (2026-11-20T10.jsonl.gz) nor a record")
    return facts


def _open(path: Path) -> Handle:
    """The segment, or the form that has just taken its place."""
    try:
        return open_file(path)
    except NotFound as error:
        other = [each for each in segments(path.parent) if hour_of(each.name) == hour_of(path.name) and each.name != path.name]
        if not (other and SEGMENT_NAME.fullmatch(path.name)) or path.is_symlink():
            raise NotFound(_refused(path, error.__cause__)) from error
        return open_file(other[0])


def _refused(path: Path, cause: BaseException | None) -> str:
    """By the path as it was given; the name alone may be all there is of it in many folders."""
    if path.is_symlink():
        return f"{path} is a symbolic link, which is not followed; give the file itself"
    return f"{path} cannot be opened: {cause.strerror}" if isinstance(cause, OSError) else f"{path} is no regular file"


def _record(facts: Facts, frontier: Frontier, each: Checked) -> None:
    frontier.push(each.leaf)
    facts.line_bytes += each.size
    if each.own is not None:
        try:
            facts.log.own(each.own)
        except DamagedMember as error:
            _damage(facts, Damage(each.offset, each.tag.length, str(error), torn=False), each.tag)
            return
    elif not each.tag.part:
        facts.exchanges += 1
    facts.log.record(each.writer, each.tag.seq, each.at)
    facts.since = facts.since or each.at
    facts.until = each.at


def _damage(facts: Facts, damage: Damage, tag: Tag | None) -> None:
    facts.log.damages += 1
    if len(facts.damaged) < MOST:
        whose = None if tag is None or tag.part == SERVICE_PART else id_text(tag.id)
        facts.damaged.append(Damaged(facts.path, damage.offset, damage.length, damage.why, damage.torn, id=whose))


def _end_between_batches(handle: Handle) -> int:
    """Where the segment ends while nobody is appending: a batch under way is no torn end. Waits a second at most."""
    if not isinstance(handle, Plain):
        return handle.end()
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        try:
            fcntl.flock(handle.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.01)
            continue
        except OSError:  # a file system without locks: nobody writes there
            break
        end = handle.end()
        fcntl.flock(handle.fileno(), fcntl.LOCK_UN)
        return end
    return handle.end()
