"""Reads an archive with nothing but gzip and json, as a stranger would, and says whether it holds what was relayed.

Imports nothing of ours.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

NONCE = re.compile(r"[?&]nonce=([^&]*)")


def lines(archive: Path) -> Iterator[bytes]:
    """Every line of every segment, in order."""
    for segment in sorted(archive.rglob("*.jsonl.gz")):
        with gzip.open(segment) as file:
            yield from file


def totals(archive: Path) -> tuple[int, int]:
    """(exchanges that are in the archive, exchanges that gap records say were dropped)."""
    kept = dropped = 0
    for line in lines(archive):
        # A quotation mark inside a JSON string is escaped, so these bytes can only be the keys themselves.
        if b'"kind":"exchange"' in line[:400]:
            kept += b'"part":0,' in line[:400]
        elif b'"kind":"gap"' in line[:400]:
            dropped += json.loads(line)["gap"]["exchanges"]
    return kept, dropped


def exact(archive: Path, expected: Mapping[str, tuple[str, int]]) -> int:
    """How many of the streams the client received are in the archive exactly once, complete, with the same SHA-256 and length of body."""
    nonces: dict[str, list[str]] = {}
    bodies: dict[str, list[dict[str, Any]]] = {}
    ends: dict[str, str] = {}
    for raw in lines(archive):
        line = json.loads(raw)
        if line["kind"] != "exchange":
            continue
        if line.get("request") and (found := NONCE.search(line["request"]["target"])):
            nonces.setdefault(found[1], []).append(line["id"])
        if (line.get("response") or {}).get("body"):
            bodies.setdefault(line["id"], []).append(line["response"]["body"])
        if line.get("end"):
            ends[line["id"]] = line["end"]["reason"]
    good = 0
    for nonce, (digest, length) in expected.items():
        ids = nonces.get(nonce, [])
        if len(ids) == 1 and ends.get(ids[0]) == "complete":
            body = b"".join(map(_bytes, sorted(bodies.get(ids[0], ()), key=lambda part: part["offset"])))
            good += len(body) == length and hashlib.sha256(body).hexdigest() == digest
    return good


def _bytes(body: dict[str, Any]) -> bytes:
    """A body's slice of bytes: text with the stray bytes of split characters at either end, or base64."""
    if body.get("base64") is not None:
        return base64.b64decode(body["base64"])
    return base64.b64decode(body.get("head") or "") + (body.get("text") or "").encode() + base64.b64decode(body.get("tail") or "")
