"""`verbatim prune` and `verbatim forget`: what they show, what they ask, what they remove."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from samples import HOUR, Shelf, in_parts, whole

from archive.folder import segments
from archive.keeping import choice
from archive.keeping.clerk import Removals, user
from archive.reader import Reader
from archive.record import id_text
from archive.segment import Appended, Appender
from gateway.cli import cli


def run(*arguments: str | Path, answer: str | None = None) -> Result:
    return CliRunner().invoke(cli, [*map(str, arguments)], prog_name="verbatim", input=answer)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    shelf = Shelf(tmp_path / "archive")
    shelf.open()
    return shelf


def there(folder: Path) -> set[str]:
    return {entry.id for entry in Reader(folder).page().entries}


def told(folder: Path) -> list[dict[str, Any]]:
    removals = Removals(folder)
    removals.refresh()
    return [event.detail for removal in removals.all() for event in removals.events(removal) if event.detail]


def test_forget_shows_what_would_go_and_asks(shelf: Shelf) -> None:
    goes, stays = whole(HOUR + 1), whole(HOUR + 2)
    shelf.put([goes, stays])
    name = id_text(goes.id)
    for options, answer, code in ((["--dry-run"], None, 0), ([], "n\n", 0), ([], "", 2)):
        result = run("forget", name, "--archive", shelf.folder, *options, answer=answer)
        assert result.exit_code == code, result.output
        assert name in result.output
        assert "To forget: 1 exchange, 1 record in 1 hour" in result.output
        assert there(shelf.folder) == {name, id_text(stays.id)}
    result = run("forget", name, "--archive", shelf.folder, answer="y\n")
    assert result.exit_code == 0
    assert "Forgotten: 1 record of 1 exchange." in result.output
    assert there(shelf.folder) == {id_text(stays.id)}
    (line,) = told(shelf.folder)
    assert (line["by"], line["why"]) == (user(), "asked for by id")


def test_forget_takes_a_session_or_an_age(shelf: Shelf) -> None:
    records = [whole(HOUR + number) for number in range(4)]
    records[2].client.session = "other"
    shelf.put(records)
    assert run("forget", "--session", "other", "--archive", shelf.folder, "--yes", "--why", "no consent").exit_code == 0
    assert there(shelf.folder) == {id_text(it.id) for it in records if it is not records[2]}
    (line,) = told(shelf.folder)
    assert line["why"] == "no consent"
    assert run("forget", "--before", "2026-11-19T10:00:01Z", "--archive", shelf.folder, "--yes").exit_code == 0
    assert there(shelf.folder) == {id_text(records[1].id), id_text(records[3].id)}
    assert told(shelf.folder)[-1]["why"] == "begun before 2026-11-19T10:00:01Z"
    assert run("forget", "--before", "2026-11-20", "--session", "run-1", "--archive", shelf.folder, "--yes").exit_code == 0
    assert there(shelf.folder) == set()


def test_the_tombstone_does_not_quote_the_session(shelf: Shelf) -> None:
    record = whole(HOUR + 1)
    record.client.session = "canary-session"
    shelf.put(record)
    run("forget", "--session", "canary-session", "--archive", shelf.folder, "--yes")
    assert "canary" not in json.dumps(told(shelf.folder))


def test_a_running_exchange_is_not_forgotten(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, ended = in_parts([b"a"], end=None), whole(HOUR + 2)
    shelf.put([*begun, ended])
    name = id_text(begun[0].id)
    monkeypatch.setattr(choice, "_running", lambda folder, chosen: [it for it in chosen if it.id == begun[0].id])
    result = run("forget", name, "--archive", shelf.folder, "--yes")
    assert result.exit_code == 2
    assert f"{name} is still running; forget it when it has ended" in result.output
    result = run("forget", "--session", "run-1", "--archive", shelf.folder, "--yes")
    assert "1 exchange of those meant still running: left as they are." in result.output
    assert there(shelf.folder) == {name}


def test_plans_are_there_for_scripts(shelf: Shelf) -> None:
    record = whole(HOUR + 1)
    shelf.put(record)
    shelf.put(whole(HOUR + 3601))
    shown = json.loads(run("forget", id_text(record.id), "--archive", shelf.folder, "--dry-run", "--json").output)
    assert shown["running"] == []
    (row,) = shown["exchanges"]
    assert (row["id"], row["records"], row["hours"]) == (id_text(record.id), 1, ["2026-11-19T10"])
    assert row["at"] == "2026-11-19T10:00:01.000Z"
    shown = json.loads(run("prune", "--keep-days", "1", "--archive", shelf.folder, "--dry-run", "--json").output)
    assert [it["hour"] for it in shown["hours"]] == ["2026-11-19T10", "2026-11-19T11"]
    assert (shown["records"], shown["hours_left"], shown["bytes_left"]) == (3, 0, 0)
    assert len(segments(shelf.folder)) == 2


def test_prune_shows_what_would_go_and_asks(shelf: Shelf) -> None:
    shelf.put(whole(HOUR + 1))
    for options, answer, code in ((["--dry-run"], None, 0), ([], "n\n", 0), ([], "", 2)):
        result = run("prune", "--keep-days", "1", "--archive", shelf.folder, *options, answer=answer)
        assert result.exit_code == code, result.output
        assert "2026-11-19T10          2 records" in result.output
        assert "older than 1 day" in result.output
        assert [path.name for path in segments(shelf.folder)] == ["2026-11-19T10.jsonl.gz"]
    result = run("prune", "--keep-days", "1", "--archive", shelf.folder, "--yes")
    assert "Removed: 1 hour," in result.output
    assert "2026-11-19T10.jsonl.gz" not in [path.name for path in segments(shelf.folder)]
    assert run("prune", "--keep-days", "1", "--archive", shelf.folder, "--yes").output.startswith("Nothing goes.")


def test_the_current_hour_beyond_the_bound_is_told(shelf: Shelf) -> None:
    import time

    shelf.put(whole(time.time()))
    result = run("prune", "--keep-bytes", "1", "--archive", shelf.folder, "--dry-run")
    assert "The current hour alone is" in result.output


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["forget"], "say what to forget: ids, or --session NAME, or --before DATE|AGE"),
        (["forget", "0190aaaa", "--session", "x"], "say what to forget"),
        (["forget", "--before", "soon"], "--before: 'soon' is no date or age; write 2026-11-20, 2026-11-20T10:30, 30d or 12h"),
        (["forget", "0190", "--yes"], "'0190' is no id"),
        (["forget", "0190aaaa", "--yes"], "no exchange begins with 0190aaaa"),
        (["forget", "0190aaaa", "--json"], "--json asks nobody: give --dry-run or --yes with it"),
        (["prune"], "nothing says what to keep: give --keep-days or --keep-bytes"),
        (["prune", "--keep-days", "x"], "--keep-days must be a whole number"),
    ],
)
def test_a_removal_that_cannot_be_is_told_in_one_sentence(shelf: Shelf, arguments: list[str], sentence: str) -> None:
    result = run(*arguments, "--archive", shelf.folder)
    assert result.exit_code == 2
    assert sentence in result.output
    assert result.output.count("\n") == 1
    assert "again" not in result.output, "nothing was begun"


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    for arguments in (["forget", "0190aaaa"], ["prune", "--keep-days", "1"]):
        result = run(*arguments, "--archive", tmp_path / "nowhere")
        assert result.exit_code == 2
        assert (
            f"there is no archive folder {tmp_path / 'nowhere'} to {'forget from' if arguments[0] == 'forget' else 'prune'}"
            in result.output
        )
    assert not (tmp_path / "nowhere").exists()


def test_an_archive_of_another_user_is_left_to_that_user(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even for root: files it made there the gateway could not open any more."""
    shelf.put(whole(HOUR + 1))
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    for arguments in (["forget", "--before", "1m"], ["prune", "--keep-days", "1"]):
        result = run(*arguments, "--archive", shelf.folder, "--yes")
        assert result.exit_code == 2
        assert "belongs to another user; run this as that one: sudo -u " in result.output
    monkeypatch.undo()
    if uid == 0:
        os.chown(shelf.folder, 54321, -1)
        assert "sudo -u '#54321'" in run("forget", "--before", "1m", "--archive", shelf.folder, "--yes").output
    assert [path.name for path in segments(shelf.folder)] == ["2026-11-19T10.jsonl.gz"]


