"""What can go wrong through a caller's mistake or a missing thing. Damage found while reading and loss while writing are values, not these.

ArchiveError
├── BadName         a name or id that is not of its strict pattern
├── NotFound        no such exchange, segment or folder
├── Unwritable      the folder or segment is not a place the archive may write to (symlink, not a regular file)
├── DamagedMember   these bytes are not one whole, undamaged member
├── DamagedSeal     this seal is not as it was written
├── Unsealable      this hour cannot be sealed: not there, not its turn, or too late
├── BadKey          this file holds no key that may be used
└── BadProof        this proof does not hold
"""

# ruff: noqa: N818 - the tree's names say what is the matter; "Error" behind each would say nothing more

from __future__ import annotations

__all__ = ["ArchiveError", "BadKey", "BadName", "BadProof", "DamagedMember", "DamagedSeal", "NotFound", "Unsealable", "Unwritable"]


class ArchiveError(Exception):
    """The root: what a caller of `archive` may want to catch in one clause. Messages hold no recorded content."""


class BadName(ArchiveError):
    """A name or id that is not of its strict pattern; nothing was looked up."""


class NotFound(ArchiveError):
    """No such exchange, segment or folder."""


class Unwritable(ArchiveError, OSError):
    """A folder or segment that the archive must not write to: a symbolic link, or something that is no regular file.

    An OSError too, so that the writer treats it like any other disk that refuses: pause, count, try again later.
    """


class DamagedMember(ArchiveError):
    """These bytes are not one whole, undamaged member, or inflate to more than the reader allows."""


class DamagedSeal(ArchiveError):
    """This seal is not as it was written: some byte of it was changed, or it is none."""


class Unsealable(ArchiveError):
    """This hour cannot be sealed: it is not there, an older one must come first, or a later one is sealed already."""


class BadKey(ArchiveError):
    """This file holds no key, not one of the right kind, or others may read it. Messages say what to do and show nothing of the key."""


class BadProof(ArchiveError):
    """This proof does not hold: the record is not the one that was sealed, or not by the key that is asked for."""
