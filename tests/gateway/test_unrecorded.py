"""Calls recorded without content, or not at all, through the real gateway: what then lies in its files, and what the archive says of it."""

from __future__ import annotations

import asyncio
import gzip
import json
import subprocess
from pathlib import Path

from commandline import verbatim
from rawsockets import raw_request
from readback import archive_records
from relayrig import Origin
from rig import gateway

from archive.proof.verify import verify

QUESTION, ANSWER = b"canary-question-5d1f", b"canary-answer-7e90"
OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%b" % (len(ANSWER), ANSWER)
METADATA = b'{"note": "sk-canary-7f3a9c51e2d84b60", "api_key": "canary-value-1", "n": 1}'


def asking(how: bytes, target: bytes = b"/up/x") -> bytes:
    head = b"POST %b HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n" % (target, len(QUESTION))
    return head + b"x-verbatim-record: %b\r\nx-verbatim-metadata: %b\r\n\r\n" % (how, METADATA) + QUESTION


async def ran(archive: Path, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command on that archive."""
    return await asyncio.to_thread(verbatim, archive.parent, command, *arguments, "--archive", archive)


def all_bytes(folder: Path) -> bytes:
    """Every file below `folder`, and what is in the compressed ones."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found.append(path.read_bytes())
            if path.name.endswith(".gz"):
                found.append(gzip.decompress(found[-1]))
    return b"\n".join(found)


async def test_content_that_is_not_to_be_kept_is_in_no_file(tmp_path: Path) -> None:
    async with Origin(OK) as origin, gateway(tmp_path, {"up": origin.url}) as running:
        assert (await raw_request(running.port, asking(b"metadata"))).endswith(ANSWER)
        (exchange,) = await running.archived(lambda found: any(it.end for it in found))
        assert (await ran(running.archive, "index")).returncode == 0
        shown = (await ran(running.archive, "show", exchange.id)).stdout
    assert "kept      metadata only, as the client asked" in shown
    files = all_bytes(tmp_path)
    assert exchange.id.encode() in files
    assert QUESTION not in files
    assert ANSWER not in files
    for secret in (b"sk-canary", b"canary-value"):
        assert secret not in files, "credentials in the metadata header follow the redaction policy"
    line = next(it for it in archive_records(running.archive) if it["kind"] == "exchange")
    assert line["client"]["metadata"] == {"note": "[redacted]", "api_key": "[redacted]", "n": 1}
    assert (line["request"]["body"]["size"], line["response"]["body"]["size"]) == (len(QUESTION), len(ANSWER))
    assert line["response"]["body"]["sha256"]
    assert line["timing"]["duration_ms"] > 0


async def test_an_auditor_can_tell_an_unrecorded_call_from_a_lost_one(tmp_path: Path) -> None:
    async with Origin(OK) as origin, gateway(tmp_path, {"up": origin.url}) as running:
        for how in (b"none", b"none", b"full"):
            assert (await raw_request(running.port, asking(how, b"/up/" + how))).endswith(ANSWER)
        seen = await running.health()
        assert (seen["declined"], seen["lost_exchanges"], seen["exchanges"]["total"]) == (2, 0, 3)
        await running.archived(lambda found: any(it.end for it in found))
    log = running.output()
    assert [line.split()[-2:] for line in log.splitlines() if "/up/none" in line] == [["complete", "unrecorded"]] * 2
    lines = archive_records(running.archive)
    assert sum(line["declined"]["exchanges"] for line in lines if line["kind"] == "declined") == 2
    assert [line["request"]["target"] for line in lines if line["kind"] == "exchange"] == ["/up/full"]
    report = verify([running.archive])
    assert (report.complete, report.accounted, report.declined, report.gaps) == (True, True, 2, [])
    told = await ran(running.archive, "verify")
    assert told.returncode == 0
    assert "2 exchanges not recorded as their clients asked" in told.stdout
    assert json.loads((await ran(running.archive, "verify", "--json")).stdout)["declined"] == 2


async def test_an_exchange_is_found_by_the_upstream_s_own_id(tmp_path: Path) -> None:
    answer = b"HTTP/1.1 200 OK\r\nrequest-id: req_011CSHoEeqs5C35K2UUqR7Fy\r\nContent-Length: 2\r\n\r\nok"
    async with Origin(answer, OK) as origin, gateway(tmp_path, {"up": origin.url}) as running:
        for _ in range(2):
            await raw_request(running.port, asking(b"full"))
        await running.archived(lambda found: len([it for it in found if it.end]) == 2)
    found = await ran(running.archive, "search", "req_011CSHoEeqs5C35K2UUqR7Fy", "--json")
    (row,) = [json.loads(line) for line in found.stdout.splitlines()]
    shown = (await ran(running.archive, "show", row["id"])).stdout
    assert "upstream  request-id: req_011CSHoEeqs5C35K2UUqR7Fy" in shown
