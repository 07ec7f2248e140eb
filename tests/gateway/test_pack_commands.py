"""`verbatim pack` and `verbatim unpack`: what they do, what they say, what they refuse."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rig_packed import HOUR, PACKED, PLAIN, records, sealed
from samples import HOUR as AT
from samples import Shelf, whole

from archive.folder import plain_name, seal_path
from archive.keeping.forget import carry_out
from archive.proof.seal import seal_hour
from archive.record import id_text
from gateway.cli import cli


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [*map(str, arguments)], prog_name="verbatim")


def segments(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if "jsonl" in name)


def test_the_pack_command_says_what_it_saved(tmp_path: Path) -> None:
    sealed(tmp_path, 2)
    before = records(tmp_path, PLAIN)
    result = run("pack", HOUR, "--archive", tmp_path)
    assert (result.exit_code, result.output[:40]) == (0, f"packed {HOUR}: {result.output[22:40]}"), result.output
    assert "times smaller" in result.output
    assert f"{len(before)} records, each line proved by the seal" in result.output
    assert segments(tmp_path) == [PACKED]
    assert run("verify", "--archive", tmp_path).output.startswith("complete")
    result = run("unpack", "2026-11-19", "--archive", tmp_path)
    assert result.output.startswith(f"unpacked {HOUR}: ")
    assert "the file that was sealed, byte for byte" in result.output
    assert records(tmp_path, PLAIN) == before


def several(folder: Path) -> Shelf:
    """Three sealed hours and one that is not."""
    shelf = Shelf(folder)
    shelf.open()
    for hour in range(4):
        shelf.put([whole(AT + 3600 * hour + at) for at in range(5)])
        if hour < 3:
            seal_hour(folder, f"2026-11-19T1{hour}", now=AT, version="test")
    return shelf


def test_hours_of_an_age_are_packed_and_all_unpacked(tmp_path: Path) -> None:
    several(tmp_path)
    hours = [f"2026-11-19T1{hour}" for hour in range(4)]
    result = run("pack", "--older-than", "0", "--archive", tmp_path)
    assert result.exit_code == 0
    assert segments(tmp_path) == [*(f"{hour}.jsonl.zst" for hour in hours[:3]), plain_name(hours[3])]
    assert result.output.splitlines()[-1].startswith("3 hours packed: ")
    assert run("pack", "--older-than", "0", "--archive", tmp_path).output == "nothing to pack\n"
    result = run("unpack", "--all", "--json", "--archive", tmp_path)
    assert [(it["done"], it["hour"], it["same"]) for it in map(json.loads, result.output.splitlines())] == [
        (True, it, True) for it in hours[:3]
    ]
    assert segments(tmp_path) == list(map(plain_name, hours))
    assert run("pack", "--older-than", "100000", "--archive", tmp_path).output == "nothing to pack\n"


def test_a_dry_run_packs_nothing(tmp_path: Path) -> None:
    several(tmp_path)
    before = segments(tmp_path)
    result = run("pack", "--older-than", "0", "--dry-run", "--archive", tmp_path)
    assert result.exit_code == 0
    assert [line.split(":")[0] for line in result.output.splitlines()[:3]] == [f"would pack 2026-11-19T1{hour}" for hour in range(3)]
    assert result.output.splitlines()[3].startswith("3 hours, ")
    result = run("pack", "2026-11-19T11", "--dry-run", "--json", "--archive", tmp_path)
    assert json.loads(result.output) == {
        "done": False,
        "hour": "2026-11-19T11",
        "before": (tmp_path / plain_name("2026-11-19T11")).stat().st_size,
    }
    assert run("unpack", "--all", "--dry-run", "--archive", tmp_path).output == "nothing to unpack\n"
    assert segments(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["pack"], "say what to pack: hours such as 2026-11-20T10"),
        (["pack", HOUR, "--older-than", "3"], "say what to pack"),
        (["pack", "2026-11-19T13"], "2026-11-19T13 is not sealed, and nothing else may be packed; seal what is over: verbatim seal"),
        (["pack", "2026-11-19"], "2026-11-19T13 is not sealed"),
        (["pack", "2026-11-18T10"], "there are no recordings of 2026-11-18T10"),
        (["pack", "../2026-11-19T10"], "'../2026-11-19T10' is no hour or day; write 2026-11-20T10 or 2026-11-20"),
        (["unpack"], "say what to unpack"),
        (["unpack", HOUR], "2026-11-19T10 is not packed"),
        (["unpack", HOUR, "--all"], "say what to unpack"),
    ],
)
def test_what_cannot_be_packed_is_told_in_one_sentence(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    several(tmp_path)
    before = segments(tmp_path)
    result = run(*arguments, "--archive", tmp_path)
    assert result.exit_code == 2
    assert sentence in result.output
    assert result.output.count("\n") == 1
    assert segments(tmp_path) == before


def test_a_missing_archive_is_told(tmp_path: Path) -> None:
    for arguments in (["pack", HOUR], ["unpack", "--all"]):
        result = run(*arguments, "--archive", tmp_path / "nowhere")
        assert result.exit_code == 2
        assert "there is no archive folder" in result.output


def test_an_hour_that_was_changed_is_named_and_the_others_are_packed(tmp_path: Path) -> None:
    several(tmp_path)
    path = tmp_path / plain_name("2026-11-19T11")
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    result = run("pack", "--older-than", "0", "--archive", tmp_path)
    assert result.exit_code == 1
    assert "not packed: 2026-11-19T11 cannot be packed: " in result.output
    assert segments(tmp_path)[1] == path.name
    assert len([name for name in segments(tmp_path) if name.endswith(".zst")]) == 2
    result = run("pack", "2026-11-19T11", "--json", "--archive", tmp_path)
    assert (result.exit_code, json.loads(result.output)["done"]) == (1, False)


def test_an_hour_that_lost_its_seal_is_unpacked_and_said_to_be_unproved(tmp_path: Path) -> None:
    sealed(tmp_path, 0.2)
    run("pack", HOUR, "--archive", tmp_path)
    seal_path(tmp_path, HOUR).unlink()
    assert "no seal to prove it by" in run("unpack", HOUR, "--archive", tmp_path).output


def test_what_was_forgotten_stays_forgotten_in_both_forms(tmp_path: Path) -> None:
    shelf = several(tmp_path)
    first, *_ = shelf.lines
    carry_out(tmp_path, {bytes.fromhex(first.replace("-", ""))}, by="me", why="asked for", version="test")
    for command in ("pack", "unpack"):
        result = run(command, "2026-11-19T10", "--archive", tmp_path)
        assert result.exit_code == 0, result.output
        name = PACKED if command == "pack" else PLAIN
        assert first not in {id_text(tag.id) for tag, _ in records(tmp_path, name)}
        assert run("verify", "--archive", tmp_path).output.startswith("complete")


def test_a_disk_that_refuses_is_told_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    several(tmp_path)

    def refuse(source: Path, target: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "rename", refuse)
    result = run("pack", "--older-than", "0", "--archive", tmp_path)
    assert result.exit_code == 2
    assert "it was not done to its end: Input/output error" in result.output
    assert len(segments(tmp_path)) == 4
