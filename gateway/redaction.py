"""Credentials leave the record here: header values, query strings, URLs. Pure: no I/O, no clock; what the upstream gets is untouched.

A rule replaces a whole value by the same word, so its length is not told. Every rule runs in time linear in its input (possessive
or bounded repetition only), and fails closed: when a rule raises, the value is replaced. Bodies are not looked at.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Final
from urllib.parse import unquote_to_bytes

from archive.record import Fields, Redaction
from gateway import rules

__all__ = ["REDACTED", "RULES_HASH", "redact_headers", "redact_named", "redact_target", "redact_text", "redact_url", "suspects"]

REDACTED: Final = "[redacted]"
_REDACTED: Final = REDACTED.encode("ascii")

_SHAPE = re.compile((r"(?<![A-Za-z0-9])(?:" + "|".join(rules.KEY_SHAPES) + ")").encode("ascii"))
_SCHEME_IN_VALUE = re.compile(rb"(?i)((?<![a-z0-9])bearer|\A(?:basic|token))[ \t]++[^\s,;\"'<>]{6,}+")
_TARGET_PAIR = re.compile(rb"([^?&;#=]*+)(=?+)([^?&;#]*+)([?&;#]?+)")
_VALUE_PAIR = re.compile(rb"(?<![^?&;#,\s<>\"'{])([A-Za-z0-9_.\-%+\[\]]{1,200}+)=(\"[^\"]*+\"?+|[^?&;#\s<>\"]*+)")
_JSON_PAIR = re.compile(rb"\"([^\"\\]{1,200}+)\"\s{0,8}+:\s{0,8}+\"((?:[^\"\\]|\\.)*+)", re.DOTALL)
_AUTHORITY = re.compile(rb"(?i)(?<![a-z0-9+.\-])([a-z][a-z0-9+.\-]{0,30}+:[/\\]{2,8}+)([^/?#\\\s<>\"]*+)")
_BROKEN_AUTHORITY = re.compile(  # `https://user:pa/ss@host`: a password with a slash in it, so what follows ':' is no port
    rb"(?i)(?<![a-z0-9+.\-])([a-z][a-z0-9+.\-]{0,30}+:[/\\]{2,8}+)[^/?#\\\s<>\"@:\[]*+:(?![0-9]{0,5}+(?:[/?#\\\s<>\"]|\Z))[^\s<>\"@]{0,256}+@"
)
_FOLD = re.compile(r"[\W_]+")
_PERCENT_U = re.compile(rb"%u([0-9a-fA-F]{4})")

_DECODE_ROUNDS = 8
"""Names are percent-decoded until they no longer change; one that still changes after so many rounds is taken for a secret."""

_CACHE_LIMIT = 4096
_CACHED_NAME_LIMIT = 128


class _Do(Enum):
    """What is done with a header field, known from its name alone."""

    KEEP = "keep"
    LOOK = "look"
    HIDE = "hide"
    SCHEME = "scheme"
    PROTOCOL = "protocol"
    NAME = "name"
    FAILED = "failed"


_RULE_NAMES = {_Do.HIDE: "name", _Do.NAME: "name", _Do.SCHEME: "authorization", _Do.FAILED: "failed-closed"}

Found = Callable[[str, str], None]
"""Told of each removal: what (folded name or "value") and by which rule."""


def redact_headers(headers: Fields, where: str, at: Sequence[int] | None = None) -> tuple[list[tuple[bytes, bytes]], list[Redaction]]:
    """Copies of `headers` without credentials, names, order and duplicates kept; and what was removed, as `where`.`name`. Never raises.

    `at` is what `suspects` said of their names, where that is known: only these are looked at.
    """
    kept = list(headers)
    removed: dict[tuple[str, str], int] = {}
    for index in range(len(kept)) if at is None else at:
        header = kept[index]
        name, value = header
        do = _classified.get(name)
        if do is _Do.KEEP or header in _looked_at:
            continue
        kept[index] = clean = _field(do, name, value, where, removed)
        if do is _Do.LOOK and clean == header and _REDACTED not in value:  # what is found is replaced by that word
            _remember(header)
    if not removed:
        return kept, []
    return kept, [Redaction(place, rule, count) for (place, rule), count in removed.items()]


def suspects(names: Sequence[bytes]) -> tuple[int, ...] | None:
    """Which fields have to be looked at before they are kept, by their names alone. None: a name is itself a credential, or could not be
    judged; nothing of these names may then be remembered. Never raises.
    """
    found: list[int] = []
    for at, name in enumerate(names):
        try:
            do = _classified.get(name) or _classify(name)
        except Exception:  # fails closed, whatever a rule does
            do = _Do.FAILED
        if do in (_Do.NAME, _Do.FAILED):
            return None
        if do is not _Do.KEEP:
            found.append(at)
    return tuple(found)


def redact_target(target: bytes, where: str) -> tuple[bytes, list[Redaction]]:
    """`target` without secret values; every other byte as it was. What was removed is named `where`.`name`. Never raises.

    Pairs after '?', '&', ';' and '#' are read, so a path parameter such as `/v1/x;api_key=...` loses its value too.
    """
    removed: dict[tuple[str, str], int] = {}

    def found(what: str, rule: str) -> None:
        key = (f"{where}.{what}", rule)
        removed[key] = removed.get(key, 0) + 1

    try:
        clean = _target(target, found)
    except Exception:  # fails closed, whatever a rule does
        found("all", "failed-closed")
        clean = _REDACTED
    return clean, [Redaction(place, rule, count) for (place, rule), count in removed.items()]


def redact_url(url: str) -> str:
    """`url` for logs, errors and records: without user info and without secret query values. Never raises."""
    try:
        return _target(_authorities(url.encode("utf-8", "surrogateescape"), _ignore), _ignore).decode("utf-8", "surrogateescape")
    except Exception:  # fails closed, whatever a rule does
        return REDACTED


def redact_text(text: str) -> str:
    """A log line or an exception's text without keys, user info and secret pairs, as in an unknown header's value. Never raises."""
    try:
        return _look(text.encode("utf-8", "surrogateescape"), _ignore).decode("utf-8", "surrogateescape")
    except Exception:  # fails closed, whatever a rule does
        return REDACTED


def redact_named(name: str, value: str) -> str:
    """`value`, which stood under `name` in JSON, as `redact_text` has it; all of it is removed where the name is a credential's. Never
    raises."""
    try:
        secret = _secret_parameter(name.encode("utf-8", "surrogatepass"))
    except Exception:  # fails closed, whatever a rule does
        return REDACTED
    return redact_text(value) if secret is None or secret in rules.QUERY_ONLY or not value else REDACTED


def _ignore(_what: str, _rule: str) -> None: ...


def _field(do: _Do | None, name: bytes, value: bytes, where: str, removed: dict[tuple[str, str], int]) -> tuple[bytes, bytes]:
    """One header without its credential; `removed` is counted up. Whatever fails takes the value with it, and the name if need be."""
    try:
        do = do or _classify(name)
    except Exception:  # fails closed, whatever a rule does
        do = _Do.FAILED
    if not value and do not in (_Do.NAME, _Do.FAILED):
        return name, value
    kept, label = (_REDACTED, REDACTED) if do in (_Do.NAME, _Do.FAILED) else (name, name.decode("latin-1").lower())

    def found(_what: str, rule: str) -> None:
        key = (f"{where}.{label}", rule)
        removed[key] = removed.get(key, 0) + 1

    try:
        return kept, _value(do, value, found)
    except Exception:  # fails closed, whatever a rule does
        found("value", "failed-closed")
        return kept, _REDACTED


# --- Names ---

_classified: dict[bytes, _Do] = {}
"""What to do by header name as it was spelled. Cleared when full: a client may invent names without end."""


def _classify(name: bytes) -> _Do:
    do = _by_name(name)
    if do is not _Do.NAME and len(name) <= _CACHED_NAME_LIMIT:
        if len(_classified) >= _CACHE_LIMIT:
            _classified.clear()
        _classified[name] = do
    return do


_looked_at: set[tuple[bytes, bytes]] = set()
"""Headers, short ones, in whose value nothing was found: most come again, and looking takes 7 us. Cleared when full."""


def _remember(header: tuple[bytes, bytes]) -> None:
    if len(header[0]) <= _CACHED_NAME_LIMIT and len(header[1]) <= _CACHED_NAME_LIMIT:
        if len(_looked_at) >= _CACHE_LIMIT:
            _looked_at.clear()
        _looked_at.add(header)


def _by_name(name: bytes) -> _Do:
    folded = _fold(name.decode("latin-1"))
    if folded in rules.ORDINARY_HEADERS:
        return _Do.KEEP
    if folded == rules.PROTOCOL_HEADER:
        return _Do.PROTOCOL
    if folded.endswith(("auth", "authorization")):
        return _Do.SCHEME
    if folded in rules.HEADER_NAMES or folded.startswith(rules.HEADER_PREFIXES) or _secret(folded) is not None:
        return _Do.HIDE
    if _SHAPE.search(name):
        return _Do.NAME
    if folded.startswith(rules.ORDINARY_PREFIXES):
        return _Do.KEEP
    return _Do.LOOK


def _fold(name: str) -> str:
    """`name` as the tables spell it: "X_Api.Key" is "xapikey"."""
    return _FOLD.sub("", name).lower()


def _secret(folded: str) -> str | None:
    """The rule by which a folded name holds a credential, or None."""
    for part in rules.STRONG_PARTS:
        if part in folded:
            return part
    for part in rules.READABLE_PARTS:
        if part in folded:
            return None
    if folded.endswith(rules.READABLE_SUFFIXES):
        return None
    if folded in rules.EXACT_NAMES:
        return folded
    for suffix in rules.WEAK_SUFFIXES:
        if folded.endswith(suffix):
            return suffix
    return None


def _secret_parameter(name: bytes) -> str | None:
    """The folded name of a secret parameter however it is spelled or encoded, or None. `auth[token]` counts by each of its words."""
    decoded = _decode(name)
    if decoded is None:
        return "undecodable"
    text = unicodedata.normalize("NFKC", decoded.decode("utf-8", "replace"))
    whole = _fold(text)
    for folded in (whole, *map(_fold, re.split(r"[\[\]]", text))) if "[" in text else (whole,):
        if folded not in rules.READABLE_IN_QUERY and _secret(folded) is not None:
            return "".join(c for c in folded if c.isascii())[:64] or "name"
    return None


def _decode(data: bytes) -> bytes | None:
    """`data` percent-decoded until it no longer changes, '+' as space; None when it does not settle."""
    for _ in range(_DECODE_ROUNDS):
        if b"%" not in data and b"+" not in data:
            return data
        once = unquote_to_bytes(_PERCENT_U.sub(lambda m: chr(int(m[1], 16)).encode("utf-8", "replace"), data).replace(b"+", b" "))
        if once == data:
            return data
        data = once
    return None


# --- Values ---


def _value(do: _Do, value: bytes, found: Found) -> bytes:
    """A header's value as its name demands."""
    if do is _Do.KEEP:
        return value
    if do is _Do.LOOK:
        return _look(value, found)
    if do is _Do.PROTOCOL:
        return b",".join(_protocol(item, found) for item in value.split(b","))
    if do is _Do.SCHEME:
        scheme, _, rest = value.partition(b" ")
        if scheme.lower() in rules.SCHEMES:
            if not rest.strip():
                return value
            return _hidden(scheme + b" " + _REDACTED, "authorization", found)
    return _hidden(_REDACTED, _RULE_NAMES[do], found)