def test_what_keeps_a_removal_from_beginning_is_told(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = whole(HOUR + 1)
    shelf.put(record)
    (shelf.folder / "quarantine").symlink_to(tmp_path)
    result = run("forget", id_text(record.id), "--archive", shelf.folder, "--yes")
    assert result.exit_code == 2
    assert result.output.endswith("Error: quarantine is a symbolic link: refused; move it away\n")
    (shelf.folder / "quarantine").unlink()

    def append(*_: object) -> Appended:
        return Appended(0, PermissionError(13, "Permission denied", str(shelf.folder / "x")))

    monkeypatch.setattr(Appender, "append", append)
    for command in (["forget", id_text(record.id)], ["prune", "--keep-days", "1"]):
        result = run(*command, "--archive", shelf.folder, "--yes")
        assert result.exit_code == 2
        assert result.output.splitlines()[-1].startswith(f"Error: {shelf.folder / 'x'} cannot be used: permission denied; ")
        assert "again" not in result.output
    assert there(shelf.folder) == {id_text(record.id)}


def test_the_same_command_again_goes_on_with_what_was_begun(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    record = whole(HOUR + 1)
    shelf.put(record)
    torn = shelf.pack(record)[:-9]
    (shelf.folder / "quarantine").mkdir()
    (shelf.folder / "quarantine" / "torn").write_bytes(torn)
    unlink = os.unlink

    def refusing(path: str, **options: Any) -> None:
        if path == "torn":
            raise OSError(errno.EIO, "Input/output error", path)
        unlink(path, **options)

    command = ("forget", id_text(record.id), "--archive", shelf.folder, "--yes")
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refusing)
        result = run(*command)
    assert result.exit_code == 2
    assert result.output.endswith("It is not done to its end; the same command again goes on with it\n")
    assert there(shelf.folder) == set()
    result = run(*command)
    assert (result.exit_code, result.output) == (0, "finished first: 1 removal that had been cut short\n")
    assert list((shelf.folder / "quarantine").iterdir()) == []
