"""The manifest: its bytes are canonical, a single one changed is found, and a signature holds for what it was made for."""

from __future__ import annotations

import base64
import dataclasses
import json
from hashlib import sha256
from pathlib import Path

import pytest

from archive.errors import DamagedSeal
from archive.proof.keys import Key, make_key
from archive.proof.manifest import Previous, Seal, SealedDamage, SealedWriter, parse_seal


def manifest(key: Key | None = None) -> Seal:
    """A seal with something in every field."""
    seal = Seal(
        segment="2026-11-19T10",
        sealed_at="2026-11-19T19:00:00.000000Z",
        verbatim="1.2",
        bytes=1000,
        sha256="ab" * 32,
        records=3,
        line_bytes=2000,
        root="cd" * 32,
        writers=(SealedWriter("w", 0, 2, 3, opened=True, closed=False),),
        damaged=(SealedDamage(10, 20, "no member begins here"),),
        previous=Previous("2026-11-19T09", "ef" * 32),
        key=None if key is None else key.public,
        members=bytes(range(24)),
        lines=bytes(range(24, 48)),
    )
    return seal if key is None else dataclasses.replace(seal, signature=base64.b64encode(key.sign(seal.statement())).decode())


def test_a_seal_comes_back_as_it_was_written(tmp_path: Path) -> None:
    for seal in (manifest(), manifest(make_key(tmp_path / "key"))):
        assert parse_seal(seal.to_bytes()) == seal
        assert seal.holds()


def test_the_statement_is_canonical_and_stands_for_the_digests() -> None:
    statement = manifest().statement()
    said = json.loads(statement)
    assert statement == json.dumps(said, sort_keys=True, separators=(",", ":")).encode()  # RFC 8785 where all is ASCII and whole
    assert said["digests_sha256"] == sha256(bytes(range(48))).hexdigest()
    assert not {"digests", "signature", "check"} & said.keys()
    assert {**said, "digests": 0, "signature": 0, "check": 0}.keys() == json.loads(manifest().to_bytes()).keys()


def test_every_changed_byte_of_a_seal_is_found(tmp_path: Path) -> None:
    data = manifest(make_key(tmp_path / "key")).to_bytes()
    for at in range(len(data)):
        for bit in (0x01, 0x20, 0x80):
            changed = bytearray(data)
            changed[at] ^= bit
            with pytest.raises(DamagedSeal):
                parse_seal(bytes(changed))
    for other in (b"", data[:-1], data + b"\n", b" " + data, b"[]", b"null", b'{"v":2}', b"[" * 100_000, b"\xff"):
        with pytest.raises(DamagedSeal):
            parse_seal(other)


def test_a_signature_holds_for_the_seal_it_is_in_only(tmp_path: Path) -> None:
    signed = manifest(make_key(tmp_path / "key"))
    assert signed.holds()
    for change in (
        {"root": "00" * 32},
        {"sealed_at": "2026-11-19T19:00:01.000000Z"},
        {"previous": Previous("2026-11-19T09", "00" * 32)},
        {"lines": bytes(24)},
        {"key": make_key(tmp_path / "other").public},
        {"signature": base64.b64encode(bytes(64)).decode()},
        {"signature": None},
        {"key": None},
    ):
        assert not dataclasses.replace(signed, **change).holds()  # type: ignore[arg-type]
