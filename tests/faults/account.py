"""The accounts of the campaigns: one row each, kept where VERBATIM_CRASH_TABLE says, and printed as a table.

`python account.py FILE` prints the rows of that file as Markdown; the same campaign's rows are added up.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

__all__ = ["LONG", "account"]

LONG = "VERBATIM_CRASH_TRIALS" in os.environ
"""Whether the campaigns run at length, as `make crash` has it."""
COUNTS = ("trials", "acknowledged", "injected", "lost", "doubled", "unreadable")
HEADS = ("trials", "acknowledged", "torn, failed or dropped on purpose", "lost", "doubled", "unreadable", "s")


def account(campaign: str, counts: Mapping[str, int], seconds: float, note: str = "") -> None:
    """Keep a row: what was tried and what came of it. Fails where anything was lost, doubled or unreadable."""
    row = {"campaign": campaign, **{name: counts.get(name, 0) for name in COUNTS}, "seconds": round(seconds, 1), "note": note}
    print(json.dumps(row))
    if table := os.environ.get("VERBATIM_CRASH_TABLE"):
        with Path(table).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    assert row["trials"] > 0, row
    assert (row["lost"], row["doubled"], row["unreadable"]) == (0, 0, 0), row


def table(rows: list[dict[str, float | str]]) -> str:
    """The rows as Markdown, and what is to be said of them below."""
    sums: dict[str, Counter[str]] = {}
    for row in rows:
        sums.setdefault(str(row["campaign"]), Counter()).update({name: row[name] for name in (*COUNTS, "seconds")})  # type: ignore[misc]
    lines = [f"| campaign | {' | '.join(HEADS)} |", f"|---|{'--:|' * len(HEADS)}"]
    for campaign, counts in sums.items():
        numbers = [f"{counts[name]:,}" for name in COUNTS] + [f"{counts['seconds']:.0f}"]
        lines.append(f"| {campaign} | {' | '.join(numbers)} |")
    notes = [f"- {row['campaign']}: {row['note']}" for row in rows if row["note"]]
    return "\n".join(lines + [""] * bool(notes) + notes)


if __name__ == "__main__":
    print(table([json.loads(line) for line in Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()]))
