"""The judge of the soak can be trusted: of a small run with nothing wrong it says so, and whatever is then done to the archive it finds."""

from __future__ import annotations

import copy
import gzip
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from soak.judge import Verdict, judge
from soak.script import Ask, Plan, answer, event, question

Line = dict[str, Any]
PLAN = Plan(1, leave=0, drop=0, slow=0)
ASKS = [Ask.draw("sse", PLAN, 1), Ask.draw("json", PLAN, 1), Ask.draw("json", PLAN, 2)]


def sent(ask: Ask) -> bytes:
    return answer(ask) if ask.kind == "json" else b"".join(event(ask, number, 1000 + number) for number in range(ask.count))


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def body(data: bytes) -> Line:
    return {"text": data.decode(), "base64": None, "head": None, "tail": None, "sha256": digest(data), "size": len(data)}


def recorded() -> list[Line]:
    """The lines of an archive that holds all of `ASKS`."""
    lines: list[Line] = [{"kind": "open", "writer": "w", "seq": 0}]
    for seq, ask in enumerate(ASKS, 1):
        lines.append(
            {
                "kind": "exchange",
                "writer": "w",
                "seq": seq,
                "id": f"id-{seq}",
                "part": 0,
                "request": {"method": "POST", "target": f"/up{ask.target}", "body": body(question(ask))},
                "response": {"status": 200, "origin": "upstream", "body": body(sent(ask))},
                "messages": [],
                "end": {"reason": "complete"},
            }
        )
    return lines


def judged(folder: Path, lines: list[Line], *, clients: Callable[[Line], Line] = lambda one: one, dropped: int = 0) -> Verdict:
    """What the judge says of these lines when both ends tell of a run in which nothing went wrong."""
    (folder / "archive").mkdir()
    with gzip.open(folder / "archive" / "2026-11-20T10.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    with (folder / "clients").open("w") as client, (folder / "origin").open("w") as origin:
        for number, ask in enumerate(ASKS, 1):
            asked, told = question(ask), sent(ask)
            got = {"sent": [digest(asked), len(asked)], "got": [digest(told), len(told)], "count": ask.count, "at": 1.0}
            account = {"nonce": ask.nonce, "ending": "whole", "status": 200, "code": "", "how": "whole", "id": f"id-{number}", **got}
            client.write(json.dumps(clients(account)) + "\n")
            other = {"foreign": [], "got": got["sent"], "sent": got["got"], "count": ask.count, "at": 1.0, "end": "whole"}
            origin.write(json.dumps({"nonce": ask.nonce, **other}) + "\n")
    return judge(folder / "archive", folder / "clients", folder / "origin", total=len(ASKS), dropped=dropped)


def test_nothing_is_wrong_with_what_is_right(tmp_path: Path) -> None:
    verdict = judged(tmp_path, recorded())
    assert verdict.wrong == []
    assert verdict.counts["bytes equal: complete"] == 3


def test_a_loss_that_a_gap_tells_of_is_accounted_for(tmp_path: Path) -> None:
    lines = recorded()
    lines[2] = {"kind": "gap", "writer": "w", "seq": 3, "gap": {"records": 1, "exchanges": 1, "why": "full"}}
    lines[3]["seq"] = 4
    assert judged(tmp_path, lines, dropped=1).wrong == []


def changed(at: int, *path: str | int, to: Callable[[Any], Any]) -> Callable[[list[Line]], None]:
    """Change one value of one line."""

    def change(lines: list[Line]) -> None:
        place: Any = lines[at]
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = to(place[path[-1]])

    return change


def doubled(lines: list[Line]) -> None:
    lines.append({**copy.deepcopy(lines[1]), "seq": 4, "id": "id-4"})


def without(at: int) -> Callable[[list[Line]], None]:
    return lambda lines: lines.remove(lines[at])


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (changed(1, "response", "body", "text", to=lambda text: text.replace('"n":1', '"n":2')), "answer differs"),
        (changed(2, "response", "body", "text", to=lambda text: text[:-2]), "answer differs"),
        (changed(2, "request", "body", "text", to=lambda text: text + " "), "request differs"),
        (changed(2, "response", "body", "text", to=lambda text: text + ASKS[2].nonce), "foreign nonce"),
        (changed(2, "response", "body", "sha256", to=lambda _: "0" * 64), "hash differs"),
        (changed(2, "end", "reason", to=lambda _: "client_closed"), "marked otherwise"),
        (changed(2, "end", to=lambda _: None), "drop counter"),
        (changed(2, "id", to=lambda _: "id-9"), "other id"),
        (changed(2, "part", to=lambda _: 1), "drop counter"),
        (changed(3, "seq", to=lambda _: 4), "hole"),
        (changed(3, "seq", to=lambda _: 2), "number twice"),
        (changed(2, "request", "target", to=lambda text: text.replace("soak-json-", "soak-json-f")), "unknown"),
        (doubled, "recorded twice"),
        (without(2), "drop counter"),
    ],
)
def test_what_is_wrong_with_an_archive_is_found(tmp_path: Path, change: Callable[[list[Line]], None], found: str) -> None:
    lines = recorded()
    change(lines)
    assert found in {sentence.partition(":")[0] for sentence in judged(tmp_path, lines).wrong}


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("got", [digest(b"other"), 5], "answer differs"),
        ("how", "broken", "ended otherwise"),
        ("code", "upstream_unreachable", "own answer"),
        ("nonce", ASKS[0].nonce, "sent twice"),
    ],
)
def test_a_client_that_saw_something_else_is_believed(tmp_path: Path, key: str, value: object, found: str) -> None:
    def clients(one: Line) -> Line:
        return one | {key: value} if one["nonce"] == ASKS[1].nonce else one

    assert found in {sentence.partition(":")[0] for sentence in judged(tmp_path, recorded(), clients=clients).wrong}


def test_an_upstream_that_goes_on_long_after_its_client_has_left_is_found(tmp_path: Path) -> None:
    def clients(one: Line) -> Line:
        return one | {"ending": "left-fin", "how": "left", "at": -20.0} if one["nonce"] == ASKS[0].nonce else one

    found = judged(tmp_path, recorded(), clients=clients).wrong
    assert [sentence.partition(":")[0] for sentence in found] == ["not cancelled"]


def test_a_drop_counter_that_is_not_exact_is_found(tmp_path: Path) -> None:
    assert any(sentence.startswith("drop counter") for sentence in judged(tmp_path, recorded(), dropped=1).wrong)