def _protocol(item: bytes, found: Found) -> bytes:
    """One subprotocol offered or chosen, the white space around it kept."""
    bare = item.strip()
    if not bare or bare.lower() in rules.PROTOCOLS:
        return item
    found("value", "websocket-protocol")
    lead = item[: len(item) - len(item.lstrip())]
    for prefix in rules.PROTOCOL_PREFIXES:
        if bare.lower().startswith(prefix):
            return lead + bare[: len(prefix)] + _REDACTED
    return lead + _REDACTED


def _look(value: bytes, found: Found) -> bytes:
    """Any text: user info in URLs, secret pairs (`key=...`, `"key": "..."`), words such as Bearer before a credential, key shapes.

    Text that is percent-encoded and would lose something once decoded is replaced whole.
    """
    value = _look_at_plain(value, found)
    if b"%" in value and _encoded_secret(value):
        return _hidden(_REDACTED, "encoded", found)
    return value


def _without_value(match: re.Match[bytes], found: Found) -> bytes:
    """A matched pair, its second group replaced when its first is a secret's name."""
    if match[2] in (b"", _REDACTED):
        return match[0]
    secret = _secret_parameter(match[1])
    if secret is None or (secret in rules.QUERY_ONLY and not _in_query(match)):
        return match[0]
    found(secret, "parameter")
    return match[0][: match.start(2) - match.start()] + _REDACTED + match[0][match.end(2) - match.start() :]


