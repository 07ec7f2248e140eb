"""The shape of the house: who may import whom, no import cycles, modules that say what they are for. Sizes are `make sizes`, a report."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("archive", "dashboard", "gateway")
MODULES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))

EMPTY_WORDS = ("Manager", "Helper", "Helpers", "Util", "Utils", "Impl", "Processor", "Service")
"""Names that say nothing of what a thing is. (A module may be about service lines; a class called a service is about nothing.)"""

each_module = pytest.mark.parametrize("module", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())


def test_imports_keep_the_contracts() -> None:
    """The contracts in pyproject.toml: one direction only between the rooms, no I/O in what is sans-I/O."""
    lint = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([lint, "--no-logo", "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_no_module_imports_itself_through_others() -> None:
    graph = grimp.build_graph(*ROOMS, exclude_type_checking_imports=True, cache_dir=None)
    imports = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as cycle:
        pytest.fail(" <- ".join(cycle.args[1]))


@each_module
def test_a_module_opens_by_saying_what_it_is_for(module: Path) -> None:
    said = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8")))
    assert said, "no docstring"
    opening = said.split("\n\n")[0]
    assert len(opening.splitlines()) <= 4, "what it is for, in one to four lines; theory may follow below"
    assert opening.rstrip()[-1] in ".:", "a sentence ends"


@each_module
def test_names_say_what_a_thing_is(module: Path) -> None:
    tree = ast.parse(module.read_text(encoding="utf-8"))
    empty = [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name.endswith(EMPTY_WORDS)]
    assert not empty
    assert not module.stem.title().endswith(EMPTY_WORDS[:-1])
    abstract = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom) and "abc" in _imported(node)]
    assert not abstract, "a seam is a Protocol"


def _imported(node: ast.Import | ast.ImportFrom) -> set[str]:
    return {node.module or ""} if isinstance(node, ast.ImportFrom) else {alias.name for alias in node.names}


@pytest.mark.parametrize("name", ["control", "framing", "grammar", "wire"])
def test_no_pattern_that_decides_what_crosses_has_a_possessive_group(name: str) -> None:
    """CPython issue 106052: before 3.11.5 such a group may match what it should not, or miss what it should. Runs of one set may be."""
    source = (ROOT / "gateway" / f"{name}.py").read_text("utf-8")
    without_sets = re.sub(r"\[\^?\]?(?:\\.|[^\]\\])*\]", "x", source)
    assert not re.findall(r"(?<!\\)\)(?:[*+?]|\{[0-9,]+\})\+", without_sets)
