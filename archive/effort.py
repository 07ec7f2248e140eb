"""Effort: whether a member is worth compressing just now. Sans-I/O; for the writer's thread.

Compressing is half of what a record costs. A writer that cannot keep up holds clients back and, in the end, drops records; gzip knows
"stored" blocks, which every reader reads, and packing an hour makes up for them later. So what waits behind a full batch is stored
as it is, and so is everything while the one who feeds the writer lacks processor time (`Writer.hurry`): unless it is the disk that cannot
keep up, then fewer bytes are what helps.
"""

from __future__ import annotations

from typing import Final

__all__ = ["Effort"]

BEHIND_RECORDS: Final = 128
"""Records that wait behind the batch at hand: two more batches, so the writer is never without work."""
BEHIND_BYTES: Final = 4 << 20
"""The same in bytes by weight: a batch of large ones."""
DISK_SHARE: Final = 0.4
"""Share of its time that the writer may spend on the disk and still be one that lacks processor time. Storing writes three to four times
the bytes: at this share it would be the disk's turn to fall behind."""
MEMORY: Final = 0.2
"""Weight of the newest trip in the share: about ten trips back count."""


class Effort:
    """Decides for each batch. Not adaptive, it always compresses."""

    __slots__ = ("_adaptive", "_disk")

    def __init__(self, *, adaptive: bool) -> None:
        self._adaptive = adaptive
        self._disk = 0.0

    def stores(self, waiting: int, waiting_bytes: int, *, hurried: bool = False) -> bool:
        """Whether to store the batch at hand uncompressed, when so many records and bytes wait behind it, or somebody is in a hurry."""
        behind = hurried or waiting >= BEHIND_RECORDS or waiting_bytes >= BEHIND_BYTES
        return self._adaptive and behind and self._disk < DISK_SHARE

    def spent(self, seconds: float, disk: float) -> None:
        """A trip took so long, `disk` seconds of it writing and syncing."""
        if seconds > 0:
            self._disk += MEMORY * (min(disk / seconds, 1.0) - self._disk)
