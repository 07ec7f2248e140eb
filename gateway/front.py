"""The TLS front: the certificate the gateway serves https and wss with, read and checked. Makes none (`gateway.commands.cert` does).

Private keys are read here and go into an SSLContext; no text of ours ever quotes one, not even the parser's complaint about it.
"""

from __future__ import annotations

import ipaddress
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.settings import Settings, SettingsError

if TYPE_CHECKING:
    from cryptography import x509

__all__ = ["Front", "front_of", "trust_variables"]

_MADE: Final = "make one with `verbatim cert`"


@dataclass(frozen=True, slots=True)
class Front:
    """A certificate that can be served with."""

    context: ssl.SSLContext
    names: tuple[str, ...]
    """DNS names and addresses it is for."""
    ends: float
    """Unix time of its end."""
    authority: str | None
    """The certificate clients must be told to trust, in PEM: the chain's last, where that signed itself. None: a public authority's."""
    file: Path
    key: Path
    """Where the private key lies; may be the same file."""

    def covers(self, host: str) -> bool:
        """Whether clients that dial `host`, a name or an address without brackets, will accept it (RFC 6125 section 6.4)."""
        host = host.lower()
        parent = host.partition(".")[2]
        return any(name == host or (name.startswith("*.") and name[2:] == parent) for name in self.names)

    def name_for(self, host: str) -> str:
        """`host` where the certificate is for it, else a name it is for: what a URL should say."""
        if self.covers(host):
            return host
        if host in ("127.0.0.1", "::1") and self.covers("localhost"):
            return "localhost"
        return next((name for name in self.names if "*" not in name), host)


def front_of(settings: Settings) -> Front | None:
    """The front `settings` ask for, None without `tls_cert`. Reads files. Raises SettingsError, one sentence, for what cannot serve."""
    certificate, key = settings.tls_cert, settings.tls_key
    if certificate is None:
        if key is not None:
            raise SettingsError("tls_key is set but tls_cert is not: name the certificate's file, too, or leave out both")
        return None
    from cryptography import x509  # 60 ms that a gateway without TLS need not wait for
    from cryptography.hazmat.primitives.serialization import Encoding

    pem = _read("tls_cert", certificate)
    try:
        chain = x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise SettingsError(f"tls_cert: {certificate} holds no certificate in PEM form; {_MADE}") from None
    leaf, last = chain[0], chain[-1]
    _check_key(leaf, key or certificate, "tls_key" if key else "tls_cert")
    now, begins, ends = time.time(), leaf.not_valid_before_utc, leaf.not_valid_after_utc
    if now >= ends.timestamp():
        raise SettingsError(
            f"tls_cert: the certificate in {certificate} expired on {ends:%Y-%m-%d}; renew it, or {_MADE} in another folder"
        )
    if now < begins.timestamp():
        raise SettingsError(
            f"tls_cert: the certificate in {certificate} begins only on {begins:%Y-%m-%d}; wait, or set this machine's clock"
        )
    names = _names(leaf)
    if not names:
        raise SettingsError(f"tls_cert: the certificate in {certificate} is for no name (subjectAltName), so no client takes it; {_MADE}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ValueError):  # what the two look-ups above let through, OpenSSL's security level for one
        raise SettingsError(f"tls_cert: OpenSSL does not take the certificate or key in {certificate}; {_MADE}") from None
    signed_itself = last.issuer == last.subject
    authority = last.public_bytes(Encoding.PEM).decode() if signed_itself else None
    return Front(context, names, ends.timestamp(), authority, certificate, key or certificate)


def trust_variables(authority: str, folder: Path, outer: Mapping[str, str]) -> dict[str, str]:
    """Environment variables that make a program trust `authority` beside all it trusts already. Writes two files into `folder`.

    Node reads NODE_EXTRA_CA_CERTS in addition to its own. SSL_CERT_FILE (Python, OpenSSL, curl) and REQUESTS_CA_BUNDLE (requests) stand
    in for theirs, so that file holds what they would have read, and ours.
    """
    import certifi

    extra, bundle = folder / "authority.pem", folder / "bundle.pem"
    extra.write_text(_text(outer.get("NODE_EXTRA_CA_CERTS")) + authority, encoding="utf-8")
    usual = ssl.get_default_verify_paths().cafile or certifi.where()  # the system's, which macOS has not as a file
    bundle.write_text(_text(outer.get("SSL_CERT_FILE") or outer.get("REQUESTS_CA_BUNDLE") or usual) + authority, encoding="utf-8")
    return {
        "NODE_EXTRA_CA_CERTS": str(extra),
        "SSL_CERT_FILE": str(bundle),
        "REQUESTS_CA_BUNDLE": str(bundle),
        "CURL_CA_BUNDLE": str(bundle),
    }


def _read(setting: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise SettingsError(f"{setting}: there is no file {path}; {_MADE}") from None
    except OSError as error:
        raise SettingsError(f"{setting}: {path} cannot be read: {error.strerror or 'it is no file'}") from None


def _check_key(leaf: x509.Certificate, path: Path, setting: str) -> None:
    """That the private key at `path` is there, open to us, and the certificate's own."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

    pem = _read(setting, path)
    if b"PRIVATE KEY-----" not in pem:
        missing = " (tls_key names a file of its own)" if setting == "tls_cert" else ""
        raise SettingsError(f"{setting}: {path} holds no private key in PEM form{missing}")
    try:
        begin = pem.index(b"-----BEGIN", max(0, pem.index(b"PRIVATE KEY-----") - 40))
        key = load_pem_private_key(pem[begin:], password=None)
    except TypeError:  # the library's way of saying that it wants a password
        raise SettingsError(
            f"{setting}: the private key in {path} is protected by a passphrase, which nobody would be there to type; "
            "write one without: openssl pkey -in OLD -out NEW"
        ) from None
    except Exception:  # many kinds, and none may be quoted
        raise SettingsError(
            f"{setting}: the private key in {path} cannot be read: it is damaged, or of a kind that OpenSSL lacks"
        ) from None
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*form) != leaf.public_key().public_bytes(*form):
        raise SettingsError(f"{setting}: the private key in {path} is not the certificate's: name the two that were made together")


def _names(leaf: x509.Certificate) -> tuple[str, ...]:
    from cryptography import x509

    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return ()
    found = [name.lower() for name in names.get_values_for_type(x509.DNSName)]
    return (*found, *(_address(address) for address in names.get_values_for_type(x509.IPAddress)))


def _address(address: object) -> str:
    return str(address) if isinstance(address, ipaddress.IPv4Address | ipaddress.IPv6Address) else ""


def _text(path: str | None) -> str:
    """The certificates in `path`; nothing where it cannot be read, as for the programs that would have read it."""
    if not path:
        return ""
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return text if text.endswith("\n") else text + "\n"
