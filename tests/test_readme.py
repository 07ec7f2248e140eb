"""What the README promises a newcomer is what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from gateway import serving
from gateway.cli import cli
from gateway.settings import settings_table

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_settings_table_is_the_codes_own() -> None:
    between = README.split("<!-- settings:")[1].split("-->\n", 1)[1].split("<!-- /settings -->")[0]
    assert between.strip() == settings_table().strip()


def test_it_is_short_enough_to_be_read() -> None:
    assert README.count("\n") <= 200


@pytest.mark.parametrize("line", serving.environment_lines("http://127.0.0.1:8787"))
def test_the_lines_to_paste_are_those_that_serve_prints(line: str) -> None:
    assert f"`{line}`" in README


def test_every_command_is_told_of() -> None:
    assert isinstance(cli, click.Group)
    told = set(re.findall(r"`(?:verbatim )?(\w+)(?: [^`]*)?`", README.split("## Commands")[1].split("## The straight line")[0]))
    assert set(cli.commands) <= told


@pytest.mark.parametrize("target", re.findall(r"\]\((?!https?:)([^)#]+)\)", README))
def test_what_it_links_to_is_there(target: str) -> None:
    assert (ROOT / target).exists()
