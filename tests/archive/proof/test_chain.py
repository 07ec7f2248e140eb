"""The chain of seals: what each says of the one before it, and what is not in it. (What users see is in test_verify_seals.)"""

from __future__ import annotations

from pathlib import Path

import pytest

from archive.folder import seal_path
from archive.proof.chain import Chain, Link, read_link
from archive.proof.manifest import Previous, Seal

HOURS = [f"2026-11-19T{hour:02}" for hour in range(10, 16)]


def link(at: int, previous: int | None, *, named: str = "", key: str | None = None, why: str = "") -> Link:
    """The seal of HOURS[at], whose file has the hash "hash-<at>"."""
    before = None if previous is None else Previous(HOURS[previous], named or f"hash-{previous}")
    seal = Seal(HOURS[at], "", "", 0, "", at, 0, "", (), (), before, key=key)
    return Link(Path(HOURS[at] + ".seal.json"), HOURS[at], 5, f"hash-{at}", seal, why)


def spoiled(at: int) -> Link:
    return Link(Path(HOURS[at] + ".seal.json"), HOURS[at], 5, f"hash-{at}", None, "spoiled")


def told(links: list[Link], present: list[int] | None = None, pruned: dict[str, str | None] | None = None) -> tuple[list[str], list[str]]:
    """The hours whose seals are named, and those that are gone."""
    paths = [Path(f"{hour}.jsonl.gz") for hour in ([each.hour for each in links] if present is None else [HOURS[at] for at in present])]
    chain = Chain(links, paths, pruned or {})
    return [each.file.name[:13] for each in chain.damaged()], [each.segment for each in chain.gone()]


@pytest.mark.parametrize(
    ("links", "damaged", "gone"),
    [
        ([], [], []),
        ([link(0, None)], [], []),
        ([link(0, None), link(1, 0), link(2, 1)], [], []),
        ([link(0, None), link(1, 0, named="other"), link(2, 1)], [0], []),
        ([link(0, None), link(1, 0), link(2, 1, named="other")], [1], []),
        ([link(0, None), link(2, 1)], [], [1]),
        ([link(1, 0), link(2, 1)], [], [0]),
        ([link(0, None), link(1, 0), link(2, 0)], [1], []),
        ([link(0, None), link(1, None), link(2, 1)], [0], []),
        ([link(0, None), link(1, None), link(2, 1), link(3, 2)], [0], []),
        ([link(0, None), link(1, 0), link(2, None), link(3, 2)], [0, 1], []),
        ([link(0, None), link(1, 0), link(2, None)], [2], []),
        ([link(0, None), link(1, 3), link(2, 1)], [1], []),
        ([link(0, None), spoiled(1), link(2, 1)], [1], []),
        ([link(0, None), link(1, 0), spoiled(2)], [2], []),
        ([link(0, None), link(1, 0), link(2, 1), link(3, 0), link(4, 3)], [1, 2], []),
    ],
)
def test_the_chain_is_followed_from_its_newest_seal(links: list[Link], damaged: list[int], gone: list[int]) -> None:
    present = [HOURS.index(each.hour) for each in links]
    assert told(links, present) == ([HOURS[at] for at in damaged], [HOURS[at] for at in gone])


def test_an_hour_without_its_records_is_gone_once() -> None:
    assert told([link(0, None), link(1, 0), link(2, 1)], present=[0, 2]) == ([], [HOURS[1]])


def test_a_pruned_hour_is_not_gone_when_its_seal_is_the_one_told_of() -> None:
    links = [link(1, 0), link(2, 1)]
    assert told(links, pruned={HOURS[0]: "hash-0"}) == ([], [])
    assert told(links, pruned={HOURS[0]: "other"}) == ([], [HOURS[0]])
    assert told(links, pruned={HOURS[0]: None}) == ([], [HOURS[0]])
    assert told([link(0, None), *links], present=[1, 2], pruned={HOURS[0]: "hash-0"}) == ([], [])


def test_a_signature_vouches_for_what_is_before_it() -> None:
    links = [link(0, None), link(1, 0, key="mine"), link(2, 1, key="theirs"), link(3, 2)]
    chain = Chain(links, [], {})
    assert chain.vouched("mine") == {HOURS[0], HOURS[1]}
    assert chain.vouched(None) == {HOURS[0], HOURS[1], HOURS[2]}
    assert chain.unvouched(HOURS[2]) == "signed by theirs, not by your key"
    assert chain.unvouched(HOURS[3]) == "not signed, nor is a later hour with your key"
    assert chain.unvouched(HOURS[4]) is None
    assert Chain([*links, link(4, 3, key="mine")], [], {}).vouched("mine") == set(HOURS[:5])
    spoilt = Chain([*links, link(4, 3, key="mine", why="spoiled")], [], {})
    assert spoilt.vouched("mine") == {HOURS[0], HOURS[1]}
    assert spoilt.unvouched(HOURS[4]) == "sealed, but its seal is not as it was made"


def test_a_signature_vouches_for_no_seal_that_the_chain_does_not_lead_to() -> None:
    links = [link(0, None), link(1, 0), link(2, 1, named="other"), link(3, 2, key="mine")]
    assert Chain(links, [], {}).vouched("mine") == {HOURS[2], HOURS[3]}
    assert Chain([link(0, None), spoiled(1), link(2, 1, key="mine")], [], {}).vouched("mine") == {HOURS[2]}


def test_a_seal_that_is_no_file_is_no_link(tmp_path: Path) -> None:
    assert read_link(tmp_path, HOURS[0]) is None
    seal_path(tmp_path, HOURS[0]).mkdir()
    found = read_link(tmp_path, HOURS[0])
    assert found is not None
    assert (found.seal, found.why) == (None, "it is no regular file of a seal's size")
