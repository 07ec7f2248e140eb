"""The rules that keep openspec/ tidy: every promise has its test, and nothing lies beside the promises. Needs no Node."""

from __future__ import annotations

import ast
import re
from collections import Counter
from functools import cache
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OPENSPEC = ROOT / "openspec"
SPECS = sorted((OPENSPEC / "specs").glob("*/spec.md"))

CAPABILITIES = {
    *("relay", "websocket", "capture", "redaction", "archive-format", "durability", "recovery", "catalog", "search"),
    *("packing", "retention", "sealing", "shipping", "viewer", "export", "replay", "command", "settings", "demo", "second-path"),
    *("framing", "connections", "exposure", "control", "transparency", "workers", "load"),
}
"""The behaviours a user can name. One more is a decision, made here."""

MOST_LINES = 300
MOST_ACTIVE_CHANGES = 5

INSIDE_WORDS = re.compile(
    r"(?<!python )\b[\w/-]+\.(?:py|html|css)\b"  # a file of ours (`python app.py` is somebody else's)
    r"|`[a-z_.]+\(\)`"  # a function
    r"|`_?(?:[A-Z][a-z]+){2,}`"  # a class
    r"|\blines of code\b"
)
"""How it is done, which a requirement does not say."""

each_spec = pytest.mark.parametrize("spec", SPECS, ids=lambda path: path.parent.name)


def sections(text: str, level: int) -> list[tuple[str, str]]:
    """Each heading of this level and the text below it, as far as the next heading of this level or a higher one. Fences are left out."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    parts = re.split(rf"^(#{{1,{level}}}) +(.+)$", text, flags=re.MULTILINE)
    return [(title.strip(), body) for marks, title, body in zip(parts[1::3], parts[2::3], parts[3::3], strict=True) if len(marks) == level]


def scenarios(text: str) -> list[str]:
    return [title.removeprefix("Scenario: ") for title, _ in sections(text, 4)]


def promised_name(title: str) -> str:
    """The name of the test that keeps the promise of the scenario `title`."""
    return "test_" + re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_")


@cache
def written_tests() -> dict[str, list[tuple[Path, ast.AST]]]:
    """Every test function under tests/, by name, with the file it is in."""
    found: dict[str, list[tuple[Path, ast.AST]]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        if "node_modules" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                found.setdefault(node.name, []).append((path, node))
    return found


def test_there_are_promises() -> None:
    assert SPECS, "openspec/specs holds no spec"


@each_spec
def test_a_spec_has_its_form(spec: Path) -> None:
    text = spec.read_text(encoding="utf-8")
    assert re.match(r"# \S.* Specification\n", text), "the first line is '# <Name> Specification'"
    assert [title for title, _ in sections(text, 2)] == ["Purpose", "Requirements"]
    assert text.count("\n") <= MOST_LINES, f"more than {MOST_LINES} lines: it holds two behaviours"
    assert spec.parent.name in CAPABILITIES


@each_spec
def test_a_purpose_is_one_or_two_sentences(spec: Path) -> None:
    purpose = dict(sections(spec.read_text(encoding="utf-8"), 2))["Purpose"].strip()
    assert len(purpose) >= 50
    assert 1 <= len(re.findall(r"[.!?](?=\s|$)", purpose)) <= 2, purpose
    assert "TBD" not in purpose


@each_spec
def test_a_requirement_is_one_statement_seen_from_outside(spec: Path) -> None:
    requirements = sections(spec.read_text(encoding="utf-8"), 3)
    names = [name for name, _ in requirements]
    assert names, "a spec without a requirement"
    assert len(names) == len(set(names)), "two requirements of one name"
    for name, body in requirements:
        assert name.startswith("Requirement: "), name
        statement = re.split(r"^#### ", body, maxsplit=1, flags=re.MULTILINE)[0]
        assert re.search(r"\b(SHALL|MUST)\b", statement), f"{name}: neither SHALL nor MUST"
        assert scenarios(body), f"{name}: no scenario"
        inside = INSIDE_WORDS.search(body)
        assert inside is None, f"{name}: {inside} says how, not what"


@each_spec
def test_a_scenario_says_when_and_then(spec: Path) -> None:
    for title, body in sections(spec.read_text(encoding="utf-8"), 4):
        assert title.startswith("Scenario: "), title
        assert re.search(r"^- \*\*WHEN\*\* \S", body, flags=re.MULTILINE), f"{title}: no WHEN"
        assert re.search(r"^- \*\*THEN\*\* \S", body, flags=re.MULTILINE), f"{title}: no THEN"


@each_spec
def test_every_scenario_has_its_test(spec: Path) -> None:
    names = {title: promised_name(title) for title in scenarios(spec.read_text(encoding="utf-8"))}
    missing = [f"{title!r} needs {name}" for title, name in names.items() if name not in written_tests()]
    assert not missing, "\n".join(missing)


def test_a_test_keeps_one_promise_and_is_never_put_off() -> None:
    """The other direction: from a test's name one finds exactly one scenario, from a scenario one test, and that test runs."""
    promises = Counter(map(promised_name, chain.from_iterable(scenarios(spec.read_text(encoding="utf-8")) for spec in SPECS)))
    assert [name for name, count in promises.items() if count > 1] == [], "scenarios of one title"
    for name in promises.keys() & written_tests().keys():
        places = written_tests()[name]
        assert len(places) == 1, (
            f"{name} is in {', '.join(str(path.relative_to(ROOT)) for path, _ in places)}: which one keeps the promise?"
        )
        node = places[0][1]
        assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        marks = " ".join(ast.unparse(decorator) for decorator in node.decorator_list)
        assert not re.search(r"mark\.(skip|xfail)\b", marks), f"{name} keeps a promise and is put off"


def test_nothing_lies_beside_the_specs() -> None:
    assert {path.name for path in OPENSPEC.iterdir()} <= {"config.yaml", "specs", "changes"}
    beside = [
        path
        for path in (OPENSPEC / "specs").rglob("*")
        if path.is_file() and not re.fullmatch(r"[a-z-]+/spec\.md", path.relative_to(OPENSPEC / "specs").as_posix())
    ]
    assert beside == []


def test_a_finished_change_is_archived() -> None:
    changes = OPENSPEC / "changes"
    active = [path for path in changes.iterdir() if path.is_dir() and path.name != "archive"] if changes.is_dir() else []
    assert len(active) <= MOST_ACTIVE_CHANGES
    for change in active:
        tasks = change / "tasks.md"
        ticks = re.findall(r"^\s*- \[([ xX])\]", tasks.read_text(encoding="utf-8"), flags=re.MULTILINE) if tasks.exists() else []
        assert not ticks or " " in ticks, f"{change.name}: every task is done, so it belongs in changes/archive"
