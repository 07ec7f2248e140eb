"""The bench itself works: hardly any load, no judgement of speed. What is not installed is left out, as in the bench."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


@pytest.fixture(autouse=True)
def bench_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))


def smoke(tmp_path: Path, *only: str) -> dict:
    out = tmp_path / "out.json"
    command = [sys.executable, str(HERE / "run.py"), "--smoke", "--out", str(out), "--lock", str(tmp_path / "lock"), "--only", *only]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())


def test_every_load_is_made_and_counted(tmp_path: Path) -> None:
    result = smoke(tmp_path, "direct", "naive", "json-rate", "upload-rate", "sse", "sse-paced", "crowd")
    cells = {(cell["contender"], cell["workload"]): cell["figures"] for cell in result["cells"]}
    assert not [note for note in result["notes"] if "failed" in note]
    assert len(cells) == 10
    assert all(figures["requests"] > 0 and figures["errors"] == 0 for figures in cells.values())
    assert cells["direct", "crowd"]["requests"] == 8
    assert cells["naive", "crowd"]["peak_mb"] > 1
    assert cells["naive", "sse-paced"]["event_p50_ms"] > 0
    assert "| Starlette + httpx |" in result["text"]


def test_the_archives_part_measures_all_its_goals(tmp_path: Path) -> None:
    result = smoke(tmp_path, "archive")
    cells = {(cell["contender"], cell["workload"]): cell["figures"] for cell in result["cells"]}
    assert result["notes"] == []
    assert [cells[who, f"write-{size}"]["per_s"] > 0 for who in ("writer", "codexlike") for size in (2, 20, 200)] == [True] * 6
    assert all(cells["writer", "write-2"][f"{stage}_us"] > 0 for stage in ("content", "line", "pack", "append"))
    assert all(figures["errors"] == 0 for figures in cells.values())
    assert cells["working", "disk"]["kept"] > 0
    assert len([goal for goal in result["goals"] if goal["met"] is not None]) == 8
    assert "| like codex-lb |" in result["text"]


def test_a_writer_like_codex_lbs_writes_lines_that_gzip_reads(tmp_path: Path) -> None:
    from codexlike import CodexLike

    writer = CodexLike(tmp_path / "hour.jsonl.gz", queue_bytes=4000)  # so that the second waits for room
    for number in range(5):
        writer.put({"number": number, "text": "x" * 3000})
    writer.close()
    with gzip.open(tmp_path / "hour.jsonl.gz", "rt") as lines:
        assert [json.loads(line)["number"] for line in lines] == [0, 1, 2, 3, 4]
    assert writer.written == 5


@pytest.mark.parametrize("size", [100, 2000, 200_000])
def test_made_bodies_are_json_of_their_size(size: int) -> None:
    from exchanges import body_of

    for seed in range(8):
        body = body_of(size, seed)
        assert len(body) == size
        assert json.loads(body)["messages"][0]["role"] == "user"


@pytest.mark.parametrize("options", [(), ("--record", "tape"), ("--record", "capture"), ("--functions",)])
def test_the_straight_line_is_measured_without_sockets(options: tuple[str, ...]) -> None:
    command = [sys.executable, str(HERE / "straight.py"), "--count", "3", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "us an exchange" in done.stdout or "gateway/exchange.py" in done.stdout


def test_profiles_leave_out_who_waits() -> None:
    import profiling

    ours = "process 1;serve (gateway/app.py:9);send (gateway/exchange.py:7) 30"
    waiting = "process 1;_run (gateway/logs.py:3);wait (threading.py:320) 70"
    stacks = f"{ours}\n{waiting}\n"
    text = profiling.tables(stacks, 5)
    assert "own time (30 samples)" in text
    assert " 100.0 %  send (gateway/exchange.py)" in text
    assert "wait" not in text


def test_two_runs_never_overlap(tmp_path: Path) -> None:
    import run

    lock = str(tmp_path / "lock")
    held = run.lock_file(lock)
    assert held is not None
    assert run.lock_file(lock) is None
    os.close(held)
    again = run.lock_file(lock)
    assert again is not None
    os.close(again)


def test_goals_are_judged_from_the_medians() -> None:
    import report

    def cell(number: int, contender: str, workload: str, **figures: float) -> dict:
        return {"round": number, "contender": contender, "workload": workload, "figures": {"errors": 0, **figures}}

    rounds = [cell(n, "nginx", "json-rate", cpu_ms=value) for n, value in enumerate((0.1, 0.1, 9.0))]
    rounds += [cell(n, "off", "json-rate", cpu_ms=value, p50_ms=3.0) for n, value in enumerate((0.21, 0.15, 0.21))]
    rounds += [cell(n, "direct", "json-rate", p50_ms=1.0 + n) for n in range(3)]
    rounds += [cell(0, "off", "json", per_s=100.0), cell(0, "caddy", "json", per_s=50.0), cell(0, "on", "json", per_s=75.0)]
    cells = report.medians(rounds)
    assert cells["off", "json-rate"]["added_p50_ms"] == 1.0
    found = {goal.what: goal for goal in report.goals(cells)}
    nginx = found["CPU per request, 1 KB at 1,000/s: at most 2x nginx"]
    assert (nginx.met, nginx.verdict) == (False, "**short** by 1.05x")
    assert found["requests per second, 1 KB: more than Caddy"].verdict == "met"
    assert found["requests per second, 1 KB: more than Node"].verdict == "not measured"
    assert found["recording on one core, 1 KB: at least 0.85x of not recording"].verdict == "**short** by 1.13x"


def exchange(id: str, nonce: str | None, seq: int, body: bytes, offset: int, end: str | None) -> bytes:
    request = {"target": f"/bench/sse?n=3&nonce={nonce}"} if nonce else None
    response = {"body": {"text": body.decode(), "offset": offset}}
    line = {"v": 1, "id": id, "seq": seq, "part": int(nonce is None), "kind": "exchange", "request": request, "response": response}
    text = json.dumps(line | {"end": {"reason": end} if end else None}, separators=(",", ":"))
    return gzip.compress(text.encode() + b"\n")


def test_the_ledger_counts_only_streams_that_are_exactly_there(tmp_path: Path) -> None:
    import ledger

    gap = {"kind": "gap", "gap": {"records": 9, "exchanges": 7, "why": "queue full"}}
    members = [
        exchange("a", "one", 1, b"first ", 0, None),
        exchange("b", "two", 2, b"cut off", 0, "client_closed"),
        exchange("a", None, 3, b"second", 6, "complete"),
        exchange("c", "three", 4, b"right length, wrong word", 0, "complete"),
        exchange("d", "four", 5, b"twice", 0, "complete"),
        exchange("e", "four", 6, b"twice", 0, "complete"),
        gzip.compress(json.dumps(gap, separators=(",", ":")).encode() + b"\n"),
    ]
    (tmp_path / "2026-11-20T10.jsonl.gz").write_bytes(b"".join(members))
    bodies = {"one": b"first second", "two": b"cut off", "three": b"right length, other word", "four": b"twice", "five": b"never came"}
    expected = {nonce: (hashlib.sha256(body).hexdigest(), len(body)) for nonce, body in bodies.items()}
    assert ledger.exact(tmp_path, expected) == 1
    assert ledger.totals(tmp_path) == (5, 7)


def test_sealing_and_verifying_are_measured() -> None:
    command = [sys.executable, str(HERE / "verify.py"), "--megabytes", "1", "--shape", "20000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["as_sealed"]
    assert figures["verify_sealed_MB_per_s"] > 0
