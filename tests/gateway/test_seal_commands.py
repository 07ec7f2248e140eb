"""`verbatim seal`, `keygen`, `prove`, `check-proof`, and `verify` of what they made: as their users meet them."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from commandline import verbatim
from rig_seal import ELEVEN, TEN, TWELVE, filled, forget, members, rewritten
from samples import HOUR, Shelf, whole

from archive import member
from archive.folder import seal_path
from archive.line import SERVICE_PART, gap_line
from archive.record import id_text
from gateway.cli import cli


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    """Three hours, not sealed yet; the working folder is empty."""
    for name in ("VERBATIM_ARCHIVE", "VERBATIM_SEAL_KEY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    shelf = filled(tmp_path / "archive")
    for hour in (TEN, ELEVEN, TWELVE):
        seal_path(shelf.folder, hour).unlink()
    return shelf


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, list(map(str, arguments)))


def test_hours_that_are_over_are_sealed_and_named(shelf: Shelf) -> None:
    done = run("seal", "--archive", shelf.folder)
    assert done.exit_code == 0
    assert [line.split(":")[0] for line in done.output.splitlines()] == [f"sealed {hour}" for hour in (TEN, ELEVEN, TWELVE)]
    again = run("seal", "--archive", shelf.folder)
    assert (again.exit_code, again.output) == (0, "nothing to seal: no hour without a seal is over\n")
    assert run("verify", shelf.folder).exit_code == 0


def test_seals_are_told_as_json(shelf: Shelf) -> None:
    told = [json.loads(line) for line in run("seal", "--archive", shelf.folder, "--json").output.splitlines()]
    assert [(each["segment"], each["records"], each["key"]) for each in told] == [(TEN, 5, None), (ELEVEN, 1, None), (TWELVE, 2, None)]
    assert run("seal", "--archive", shelf.folder, "--json").output == ""


def test_an_hour_that_cannot_be_sealed_any_more_is_told_of(shelf: Shelf) -> None:
    run("seal", "--archive", shelf.folder)
    shelf.put(whole(HOUR - 3000))
    done = run("seal", "--archive", shelf.folder)
    assert done.exit_code == 0
    assert done.stderr.startswith("not sealed 2026-11-19T09: ")


def test_a_key_signs_seals_and_its_public_half_checks_them(shelf: Shelf, tmp_path: Path) -> None:
    made = run("keygen", tmp_path / "seal.key")
    public = made.output.strip()
    assert (made.exit_code, len(public)) == (0, 64)
    assert (tmp_path / "seal.key").stat().st_mode & 0o777 == 0o600
    assert public in run("seal", "--archive", shelf.folder, "--key", tmp_path / "seal.key").output
    (tmp_path / "seal.pub").write_text(made.output)
    for key in (public, tmp_path / "seal.pub"):
        good = run("verify", shelf.folder, "--key", key)
        assert good.exit_code == 0
        assert f"3 hours signed by {public}\n" in good.output
    assert "was not checked against a key of yours (--key)" in run("verify", shelf.folder).output
    other = run("keygen", tmp_path / "other.key").output.strip()
    bad = run("verify", shelf.folder, "--key", other)
    assert bad.exit_code == 1
    assert f"3 hours are signed by {public}, not by your key" in bad.output


def test_the_key_of_the_settings_is_used(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    public = run("keygen", tmp_path / "seal.key").output.strip()
    monkeypatch.setenv("VERBATIM_SEAL_KEY", str(tmp_path / "seal.key"))
    assert public in run("seal", "--archive", shelf.folder).output


def test_a_forced_key_renames_the_one_that_is_there(tmp_path: Path) -> None:
    path = tmp_path / "seal.key"
    run("keygen", path)
    text = path.read_bytes()
    refused = run("keygen", path)
    assert refused.exit_code == 2
    assert "never overwritten; choose another name, or have it renamed with --force" in refused.stderr
    assert path.read_bytes() == text
    forced = run("keygen", path, "--force")
    assert forced.exit_code == 0
    assert f"the key that was there is now {path}.old" in forced.stderr
    assert (tmp_path / "seal.key.old").read_bytes() == text
    assert path.read_bytes() != text
    third = run("keygen", path, "--force")
    assert third.exit_code == 2
    assert "move it away first" in third.stderr
    assert (tmp_path / "seal.key.old").read_bytes() == text


def test_the_two_halves_of_a_key_are_told_apart(shelf: Shelf, tmp_path: Path) -> None:
    (tmp_path / "seal.pub").write_text(run("keygen", tmp_path / "seal.key").output)
    for command in (["verify", shelf.folder], ["check-proof", tmp_path / "seal.pub"]):
        swapped = run(*command, "--key", tmp_path / "seal.key")
        assert (swapped.exit_code, swapped.stdout) == (2, "")
        assert "seal.key is the private key; give its public half, which `verbatim keygen` printed" in swapped.stderr
    (tmp_path / "seal.pub").chmod(0o644)
    swapped = run("seal", "--archive", shelf.folder, "--key", tmp_path / "seal.pub")
    assert (swapped.exit_code, swapped.stdout) == (2, "")
    assert "seal.pub is a public key, which checks seals; the private key signs them" in swapped.stderr


def test_an_empty_hour_is_removed_and_those_after_it_are_sealed(shelf: Shelf) -> None:
    empty = shelf.folder / "2026-11-19T09.jsonl.gz"
    empty.touch(0o600)
    done = run("seal", "--archive", shelf.folder)
    assert done.exit_code == 0
    assert done.stderr == f"not sealed 2026-11-19T09: nothing is left of segment {empty.name}: it was empty, and is removed\n"
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [f"sealed {hour}" for hour in (TEN, ELEVEN, TWELVE)]
    assert not empty.exists()


def test_verify_with_a_key_says_what_it_does_not_vouch_for(shelf: Shelf, tmp_path: Path) -> None:
    public = run("keygen", tmp_path / "seal.key").output.strip()
    run("seal", "--archive", shelf.folder, "--key", tmp_path / "seal.key")
    assert "\nproven    3 hours by your key\n" in run("verify", shelf.folder, "--key", public).output
    seal_path(shelf.folder, TWELVE).unlink()
    done = run("verify", shelf.folder, "--key", public)
    assert done.exit_code == 1
    first, *rest = done.output.splitlines()
    assert first.startswith(f"unproven: 1 hour is over and not sealed ({TWELVE}); 3 hours, ")
    assert f"unproven  1 hour is over and not sealed ({TWELVE})" in rest
    assert not [line for line in rest if line.startswith("unsealed")]
    (tmp_path / "empty").mkdir()
    emptied = run("verify", tmp_path / "empty", "--key", public)
    assert (emptied.exit_code, emptied.output.splitlines()[1]) == (1, f"unproven  1 folder is without recordings ({tmp_path / 'empty'})")
    assert "head      do not keep this one: it would vouch for what is wrong here" in rest
    told = json.loads(run("verify", shelf.folder, "--key", public, "--json").output)
    assert (told["verdict"], told["complete"], told["worth_keeping"], told["overdue"]) == ("unproven", False, False, [TWELVE])
    assert [each["segment"] for each in told["unproven"]] == [TWELVE]


def test_verify_tells_a_removal_with_its_hours_and_what_stands_behind_it(shelf: Shelf) -> None:
    forget(shelf, TEN, [1])
    run("seal", "--archive", shelf.folder)
    done = run("verify", shelf.folder)
    assert done.exit_code == 0
    first, *rest = done.output.splitlines()
    assert first.startswith(f"complete but for 1 record removed on request ({TEN}): 4 hours, 10 records, all sealed and chained")
    (removed,) = [line for line in rest if line.startswith("removed ")]
    assert removed.startswith(f"removed   1 record of 1 hour ({TEN}), told of at 2026-11-19T13:00:00.000000Z by me@here in {shelf.folder}")
    assert removed.endswith("T13.jsonl.gz, which is sealed and not signed: asked for")
    told = json.loads(run("verify", shelf.folder, "--json").output)
    assert told["removed"] == [{"kind": "forget", "segment": TEN, "records": 1, "proof": "sealed"}]


def test_what_is_no_segment_is_not_counted_as_an_hour(tmp_path: Path) -> None:
    run("keygen", tmp_path / "seal.key")
    done = run("verify", tmp_path / "seal.key")
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"{tmp_path / 'seal.key'} is no segment" in done.stderr


def test_a_seal_that_may_not_be_read_is_told_in_one_sentence(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    run("seal", "--archive", shelf.folder)

    def refused(folder: Path, hour: str) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied", str(seal_path(folder, hour)))

    monkeypatch.setattr("archive.proof.chain.seal_bytes", refused)
    done = run("verify", shelf.folder)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"Error: {seal_path(shelf.folder, TEN)} cannot be used: permission denied; ")


def test_verify_help_says_what_does_not_show_without_key_and_head() -> None:
    text = " ".join(run("verify", "--help").output.split())
    assert "Without --key, whoever can write to the folder can seal it anew." in text
    assert "Without --head, kept elsewhere, newest hours that are gone with their seals do not show" in text


def test_a_proof_goes_round_without_the_recordings(shelf: Shelf, tmp_path: Path) -> None:
    public = run("keygen", tmp_path / "seal.key").output.strip()
    record = whole(HOUR + 7203)
    shelf.put(record)
    run("seal", "--archive", shelf.folder, "--key", tmp_path / "seal.key")
    proof = tmp_path / "exchange.proof.json"
    made = run("prove", id_text(record.id), "--archive", shelf.folder, "-o", proof)
    assert (made.exit_code, made.output) == (0, "")
    assert proof.stat().st_mode & 0o777 == 0o600
    assert json.loads(run("prove", id_text(record.id), "--archive", shelf.folder).output) == json.loads(proof.read_text())
    again = run("prove", id_text(record.id), "--archive", shelf.folder, "-o", proof)
    assert again.exit_code == 2
    assert "is there already" in again.stderr

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    good = verbatim(elsewhere, "check-proof", proof, "--key", public)
    assert (good.returncode, good.stderr) == (0, "")
    assert good.stdout.startswith(f"holds: record 2 of 3 (from 0) in the hour {TWELVE}, sealed at ")
    assert good.stdout.endswith(", signed by your key\n")
    (told,) = [json.loads(line) for line in verbatim(elsewhere, "check-proof", proof, "--json").stdout.splitlines()]
    assert told["line"].encode() == shelf.lines[id_text(record.id)][0]
    assert "was not checked" in run("check-proof", proof).output
    assert "the one you gave" in run("check-proof", proof, "--root", told["root"]).output
    wrong = run("check-proof", proof, "--root", "00" * 32)
    assert (wrong.exit_code, wrong.output) == (1, "does not hold: the root of its seal is not the one given\n")
    proof.write_text(proof.read_text().replace("done", "gone"))
    changed = run("check-proof", proof)
    assert (changed.exit_code, changed.output[:15]) == (1, "does not hold: ")


def test_an_unsigned_proof_says_what_it_is_worth(shelf: Shelf, tmp_path: Path) -> None:
    run("seal", "--archive", shelf.folder)
    (exchange, *_) = shelf.lines
    proof = tmp_path / "proof.json"
    assert run("prove", exchange, "--archive", shelf.folder, "-o", proof).exit_code == 0
    assert "not signed: it proves what it says to those who know that root" in run("check-proof", proof).output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["seal"], "there is no archive folder data/archive to seal"),
        (["seal", "--archive", "A", "--key", "none.key"], "the key file none.key cannot be opened: No such file or directory"),
        (["prove", "01234567", "--archive", "A"], "no exchange begins with 01234567"),
        (["prove", "0123", "--archive", "A"], "an id is 32 hexadecimal digits"),
        (["prove", "FIRST", "--archive", "A"], f"the hour {TEN}, which holds this exchange, is not sealed"),
        (["check-proof", "A/2026-11-19T10.jsonl.gz"], "this is no proof"),
        (["check-proof", "nowhere"], "nowhere"),
        (["verify", "A", "--key", "none"], "none is neither a public key of 64 hexadecimal digits nor a file"),
        (["verify", "A/2026-11-19T10.seal.json"], "is no segment; `verbatim check-proof` checks a proof"),
        (["keygen", "nowhere/seal.key"], "there is no folder nowhere for the key"),
        (["keygen", ""], "give the key's file a name"),
        (["verify", "A", "--head", "zz"], "--head takes a SHA-256, 64 hexadecimal digits, and 'zz' is none"),
        (["check-proof", "A/2026-11-19T10.jsonl.gz", "--root", "zz"], "--root takes a SHA-256, 64 hexadecimal digits, and 'zz' is none"),
        (["verify", "A/../nowhere/2026-11-19T10.jsonl.gz"], "/nowhere/2026-11-19T10.jsonl.gz cannot be opened: No such file or directory"),
    ],
)
def test_what_cannot_be_sealed_or_proved_is_told_in_one_sentence(shelf: Shelf, arguments: list[str], told: str) -> None:
    first = next(iter(shelf.lines))
    given = [str(shelf.folder) + each[1:] if each.startswith("A") else first if each == "FIRST" else each for each in arguments]
    done = run(*given)
    assert done.exit_code == 2
    assert told in done.stderr
    assert done.stdout == ""


def test_verify_says_in_words_what_it_found(shelf: Shelf) -> None:
    run("seal", "--archive", shelf.folder)
    path = shelf.folder / f"{TEN}.jsonl.gz"
    begin, length, number, _ = rewritten(path)
    (shelf.folder / f"{ELEVEN}.jsonl.gz").unlink()
    (shelf.folder / "notes.txt").write_text("hello")
    done = run("verify", shelf.folder)
    assert done.exit_code == 1
    first, *rest = done.output.splitlines()
    assert first.startswith(
        f"damaged: 1 place, the first in {path} at byte {begin:,}, {length} bytes: its line is not the one that was sealed"
    )
    assert "1 sealed hour is gone, 1 record is missing" in first
    text = "\n".join(rest)
    damaged = f"damaged   {path}: {length} bytes at {begin:,}: its line is not the one that was sealed"
    assert f"{damaged} (record {number} of the hour, from 0; exchange" in text
    assert f"gone      hour {ELEVEN}: its seal is there and its records are not; it held 1 record" in text
    assert f"missing   1 record of writer {id_text(shelf.writer)}, number 5, between 2026-11-19T10:00:04.000000Z and 2026-11-19T12:" in text
    assert "strangers 1 name that no writer makes, not looked at: " in text
    assert "head      do not keep this one" in text
    assert "2 sealed, 1 of them as it was sealed" in first
    told = json.loads(run("verify", shelf.folder, "--json").output)
    assert (told["verdict"], told["complete"], told["damages"]) == ("damaged", False, 1)
    assert (told["damaged"][0]["first_record"], told["missing"][0]["count"]) == (2, 1)


def test_verify_holds_an_archive_against_a_head_kept_elsewhere(shelf: Shelf) -> None:
    run("seal", "--archive", shelf.folder)
    head = json.loads(run("verify", shelf.folder, "--json").output)["head"]
    assert run("verify", shelf.folder, "--head", head, "--jobs", "2").exit_code == 0
    for path in (shelf.folder / f"{TWELVE}.jsonl.gz", seal_path(shelf.folder, TWELVE)):
        path.unlink()
    assert run("verify", shelf.folder).exit_code == 0
    assert run("verify", shelf.folder, "--head", head).exit_code == 1


def test_verify_prints_the_first_of_many_and_counts_the_rest(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "archive")
    shelf.open()
    for at in range(120):
        shelf.raw(b"garbage")
        shelf.put(whole(HOUR + at))
    lines = run("verify", shelf.folder).output.splitlines()
    assert lines[0].startswith("damaged: 120 places, the first in ")
    assert sum(line.startswith("damaged   ") for line in lines) == 101
    assert "damaged   20 further: --json tells of them" in lines


def test_verify_tells_of_losses_removals_and_writers(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "archive")
    shelf.open()
    path = shelf.put([whole(HOUR + at) for at in (1, 2, 3)])
    shelf.seq += 5
    name = id_text(shelf.writer)
    line = gap_line(writer=name, seq=shelf.seq, at=HOUR, since=HOUR, until=HOUR + 9, records=5, exchanges=4, size=99, why="no space left")
    shelf.raw(member.pack(line + b"\n", id=shelf.writer, part=SERVICE_PART, seq=shelf.seq))
    forget(shelf, path.name[:13], [2], at=HOUR + 3600, carried_out=False)
    other = Shelf(shelf.folder, writer=bytes(range(16)), host="another")
    other.open(HOUR + 3601)
    killer = Shelf(shelf.folder, writer=bytes(range(1, 17)))
    killer.open(HOUR + 7200)
    killer.close(HOUR + 7201)
    copied = members(path)[1]
    shelf.raw(copied, HOUR + 7200)
    (shelf.folder / "quarantine").mkdir()
    (shelf.folder / "quarantine" / "torn").write_bytes(b"torn")
    done = run("verify", shelf.folder)
    assert done.exit_code == 1
    first, *rest = done.output.splitlines()
    assert first.startswith("damaged: 1 record is there twice; 5 records were lost as gap records say (no space left); 3 hours, ")
    since = "which is not sealed yet: until it is, whoever can write there may have written this line"
    told = f"{shelf.folder / f'{ELEVEN}.jsonl.gz'}, {since}: asked for; 1 record still there"
    why = "if hours are sealed here, their seals were taken away, or `verbatim seal` is due"
    assert [line.replace(".000000Z", "") for line in rest] == [
        f"repeated  1 record of writer {name}, number 1: in {path} and in {shelf.folder / '2026-11-19T12.jsonl.gz'}",
        "gap       2026-11-19T10:00:00 to 2026-11-19T10:00:09: 5 records of 4 exchanges lost, about 99 bytes: no space left",
        f"removed   1 record of 1 hour ({TEN}), told of at 2026-11-19T11:00:00 by me@here in {told}",
        f"open      writer {id_text(other.writer)}, last heard of at 2026-11-19T11:00:01: still at work, or killed with what it had queued",
        f"killed    writer {name}, last heard of at 2026-11-19T10:00:00: what it had queued then is lost",
        "aside     4 bytes in 1 file of quarantine: torn ends that crashes left",
        f"unsealed  3 hours over and not sealed: {TEN}, {ELEVEN}, {TWELVE}; {why}",
    ]
