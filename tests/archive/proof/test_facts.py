"""What one segment says by itself. (What is made of it is in test_verify and test_verify_seals.)"""

from __future__ import annotations

from pathlib import Path

import pytest
from rig_seal import ELEVEN, TEN, filled, rewritten

from archive.errors import NotFound
from archive.folder import seal_path
from archive.keeping.pack import pack
from archive.proof.facts import read_facts


def test_a_sealed_segment_fits_its_seal_until_it_is_changed(tmp_path: Path) -> None:
    path = filled(tmp_path / "archive").folder / f"{TEN}.jsonl.gz"
    facts = read_facts(path)
    assert facts.seal is not None
    assert facts.fits(facts.seal)
    assert (facts.records, facts.exchanges, facts.damaged) == (5, 4, [])
    assert facts.log.sealed() == facts.seal.writers
    rewritten(path)
    assert not read_facts(path).fits(facts.seal)


def test_a_segment_whose_form_changes_meanwhile_is_read_in_the_other(tmp_path: Path) -> None:
    folder = filled(tmp_path / "archive").folder
    plain = folder / f"{TEN}.jsonl.gz"
    before = read_facts(plain)
    pack(folder, TEN)
    after = read_facts(plain)
    assert (after.path.name, after.plain) == (f"{TEN}.jsonl.zst", False)
    assert (after.root, after.records, after.line_bytes) == (before.root, before.records, before.line_bytes)
    (folder / f"{TEN}.jsonl.zst").unlink()
    for name in (f"{TEN}.jsonl.gz", "other.gz"):
        with pytest.raises(NotFound):
            read_facts(folder / name)
    (folder / f"{TEN}.jsonl.gz").symlink_to(folder / f"{ELEVEN}.jsonl.gz")
    with pytest.raises(NotFound):
        read_facts(folder / f"{TEN}.jsonl.gz")


def test_a_segment_beside_no_seal_has_none(tmp_path: Path) -> None:
    path = filled(tmp_path / "archive").folder / f"{TEN}.jsonl.gz"
    renamed = path.rename(path.with_name("renamed.gz"))
    assert read_facts(renamed).seal is None
    renamed.rename(path)
    seal_path(path.parent, TEN).unlink()
    assert read_facts(path).link is None
