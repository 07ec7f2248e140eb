"""`verbatim index`, and the commands that use what it makes, as their users run them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner
from commandline import COMMAND, Running, clean_environment, verbatim
from rig_archive import until
from samples import HOUR, Shelf, whole

from archive.catalog.follow import Follower
from archive.catalog.tables import CATALOG
from gateway.commands.index import index


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    shelf = Shelf(tmp_path / "archive")
    shelf.open()
    shelf.put([whole(HOUR + 600 * number, body=f"number{number}".encode()) for number in range(30)])
    return shelf


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_index_is_brought_up_to_date_and_made_anew(shelf: Shelf, tmp_path: Path) -> None:
    recordings = files(shelf.folder)
    first = verbatim(tmp_path, "index", "--archive", shelf.folder)
    assert first.returncode == 0, first.stderr
    assert "It is up to date: 5 hours, 31 records" in first.stdout
    assert first.stderr.startswith("Indexing: ")
    assert first.stderr.endswith("Indexing: 100 %\n")
    made = (shelf.folder / "index" / CATALOG).stat()
    shelf.put(whole(HOUR + 9000))
    second = verbatim(tmp_path, "index", "--archive", shelf.folder)
    assert "32 records" in second.stdout
    assert (shelf.folder / "index" / CATALOG).stat().st_ino == made.st_ino
    anew = verbatim(tmp_path, "index", "--rebuild", "--archive", shelf.folder)
    assert "32 records" in anew.stdout
    assert "Indexing: 0 %" in anew.stderr
    found = json.loads(verbatim(tmp_path, "ls", "--json", "-n1", "--text", "number7", "--archive", shelf.folder).stdout)
    assert found["id"] in shelf.lines
    assert files(shelf.folder).items() >= {name: data for name, data in recordings.items() if "T12" not in name}.items()


def test_the_commands_that_read_write_nothing(shelf: Shelf, tmp_path: Path) -> None:
    name = next(iter(shelf.lines))
    commands = [["ls"], ["ls", "--status", "4xx"], ["ls", "--text", "number3"], ["search", "number3"], ["show", name]]
    for indexed in (False, True):
        if indexed:
            assert verbatim(tmp_path, "index", "--archive", shelf.folder).returncode == 0
        before = files(shelf.folder)
        for command in commands:
            done = verbatim(tmp_path, *command, "--archive", shelf.folder)
            assert done.returncode == 0, done.stderr
        assert files(shelf.folder) == before


def test_a_bar_shows_the_progress_on_a_terminal(shelf: Shelf, tmp_path: Path) -> None:
    command = [*COMMAND, "index", "--archive", str(shelf.folder)]
    leader, follower = os.openpty()
    process = subprocess.Popen(command, cwd=tmp_path, env=clean_environment(TERM="xterm"), stderr=follower, stdout=subprocess.DEVNULL)
    os.close(follower)
    shown = b""
    try:
        while chunk := os.read(leader, 4096):
            shown += chunk
    except OSError:
        pass  # EIO: the other end is closed
    os.close(leader)
    assert process.wait(20) == 0
    assert b"Indexing" in shown
    assert b"100%" in shown


def test_what_a_viewer_follows_is_left_to_the_viewer(shelf: Shelf, tmp_path: Path) -> None:
    viewer = Running(tmp_path, "view", shelf.folder, "--viewer-port", "0")
    try:
        until(lambda: (shelf.folder / "index" / CATALOG).exists())
        for arguments in ((), ("--rebuild",)):
            done = verbatim(tmp_path, "index", *arguments, "--archive", shelf.folder)
            assert done.returncode == 0, done.stderr
            assert "The viewer has brought it up to date: 5 hours, 31 records" in done.stdout
    finally:
        viewer.end()


def test_a_follower_that_does_not_get_on_is_not_waited_for(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.commands.index._PATIENCE", 0.3)
    monkeypatch.setattr("gateway.commands.index._SETTLED", 0.3)
    with closing(Follower(shelf.folder, spare=0)) as other:
        assert other.step()  # and then nothing more
        monkeypatch.setattr("gateway.commands.index._TORN", 1)
        stuck = CliRunner().invoke(index, ["--archive", str(shelf.folder)])
        assert (stuck.exit_code, "does not get on" in stuck.output) == (2, True)
        while other.step():
            pass
        monkeypatch.setattr("gateway.commands.index._TORN", 1000)
        shelf.raw(bytes(500), HOUR)  # a torn end is no record that could be waited for
        done = CliRunner().invoke(index, ["--archive", str(shelf.folder)])
        assert done.exit_code == 0, done.output


def test_an_index_that_cannot_be_made_is_said_in_one_sentence(shelf: Shelf, tmp_path: Path) -> None:
    (shelf.folder / "index").write_bytes(b"")
    done = verbatim(tmp_path, "index", "--archive", shelf.folder)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "the index cannot be written to" in done.stderr
    gone = verbatim(tmp_path, "index", "--archive", tmp_path / "nowhere")
    assert (gone.returncode, "nowhere" in gone.stderr) == (2, True)


@pytest.mark.skipif(shutil.which("unshare") is None or os.geteuid() != 0, reason="a read-only mount needs root")
def test_a_read_only_archive_has_its_index_in_the_cache(shelf: Shelf, tmp_path: Path) -> None:
    script = f'mount --bind {shelf.folder} {shelf.folder} && mount -o remount,ro,bind {shelf.folder} && exec "$@"'
    command = ["unshare", "--mount", "sh", "-ec", script, "sh", *COMMAND, "index", "--archive", str(shelf.folder)]
    env = clean_environment(XDG_CACHE_HOME=str(tmp_path / "cache"))
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=40, check=False)
    if "mount" in done.stderr:
        pytest.skip("this machine does not allow the mount")
    assert done.returncode == 0, done.stderr
    assert "31 records" in done.stdout
    assert not (shelf.folder / "index").exists()
    (cached,) = (tmp_path / "cache" / "verbatim").iterdir()
    assert sorted(path.name for path in cached.iterdir()) == ["catalog.lock", "catalog.sqlite", "words-2026-11-19.sqlite"]


def test_no_index_is_made_in_an_archive_of_another_user(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even by root: its files the owner's viewer could not open."""
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    done = CliRunner().invoke(index, ["--archive", str(shelf.folder)])
    assert done.exit_code == 2
    assert "belongs to another user; run this as that one: sudo -u " in done.output
    assert not (shelf.folder / "index").exists()
