"""A reader written from archive/FORMAT.md alone, in 40 lines: nothing of ours, nothing beyond the standard library."""

import contextlib
import json
import struct
import zlib
from base64 import b64decode

PREFIX = bytes.fromhex("1f8b080400000000 04ff2d0056622900 01")


def header(data, at):  # (length, id, part, seq); None where no header lies
    sound = data[at : at + 17] == PREFIX and data[at + 53 : at + 57] == struct.pack("<I", zlib.crc32(data[at : at + 53]))
    return struct.unpack_from("<Q16sIQ", data, at + 17) if sound else None


def search(data, at):  # where the next header lies, else the end
    while (at := data.find(PREFIX, at)) >= 0 and not header(data, at):
        at += 1
    return len(data) if at < 0 else at


def members(data):  # (offset, length, id, part, seq) of whole members, by hopping; what is damaged or torn is left out
    at = search(data, 0)
    while at < len(data):
        end = at + header(data, at)[0]
        following = end if end == len(data) or header(data, end) else search(data, at + 1)
        if end <= following:
            yield at, *header(data, at)
        at = following


def lines(data, id=None):  # the lines of a segment, or of one exchange in it; what is damaged inside is left out
    for at, length, whose, _, _ in members(data):
        if id is None or whose.hex() == id.replace("-", ""):
            with contextlib.suppress(zlib.error):
                yield json.loads(zlib.decompress(data[at : at + length], 31))


def exchange(segments, id):  # its parts' lines, its request's body, its response's
    parts = sorted((it for data in segments for it in lines(data, id) if it["kind"] == "exchange"), key=lambda it: it["part"])
    return parts, *(b"".join(piece(it[side]["body"]) for it in parts if it[side] and it[side]["body"]) for side in ("request", "response"))


def piece(it):  # the bytes of one slice of a body
    return b64decode(it["base64"] or it["head"] or "") + (it["text"] or "").encode() + b64decode(it["tail"] or "")


def missing(found, writer):  # the numbers of a writer that are neither there nor told of
    spans = [(it["seq"] - it.get("gap", {}).get("records", 0), it["seq"]) for it in found if it["writer"] == writer]
    most = max(last for _, last in spans)
    spans += [(one["seq"], one["seq"]) for it in found for one in it.get("forget", {}).get("removed", []) if one["writer"] == writer]
    pruned = (one for it in found for hour in it.get("prune", {}).get("segments", []) for one in hour["writers"])
    spans += [(one["first"], one["last"]) for one in pruned if one["writer"] == writer]
    return set(range(most + 1)).difference(*(range(first, last + 1) for first, last in spans))
