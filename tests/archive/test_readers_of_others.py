"""Tools that know nothing of Verbatim read a closed hour of 100,000 members, and count the same. Each runs in a process of its own, as its
users run it: the engines bring threads and hundreds of megabytes along."""

from __future__ import annotations

import gzip
import importlib.util
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from rig_packed import small_frames
from samples import HOUR, in_parts, whole

from archive import member
from archive.folder import hour_of
from archive.keeping.pack import Repacked, pack, packed_name
from archive.line import SERVICE_PART, close_line, forget_line, gap_line, open_line, prune_line, to_line
from archive.proof.seal import seal_hour
from archive.record import Message, Record, id_text, new_id
from archive.segment import segment_name

MEMBERS: Final = 100_000
WRITER: Final = new_id(int(HOUR * 1000))
NAME: Final = id_text(WRITER)
ID: Final = id_text(new_id(int(HOUR * 1000)))

Counts = dict[str, Any]
"""What every reader is to find: records by kind, exchanges by status, bytes of requests, websocket messages, records told of as lost."""

JQ: Final = r"""
reduce inputs as $it ({kinds: {}, statuses: {}, sent: 0, messages: 0, lost: 0};
    .kinds[$it.kind] += 1
    | if $it.response.status then .statuses["\($it.response.status)"] += 1 else . end
    | .sent += ($it.request.body.size // 0)
    | .messages += ($it.messages // [] | length)
    | .lost += ($it.gap.records // 0))
"""

GZIP: Final = """
import gzip, json, sys
from collections import Counter
kinds, statuses, found = Counter(), Counter(), dict(sent=0, messages=0, lost=0)
with gzip.open(sys.argv[1], "rt", encoding="utf-8", newline="\\n") as file:
    for line in map(json.loads, file):
        kinds[line["kind"]] += 1
        if (line.get("response") or {}).get("status"):
            statuses[str(line["response"]["status"])] += 1
        found["sent"] += ((line.get("request") or {}).get("body") or {}).get("size", 0)
        found["messages"] += len(line.get("messages") or [])
        found["lost"] += line.get("gap", {}).get("records", 0)
print(json.dumps({"kinds": kinds, "statuses": statuses, **found}))
"""

DUCKDB: Final = """
import duckdb, json, sys
duckdb.sql("SET enable_progress_bar = false")  # drawn on standard output after two seconds
duckdb.sql(f'''CREATE VIEW lines AS SELECT * FROM read_json('{sys.argv[1]}', format = 'newline_delimited', columns = {{
    kind: 'VARCHAR', request: 'STRUCT(body STRUCT(size BIGINT))', response: 'STRUCT(status INTEGER)', messages: 'STRUCT(side VARCHAR)[]',
    gap: 'STRUCT(records BIGINT)'}})''')
def rows(query):
    return duckdb.sql(query).fetchall()
kinds = dict(rows("SELECT kind, count(*) FROM lines GROUP BY kind"))
statuses = dict(rows("SELECT response.status::VARCHAR, count(*) FROM lines WHERE response.status IS NOT NULL GROUP BY 1"))
sums = rows("SELECT sum(request.body.size)::BIGINT, sum(len(messages))::BIGINT, sum(gap.records)::BIGINT FROM lines")[0]
print(json.dumps({"kinds": kinds, "statuses": statuses, **dict(zip(("sent", "messages", "lost"), sums))}))
"""

POLARS: Final = """
import json, sys
import polars as pl
lines = pl.scan_ndjson(sys.argv[1], schema={
    "kind": pl.String, "request": pl.Struct({"body": pl.Struct({"size": pl.Int64})}), "response": pl.Struct({"status": pl.Int64}),
    "messages": pl.List(pl.Struct({"side": pl.String})), "gap": pl.Struct({"records": pl.Int64})})
status = pl.col("response").struct.field("status")
kinds = dict(lines.group_by("kind").len().collect().rows())
statuses = {str(name): count for name, count in lines.filter(status.is_not_null()).group_by(status).len().collect().rows()}
sums = lines.select(pl.col("request").struct.field("body").struct.field("size").sum().alias("sent"),
    pl.col("messages").list.len().sum().cast(pl.Int64), pl.col("gap").struct.field("records").sum().alias("lost"))
print(json.dumps({"kinds": kinds, "statuses": statuses, **sums.collect().row(0, named=True)}))
"""

CHDB: Final = """
import chdb, json, sys
lines = f'''file('{sys.argv[1]}', 'JSONEachRow', 'kind String, request Tuple(body Tuple(size Nullable(Int64))),
    response Tuple(status Nullable(Int64)), messages Array(Tuple(side Nullable(String))), gap Tuple(records Nullable(Int64))')'''
def rows(query):
    return json.loads(chdb.query(query + " SETTINGS output_format_json_quote_64bit_integers = 0", "JSONCompact").bytes())["data"]
kinds = dict(rows(f"SELECT kind, count() FROM {lines} GROUP BY kind"))
statuses = dict(rows(f"SELECT toString(response.status), count() FROM {lines} WHERE response.status IS NOT NULL GROUP BY 1"))
sums = rows(f"SELECT sum(request.body.size), sum(length(messages)), sum(gap.records) FROM {lines}")[0]
print(json.dumps({"kinds": kinds, "statuses": statuses, **dict(zip(("sent", "messages", "lost"), sums))}))
"""

