"""The manifest of a sealed hour: what it says, as bytes, and whether these are as they were written. Values; opens no file."""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Any, Final

from archive.errors import DamagedSeal
from archive.proof.keys import signed_by
from archive.proof.merkle import HASH_LENGTH

__all__ = ["DIGEST_LENGTH", "Previous", "Seal", "SealedDamage", "SealedWriter", "canonical", "parse_seal"]

DIGEST_LENGTH: Final = 8
"""Bytes of a SHA-256 that tell one record of an hour from another."""

_VERSION: Final = 1
_SIGNATURE_LENGTH: Final = 64

Json = dict[str, Any]
Octets = bytes
"""Within `Seal`, where `bytes` is a number."""


@dataclass(frozen=True, slots=True)
class SealedWriter:
    """What an hour holds of one writer: numbers from `first` to `last`, `records` of them, perhaps its open and its close line."""

    writer: str
    first: int
    last: int
    records: int
    opened: bool
    closed: bool


@dataclass(frozen=True, slots=True)
class SealedDamage:
    """Bytes that were no sound record when the hour was sealed: no later change of them is anyone's loss, but it shows."""

    offset: int
    length: int
    why: str


@dataclass(frozen=True, slots=True)
class Previous:
    """The seal before this one and the SHA-256 of its file."""

    segment: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Seal:
    """The manifest of one hour. Hashes and the public key are lower-case hexadecimal digits."""

    segment: str
    """The hour, as "2026-11-20T10"."""
    sealed_at: str
    verbatim: str
    """The version that sealed it."""
    bytes: int
    sha256: str
    """Length and SHA-256 of the plain file, as `sha256sum` has it."""
    records: int
    line_bytes: int
    root: str
    """RFC 6962's Merkle tree hash over the lines, newlines included, in the order of the file."""
    writers: tuple[SealedWriter, ...]
    damaged: tuple[SealedDamage, ...]
    previous: Previous | None
    """None for the first seal of a folder."""
    key: str | None = None
    signature: str | None = None
    """Ed25519 over `statement`, in base64."""
    members: Octets = field(default=b"", repr=False)
    """The first 8 bytes of the SHA-256 of each gzip member: they tell which one is not as it was."""
    lines: Octets = field(default=b"", repr=False)
    """The first 8 bytes of each line's leaf hash, for the same."""

    def statement(self) -> Octets:
        """What is signed: the seal without its signature and its digests, for which their hash stands, so that a proof can be small.

        Canonical JSON (RFC 8785; there are only strings and whole numbers in it).
        """
        return canonical(self.stated())

    def stated(self) -> Json:
        """The same as an object."""
        said = asdict(self)
        for name in ("members", "lines", "signature"):
            del said[name]
        return {**said, "v": _VERSION, "digests_sha256": sha256(self.members + self.lines).hexdigest()}

    def to_bytes(self) -> Octets:
        """The file: canonical JSON and a newline. `check` finds a byte changed by accident; what was changed with intent, the signature and
        the seal that follows."""
        digests = {"members": base64.b64encode(self.members).decode(), "lines": base64.b64encode(self.lines).decode()}
        check = sha256(self.statement() + (self.signature or "").encode()).hexdigest()
        return canonical({**self.stated(), "digests": digests, "signature": self.signature, "check": check}) + b"\n"

    def holds(self) -> bool:
        """Whether its signature is that of its own key; True when it has neither. Whose key that is, is another question."""
        if self.key is None or self.signature is None:
            return self.key is self.signature
        return signed_by(self.key, base64.b64decode(self.signature), self.statement())


def canonical(value: object) -> bytes:
    """Canonical JSON (RFC 8785) of objects, arrays, strings and whole numbers."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


def parse_seal(data: bytes) -> Seal:
    """The seal that these bytes are. Raises DamagedSeal when a single one of them is not as `to_bytes` has it. Checks no signature."""
    try:
        seal = _seal(json.loads(data))
        same = seal.to_bytes() == data
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        raise DamagedSeal("it is not of a seal's form") from None
    if not same:
        raise DamagedSeal("it does not fit its own check sum")
    return seal


def _seal(said: Json) -> Seal:
    if said["v"] != _VERSION:
        raise DamagedSeal(f"it is of version {int(said['v'])}, which this program does not know")
    digests, previous = said["digests"], said["previous"]
    seal = Seal(
        segment=str(said["segment"]),
        sealed_at=str(said["sealed_at"]),
        verbatim=str(said["verbatim"]),
        bytes=int(said["bytes"]),
        sha256=str(said["sha256"]),
        records=int(said["records"]),
        line_bytes=int(said["line_bytes"]),
        root=str(said["root"]),
        writers=tuple(_writer(each) for each in said["writers"]),
        damaged=tuple(SealedDamage(int(each["offset"]), int(each["length"]), str(each["why"])) for each in said["damaged"]),
        previous=None if previous is None else Previous(str(previous["segment"]), str(previous["sha256"])),
        key=None if said["key"] is None else str(said["key"]),
        signature=None if said["signature"] is None else str(said["signature"]),
        members=base64.b64decode(digests["members"], validate=True),
        lines=base64.b64decode(digests["lines"], validate=True),
    )
    if not len(seal.members) == len(seal.lines) == seal.records * DIGEST_LENGTH or len(bytes.fromhex(seal.root)) != HASH_LENGTH:
        raise ValueError(seal.records)
    if len(base64.b64decode(seal.signature or "", validate=True)) != (_SIGNATURE_LENGTH if seal.signature else 0):
        raise ValueError(seal.signature)
    return seal


def _writer(said: Json) -> SealedWriter:
    numbers = int(said["first"]), int(said["last"]), int(said["records"])
    return SealedWriter(str(said["writer"]), *numbers, opened=bool(said["opened"]), closed=bool(said["closed"]))
