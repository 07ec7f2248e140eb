"""Proofs: small, checked with nothing else, and worth nothing when a single thing in them is changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rig_seal import ELEVEN, LATER, TEN, forget, members, rewritten, seal_all
from samples import HOUR, Shelf, in_parts, whole

from archive.errors import BadName, BadProof, NotFound, Unsealable
from archive.folder import seal_path
from archive.proof.inclusion import check_proof, prove
from archive.proof.keys import make_key
from archive.proof.seal import seal_hour
from archive.record import Record, id_text, new_id


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    shelf = Shelf(tmp_path / "archive")
    shelf.open()
    return shelf


def checked(proof: Any, **options: Any) -> list[Any]:
    return check_proof(json.dumps(proof).encode(), **options)


def test_one_record_is_proved_with_nothing_but_the_proof(shelf: Shelf, tmp_path: Path) -> None:
    records = [whole(HOUR + at) for at in range(40)]
    shelf.put(records)
    key = make_key(tmp_path / "key")
    (seal,) = seal_all(shelf.folder, key=key)
    for at in (0, 17, 39):
        proof = prove(shelf.folder, records[at].id)
        (found,) = checked(proof, key=key.public, root=seal.root)
        assert (found.segment, found.index, found.records, found.root, found.key) == (TEN, at + 1, 41, seal.root, key.public)
        assert found.line.encode() == shelf.lines[id_text(records[at].id)][0]
        assert len(proof["records"][0]["proof"]) <= 6
    assert len(json.dumps(proof)) < 3000 + len(found.line) * 2


def test_a_proof_needs_a_sealed_hour_that_is_as_it_was(shelf: Shelf) -> None:
    record = whole(HOUR + 1)
    path = shelf.put([record, *(whole(HOUR + at) for at in (2, 3, 4))])
    with pytest.raises(Unsealable, match=f"hour {TEN}, which holds this exchange, is not sealed"):
        prove(shelf.folder, record.id)
    seal_all(shelf.folder)
    with pytest.raises(NotFound):
        prove(shelf.folder, new_id(int(HOUR * 1000)))
    with pytest.raises(NotFound):
        prove(shelf.folder, shelf.writer)  # a writer's own lines are no exchange
    rewritten(path)
    with pytest.raises(Unsealable, match="not as it was sealed"):
        prove(shelf.folder, record.id)


def test_all_records_of_an_exchange_are_proved_over_hours(shelf: Shelf) -> None:
    parts = in_parts([b"a", b"b", b"c"])
    for at, part in zip((1, 2, 3601), parts, strict=True):
        shelf.put(part, at=HOUR + at)
        shelf.put(whole(HOUR + at))
    shelf.put(whole(HOUR + 7300))
    seals = seal_all(shelf.folder)
    found = checked(prove(shelf.folder, parts[0].id))
    assert [(each.segment, each.index) for each in found] == [(TEN, 1), (TEN, 3), (ELEVEN, 0)]
    assert [each.root for each in found] == [seals[0].root, seals[0].root, seals[1].root]


def test_a_record_is_proved_beside_forgotten_ones(shelf: Shelf) -> None:
    records = [whole(HOUR + at) for at in range(1, 8)]
    shelf.put(records)
    (seal,) = seal_all(shelf.folder)
    forget(shelf, TEN, [2, 5])
    for record, index in ((records[0], 1), (records[2], 3), (records[6], 7)):
        (found,) = checked(prove(shelf.folder, record.id), root=seal.root)
        assert found.index == index
    with pytest.raises(NotFound):
        prove(shelf.folder, records[1].id)
    path = shelf.folder / f"{TEN}.jsonl.gz"
    path.write_bytes(b"".join(members(path)[:-1]))
    with pytest.raises(Unsealable):
        prove(shelf.folder, records[0].id)


def tampered(proof: Any) -> list[tuple[str, Any]]:
    """The proof with one thing changed in it, each of them a lie."""

    def changed(*path: str | int, to: Any) -> Any:
        copy = json.loads(json.dumps(proof))
        at = copy
        for step in path[:-1]:
            at = at[step]
        at[path[-1]] = to(at[path[-1]]) if callable(to) else to
        return copy

    first = ("records", 0)
    return [
        ("line", changed(*first, "line", to=lambda line: line.replace("done", "gone"))),
        ("index", changed(*first, "index", to=lambda index: index + 1)),
        ("hash", changed(*first, "proof", 0, to="00" * 32)),
        ("fewer hashes", changed(*first, "proof", to=lambda proof: proof[:-1])),
        ("more hashes", changed(*first, "proof", to=lambda proof: [*proof, "00" * 32])),
        ("exchange", changed("id", to=id_text(bytes(16)))),
        ("root", changed("seals", 0, "root", to="00" * 32)),
        ("size", changed("seals", 0, "records", to=lambda size: size * 4)),
        ("time", changed("seals", 0, "sealed_at", to="2020-01-01T00:00:00.000000Z")),
        ("signature", changed("seals", 0, "signature", to="A" * 86 + "==")),
        ("key", changed("seals", 0, "key", to="00" * 32)),
    ]


def test_a_proof_with_anything_changed_does_not_hold(shelf: Shelf, tmp_path: Path) -> None:
    record = whole(HOUR + 1)
    shelf.put([record, *(whole(HOUR + at) for at in (2, 3, 4))])
    key = make_key(tmp_path / "key")
    seal_all(shelf.folder, key=key)
    proof = prove(shelf.folder, record.id)
    assert checked(proof, key=key.public)
    for what, lie in tampered(proof):
        assert lie != proof, what
        with pytest.raises(BadProof):
            checked(lie)


def test_a_proof_is_held_against_the_key_and_the_root_that_are_asked_for(shelf: Shelf, tmp_path: Path) -> None:
    record = whole(HOUR + 1)
    shelf.put(record)
    (seal,) = seal_all(shelf.folder)
    unsigned = prove(shelf.folder, record.id)
    assert checked(unsigned, root=seal.root)[0].key is None
    with pytest.raises(BadProof, match="root"):
        checked(unsigned, root="00" * 32)
    key, other = make_key(tmp_path / "key"), make_key(tmp_path / "other")
    with pytest.raises(BadProof, match="not signed by your key"):
        checked(unsigned, key=key.public)
    seal_path(shelf.folder, TEN).unlink()
    seal_hour(shelf.folder, TEN, key=key, now=LATER, version="1")
    signed = prove(shelf.folder, record.id)
    assert checked(signed, key=key.public)[0].key == key.public
    with pytest.raises(BadProof, match="not signed by your key"):
        checked(signed, key=other.public)


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b"null", b'{"v":1,"id":"","records":[],"seals":[]}', b'{"v":2}', b"\xff", b"[" * 100_000]
)
def test_what_is_no_proof_is_told_to_be_none(data: bytes) -> None:
    with pytest.raises(BadName):
        check_proof(data)


def test_a_record_written_long_after_its_exchange_began_is_found(shelf: Shelf) -> None:
    record: Record = whole(HOUR - 3 * 3600)
    shelf.put(record, at=HOUR + 5)
    shelf.put(whole(HOUR - 7 * 3600))
    seal_all(shelf.folder)
    (found,) = checked(prove(shelf.folder, record.id))
    assert found.segment == TEN