def _in_query(match: re.Match[bytes]) -> bool:
    """Whether a pair found in text stands as in a query: at the very beginning, or after a separator."""
    return match.re is _VALUE_PAIR and (match.start() == 0 or match.string[match.start() - 1] in b"?&#")


def _hidden(replacement: bytes, rule: str, found: Found) -> bytes:
    found("value", rule)
    return replacement


def _shapes(value: bytes, found: Found) -> bytes:
    return _SHAPE.sub(lambda _: _hidden(_REDACTED, "key-shape", found), value)


def _authorities(value: bytes, found: Found) -> bytes:
    """User info removed from every URL in `value`."""

    def clean(match: re.Match[bytes]) -> bytes:
        _, at, host = match[2].rpartition(b"@")
        if not at or match[2].startswith(_REDACTED + b"@" + host):
            return match[0]
        found("userinfo", "userinfo")
        return match[1] + _REDACTED + b"@" + host

    value = _BROKEN_AUTHORITY.sub(lambda m: _hidden(m[1] + _REDACTED + b"@", "userinfo", found), value)
    return _AUTHORITY.sub(clean, value)


def _encoded_secret(value: bytes) -> bool:
    """Whether `value` percent-decodes to something that would be removed had it stood there in clear."""
    decoded = _decode(value)
    if decoded is None:
        return True
    if decoded == value or decoded == value.replace(b"+", b" "):
        return False
    seen: list[str] = []
    _look_at_plain(decoded, lambda what, _rule: seen.append(what))
    return bool(seen)


