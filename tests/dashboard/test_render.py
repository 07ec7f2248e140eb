"""Templates: everything a template prints is escaped and shows what cannot be seen, without asking for it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from jinja2 import UndefinedError

import dashboard
from dashboard.render import Renderer, assets

TEMPLATES = Path(dashboard.__file__).parent / "templates"


def test_what_a_template_prints_is_escaped_and_named() -> None:
    page = Renderer(assets(), folder="<b>\u202e", gateway='"><script>').html("welcome.html")
    assert "<b>" not in page
    assert "&lt;b&gt;\u27e8U+202E\u27e9" in page
    assert "<script>" not in page


def test_a_value_that_is_missing_is_a_mistake_not_a_blank() -> None:
    with pytest.raises(UndefinedError):
        Renderer(assets()).html("welcome.html")


@pytest.mark.parametrize("template", sorted(TEMPLATES.glob("*.html")), ids=lambda path: path.name)
def test_no_template_lets_text_through_or_acts_inline(template: Path) -> None:
    source = template.read_text()
    assert not re.search(r"\|\s*safe\b|autoescape|Markup", source)
    assert not re.search(r"\sstyle=|\son[a-z]+=|javascript:|<script(?![^>]* src=)|<style", source, re.IGNORECASE)
    for name, value in re.findall(r"\b(href|src|action)=\"([^\"]*)", source):
        assert value.startswith(("/", "#", "?", "{{ asset(", "{{ with_query(", "{{ newest", "{{ path")), f"{name}={value}"


def test_own_files_carry_their_version() -> None:
    files = assets()
    assert set(files) == {"icon.svg", "viewer.css", "viewer.js"}
    assert all(re.fullmatch("[0-9a-f]{12}", file.version) for file in files.values())


def test_the_script_makes_no_markup_of_strings() -> None:
    source = assets()["viewer.js"].content.decode()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|eval|Function\(|setTimeout\([\"'`]", source)
