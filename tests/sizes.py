"""Lines per room, and the modules and functions longer than the guidance. A number exceeded is a question for review, not a failure."""

from __future__ import annotations

import ast
import statistics
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODULE_LINES = 250
FUNCTION_LINES = 50


def main() -> None:
    for room in ("archive", "dashboard", "gateway", "tests"):
        modules = {path: path.read_text(encoding="utf-8") for path in sorted((ROOT / room).rglob("*.py"))}
        lines = {path: text.count("\n") for path, text in modules.items()}
        print(f"{room:10} {len(modules):3} modules  {sum(lines.values()):6,} lines  median {statistics.median(lines.values()):.0f}")
        for path, text in modules.items():
            if lines[path] > MODULE_LINES and room != "tests":
                print(f"    {path.relative_to(ROOT)}: {lines[path]} lines")
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (node.end_lineno or 0) - node.lineno >= FUNCTION_LINES:
                    print(f"    {path.relative_to(ROOT)}:{node.lineno} {node.name}: {(node.end_lineno or 0) - node.lineno + 1} lines")


if __name__ == "__main__":
    main()
