"""The format's own page, archive/FORMAT.md: a reader written from it alone agrees with ours, and its tables agree with the code."""

from __future__ import annotations

import ast
import gzip
import json
import re
import struct
import sys
import zlib
from base64 import b64decode
from collections.abc import Iterator, Sequence
from hashlib import sha256
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest
import second_reader
import zstandard
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st
from rig_archive import packed
from samples import HOUR, Shelf, in_parts, parsed, whole

from archive import member
from archive.chunk import OPENING, Chunk, pack_head, pack_rows, seek_table
from archive.folder import segment_name
from archive.line import SERVICE_PART, close_line, declined_line, forget_line, gap_line, open_line, prune_line
from archive.member import HEADER_LENGTH, TRAILER_LENGTH, Found, scan
from archive.proof.keys import load_key, make_key
from archive.proof.seal import closed_hours, seal_hour
from archive.proof.verify import verify
from archive.reader import Reader
from archive.record import (
    SCHEMA_VERSION,
    Body,
    BodyStream,
    Client,
    Crossed,
    EndReason,
    Kind,
    Message,
    Record,
    Redaction,
    Request,
    Response,
    Transparency,
    id_text,
    new_id,
)

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = (ROOT / "archive" / "FORMAT.md").read_text(encoding="utf-8")
SOURCE: Final = Path(second_reader.__file__).read_text(encoding="utf-8")
MORE: Final = new_id(int(HOUR * 1000) + 1)

Rows = list[list[str]]


def section(title: str) -> str:
    """What stands below a heading, up to the next one."""
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#+ |\Z)", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert found, f"no heading {title}"
    return found[1]


