"""A proof that records were in a sealed hour: their lines, the hashes that lead to the root, the seal. Made from an archive, checked alone.

What it proves is as good as the signature in it, or as the root that whoever checks it knows from elsewhere.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from archive.errors import BadName, BadProof, DamagedMember, NotFound, Unsealable
from archive.folder import hour_of, segment_name, segments
from archive.handle import open_file
from archive.line import SERVICE_PART
from archive.member import Damage, Found
from archive.proof.keys import signed_by
from archive.proof.ledger import Log
from archive.proof.manifest import DIGEST_LENGTH, Seal, canonical
from archive.proof.merkle import inclusion_proof, leaf_hash, root_from_proof, root_of
from archive.proof.seal import read_seal
from archive.proof.walk import Walk
from archive.record import id_text
from archive.skim import decode, skim

__all__ = ["Proved", "check_proof", "prove"]

_VERSION: Final = 1
_SKEW: Final = 7200
"""Seconds by which the clock that made an id may have been ahead of the one that named the segment."""
_LONGEST: Final = 256 << 20
"""Bytes of a line that may go into a proof."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Proved:
    """One record of a proof that holds."""

    segment: str
    index: int
    """Its number in the hour, from 0, and how many there are."""
    records: int
    root: str
    sealed_at: str
    key: str | None
    """The public key that signed the seal; None when nobody did."""
    line: str
    """The record, as it was written."""


def prove(folder: Path, id: bytes) -> Json:
    """The proof for every record of the exchange `id` (16 bytes), as an object for JSON.

    Blocks: hops over the hours from the exchange's own on, and inflates those that hold it. Raises NotFound when there is no such
    exchange, Unsealable when an hour of it is not sealed yet or not as it was sealed, DamagedSeal, OSError.
    """
    proved: list[Json] = []
    seals: dict[str, Json] = {}
    for path, found in _places(folder, id):
        hour = hour_of(path.name)
        seal = read_seal(folder, hour)
        if seal is None:
            raise Unsealable(f"the hour {hour}, which holds this exchange, is not sealed; when it is over, `verbatim seal` does that")
        seals[hour] = {**seal.stated(), "signature": seal.signature}
        proved += _proofs(folder, path, seal, {each.offset for each in found})
    if not proved:
        raise NotFound("no such exchange")
    return {"v": _VERSION, "id": id_text(id), "records": proved, "seals": list(seals.values())}


def _places(folder: Path, id: bytes) -> Iterator[tuple[Path, list[Found]]]:
    """The segments that hold the exchange, oldest first, each with its records; up to the one with its end."""
    begun = segment_name(int.from_bytes(id[:6], "big") / 1000 - _SKEW)  # ids are UUIDv7 (RFC 9562 section 5.7): they begin with the time
    for path in segments(folder):
        if hour_of(path.name) < hour_of(begun):
            continue
        with open_file(path) as handle:
            found = [each for each in handle.scan() if isinstance(each, Found) and each.tag.id == id and each.tag.part != SERVICE_PART]
            ended = any(skim(handle, each.offset).get("end") is not None for each in found)
        if found:
            yield path, found
        if ended:
            return


def _proofs(folder: Path, path: Path, seal: Seal, wanted: set[int]) -> Iterator[Json]:
    """The proofs of the records at these offsets. Raises Unsealable when the hour is not as it was sealed."""
    leaves: list[bytes] = []
    here: list[tuple[int, int]] = []
    with open_file(path) as handle:
        for each in Walk(handle):
            if isinstance(each, Damage):
                continue
            if each.offset in wanted:
                here.append((len(leaves), each.offset))
            leaves.append(each.leaf)
        if len(leaves) < seal.records:
            removed = _removed(folder, seal)
            kept = [at for at in range(seal.records) if at not in removed]
            here = [(kept[at], offset) for at, offset in here if at < len(kept)]
            present = iter(leaves)
            leaves = [removed[at] if at in removed else next(present, b"") for at in range(seal.records)]
        if root_of(leaves).hex() != seal.root or len(here) != len(wanted):
            raise Unsealable(f"the hour {seal.segment} is not as it was sealed; `verbatim verify` says where")
        for index, offset in here:
            line = handle.line(offset, limit=_LONGEST).decode().removesuffix("\n")
            path_up = [each.hex() for each in inclusion_proof(leaves, index)]
            yield {"segment": seal.segment, "index": index, "line": line, "proof": path_up}


def _removed(folder: Path, seal: Seal) -> dict[int, bytes]:
    """What forget lines tell of that hour: the leaf hashes of records that the seal lists. (What was gone before, it does not.)"""
    log = Log()
    for path in segments(folder):
        if hour_of(path.name) < seal.segment:
            continue
        with open_file(path) as handle:
            for each in handle.scan():
                if isinstance(each, Found) and each.tag.part == SERVICE_PART:
                    with suppress(DamagedMember):
                        log.own(decode(handle.line(each.offset, limit=_LONGEST)))
    told = {it.index: bytes.fromhex(it.digest) for each in log.told for it in each.records if it.segment == seal.segment and it.digest}
    return {at: leaf for at, leaf in told.items() if leaf[:DIGEST_LENGTH] == seal.lines[at * DIGEST_LENGTH : (at + 1) * DIGEST_LENGTH]}


# Checking.


def check_proof(data: bytes, *, key: str | None = None, root: str | None = None) -> list[Proved]:
    """The records that this proof proves. Needs nothing else.

    `key`: the public key that must have signed the seals; `root`: the root that one of the seals must have. Raises BadProof, saying
    what does not hold; BadName when it is no proof at all.
    """
    try:
        said = json.loads(data)
        seals = {seal["segment"]: seal for seal in said["seals"]}
        if said["v"] != _VERSION or not said["records"]:
            raise ValueError(said["v"])  # noqa: TRY301 - not of this form, as all else
        for seal in seals.values():
            _check_seal(seal, key)
        proved = [_proved(record, seals[record["segment"]], said["id"]) for record in said["records"]]
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        raise BadName("this is no proof that `verbatim prove` makes") from None
    if root is not None and root not in {each.root for each in proved}:
        raise BadProof("the root of its seal is not the one given")
    return proved


def _check_seal(seal: Json, key: str | None) -> None:
    stated = {name: value for name, value in seal.items() if name != "signature"}
    if seal["signature"] is not None and not signed_by(seal["key"], base64.b64decode(seal["signature"]), canonical(stated)):
        raise BadProof(f"the signature of the seal of {seal['segment']} is not that of the key it names")
    if key is not None and (seal["signature"] is None or seal["key"] != key):
        raise BadProof(f"the seal of {seal['segment']} is not signed by your key")


def _proved(record: Json, seal: Json, id: str) -> Proved:
    line, index = str(record["line"]), int(record["index"])
    path_up = [bytes.fromhex(each) for each in record["proof"]]
    root = root_from_proof(leaf_hash(line.encode() + b"\n"), index, int(seal["records"]), path_up)
    if root is None or root.hex() != seal["root"]:
        raise BadProof(f"record {index} is not the one that was sealed in the hour {seal['segment']}")
    if json.loads(line)["id"] != id:
        raise BadProof(f"record {index} is of another exchange than it says")
    signer = seal["key"] if seal["signature"] is not None else None
    return Proved(str(seal["segment"]), index, int(seal["records"]), str(seal["root"]), str(seal["sealed_at"]), signer, line)