GUESSING: Final = {
    "duckdb": """
import duckdb, json, sys
duckdb.sql("SET enable_progress_bar = false")  # drawn on standard output after two seconds
query = '''SELECT count(*), count(request.target_base64), count(forget.why), sum(len(prune.segments))::BIGINT
    FROM read_json(?, sample_size = -1)'''
print(json.dumps(duckdb.sql(query, params=[sys.argv[1]]).fetchall()[0]))
""",
    "polars": """
import json, polars, sys
lines = polars.read_ndjson(sys.argv[1], infer_schema_length=None).select(polars.len().alias("records"),
    polars.col("request").struct.field("target_base64").count(), polars.col("forget").struct.field("why").count(),
    polars.col("prune").struct.field("segments").list.len().sum())
print(json.dumps(lines.row(0)))
""",
    "chdb": """
import chdb, json, sys
query = f'''SELECT count(), count(request.target_base64), count(forget.why), sum(length(prune.segments)) FROM file('{sys.argv[1]}')
    SETTINGS input_format_max_rows_to_read_for_schema_inference = 1000000000, input_format_max_bytes_to_read_for_schema_inference =
    1000000000, output_format_json_quote_64bit_integers = 0'''
print(json.dumps(json.loads(chdb.query(query, "JSONCompact").bytes())["data"][0]))
""",
}
"""The engines left to find out the columns by themselves, from all lines: a sample does not have what is rare."""


def python(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A script in a process of its own, without our modules."""
    command = [sys.executable, "-I", "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def needs(engine: str) -> None:
    if importlib.util.find_spec(engine) is None:
        pytest.skip(f"{engine} is not installed: it has no wheel for this machine, or the dev group was not installed")


def needs_programs(*names: str) -> None:
    for name in names:
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed")


def varied(count: int) -> Iterator[Record | bytes]:
    """`count` records of all kinds; bytes are the line of one of the archive's own. What is rare comes late."""
    yield open_line(writer=NAME, seq=0, at=HOUR, version="1", rules_hash="abc", host="elsewhere", pid=1)
    for number in range(1, count - 5):
        at = HOUR + number / 100
        if number % 100 == 99:
            yield in_parts(["“zwei”\n".encode()[:5], "“zwei”\n".encode()[5:]], at=at)[
                number // 100 % 2
            ]  # a part whose other one is elsewhere
        else:
            yield one(number, at, late=number > count - 2000)
    end = HOUR + 3599
    removed = {"segment": "2026-11-18T10", "index": 3, "id": ID, "part": 0, "writer": NAME, "seq": 4}
    gone = {**removed, "digest": "ab" * 32, "member": "cd" * 32, "bytes": 812}
    yield forget_line(writer=NAME, seq=count - 5, at=end, by="ann@host", why="id " + ID, removed=[gone])
    pruned = {"segment": "2026-10-18T10", "records": 9, "bytes": 8000, "root": None, "seal": None}
    writers = [{"writer": NAME, "first": 0, "last": 8, "records": 9}]
    yield prune_line(writer=NAME, seq=count - 4, at=end, by="ann@host", why="older than 30 days", segments=[{**pruned, "writers": writers}])
    yield gap_line(writer=NAME, seq=count - 3, at=end, since=HOUR, until=end, records=0, exchanges=0, size=0, why="the disk was full")
    yield gap_line(writer=NAME, seq=count - 2 + 7, at=end, since=HOUR, until=end, records=7, exchanges=5, size=700, why="the disk was full")
    yield close_line(writer=NAME, seq=count - 1 + 7, at=end, written=count, dropped=7)


def one(number: int, at: float, *, late: bool) -> Record:
    answer = b"\xff\x00" if number % 11 == 0 else "grüezi\n".encode()
    record = whole(at, body=b'{"n":%d}' % number, answer=answer, status=200 + number % 3 * 100)
    if number % 50 == 0:
        record.response = record.response_body = None
    if number % 40 == 0:
        said = [
            Message("client", 1.0, "text", b"hi"),
            Message("upstream", 2.0, "binary", b"\0"),
            Message("client", 3.0, "close", b"", 1000),
        ]
        record.messages = said
    if late and number % 100 == 1 and record.request is not None:
        record.request.target = b"/\xff"
    return record


def write(path: Path, count: int) -> tuple[Counts, int]:
    """An hour of `count` members. Returns what was put in, and how many request targets are no text."""
    kinds: Counter[str] = Counter()
    statuses: Counter[str] = Counter()
    sent = messages = lost = targets = 0
    seq = 0
    with path.open("wb") as file:
        for each in varied(count):
            if isinstance(each, bytes):
                told = json.loads(each)
                kinds[told["kind"]] += 1
                lost += told.get("gap", {}).get("records", 0)
                seq += told.get("gap", {}).get("records", 0)
                line, whose, part = each, WRITER, SERVICE_PART
            else:
                kinds["exchange"] += 1
                statuses.update([str(each.response.status)] if each.response is not None else [])
                sent += each.request_body.size if each.request_body is not None else 0
                messages += len(each.messages) if not callable(each.messages) else 0
                targets += each.request is not None and each.request.target == b"/\xff"
                made = to_line(each, writer=NAME, seq=seq)
                assert made is not None
                line, whose, part = made, each.id, each.part
            file.write(member.pack(line + b"\n", id=whose, part=part, seq=seq))
            seq += 1
    assert kinds.total() == count
    return {"kinds": dict(kinds), "statuses": dict(statuses), "sent": sent, "messages": messages, "lost": lost}, targets


@pytest.fixture(scope="module")
def hour(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Counts]]:
    """A closed hour of 100,000 members, and what was put in."""
    path = tmp_path_factory.mktemp("hour") / segment_name(HOUR)
    counts, _ = write(path, MEMBERS)
    yield path, counts
    path.unlink()