def table(title: str) -> Rows:
    """The rows of the first table below a heading, without backticks around the first cell."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section(title).splitlines() if line.startswith("|")]
    return [[row[0].strip("`"), *row[1:]] for row in rows[2:]]


# The second reader.


def test_the_second_reader_is_forty_lines_of_the_standard_library() -> None:
    assert len([line for line in SOURCE.splitlines() if line.strip()]) <= 40
    for node in ast.walk(ast.parse(SOURCE)):
        names = (
            [it.name for it in node.names] if isinstance(node, ast.Import) else [node.module] if isinstance(node, ast.ImportFrom) else []
        )
        assert all(name in sys.stdlib_module_names for name in names)


def fill(folder: Path) -> list[Path]:
    """Three hours by two writers: whole exchanges and parts, text and no text, a loss, a removal; returns the segments."""
    shelf, other = Shelf(folder), Shelf(folder, writer=MORE)
    shelf.open()
    other.open()
    shelf.put([whole(body="grüezi 🙂".encode(), answer=b"\xff\x00"), whole(HOUR + 2, body=b"", answer=b"")])
    coded = gzip.compress("zwölf Boxkämpfer".encode() * 50)
    for at, chunks, encoding in (
        (5, ["a🙂b€c".encode()[:2], "a🙂b€c".encode()[2:7], "a🙂b€c".encode()[7:]], ""),
        (6, [coded[:40], coded[40:]], "gzip"),
    ):
        for hour, part in enumerate(in_parts(chunks, at=HOUR + at, encoding=encoding)):
            other.put(part, at=HOUR + 3600 * hour)
            shelf.put(whole(HOUR + 10 + hour), at=HOUR + 3600 * hour)
    talk = whole(HOUR + 20)
    talk.messages = [Message("client", 1.0, "text", "hé".encode()), Message("upstream", 2.0, "binary", b"\0")]
    shelf.put(talk)
    shelf.seq += 5
    lost = gap_line(
        writer=id_text(shelf.writer), seq=shelf.seq, at=HOUR, since=HOUR, until=HOUR, records=5, exchanges=2, size=1, why="full"
    )
    shelf.raw(shelf._pack(lost, shelf.writer, SERVICE_PART))
    shelf.close(HOUR + 7200)
    other.seq += 2  # lost in silence
    other.close(HOUR + 7200)
    return sorted(folder.glob("*.gz"))


def test_a_second_reader_written_from_the_page_agrees(tmp_path: Path) -> None:
    segments = [path.read_bytes() for path in fill(tmp_path)]
    reader = Reader(tmp_path)
    entries = reader.page(limit=100).entries
    found = [line for data in segments for line in second_reader.lines(data)]
    assert len(entries) == 10
    assert {line["id"] for line in found if line["kind"] == "exchange"} == {entry.id for entry in entries}
    for entry in entries:
        ours = reader.get(entry.id)
        parts, asked, answered = second_reader.exchange(segments, entry.id)
        assert parts == [json.loads(line) for line in ours.lines]
        assert asked == (ours.request_body.data if ours.request_body is not None else b"")
        assert answered == (ours.response_body.data if ours.response_body is not None else b"")


def test_a_second_reader_counts_the_same_losses(tmp_path: Path) -> None:
    found = [line for path in fill(tmp_path) for line in second_reader.lines(path.read_bytes())]
    silent = {run.writer: set(range(run.first, run.last + 1)) for run in verify([tmp_path]).missing}
    assert len(silent[id_text(MORE)]) == 2
    for writer in {line["writer"] for line in found}:
        assert second_reader.missing(found, writer) == silent.get(writer, set())


def test_a_second_reader_takes_what_was_removed_for_told() -> None:
    gone: dict[str, Any] = {"writer": "w", "seq": 2}
    hour = {"writers": [{"writer": "w", "first": 4, "last": 6}, {"writer": "other", "first": 0, "last": 9}]}
    lines = [
        *({"writer": "w", "seq": seq, "kind": "exchange"} for seq in (0, 1, 7, 9)),
        {"writer": "r", "seq": 1, "kind": "forget", "forget": {"removed": [gone, {**gone, "writer": "other", "seq": 3}]}},
        {"writer": "r", "seq": 2, "kind": "prune", "prune": {"segments": [hour]}},
    ]
    assert second_reader.missing(lines, "w") == {3, 8}


MEMBERS: Final = [packed(number, size) for number, size in enumerate((10, 300, 5, 2000, 90))]
BYTES: Final = b"".join(MEMBERS)


def told_by_us(data: bytes) -> list[tuple[int, int, bytes, int, int]]:
    found = (each for each in scan(BytesIO(data)) if isinstance(each, Found))
    return [(each.offset, each.tag.length, each.tag.id, each.tag.part, each.tag.seq) for each in found]


def test_a_second_reader_stops_before_a_torn_tail() -> None:
    for end in range(len(BYTES) - len(MEMBERS[-1]), len(BYTES)):
        found = list(second_reader.members(BYTES[:end]))
        assert found == told_by_us(BYTES[:end])
        assert len(found) == 4
        assert [line["n"] for line in second_reader.lines(BYTES[:end])] == [0, 1, 2, 3]


@given(
    at=st.integers(0, len(BYTES)),
    instead=st.binary(max_size=80) | st.sampled_from([MEMBERS[1], MEMBERS[3][:200], BYTES]),
    cut=st.integers(0, 400),
)
def test_a_second_reader_goes_on_after_damage_as_ours_does(at: int, instead: bytes, cut: int) -> None:
    data = BYTES[:at] + instead + BYTES[at + cut :]
    assert list(second_reader.members(data)) == told_by_us(data)
    list(second_reader.lines(data))


# The page's tables.


def test_the_page_tells_every_byte_of_a_member() -> None:
    data = packed(7, 50)
    fields = {row[2]: (row[0], row[1], row[3]) for row in table("Member")}
    header = [(int(at), int(count), value) for at, count, value in list(fields.values())[:-3]]
    assert [at + count for at, count, _ in header] == [at for at, _, _ in header[1:]] + [HEADER_LENGTH]
    for at, count, value in header:
        if known := re.match(r"`([0-9a-f ]+)`", value):
            expected = bytes.fromhex(known[1])
            assert len(expected) == count or value.startswith("the part")
            if not value.startswith("the part"):
                assert data[at : at + count] == expected
    tag = member.read_tag(data)
    assert tag is not None
    sizes = {"length": "<Q", "id": "16s", "part": "<I", "seq": "<Q", "crc": "<I"}
    read = {name: struct.unpack_from(form, data, int(fields[name][0]))[0] for name, form in sizes.items()}
    assert read == {"length": tag.length, "id": tag.id, "part": tag.part, "seq": tag.seq, "crc": zlib.crc32(data[: int(fields["crc"][0])])}
    assert [(fields["CRC32"][0], fields["ISIZE"][0])] == [("length - 8", "length - 4")]
    assert TRAILER_LENGTH == 8
    deflated = list(fields.values())[-3]
    assert deflated[:2] == (str(HEADER_LENGTH), f"length - {HEADER_LENGTH + TRAILER_LENGTH}")
    assert f"the same length, {HEADER_LENGTH} bytes" in section("Member")
    constant = re.search(r"^`((?:[0-9a-f]{2} ?){17})`", section("Member"), flags=re.MULTILINE)
    assert constant
    assert bytes.fromhex(constant[1]) == data[:17] == second_reader.PREFIX
    assert "`ff ff ff ff`" in fields["part"][2]
    assert SERVICE_PART == 0xFFFF_FFFF


def test_the_pages_example_is_a_member() -> None:
    dumped = re.findall(r"^([0-9a-f]{8})  ([0-9a-f ]+)$", section("Example"), flags=re.MULTILINE)
    data = bytes.fromhex("".join(digits for _, digits in dumped))
    assert [int(at, 16) for at, _ in dumped] == list(range(0, len(data), 16))
    line = member.unpack(data, limit=1000)
    shown = re.search(r"```json\n(.*?\n)```", section("Example"), flags=re.DOTALL)
    assert shown
    assert line.decode() == shown[1]
    (found,) = second_reader.members(data)
    told = section("Example")
    assert found == (0, len(data), bytes.fromhex(json.loads(line)["id"].replace("-", "")), SERVICE_PART, 2)
    for number in (
        f"`length` is {len(data)}",
        f"`crc` 0x{zlib.crc32(data[:53]):08x}",
        f"CRC32 is\n0x{zlib.crc32(line):08x}",
        f"ISIZE {len(line)}",
    ):
        assert number in told


def keys(value: Any, at: str = "") -> Iterator[str]:
    """The keys of an object in their order, with those inside; a list's items are `[]`."""
    if isinstance(value, dict):
        for key, inner in value.items():
            name = f"{at}.{key}".lstrip(".")
            yield name
            yield from keys(inner, name)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        yield from keys(value[0], f"{at}[]")


