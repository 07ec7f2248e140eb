"""Whether an archive tells the truth about a soak: three accounts of each exchange (its client's, its upstream's, its record's) compared.

Reads the archive with gzip and json alone, in one pass, keeping little of each exchange; `by_reader` compares with what our own reader
makes of the same ids. Everything found wrong is a sentence in `Verdict.wrong`; an empty list is the proof.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from soak.archived import Exchange, add, joined, lines, sha
from soak.script import Ask, answer, event, message, question, settled

from archive.reader import Reader

CANCELLED: Final = 10.0
"""Seconds between a client's leaving and the upstream's end, beyond what was late in the run anyway: two events' pace, and some more."""
__all__ = ["Verdict", "by_reader", "judge", "ledger"]

ENOUGH = 20
"""Sentences of one kind that are kept; the rest is counted."""


@dataclass(slots=True)
class Verdict:
    """What was found."""

    wrong: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    gaps: list[dict[str, Any]] = field(default_factory=list)
    passed: int = 0
    """Bytes of bodies and messages that went either way, by their clients' accounts."""
    hours: Counter[str] = field(default_factory=Counter)
    exchanges: dict[str, Exchange] = field(default_factory=dict)
    """By id; their bodies are let go once they are judged."""
    _kinds: Counter[str] = field(default_factory=Counter)

    def say(self, kind: str, what: str) -> None:
        """Something is wrong."""
        self._kinds[kind] += 1
        if self._kinds[kind] <= ENOUGH:
            self.wrong.append(f"{kind}: {what}")
        elif self._kinds[kind] == ENOUGH + 1:
            self.wrong.append(f"{kind}: and more")


def ledger(path: Path) -> dict[str, dict[str, Any]]:
    """An account by nonce. A nonce twice is an error of its own: it is then under the name with a `+`."""
    found: dict[str, dict[str, Any]] = {}
    with path.open() as file:
        for each in file:
            one = json.loads(each)
            name = one["nonce"]
            while name in found:
                name += "+"
            found[name] = one
    return found


def judge(folder: Path, clients: Path, origin: Path, *, total: int, dropped: int, late: float = 0.0) -> Verdict:
    """Compare all three. `total` is how many exchanges the gateway says it began, `dropped` how many records it says it lost; `late` how
    many seconds anything came late at worst, which on a machine that others use is much.
    """
    verdict = Verdict()
    client, upstream = ledger(clients), ledger(origin)
    for name in [*client, *upstream]:
        if name.endswith("+"):
            verdict.say("sent twice", name)

    def over(found: Exchange) -> None:
        if found.nonce in client and not found.holes:
            _bytes(verdict, Ask.read(found.target.removeprefix("/up")), client[found.nonce], upstream.get(found.nonce), found)

    _read(folder, verdict, over)
    by_nonce: dict[str, Exchange] = {}
    told = {one["id"]: name for name, one in client.items() if one["id"]}
    for exchange in verdict.exchanges.values():
        name = exchange.nonce or told.get(exchange.id, "")  # of a long one all that had the nonce may be lost
        if name in by_nonce:
            verdict.say("recorded twice", f"{name}: {by_nonce[name].id}, {exchange.id}")
        elif name not in client:
            verdict.say("unknown", f"{exchange.id} has the nonce {name!r} that nobody sent")
        elif client[name]["id"] not in ("", exchange.id):
            verdict.say("other id", f"{name} was told {client[name]['id']}, the archive has it as {exchange.id}")
        by_nonce[name] = exchange
    _account(verdict, by_nonce, client, upstream, total, dropped)
    for name, one in client.items():
        verdict.passed += one["sent"][1] + one["got"][1]
        _ends(verdict, name, one, upstream.get(name), by_nonce.get(name), CANCELLED + late)
    return verdict