def test_zcat_and_jq_count_a_hundred_thousand_members(hour: tuple[Path, Counts]) -> None:
    needs_programs("zcat", "jq")
    path, counts = hour
    with subprocess.Popen(["zcat", "--", path], stdout=subprocess.PIPE) as zcat:
        jq = subprocess.run(["jq", "-n", JQ], stdin=zcat.stdout, capture_output=True, text=True, timeout=100, check=True)
    assert zcat.returncode == 0
    assert json.loads(jq.stdout) == counts


@pytest.mark.parametrize(("engine", "script"), [("gzip", GZIP), ("duckdb", DUCKDB), ("polars", POLARS), ("chdb", CHDB)])
def test_engines_of_others_count_a_hundred_thousand_members(engine: str, script: str, hour: tuple[Path, Counts]) -> None:
    needs(engine)
    path, counts = hour
    done = python(script, path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == counts


@pytest.mark.parametrize("engine", GUESSING)
def test_engines_find_the_columns_of_all_kinds_by_themselves(engine: str, tmp_path: Path) -> None:
    needs(engine)
    path = tmp_path / segment_name(HOUR)
    _, targets = write(path, 23_000)  # more than any of them looks at unless it is told to
    done = python(GUESSING[engine], path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [23_000, targets, 1, 1]


@pytest.fixture(scope="module")
def packed_hour(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Counts]:
    """A packed hour of several frames, and what was put in."""
    folder = tmp_path_factory.mktemp("packed")
    path = folder / segment_name(HOUR)
    counts, _ = write(path, 5000)
    seal_hour(folder, hour_of(path.name), now=HOUR + 9000, version="1")
    with pytest.MonkeyPatch.context() as patch:
        small_frames(patch, 1 << 20)
        done = pack(folder, hour_of(path.name))
    assert isinstance(done, Repacked), done
    assert done.line_bytes > 4 << 20
    return folder / packed_name(hour_of(path.name)), counts


@pytest.mark.parametrize(("engine", "script"), [("duckdb", DUCKDB), ("polars", POLARS), ("chdb", CHDB)])
def test_engines_read_a_packed_hour(engine: str, script: str, packed_hour: tuple[Path, Counts]) -> None:
    needs(engine)
    path, counts = packed_hour
    done = python(script, path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == counts


# A torn tail: what a crash leaves until the gateway starts again, or what a write that goes on right now looks like.


@pytest.fixture(scope="module")
def torn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """An hour whose last member is cut short, and how many are whole."""
    path = tmp_path_factory.mktemp("torn") / segment_name(HOUR)
    write(path, 1000)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 20)
    return path, 999


@pytest.mark.parametrize(("engine", "script"), [("duckdb", DUCKDB), ("polars", POLARS), ("chdb", CHDB)])
def test_an_engine_refuses_an_hour_with_a_torn_tail(engine: str, script: str, torn: tuple[Path, int]) -> None:
    needs(engine)
    done = python(script, torn[0])
    assert (done.returncode, done.stdout) == (1, ""), "it answers now: tell so where it is told that it does not"
    assert any(word in done.stderr for word in ("Unexpected end of GZIP stream", "unexpected end of file", "inflate failed")), done.stderr


def test_zcat_and_gzip_give_what_is_whole_before_a_torn_tail(torn: tuple[Path, int]) -> None:
    path, count = torn
    zcat = subprocess.run(["zcat", "--", path], capture_output=True, text=True, timeout=60, check=False)
    assert zcat.returncode == 1
    assert [json.loads(line)["v"] for line in zcat.stdout.splitlines()[:count]] == [1] * count
    read = []
    with gzip.open(path, "rb") as file, pytest.raises(EOFError):
        read.extend(file)  # not in one go: what was read before the error would be lost
    assert len(read) == count
