"""What a power loss leaves of a disk: worked out from the log of its changes, as badly as a file system may.

What was synced is there. Of the rest, any page may be as it was at any moment since, or zeros where there was nothing before; a file's
size may be any it had since; of the names in a folder, any first few changes may be there. After a failed sync the pages it was about
are as good as dropped, and no later sync saves them (as Linux does it).
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from faults.fusedisk import ROOT, Change

__all__ = ["MANNERS", "Remains"]

PAGE: Final = 4096
MANNERS: Final = ("dropped", "zeros", "pages", "short")
"""Nothing is there that was not synced; all sizes are, but no bytes; all sizes and some pages; some sizes and some pages."""


@dataclass(slots=True)
class _File:
    live: bytearray = field(default_factory=bytearray)
    synced: bytearray = field(default_factory=bytearray)
    pages: dict[int, list[bytes]] = field(default_factory=dict)
    """Pages changed since the last sync, each as it was after each change."""
    dropped: set[int] = field(default_factory=set)
    """Pages that a failed sync gave up: only another write brings them back."""
    sizes: list[int] = field(default_factory=list)

    def change(self, start: int, end: int) -> None:
        for page in range(start // PAGE, -(-end // PAGE)):
            self.pages.setdefault(page, []).append(bytes(self.live[page * PAGE : (page + 1) * PAGE]))
            self.dropped.discard(page)
        self.sizes.append(len(self.live))

    def write(self, offset: int, data: bytes) -> None:
        self.live += bytes(max(0, offset - len(self.live)))
        self.live[offset : offset + len(data)] = data
        self.change(offset, offset + len(data))

    def truncate(self, size: int) -> None:
        del self.live[size:]
        self.live += bytes(size - len(self.live))
        for page in [page for page in self.pages if page * PAGE >= size]:
            del self.pages[page]
        self.change(size - size % PAGE, size)

    def sync(self, *, failed: bool) -> None:
        if failed:
            self.dropped |= set(self.pages)
            return
        self.synced = self._with({page: versions[-1] for page, versions in self.pages.items() if page not in self.dropped}, len(self.live))
        self.pages = {page: self.pages[page] for page in self.dropped & set(self.pages)}
        self.sizes = []

    def _with(self, pages: dict[int, bytes], size: int) -> bytearray:
        data = bytearray(self.synced[:size])
        data += bytes(size - len(data))
        for page, version in pages.items():
            part = version[: max(0, size - page * PAGE)]
            data[page * PAGE : page * PAGE + len(part)] = part
        return data

    def left(self, manner: str, choose: random.Random) -> bytearray:
        if manner == "dropped":
            return bytearray(self.synced)
        size = choose.choice([len(self.synced), *self.sizes]) if manner == "short" else len(self.live)
        if manner == "zeros":
            return self._with({}, size)
        return self._with({page: choose.choice(each) for page, each in self.pages.items() if choose.random() < 0.5}, size)


@dataclass(slots=True)
class _Folder:
    synced: dict[str, int] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)

    def names(self, count: int) -> dict[str, int]:
        """With the first `count` changes since the last sync."""
        names = dict(self.synced)
        for change in self.changes[:count]:
            if change.what == "make":
                names[change.name] = change.child
            else:
                names.pop(change.name, None)
            if change.what == "rename":
                names[change.data.decode()] = change.child
        return names

    def sync(self) -> None:
        self.synced = self.names(len(self.changes))
        self.changes = []


class Remains:
    """A disk as its changes leave it, one after another, with what would remain of it if the power went now."""

    def __init__(self) -> None:
        self._files: dict[int, _File] = {}
        self._folders: dict[int, _Folder] = {ROOT: _Folder()}

    def change(self, change: Change) -> None:
        """One more change has been done."""
        if change.what in {"make", "remove", "rename"}:
            self._folders[change.node].changes.append(change)
            if change.what == "make" and change.folder:
                self._folders[change.child] = _Folder()
        elif change.what == "fsyncdir":
            if not change.error:
                self._folders[change.node].sync()
        elif change.what == "fsync":
            self._file(change.node).sync(failed=bool(change.error))
        elif not change.error:
            file = self._file(change.node)
            if change.what == "write":
                file.write(change.offset, change.data)
            else:
                file.truncate(change.offset)

    def _file(self, node: int) -> _File:
        return self._files.setdefault(node, _File())

    def is_named(self, parts: Iterable[str]) -> bool:
        """Whether this path would be there after a power loss, whatever else."""
        node: int | None = ROOT
        for part in parts:
            node = self._folders[node].synced.get(part) if node in self._folders else None
            if node is None:
                return False
        return True

    def after_power_loss(self, into: Path, manner: str, choose: random.Random) -> None:
        """Put what is left into the folder `into`, which is made."""
        self._put(ROOT, into, manner, choose)

    def _put(self, node: int, into: Path, manner: str, choose: random.Random) -> None:
        if (folder := self._folders.get(node)) is None:
            into.write_bytes(self._file(node).left(manner, choose))
            os.chmod(into, 0o600)
            return
        into.mkdir(mode=0o700)
        kept = 0 if manner == "dropped" else choose.randint(0, len(folder.changes))
        for name, child in folder.names(kept).items():
            self._put(child, into / name, manner, choose)