def values(value: Any, path: Sequence[str]) -> Iterator[Any]:
    """All values under a dotted key."""
    if not path:
        yield value
    elif isinstance(value, dict):
        name, *rest = path
        if name.endswith("[]"):
            for each in value.get(name[:-2]) or []:
                yield from values(each, rest)
        elif name in value:
            yield from values(value[name], rest)


TYPES: Final = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "object": dict, "array": list, "null": type(None)}


def check(rows: Rows, lines: list[Any]) -> None:
    """Every value is of a type that its row allows, and every type a row allows but null is met."""
    for key, types, _ in rows:
        allowed = types.split(" or ")
        met = [value for line in lines for value in values(line, key.split("."))]
        assert met, key
        for value in met:
            fitting = [name for name in allowed if isinstance(value, TYPES[name]) and (name == "boolean") == isinstance(value, bool)]
            assert fitting, (key, types, value)
        assert any(value is not None for value in met), key


def own_lines() -> dict[str, Any]:
    name = id_text(MORE)
    common = {"writer": name, "seq": 1, "at": HOUR}
    removed = {"segment": "h", "index": 0, "id": "i", "part": 0, "writer": name, "seq": 4, "digest": "d", "member": "m", "bytes": 1}
    numbers = {"writer": name, "first": 0, "last": 8, "records": 9, "closed": False}
    pruned = {"segment": "h", "records": 9, "bytes": 8, "root": "r", "seal": "s", "writers": [numbers]}
    return {
        "open": open_line(**common, version="1", rules_hash="x", host="h", pid=1),
        "close": close_line(**common, written=1, dropped=0),
        "gap": gap_line(**common, since=HOUR, until=HOUR, records=0, exchanges=0, size=0, why="w"),
        "declined": declined_line(**common, since=HOUR, until=HOUR, exchanges=1),
        "forget": forget_line(**common, by="a@h", why="w", removed=[removed]),
        "prune": prune_line(**common, by="a@h", why="w", segments=[pruned]),
    }


