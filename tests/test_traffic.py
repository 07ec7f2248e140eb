"""The simulated traffic is what its users take it for: the same every time, histories resent, words where they were planted."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

from rig_archive import zcat
from traffic import agents, segments_of, unique, upto

from archive.record import Record


def body(record: Record) -> bytes:
    assert record.request_body is not None
    return b"".join(record.request_body.chunks)


def answer(record: Record) -> bytes:
    assert record.response_body is not None
    return b"".join(record.response_body.chunks)


def test_the_same_seed_makes_the_same_traffic() -> None:
    first, again = (list(islice(agents(seed=5, sessions=3), 20)) for _ in range(2))
    assert [(it.id, body(it), answer(it)) for it in first] == [(it.id, body(it), answer(it)) for it in again]
    assert first[0].id != next(agents(seed=6, sessions=3)).id


def test_an_agent_says_again_what_it_said_and_what_was_answered() -> None:
    records = list(islice(agents(sessions=6, planted={2: "quilombo", 5: "zirconet"}), 60))
    for number, word in ((2, b"quilombo"), (5, b"zirconet")):
        whole = body(records[number]) + answer(records[number])
        session = records[number].client.session
        later = [it for it in records[number + 1 :] if it.client.session == session]
        assert later
        assert all(word in body(it) for it in later)
        # In the answer the word is cut over several events, but for the shape that ends by saying all of it again.
        assert (word in whole) is (number == 2 or b"response.completed" in whole)
        assert not any(word in body(it) for it in records[:number])


def test_every_body_is_json_and_every_shape_occurs() -> None:
    records = list(islice(agents(sessions=3), 30))
    assert {next(key for key in ("input", "system", "messages") if key in json.loads(body(it))) for it in records} == {
        "input",
        "messages",
        "system",
    }
    events = [line[6:] for it in records for line in answer(it).split(b"\n") if line.startswith(b"data: {")]
    assert all(isinstance(json.loads(event), dict) for event in events)


def test_an_hour_of_it_reads_with_zcat(tmp_path: Path) -> None:
    made = segments_of(tmp_path, upto(unique(size=2000, per_second=0.02), 0.4))
    assert len(made.paths) > 1
    assert made.file_bytes == sum(path.stat().st_size for path in made.paths)
    lines = [json.loads(line) for path in made.paths for line in zcat(path).splitlines()]
    assert [it["seq"] for it in lines] == list(range(made.records + 2))
    assert [lines[0]["kind"], lines[-1]["kind"]] == ["open", "close"]
