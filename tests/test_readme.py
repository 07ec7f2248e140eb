"""What the README promises a newcomer is what the code does."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from commandline import clean_environment
from samples import HOUR, Shelf, in_parts, whole

from archive.keeping.pack import Repacked, pack
from archive.proof.seal import seal_hour
from archive.segment import segment_name
from gateway import serving
from gateway.cli import cli
from gateway.settings import settings_table

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_settings_table_is_the_codes_own() -> None:
    page = (ROOT / "gateway" / "SETTINGS.md").read_text(encoding="utf-8")
    assert page.split("-->\n", 1)[1].strip() == settings_table().strip()


def test_it_is_short_enough_to_be_read() -> None:
    assert README.count("\n") <= 200


@pytest.mark.parametrize("line", serving.environment_lines("http://127.0.0.1:8787"))
def test_the_lines_to_paste_are_those_that_serve_prints(line: str) -> None:
    assert f"`{line}`" in README


def test_every_command_is_told_of() -> None:
    assert isinstance(cli, click.Group)
    told = set(re.findall(r"`(?:verbatim )?(\w+)(?: [^`]*)?`", README.split("## Commands")[1].split("## The straight line")[0]))
    assert set(cli.commands) <= told


def test_the_sql_over_the_archive_runs(tmp_path: Path) -> None:
    """In its own process, as an engine brings threads along. The last hour is torn: the sealed list leaves it out."""
    if importlib.util.find_spec("duckdb") is None:
        pytest.skip("duckdb is not installed")
    shelf = Shelf(tmp_path / "data" / "archive")
    shelf.put([whole(HOUR + at, body=b'{"model": "gpt-5"}', status=status) for at, status in ((1, 200), (2, 200), (3, 429))])
    shelf.put([whole(HOUR + 3601, body=b"no JSON"), *in_parts([b"a", b"b"], at=HOUR + 3602)])
    torn = shelf.put(whole(HOUR + 7201))
    torn.write_bytes(torn.read_bytes()[:-9])
    for at in (HOUR, HOUR + 3600):
        seal_hour(shelf.folder, segment_name(at)[:13], now=HOUR + 9000, version="1")
    assert isinstance(pack(shelf.folder, segment_name(HOUR)[:13]), Repacked)
    (sql,) = re.findall(r"```sql\n(.*?)```", README, flags=re.DOTALL)
    script = "import duckdb, json, sys\nconnection = duckdb.connect()\nfor sql in sys.argv[1:]:\n    found = connection.execute(sql)\n"
    command = [sys.executable, "-I", "-c", script + "print(json.dumps(found.fetchall(), default=str))", *sql.strip().split(";\n")]
    done = subprocess.run(command, cwd=tmp_path, env=clean_environment(TZ="UTC"), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [["2026-11-19", "gpt-5", 3, 1, 20.25], ["2026-11-19", None, 2, 0, 20.25]]


@pytest.mark.parametrize("target", re.findall(r"\]\((?!https?:)([^)#]+)\)", README))
def test_what_it_links_to_is_there(target: str) -> None:
    assert (ROOT / target).exists()