def exchange_lines() -> list[Any]:
    talk = whole()
    talk.messages = [
        Message("client", 1.0, "text", b"x"),
        Message("upstream", 2.0, "binary", b"\0"),
        Message("client", 3.0, "close", b"", 1000),
    ]
    talk.redactions = [Redaction("request.headers.authorization", "bearer")]
    crossed = Crossed(("0123456789abcdef", None), ["-te"], (1, 2), False, ["request headers: header te was lost"], BodyStream())
    talk.transparency = Transparency(crossed, crossed)
    odd = whole(answer=b"\xff")
    odd.client = Client("[::1]:1", "s", "path", "a", "u", "x-verbatim-user", ("t",), {"n": 1})
    odd.request = Request(b"GET", b"/\xff", [(b"x", b"\xff")])
    odd.response = Response(200, [], b"\xff", origin="gateway")
    damaged = whole()
    damaged.response_body = Body([b"no gzip"], encoding="gzip", ended=True)
    broken = whole()

    def unreadable() -> list[Message]:
        raise ValueError

    broken.messages = unreadable
    parts = in_parts(["🙂€".encode()[:2], "🙂€".encode()[2:5], "🙂€".encode()[5:]])
    made: list[Record] = [talk, odd, damaged, broken, *parts]
    return [parsed(record) for record in made]


COMMON: Final = [row[0] for row in table("The line")]


def test_the_page_tells_every_key_of_an_exchange() -> None:
    lines = exchange_lines()
    rows, bodies = table("Kind exchange"), table("Bodies")
    told = [*COMMON]
    for key, _, _ in rows:
        told += [key, *(f"{key}.{inner}" for inner, _, _ in bodies)] if key.endswith(".body") else [key]
    assert list(keys(lines[0])) == told
    check([*table("The line"), *rows, *([f"response.body.{key}", *rest] for key, *rest in bodies)], lines)


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.EXCHANGE])
def test_the_page_tells_every_key_of_the_archives_own_lines(kind: Kind) -> None:
    line = json.loads(own_lines()[kind])
    rows = table(f"Kind {kind}")
    assert list(keys(line)) == [*COMMON, kind, *(row[0] for row in rows)]
    check(rows, [line])


def test_the_page_tells_every_kind_reason_and_version() -> None:
    assert set(re.findall(r"^### Kind (\w+)$", PAGE, flags=re.MULTILINE)) == set(Kind)
    kinds = next(meaning for key, _, meaning in table("The line") if key == "kind")
    assert set(re.findall(r"`(\w+)`", kinds)) == set(Kind)
    reasons = next(meaning for key, _, meaning in table("Kind exchange") if key == "end.reason")
    assert set(re.findall(r"`(\w+)`", reasons)) == set(EndReason) - {EndReason.CRASHED}
    assert next(meaning for key, _, meaning in table("The line") if key == "v").endswith(f"schema: {SCHEMA_VERSION}")