def _look_at_plain(value: bytes, found: Found) -> bytes:
    """Text as it stands, not decoded any further."""
    if b"://" in value or b":\\" in value:
        value = _authorities(value, found)
    if b"=" in value:
        value = _VALUE_PAIR.sub(lambda m: _without_value(m, found), value)
    if b'"' in value:
        value = _JSON_PAIR.sub(lambda m: _without_value(m, found), value)
    return _shapes(_SCHEME_IN_VALUE.sub(lambda m: _hidden(m[1] + b" " + _REDACTED, "scheme", found), value), found)


def _target(target: bytes, found: Found) -> bytes:
    """A request target or URL: its pairs, its key shapes."""
    if b"=" not in target and b"%" not in target:
        return _shapes(target, found)
    path_end = min((i for i in (target.find(b"?"), target.find(b";"), target.find(b"#")) if i >= 0), default=len(target))
    path = b"/".join(_piece(segment, found) for segment in target[:path_end].split(b"/"))
    if path_end == len(target):
        return path
    return path + target[path_end : path_end + 1] + _TARGET_PAIR.sub(lambda m: _pair(m, found), target[path_end + 1 :])


def _pair(match: re.Match[bytes], found: Found) -> bytes:
    """One `name=value` with the separator after it."""
    name, equals, value, separator = match.groups()
    if not equals:
        return _piece(name, found) + separator
    secret = _secret_parameter(name) if value else None
    if secret is not None and value != _REDACTED:
        found(secret, "parameter")
        value = _REDACTED
    elif value != _REDACTED:
        value = _piece(value, found)
    return _piece(name, found) + equals + value + separator


def _piece(piece: bytes, found: Found) -> bytes:
    """A path segment, a name or a value on its own."""
    piece = _shapes(piece, found)
    if b"%" in piece and _encoded_secret(piece):
        return _hidden(_REDACTED, "encoded", found)
    return piece


def _rules_hash() -> str:
    """SHA-256 over every table and pattern, as canonical JSON: what an auditor needs to know that the rules were these."""
    table = {
        "version": rules.RULES_VERSION,
        "strong": rules.STRONG_PARTS,
        "readable": [rules.READABLE_PARTS, rules.READABLE_SUFFIXES, sorted(rules.READABLE_IN_QUERY)],
        "weak": rules.WEAK_SUFFIXES,
        "exact": [sorted(rules.EXACT_NAMES), sorted(rules.QUERY_ONLY)],
        "headers": [sorted(rules.HEADER_NAMES), rules.HEADER_PREFIXES, sorted(rules.ORDINARY_HEADERS), rules.ORDINARY_PREFIXES],
        "schemes": sorted(s.decode() for s in rules.SCHEMES),
        "protocols": [sorted(p.decode() for p in rules.PROTOCOLS), [p.decode() for p in rules.PROTOCOL_PREFIXES]],
        "patterns": [
            p.pattern.decode() for p in (_SHAPE, _SCHEME_IN_VALUE, _TARGET_PAIR, _VALUE_PAIR, _JSON_PAIR, _AUTHORITY, _BROKEN_AUTHORITY)
        ],
    }
    return hashlib.sha256(json.dumps(table, sort_keys=True, separators=(",", ":")).encode("utf-8")).hexdigest()


RULES_HASH: Final = _rules_hash()
"""Written into every `open` record of the archive."""