def _read(folder: Path, verdict: Verdict, over: Callable[[Exchange], None]) -> None:
    """Every line once; `over` is called for each exchange at its last part, after which its bodies are let go."""
    numbers: dict[str, set[int]] = {}
    for name, raw in lines(folder):
        line = json.loads(raw)
        there = numbers.setdefault(line["writer"], set())
        if line["seq"] in there:
            verdict.say("number twice", f"{line['writer']} {line['seq']}")
        there.add(line["seq"])
        verdict.hours[name] += 1
        verdict.counts[f"lines: {line['kind']}"] += 1
        if line["kind"] == "gap":
            verdict.gaps.append(line["gap"])
            there.update(range(line["seq"] - line["gap"]["records"], line["seq"]))
        if line["kind"] != "exchange":
            continue
        exchange = verdict.exchanges.setdefault(line["id"], Exchange(line["id"]))
        if line["part"] in exchange.parts:
            verdict.say("part twice", f"{exchange.id} part {line['part']}")
        add(exchange, line, raw)
        if len(exchange.nonces) > 1:
            verdict.say("foreign nonce", f"{exchange.id}: {sorted(exchange.nonces)}")
        if exchange.last is not None:
            over(exchange)
            exchange.let_go()
    for writer, there in numbers.items():
        if len(there) != max(there) + 1:
            verdict.say("hole", f"writer {writer} lacks {max(there) + 1 - len(there)} numbers that no gap tells of")


def _account(
    verdict: Verdict,
    by_nonce: dict[str, Exchange],
    client: dict[str, dict[str, Any]],
    upstream: dict[str, dict[str, Any]],
    total: int,
    dropped: int,
) -> None:
    """Every exchange is in the archive or in the drop counter, and the counter is exact."""
    told = sum(gap["records"] for gap in verdict.gaps)
    exchanges = verdict.exchanges
    absent = total - len(exchanges)
    holes = sum(exchange.holes for exchange in exchanges.values())
    certain = {name for name, one in client.items() if one["status"]} | set(upstream)
    missing = certain - set(by_nonce)
    endless = [exchange.nonce for exchange in exchanges.values() if exchange.last is None]
    verdict.counts.update(
        {
            "exchanges begun": total,
            "exchanges archived": len(exchanges),
            "records lost, as gaps tell": told,
            "records lost, as the gateway counts": dropped,
            "exchanges wholly lost": absent,
            "parts lost of others": holes,
            "ends lost of others": len(endless),
            "client requests": len(client),
        }
    )
    if told != dropped:
        verdict.say("drop counter", f"the gaps tell of {told} lost records, the gateway of {dropped}")
    # What of an exchange follows the last part that is there nobody can count; it is one where streams are shorter than a part may be
    # old, and websockets do not end while records are being lost (`Plan`).
    if told != absent + holes + len(endless):
        missing_ones = f"{absent} exchanges, {holes} parts and the ends of {len(endless)}"
        verdict.say("drop counter", f"{missing_ones} are missing, {told} records are told of; without an end: {endless[:5]}")
    if not len(missing) <= absent <= len(missing) + len(set(client) - certain):
        verdict.say("missing", f"{len(missing)} nonces that arrived are not in the archive, and {absent} may be: {sorted(missing)[:5]}")


def _ends(verdict: Verdict, name: str, one: dict[str, Any], other: dict[str, Any] | None, found: Exchange | None, patience: float) -> None:
    """Each ended as it was meant to, and is marked so."""
    ending, how = one["ending"], one["how"]
    due = {"w": "whole", "l": "left", "d": "broken"}[ending[0]]
    if due == "broken" and one["code"] == "upstream_closed":
        due = "whole"  # it broke before its answer began: the answer is the gateway's own
    elif one["code"]:
        verdict.say("own answer", f"{name} ({ending}) got {one['status']} {one['code']}")
    if how != due:
        verdict.say("ended otherwise", f"{name} ({ending}) ended {how} for its client")
    if other is not None and other["foreign"]:
        verdict.say("foreign at the upstream", f"{name}: {other['foreign']}")
    if found is None:
        verdict.counts["judged: lost"] += 1
        return
    if found.last is None:
        return
    meant = {"w": {"complete"}, "l": {"client_closed"}, "d": {"upstream_closed"}}[ending[0]]
    if ending[0] == "l" and other is not None and other["end"] == "whole":
        meant = {"client_closed", "complete"}  # the answer was out before its client left
    if ending[0] == "l" and other is None:
        meant = {"client_closed"}
    if "-ws-" in name and found.holes:
        meant |= {"client_closed", "upstream_closed"}  # with frames lost the closing ones may not be read, only who ended the connection
    if found.reason not in meant:
        verdict.say("marked otherwise", f"{name} ({ending}, {how}, upstream {other and other['end']}) is marked {found.reason}")
    if ending[0] == "l" and other is not None and other["at"] > one["at"] + patience:
        verdict.say("not cancelled", f"{name}: its upstream ended {other['end']} {other['at'] - one['at']:.1f} s after its client")
    verdict.counts[f"judged: {found.reason}"] += 1