def test_the_page_tells_every_byte_of_a_chunk() -> None:
    tags = [member.Tag(1, length, bytes([length]) * 16, 3, 1 << 40) for length in (5, 7)]
    rows = pack_rows(tags)
    chunk = Chunk(base=1 << 33, raw=12, stored=99, records=2, table=len(rows))
    head = pack_head(chunk)
    fields = table("The packed form")
    fixed = [(int(at), int(count), name, value) for at, count, name, value in fields[:-2]]
    assert [at + count for at, count, _, _ in fixed] == [at for at, _, _, _ in fixed[1:]] + [len(head)]
    for at, count, name, value in fixed:
        if known := re.match(r"`([0-9a-f ]+)`", value):
            assert head[at : at + count] == bytes.fromhex(known[1])
        elif name not in ("follows", "crc"):
            assert int.from_bytes(head[at : at + count], "little") == getattr(chunk, name)
    number = {name: int.from_bytes(head[at : at + count], "little") for at, count, name, _ in fixed}
    assert number["follows"] == 44 + len(rows)
    assert number["crc"] == zlib.crc32(head[:48])
    assert [row[:2] for row in fields[-2:]] == [[str(len(head)), "table"], [f"{len(head)} + table", "stored"]]
    columns = zstandard.ZstdDecompressor().decompress(rows)
    assert columns == struct.pack("<32sIIQQQQ", tags[0].id + tags[1].id, 3, 3, 1 << 40, 1 << 40, 5, 7)
    assert seek_table([chunk]).startswith(bytes.fromhex("5e2a4d18"))
    opening = re.search(r"empty zstd frame \(`([0-9a-f ]+)`", section("The packed form"))
    assert opening
    assert bytes.fromhex(opening[1]) == OPENING


def test_the_page_tells_every_key_of_a_seal(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.open()
    shelf.put(whole())
    path = shelf.raw(b"no member")
    shelf.close()
    shelf.put(whole(HOUR + 3600))
    make_key(tmp_path / "key")
    key = load_key(tmp_path / "key")
    for hour in closed_hours(tmp_path, HOUR + 9000):
        seal_hour(tmp_path, hour, key=key, now=HOUR + 9000, version="1")
    first, second = ((path.parent / f"{name[:13]}.seal.json").read_bytes() for name in (path.name, segment_name(HOUR + 3600)))
    seals = [json.loads(first), json.loads(second)]
    assert sorted(set(keys(seals[0])) | set(keys(seals[1]))) == sorted(row[0] for row in table("Seals"))
    check(table("Seals"), seals)

    seal = seals[0]  # and what the page says of how it is made
    lines = [
        json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n" for line in second_reader.lines(path.read_bytes())
    ]
    leaves = [sha256(b"\0" + line).digest() for line in lines]
    assert (seal["records"], seal["line_bytes"], seal["root"]) == (3, sum(map(len, lines)), root(leaves).hex())
    assert seal["sha256"] == sha256(path.read_bytes()).hexdigest()
    assert seals[1]["previous"] == {"segment": path.name[:13], "sha256": sha256(first).hexdigest()}
    digests = {name: b64decode(seal["digests"][name]) for name in ("members", "lines")}
    assert digests["lines"] == b"".join(leaf[:8] for leaf in leaves)
    assert seal["digests_sha256"] == sha256(digests["members"] + digests["lines"]).hexdigest()
    stated = {name: value for name, value in seal.items() if name not in ("digests", "signature", "check")}
    statement = json.dumps(stated, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
    assert seal["check"] == sha256(statement + seal["signature"].encode()).hexdigest()
    Ed25519PublicKey.from_public_bytes(bytes.fromhex(seal["key"])).verify(b64decode(seal["signature"]), statement)


def root(leaves: list[bytes]) -> bytes:
    """The Merkle tree hash as the page has it."""
    if len(leaves) < 2:
        return leaves[0] if leaves else sha256().digest()
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return sha256(b"\1" + root(leaves[:split]) + root(leaves[split:])).digest()


def test_the_pages_links_lead_somewhere() -> None:
    anchors = {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.+)$", PAGE, flags=re.MULTILINE)}
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) <= anchors
    assert all(first != second for first, second in pairwise(PAGE.splitlines()) if first.startswith("|"))
