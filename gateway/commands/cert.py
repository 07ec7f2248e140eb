"""`verbatim cert`: a certificate to serve https and wss with, and the authority that signed it. Touches no archive."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import os
import secrets
import shlex
from pathlib import Path
from typing import Final

import click

from gateway.commands.options import WrongInput

DEFAULT_NAMES: Final = ("localhost", "127.0.0.1", "::1")

DAYS: Final = 825
"""The longest a server's certificate may last for Apple's clients, also under an authority of one's own
(https://support.apple.com/en-us/103769)."""

AUTHORITY, CERTIFICATE, KEY = "ca.pem", "gateway.pem", "gateway.key"


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=Path("data/tls"),
    metavar="FOLDER",
    help="Where the three files go; made when it does not exist. [default: data/tls]",
)
def cert(names: tuple[str, ...], folder: Path) -> None:
    """Make a certificate for the names and addresses NAME, so that the gateway can be reached by https and wss.

    Without a name it is for localhost, 127.0.0.1 and ::1. It is signed by a new authority that clients must be told to trust. The
    authority's own key is never written anywhere, so nothing else can be signed with it. Files that are there are not overwritten.

    \b
    Examples:
      verbatim cert
      verbatim cert --folder /etc/verbatim llm.example.internal 10.0.0.5
    """
    names = names or DEFAULT_NAMES
    for name in names:
        _check(name)
    if there := [name for name in (AUTHORITY, CERTIFICATE, KEY) if os.path.lexists(folder / name)]:
        raise WrongInput(f"{folder / there[0]} is there already and is not overwritten; remove it, or name another folder with --folder")
    ends = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=DAYS)
    authority, certificate, key = _make(names, ends)
    folder.mkdir(parents=True, exist_ok=True)
    _write({folder / KEY: (key, 0o600), folder / CERTIFICATE: (certificate, 0o644), folder / AUTHORITY: (authority, 0o644)})
    _say(folder, names, ends)


def _check(name: str) -> None:
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(name)
        return
    labels = name.removeprefix("*.").split(".")
    if len(name) > 253 or not all(label.replace("-", "").replace("_", "").isalnum() and len(label) <= 63 for label in labels):
        raise WrongInput(
            f"{name[:80]!r} is no host name or address; write it without scheme, port and brackets, as in llm.example.internal"
        )


def _make(names: tuple[str, ...], ends: datetime.datetime) -> tuple[bytes, bytes, bytes]:
    """The authority's certificate, the server's with the authority's after it, and the server's key. In PEM."""
    import trustme

    ca = trustme.CA(organization_name="Verbatim", organization_unit_name=f"own authority {secrets.token_hex(4)}", path_length=0)
    try:
        leaf = ca.issue_cert(*names, organization_name="Verbatim", organization_unit_name="gateway", not_after=ends)
    except ValueError as error:  # an internationalised name that IDNA refuses
        raise WrongInput(f"a certificate cannot be for {', '.join(names)[:200]}: {error}") from None
    authority = ca.cert_pem.bytes()
    return authority, b"".join(pem.bytes() for pem in leaf.cert_chain_pems) + authority, leaf.private_key_pem.bytes()


def _write(files: dict[Path, tuple[bytes, int]]) -> None:
    """All of them or none; none is ever open wider than it is to be, and a name that is taken, or a link, is refused."""
    made: list[Path] = []
    try:
        for path, (content, mode) in files.items():
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            made.append(path)
            with open(descriptor, "wb") as file:
                os.fchmod(descriptor, mode)
                file.write(content)
                file.flush()
                os.fsync(descriptor)
    except BaseException:
        for path in made:
            path.unlink(missing_ok=True)
        raise


def _say(folder: Path, names: tuple[str, ...], ends: datetime.datetime) -> None:
    authority = shlex.quote(str((folder / AUTHORITY).absolute()))
    serve = f"verbatim serve --tls-cert {shlex.quote(str(folder / CERTIFICATE))} --tls-key {shlex.quote(str(folder / KEY))}"
    lines = [
        f"{folder / CERTIFICATE}  the certificate, for {', '.join(names)}; until {ends:%Y-%m-%d}",
        f"{folder / KEY}  its private key: keep it to yourself",
        f"{folder / AUTHORITY}       the authority that signed it: what clients are to trust",
        "",
        "Serve with it (or set tls_cert and tls_key in verbatim.toml):",
        f"  {serve}",
        "",
        "Programs have to trust the authority:",
        f"  Node          export NODE_EXTRA_CA_CERTS={authority}",
        f"  Python        export SSL_CERT_FILE={authority} (requests: REQUESTS_CA_BUNDLE); it then trusts nobody else",
        f"  curl          curl --cacert {authority} ...",
        "  one program   verbatim run -- python app.py  (adds it to those that are trusted anyway)",
    ]
    click.echo("\n".join(lines))
