"""Requests and answers that try to be read in two ways: made from a grammar and a seed, so that each can be made again by its number.

`python tests/smuggle.py NUMBER` shows what a case sends; VERBATIM_SMUGGLE_ONLY=NUMBER runs it alone.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable

__all__ = ["SEED", "answer_case", "cut", "request_case"]

SEED = 20261121

LENGTHS = (
    b"Content-Length: 5",
    b"Content-Length: +5",
    b"Content-Length: 0x5",
    b"Content-Length: 5,6",
    b"Content-Length: 5, 5",
    b"Content-Length: -1",
    b"Content-Length: 1 1",
    b"Content-Length:",
    b"Content-Length : 5",
    b"Content-Length: 00000000000000000000005",
    b"content-length: 0",
    b"Content-Length: 18446744073709551621",
    b"Content-Length:\x0b5",
    b"Content-Length: 5\x00",
    b"Content_Length: 5",
    b"X: 1\nContent-Length: 5",
    b"Content-Length: 5\r",
    b"Content-Length: \xd9\xa5",
    b"Content-Length: 5;",
    b'Content-Length: "5"',
    b"Content-Length\r\n: 5",
)
CODINGS = (
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding : chunked",
    b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding: chunked, identity",
    b"Transfer-Encoding: identity",
    b"Transfer-Encoding:\x0bchunked",
    b"Transfer-Encoding:\tchunked",
    b"Transfer-Encoding: \x00chunked",
    b"transfer-encoding: CHUNKED",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    b"Transfer-Encoding:\r\n chunked",
    b'Transfer-Encoding: "chunked"',
    b"Transfer-Encoding: chunked;a=b",
    b" Transfer-Encoding: chunked",
    b"X: 1\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: chunked\xff",
    b"Transfer\xadEncoding: chunked",
    b"Transfer_Encoding: chunked",
    b"Transfer-Encoding: ,chunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: c\x68unked ",
    b"\x00Transfer-Encoding: chunked",
)
HOSTS = (
    b"Host: b",
    b"Host:",
    b"host: a",
    b"Host: a, b",
    b"Host: u:p@a",
    b"Host: a b",
    b"Host: a\x00",
    b"Host: a/b",
    b"Host: a:b",
    b"Host : a",
    b"Host: [::1]:80",
    b"Host: a#b",
    b"Host: a:99999999",
    b"Host: \xc3\xa4",
    b"Host:\r\n a",
)
ODD = (
    b"X: a\r\n folded",
    b"X: a\r\n\tfolded",
    b"X : a",
    b": a",
    b"no colon",
    b"X: a\rb",
    b"X: a\nb",
    b"X\x00: a",
    b"X: \x19",
    b"X(: a",
    b"X:a\x7f",
    b"Expect: 100-continue",
    b"Expect: tea",
    b"Connection: close, X-Kept",
    b"Connection: Content-Length",
    b"Connection: transfer-encoding",
    b"Connection: host",
    b"TE: trailers",
    b"Trailer: Content-Length",
    b"Keep-Alive: 5",
    b"Upgrade: h2c",
    b"X-Long: " + b"v" * 3000,
)
VERSIONS = (b"HTTP/1.0", b"HTTP/0.9", b"HTTP/1.1 ", b"http/1.1", b"HTTP/1.", b"HTTP/1.1\t", b"", b"HTTP /1.1", b"HTTP/01.1")
CHUNKS = (
    b"0x5",
    b"+5",
    b"-5",
    b" 5",
    b"5 ",
    b"5;a",
    b'5;a="b"',
    b"5;\n",
    b"5;a\rb",
    b"00005",
    b"5\t",
    b"fffffffffffffffff",
    b"ffffffffffffffff",
    b"5,",
    b"",
)
SPLICES = (
    b"\r\n",
    b"\n",
    b"\r",
    b"\x00",
    b" ",
    b"\t",
    b"\x0b",
    b":",
    b",",
    b"\r\n\r\n",
    b"\n\n",
    b"0\r\n\r\n",
    b"\xff",
    b"\x1f",
    b"\x85",
    b";",
)


def nonce(number: int, index: int) -> bytes:
    """The mark of one message of one case; no other message may carry it."""
    return b"n%dx%dn" % (number, index)


def request_case(number: int, route: bytes, *, seed: int = SEED) -> list[bytes]:
    """One to four requests for one connection, most of them mutated somewhere."""
    dice = random.Random(f"{seed}/request/{number}")
    requests = [_request(dice, nonce(number, index), route) for index in range(dice.choice((1, 2, 2, 3, 4)))]
    if dice.random() < 0.3:
        target = dice.randrange(len(requests))
        requests[target] = _damage(dice, requests[target])
    return requests


def _request(dice: random.Random, mark: bytes, route: bytes) -> bytes:
    method = dice.choice((b"GET", b"POST", b"POST", b"PUT", b"DELETE", b"PROPFIND", b"OPTIONS"))
    target = b"/%b/%b?q=%b" % (route, mark, dice.choice((b"", b"a%20b", b"%2e%2e", b"x=1&x=2")))
    version, hosts = b"HTTP/1.1", [b"Host: gateway"]
    fields = [b"X-Nonce: " + mark, b"X-Kept: " + dice.choice((b"1", b"\xe4", b"a  b", b""))]
    inner = b"GET /%b/smuggled-%b HTTP/1.1\r\nHost: gateway\r\n\r\n" % (route, mark)
    body = b"" if method == b"GET" else dice.choice((b"", b"hello", b"body of " + mark, inner, b"0\r\n\r\n" + inner))
    chunked = bool(body) and dice.random() < 0.5
    size_line: Callable[[bytes], bytes] = lambda piece: b"%x" % len(piece)  # noqa: E731
    trailers = dice.choice(
        (b"", b"", b"X-Trailer: %b\r\n" % mark, b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: b\r\n")
    )
    roll = dice.random() * 1.6  # beyond 1 nothing is done to it
    if chunked:
        fields.append(b"Transfer-Encoding: chunked")
    elif body or method in (b"POST", b"PUT"):
        fields.append(b"Content-Length: %d" % len(body))
    if roll < 0.18:
        fields.insert(dice.randrange(len(fields) + 1), dice.choice(LENGTHS))
    elif roll < 0.36:
        fields.insert(dice.randrange(len(fields) + 1), dice.choice(CODINGS))
    elif roll < 0.46:
        hosts = dice.choice(([], [b"Host: a", b"Host: a"], [dice.choice(HOSTS)], [b"Host: gateway", dice.choice(HOSTS)]))
    elif roll < 0.58:
        fields.insert(dice.randrange(len(fields) + 1), dice.choice(ODD))
    elif roll < 0.64:
        target = dice.choice(
            (
                b"http://evil.example" + target,
                b"http://u:p@evil" + target,
                b"*",
                target[1:],
                target + b"\xe4",
                target + b"#f",
                b"//" + target,
            )
        )
    elif roll < 0.66:
        version = dice.choice(VERSIONS)
    elif roll < 0.70:
        method = dice.choice((b"get", b"CONNECT", b"TRACE", b"G(T", b"", b"MKCALENDAR", b"M-SEARCH", b"X" * 40))
    elif roll < 0.80 and chunked:
        odd = dice.choice(CHUNKS)
        size_line = lambda piece: odd  # noqa: E731
    if chunked:
        split = dice.randrange(1, len(body) + 1)
        body = b"".join(size_line(piece) + b"\r\n" + piece + b"\r\n" for piece in (body[:split], body[split:]) if piece)
        body += dice.choice((b"0", b"000", b"0;x")) + b"\r\n" + trailers + b"\r\n"
    lines = [b" ".join((method, target, version)), *hosts, *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def _damage(dice: random.Random, raw: bytes) -> bytes:
    """One to three small wounds anywhere."""
    for _ in range(dice.choice((1, 1, 2, 3))):
        at = dice.randrange(len(raw) + 1)
        kind = dice.random()
        if kind < 0.4:
            raw = raw[:at] + dice.choice(SPLICES) + raw[at:]
        elif kind < 0.6:
            raw = raw[:at] + raw[at + dice.choice((1, 1, 2, 8)) :]
        elif kind < 0.8:
            raw = raw[:at] + bytes([dice.randrange(256)]) + raw[at + 1 :]
        else:
            end = min(len(raw), at + dice.randrange(1, 40))
            raw = raw[:end] + raw[at:end] + raw[end:]
    return raw


def answer_case(number: int, method: bytes, *, seed: int = SEED) -> tuple[bytes, bool]:
    """What an upstream answers to a request with `method`, and whether it closes afterwards. Half of them are mutated."""
    dice = random.Random(f"{seed}/answer/{number}")
    mark = nonce(number, 0)
    body = dice.choice((b"", b"answer " + mark, mark * 50, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Stolen: %b\r\n\r\nstole" % mark))
    status = dice.choice((b"200 OK", b"200 OK", b"404 Not Found", b"204 No Content", b"304 Not Modified", b"529 ", b"500 Odd \xe9"))
    fields, close = [b"X-Nonce: " + mark, b"Set-Cookie: a=" + mark], False
    framing = dice.choice(("length", "length", "chunked", "close"))
    bare = status[:3] in (b"204", b"304") or method == b"HEAD"
    raw = body
    if framing == "length":
        fields.append(b"Content-Length: %d" % len(body))
    elif framing == "chunked":
        fields.append(b"Transfer-Encoding: chunked")
        raw = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (body[:7], body[7:]) if piece) + b"0\r\n\r\n"
    else:
        close = True
    interim = dice.choice((b"", b"", b"", b"HTTP/1.1 103 Early Hints\r\nLink: %b\r\n\r\n" % mark, b"HTTP/1.1 100 Continue\r\n\r\n"))
    roll = dice.random()
    if roll < 0.12:
        fields.insert(dice.randrange(len(fields) + 1), dice.choice(LENGTHS))
    elif roll < 0.24:
        fields.insert(dice.randrange(len(fields) + 1), dice.choice(CODINGS))
    elif roll < 0.30:
        fields.insert(dice.randrange(len(fields) + 1), dice.choice(ODD[:11]))
    elif roll < 0.35:
        status = dice.choice(
            (b"099 Low", b"999 High", b"20 Short", b"2000 Long", b"abc", b"200\x00OK", b"101 Switching Protocols", b"-12 Odd")
        )
    answer = interim + b"HTTP/1.1 " + status + b"\r\n" + b"\r\n".join(fields) + b"\r\n\r\n" + (b"" if bare else raw)
    if 0.35 <= roll < 0.50:
        answer = _damage(dice, answer)
    elif 0.50 <= roll < 0.62:  # bytes after the end, which nobody asked for
        answer += dice.choice((b"x", b"\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nX-Stolen: %b\r\n\r\nmine" % mark))
    elif 0.62 <= roll < 0.68:
        answer, close = answer[: dice.randrange(len(answer) + 1)], True
    return answer, close


def cut(number: int, raw: bytes, *, seed: int = SEED) -> list[bytes]:
    """`raw` in the packets it is sent in."""
    dice = random.Random(f"{seed}/cut/{number}")
    places = sorted(dice.randrange(len(raw) + 1) for _ in range(dice.choice((0, 0, 1, 3, 8))))
    return [piece for start, end in zip([0, *places], [*places, len(raw)], strict=True) if (piece := raw[start:end])]


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print("request", argument, *request_case(int(argument), b"alpha"), sep="\n  ")
        print("answer", argument, answer_case(int(argument), b"GET"), sep="\n  ")
