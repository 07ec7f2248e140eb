"""Which session, agent and user a call belongs to, as its request's head tells. Pure; called where heads are redacted, in the keeper.

Clients name their sessions in many ways; the first place in the order below that holds a usable name wins, and is told beside it. What
stands in a JSON body is looked for by who reads the archive (`archive.naming`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Final

from archive.record import Client, Fields, Redaction, Scalar
from gateway import control
from gateway.redaction import REDACTED, redact_named, redact_text

__all__ = ["INFERRED", "known", "tells", "without"]

INFERRED: Final = "inferred"

MAX_NAME: Final = 256
"""Characters of a name that another's header gives: longer ones are no names."""

SESSIONS: Final = (
    # Claude Code sends it with every request (seen in 2.1.329, tests/fixtures/cli).
    b"x-claude-code-session-id",
    # Codex: both, and the same but in a thread of its own (seen in 0.169.0); before, only the last two
    # (openai/codex, codex-rs/codex-api/src/requests/headers.rs).
    b"thread-id",
    b"session-id",
    b"session_id",
    b"conversation_id",
    # OpenCode: the first towards its own provider, the second towards all others (packages/opencode/src/session/llm.ts).
    b"x-opencode-session",
    b"x-session-affinity",
)
"""Headers that name a session, the first wins; then any whose name ends in `SUFFIX`."""

SUFFIX: Final = b"session-id"
"""`x-...-session-id`, `x-session-id`, `helicone-session-id`, `langfuse-session-id`."""

_FOREIGN: Final = frozenset({b"x-parent-session-id"})
"""Of a sub-agent the session that began it (OpenCode), not its own."""

AGENTS: Final = (
    b"x-claude-code-agent-id",  # Claude Code 2.1.139 and later, with each request of a sub-agent; the main one sends none
    b"x-openai-subagent",  # Codex: "review", "collab_spawn" ... (codex-rs/codex-api/src/requests/headers.rs)
)

USERS: Final = (b"helicone-user-id", b"langfuse-user-id")

_TRACE: Final = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?\Z")
"""W3C Trace Context, section 3.2.2: version, trace-id, parent-id, flags."""

_SEEN: Final = re.compile(r"[^\x00-\x20\x7f-\xa0\u2028\u2029](?:[^\x00-\x1f\x7f-\x9f\u2028\u2029]*[^\x00-\x20\x7f-\xa0\u2028\u2029])?\Z")
_PLACES: Final = frozenset((*SESSIONS, *AGENTS, *USERS, b"traceparent"))


def tells(names: Sequence[bytes]) -> bool:
    """Whether fields with these names, in lower case, may say more of a client than which program it is. Most programs' do not."""
    return any(name in _PLACES or name.endswith(SUFFIX) or name.startswith(control.PREFIX) for name in names)


def known(client: Client, names: Sequence[bytes], fields: Fields, route: str, *, telling: bool = True) -> tuple[Client, list[Redaction]]:
    """`client` with what the request's head says of it, and what was removed from that. `fields` are redacted, `names` the same names in
    lower case. Never raises.

    `client.session` may be the one that the path named; only our own header goes before it. `telling`: as `tells` has it.
    """
    if not telling and client.session is None:
        return Client(client.address, _inferred(client, names, fields, route), INFERRED), []
    told: dict[bytes, str] = {}
    for name, (_, value) in zip(names, fields, strict=True):
        if (name in _PLACES or name.endswith(SUFFIX)) and name not in told and (text := _usable(value)) is not None:
            told[name] = text
    ours = any(name.startswith(control.PREFIX) for name in names)
    ask = control.read(fields) if ours else control.NOTHING
    session, source = _session(client, told, ask)
    if session is None:
        session, source = _inferred(client, names, fields, route), INFERRED
    user, user_source = (ask.user, "x-verbatim-user") if ask.user is not None else _first(told, USERS)
    said = Client(client.address, session, source, _first(told, AGENTS)[0], user, user_source)
    if not ours and source != "path":
        return said, []
    # A field's value was looked at as it stood; what escapes hid in it shows only now.
    removed: list[Redaction] = []
    said.session = _kept(session, "session", removed)
    if ours:
        said.user = None if user is None else _kept(user, "user", removed)
        said.tags = tuple(_kept(tag, "tags", removed) for tag in ask.tags)
        said.metadata = _metadata(ask.metadata, removed)
    return said, removed


def without(fields: list[tuple[bytes, bytes]], removed: list[Redaction]) -> list[tuple[bytes, bytes]]:
    """`fields` without the values in which `known` found what escapes had hidden: where it was removed here, it must not stand there."""
    hidden = {each.where.replace("client.", "x-verbatim-").encode() for each in removed}
    return [(name, REDACTED.encode() if name.lower() in hidden else value) for name, value in fields] if hidden else fields


def _session(client: Client, told: dict[bytes, str], ask: control.Ask) -> tuple[str | None, str | None]:
    if ask.session is not None and REDACTED not in ask.session:
        return ask.session, "x-verbatim-session"
    if client.session is not None:
        return client.session, client.session_source
    session, source = _first(told, SESSIONS)
    if session is None:
        session, source = _first(told, [name for name in told if name.endswith(SUFFIX) and name not in _FOREIGN])
    if session is None and (trace := _TRACE.match(told.get(b"traceparent", "").encode("ascii", "replace"))) and trace[1].strip(b"0"):
        return trace[1].decode(), "traceparent"
    return session, source


def _first(told: dict[bytes, str], places: Sequence[bytes]) -> tuple[str | None, str | None]:
    """The first name that was told, and where."""
    for place in places:
        if place in told:
            return told[place], place.decode("ascii")
    return None, None


def _usable(value: bytes) -> str | None:
    """A header's value as a name; None for one that is empty, too long, no text, or was redacted."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return None
    return text if len(text) <= MAX_NAME and _SEEN.match(text) and REDACTED not in text else None


def _inferred(client: Client, names: Sequence[bytes], fields: Fields, route: str) -> str:
    program = fields[names.index(b"user-agent")][1] if b"user-agent" in names else b""
    return inferred(route, client.address.rpartition(":")[0], program)


@lru_cache(maxsize=4096)
def inferred(route: str, host: str, program: bytes) -> str:
    """A name for the calls of one program (by its User-Agent) on one machine to one route: 16 hexadecimal digits.

    Of nothing secret: who knows the three can make it. Credentials have no part in it, so it cannot be used to guess one.
    """
    return sha256(b"\n".join((b"verbatim session", route.encode(), host.encode(), program))).hexdigest()[:16]


def _metadata(text: str, removed: list[Redaction]) -> dict[str, Scalar]:
    """The object of the metadata header; its grammar was checked."""
    if not text:
        return {}
    told: dict[str, Scalar] = json.loads(text)
    return {
        _kept(name, "metadata", removed): _noted(value, redact_named(name, value), "metadata", removed) if isinstance(value, str) else value
        for name, value in told.items()
    }


@lru_cache(maxsize=4096)
def _redacted(text: str) -> str:
    return redact_text(text)


def _kept(text: str, what: str, removed: list[Redaction]) -> str:
    return _noted(text, _redacted(text), what, removed)


def _noted(before: str, after: str, what: str, removed: list[Redaction]) -> str:
    if after != before:
        removed.append(Redaction(f"client.{what}", "value"))
    return after
