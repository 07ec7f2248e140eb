"""One member's line, read within bounds: whole, without its long texts, or searched piece by piece."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archive import handle as handle_module
from archive import skim
from archive.errors import DamagedMember
from archive.handle import Handle, open_file
from archive.member import pack


@contextmanager
def opened(path: Path, line: bytes, *, before: bytes = b"some bytes before") -> Iterator[tuple[Handle, int]]:
    """A file with a member of `line` in it, open, and the member's offset."""
    path.write_bytes(before + pack(line + b"\n", id=bytes(16), part=0, seq=0) + b"and after")
    with open_file(path) as handle:
        yield handle, len(before)


def without(value: Any, keep: int) -> Any:
    """What skimming is to leave of a value: strings of more than `keep` bytes of JSON are empty."""
    if isinstance(value, str):
        return value if len(json.dumps(value, ensure_ascii=False).encode()) - 2 <= keep else ""
    if isinstance(value, list):
        return [without(each, keep) for each in value]
    if isinstance(value, dict):
        return {key: without(each, keep) for key, each in value.items()}
    return value


texts = st.text(st.characters(codec="utf-8"), max_size=30) | st.text('"\\\n\0aé🙂', max_size=40)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=4),
    max_leaves=10,
)


@given(value=values, size=st.integers(1, 30), keep=st.integers(4, 40))
def test_long_texts_are_left_out_wherever_the_pieces_are_cut(value: Any, size: int, keep: int) -> None:
    line = json.dumps(value, ensure_ascii=False).encode()
    chunks = [line[at : at + size] for at in range(0, len(line), size)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(skim, "_KEEP", keep)
        assert json.loads(skim._without_long_strings(chunks)) == without(value, keep)


@pytest.mark.parametrize("length", [0, 10, 70_000, 3 << 20])
def test_a_line_is_read_whole_or_skimmed(tmp_path: Path, length: int) -> None:
    line = json.dumps({"short": "é", "long": '"\\' * length, "after": 1}, ensure_ascii=False).encode()
    with opened(tmp_path / "file", line) as (handle, offset):
        assert skim.read_line(handle, offset, limit=len(line) + 1) == line
        assert b"".join(handle.pieces(offset)) == line + b"\n"
        seen = skim.skim(handle, offset)
        assert (seen["short"], seen["after"]) == ("é", 1)
        assert seen["long"] == ("" if length == 3 << 20 else '"\\' * length)
        assert handle.lengths(offset)[1] == len(line) + 1
        with pytest.raises(DamagedMember):
            skim.read_line(handle, offset, limit=len(line))


@pytest.mark.parametrize("at", [0, 100, (256 << 10) - 3, (512 << 10) - 1, 3 << 20])
@pytest.mark.parametrize("small", [True, False])
def test_a_text_is_found_wherever_it_lies(tmp_path: Path, at: int, small: bool) -> None:
    line = b'"' + b"x" * at + b"NeeDle" + b"x" * (10 if small else 2 << 20) + b'"'
    with opened(tmp_path / "file", line) as (handle, offset):
        assert skim.contains(handle, offset, b"needle")
        assert skim.contains(handle, offset, b"x")
        assert not skim.contains(handle, offset, b"needles")


@pytest.mark.parametrize("length", [100, 3 << 20])
def test_damage_is_told_wherever_it_lies(tmp_path: Path, length: int) -> None:
    packed = pack(json.dumps({"x": os.urandom(length // 2).hex()}).encode() + b"\n", id=bytes(16), part=0, seq=0)
    for at in (0, 5, 40, len(packed) // 2, len(packed) - 7, len(packed) - 1):
        broken = bytearray(packed)
        broken[at] ^= 0x21
        (tmp_path / "file").write_bytes(broken)
        with open_file(tmp_path / "file") as handle:
            with pytest.raises(DamagedMember):
                skim.skim(handle, 0)
            with pytest.raises(DamagedMember):
                skim.read_line(handle, 0, limit=8 << 20)


def test_a_member_that_is_cut_short_is_damage(tmp_path: Path) -> None:
    packed = pack(b'{"x":"' + os.urandom(1 << 20).hex().encode() + b'"}\n', id=bytes(16), part=0, seq=0)
    (tmp_path / "file").write_bytes(packed[:-100])
    with open_file(tmp_path / "file") as handle:
        with pytest.raises(DamagedMember):
            skim.skim(handle, 0)
        with pytest.raises(DamagedMember):
            list(handle.pieces(0))


def test_what_is_too_long_even_without_its_texts_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path / "file", b"[" + b"1," * (5 << 20) + b"1]") as (handle, offset):
        with pytest.raises(DamagedMember, match="too long"):
            skim.skim(handle, offset)
        monkeypatch.setattr(handle_module, "_INFLATED", 1 << 20)
        with pytest.raises(DamagedMember, match="more than"):
            list(handle.pieces(offset))


def test_lone_surrogates_escapes_are_read() -> None:
    assert skim.decode(rb'{"a":"\ud83d"}') == {"a": "\ud83d"}
