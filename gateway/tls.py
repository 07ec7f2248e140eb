"""TLS towards upstreams and proxies: whom to trust, who we say we are, and sessions that are taken up again. Opens no connection."""

from __future__ import annotations

import ssl
import sys
from time import monotonic
from typing import Any, Final, cast

__all__ = ["keep_session", "new_tls_context", "problem_with_files", "wire_context"]

RENEW_AFTER: Final = 60.0
"""Seconds for which one session serves before the one that a resumed connection was given takes its place (servers give them for minutes
to days: nginx for five minutes)."""

OWN_STORE: Final = sys.platform in ("darwin", "win32")
"""Where the system verifies certificates itself, once per connection; elsewhere OpenSSL does, with the system's file of them."""


def new_tls_context(ca_file: str | None = None, client_cert: str | None = None, client_key: str | None = None) -> ssl.SSLContext:
    """TLS from 1.2 on, verified against the system's trust store (SSL_CERT_FILE and SSL_CERT_DIR included) or against `ca_file` alone.

    With `client_cert` and its key (in the same file, or in `client_key`) we identify ourselves. Blocks: reads files, up to 30 ms for
    the system's store. Raises OSError (ssl.SSLError is one) when a file is unusable; see `problem_with_files` for the words.
    """
    context = ssl.create_default_context(cafile=ca_file) if ca_file else _system_store()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if client_cert:
        context.load_cert_chain(client_cert, client_key, password=_no_password)
    return context


def wire_context(ca_file: str | None = None, client_cert: str | None = None, client_key: str | None = None) -> ssl.SSLContext:
    """As `new_tls_context`, for HTTP/1.1, and its connections resume one another's sessions. Blocks."""
    context = new_tls_context(ca_file, client_cert, client_key)
    context.set_alpn_protocols(["http/1.1"])
    if type(context) is ssl.SSLContext:  # on macOS a connection's context is truststore's own, which has no place for sessions
        context.sslobject_class = _resuming(context.sslobject_class)
    return context


def keep_session(ssl_object: object) -> None:
    """Keep the session of a `wire_context`'s connection for the next to the same name. In TLS 1.3 it comes with the first answer."""
    keep = getattr(ssl_object, "keep_session", None)
    if keep is not None:
        keep()


def _system_store() -> ssl.SSLContext:
    import truststore

    context: ssl.SSLContext = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if OWN_STORE:
        return context
    # Here truststore reads the system's file again for each connection: 30 ms on the loop. One connection's context has it for all
    return context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="localhost").context


def _resuming(base: Any) -> type[ssl.SSLObject]:
    """A class of TLS connections that begin with the session of the last one to the same name (RFC 8446 section 2.2, RFC 5077).

    Resuming skips the certificates, which the session's first connection has verified under the same context.
    """
    sessions: dict[str | None, tuple[ssl.SSLSession, float]] = {}

    class Resuming(base):  # type: ignore[misc]
        _begun = False

        def do_handshake(self) -> None:
            if not self._begun:
                self._begun = True
                kept = sessions.get(self.server_hostname)
                if kept is not None:
                    self.session = kept[0]
            super().do_handshake()

        def keep_session(self) -> None:
            kept, now = sessions.get(self.server_hostname), monotonic()
            if kept is not None and self.session_reused and now - kept[1] < RENEW_AFTER:
                return  # Python copies a session, certificates and all, whenever it is asked for
            session = self.session
            # TLS 1.3 has tickets only, and those come after the handshake; 1.2 has ids, too (RFC 5246 section 7.4.1.3)
            if session is not None and (session.has_ticket or (self.version() == "TLSv1.2" and session.id)):
                sessions[self.server_hostname] = session, now

    return cast("type[ssl.SSLObject]", Resuming)


class _EncryptedKeyError(Exception):
    """A private key asks for a password. (Python would ask for it on the terminal.)"""


def _no_password() -> str:
    raise _EncryptedKeyError


def problem_with_files(ca_file: str | None, client_cert: str | None, client_key: str | None) -> tuple[str, str] | None:
    """What is wrong with a route's files: the key of the route to blame and what to say of it; None when they are in order. Blocks."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca_file:
        try:
            context.load_verify_locations(ca_file)
        except ssl.SSLError:
            return "ca_file", f"{ca_file!r} holds no certificate in PEM form"
        except OSError as error:
            return "ca_file", _unreadable(ca_file, error)
    for key, path in (("client_cert", client_cert), ("client_key", client_key)):
        if path:
            try:
                with open(path, "rb"):
                    pass
            except OSError as error:
                return key, _unreadable(path, error)
    if not client_cert:
        return ("client_key", "needs client_cert, the certificate it belongs to") if client_key else None
    blamed, keys = ("client_key", client_key) if client_key else ("client_cert", client_cert)
    try:
        context.load_cert_chain(client_cert, client_key, password=_no_password)
    except _EncryptedKeyError:
        return blamed, f"the key in {keys!r} is encrypted; write it out without: openssl pkey -in {keys} -out FILE"
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            return blamed, f"the key in {keys!r} does not belong to the certificate in {client_cert!r}"
        also = "" if client_key else ", and its private key"
        return "client_cert", f"{client_cert!r} must hold a certificate in PEM form{also}; {_key_place(client_key)}"
    except OSError as error:
        return "client_cert", _unreadable(client_cert, error)
    return None


def _key_place(client_key: str | None) -> str:
    return f"and {client_key!r} its private key" if client_key else "or name the key's file as client_key"


def _unreadable(path: str, error: OSError) -> str:
    return f"there is no file {path!r}" if isinstance(error, FileNotFoundError) else f"{path!r} cannot be read: {error.strerror or error}"