def _bytes(verdict: Verdict, ask: Ask, one: dict[str, Any], other: dict[str, Any] | None, found: Exchange) -> None:
    if ask.kind == "ws":
        _messages(verdict, ask, one, other, found)
        return
    asked, told = joined(found.asked), joined(found.told)
    due = question(ask)
    complete = found.reason == "complete"
    if not (asked == due or (not complete and due.startswith(asked))):
        verdict.say("request differs", f"{ask.nonce}: {len(asked)} bytes archived, {len(due)} sent")
    if other is not None and other["got"][0] != sha(due):
        verdict.say("request differs", f"{ask.nonce}: the upstream got other bytes than its client sent")
    if found.origin == "gateway":
        if ask.nonce.encode() in told or one["got"] != [sha(told), len(told)]:
            verdict.say("answer differs", f"{ask.nonce}: the gateway's own")
        return
    if complete:
        three = {tuple(one["got"]) if one["how"] == "whole" else None, tuple(other["sent"]) if other else (), (sha(told), len(told))} - {
            None
        }
        if len(three) != 1:
            verdict.say(
                "answer differs", f"{ask.nonce}: client {one['got'][1]}, upstream {other and other['sent'][1]}, archive {len(told)} bytes"
            )
        if found.sha.get("response") != sha(told) or found.sha.get("request") != sha(due):
            verdict.say("hash differs", ask.nonce)
        verdict.counts["bytes equal: complete"] += 1
    # Of a broken one the archive has what the client got, perhaps more; and the upstream had sent that, perhaps more.
    got, size = one["got"]
    if len(told) < size or sha(told[:size]) != got:
        verdict.say("answer differs", f"{ask.nonce}: its client got {size} bytes, the archive has {len(told)}, marked {found.reason}")
    whole = answer(ask) if ask.kind == "json" else b"".join(event(ask, number, 0) for number in range(ask.count))
    if not whole.startswith(settled(told)):
        verdict.say("answer differs", f"{ask.nonce}: archived bytes that the upstream never sent")
    if not complete:
        verdict.counts["bytes equal: as far as they came"] += 1


def _messages(verdict: Verdict, ask: Ask, one: dict[str, Any], other: dict[str, Any] | None, found: Exchange) -> None:
    messages = sorted(found.messages, key=lambda it: it[0])
    texts = {side: [text for _, whose, kind, text, _ in messages if whose == side and kind == "text"] for side in ("client", "upstream")}
    due = [message(ask, number) for number in range(one["count"])]
    last = [b"drop"] if ask.ending.startswith("dropped") else []
    if texts["client"] != due + last or texts["upstream"] != due:
        verdict.say(
            "messages differ", f"{ask.nonce}: {len(due)} each way, the archive has {len(texts['client'])} and {len(texts['upstream'])}"
        )
    both = {tuple(one["got"]), tuple(other["sent"]) if other else (), (sha(b"".join(texts["upstream"])), sum(map(len, texts["upstream"])))}
    if len(both) != 1:
        verdict.say("messages differ", f"{ask.nonce}: in their bytes")
    closes = [(side, code) for _, side, kind, _, code in messages if kind == "close"]
    if found.reason == "complete" and closes != [("client", 1000), ("upstream", 1000)]:
        verdict.say("messages differ", f"{ask.nonce}: close frames {closes}")
    verdict.counts["bytes equal: websockets"] += 1


def by_reader(folder: Path, verdict: Verdict, *, every: int = 1) -> None:
    """Our own reader has the same exchanges, and (of every `every`-th) the same ends and bodies as gzip and json gave."""
    reader = Reader(folder)
    seen: set[str] = set()
    before: str | None = None
    while True:
        page = reader.page(before=before, limit=500)
        seen.update(entry.id for entry in page.entries)
        if page.next is None:
            break
        before = page.next
    if seen != set(verdict.exchanges):
        verdict.say("reader", f"lists {len(seen)} exchanges, gzip and json find {len(verdict.exchanges)}")
    for each in sorted(seen & set(verdict.exchanges))[::every]:
        exchange, plain = reader.get(each), verdict.exchanges[each]
        if plain.last is None or plain.holes:
            continue
        body = tuple(sha(content.data if content else b"") for content in (exchange.request_body, exchange.response_body))
        if body != plain.body or (exchange.end or {}).get("reason") != plain.reason:
            verdict.say("reader", f"{each}: {exchange.end}, plainly {plain.reason}; bodies {'equal' if body == plain.body else 'differ'}")
        verdict.counts["read by our reader"] += 1
