"""`verbatim seal`, `keygen`, `prove` and `check-proof`: make it show when a recording was changed, and show that one was not."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import click

from archive.errors import ArchiveError, BadKey, BadProof, NotFound
from archive.keeping.clerk import alone
from archive.proof.inclusion import check_proof as check
from archive.proof.inclusion import prove as proof_of
from archive.proof.keys import load_key, make_key, public_key
from archive.proof.report import counted
from archive.proof.seal import closed_hours, left_out, seal_hour
from archive.reader import Reader
from gateway import __version__
from gateway.commands.options import WrongInput, own_folder, read_settings, settings_options, sha256
from gateway.logs import one_line

_LARGEST = 1 << 30


@click.command()
@click.option(
    "--key", type=click.Path(path_type=Path), metavar="FILE", help="Private key that signs the seals. [default: the setting seal_key]"
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object an hour.")
@settings_options("archive")
def seal(key: Path | None, as_json: bool, **flags: Any) -> None:
    """Seal the hours that are over, so that a later change of them shows.

    `verbatim serve` does this by itself. A seal holds a hash of every record of its hour and of the seal before it, so a record cannot be
    changed, added or taken out unseen; with a key, only who has the key can make such seals. `verbatim verify` checks them.

    \b
    Examples:
      verbatim seal
      verbatim seal --archive /mnt/backup/archive --key seal.key
    """
    settings = read_settings(flags, exists="seal")
    own_folder(settings.archive)
    try:
        signer = None if (file := key or settings.seal_key) is None else load_key(file)
        hours = closed_hours(settings.archive, time.time())
        for hour in hours:
            try:
                with alone(settings.archive):
                    made = seal_hour(settings.archive, hour, key=signer, now=time.time(), version=__version__)
            except NotFound as error:
                click.echo(f"not sealed {hour}: {error}", err=True)
                continue
            if as_json:
                click.echo(json.dumps({name: value for name, value in made.stated().items() if name != "v"}))
            else:
                signed = f", signed by {made.key}" if made.key else ""
                click.echo(f"sealed {hour}: {counted(made.records, 'record')}, root {made.root}{signed}")
    except ArchiveError as error:
        raise WrongInput(str(error)) from None
    for hour in left_out(settings.archive):
        click.echo(f"not sealed {hour}: a later hour is sealed already, so this one was put there later or lost its seal", err=True)
    if not hours and not as_json:
        click.echo("nothing to seal: no hour without a seal is over")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Where there is a key already, rename it to FILE.old and make a new one.")
def keygen(file: Path, force: bool) -> None:
    """Make a key that signs seals, and print its public half.

    FILE gets the private key, which must stay secret: readable by its owner only, best kept off the machines that others administer. Give
    the printed public key to whoever is to check the recordings: `verbatim verify --key KEY`.

    \b
    Examples:
      verbatim keygen seal.key > seal.pub
      verbatim seal --key seal.key
    """
    if not file.name:
        raise WrongInput("give the key's file a name: `verbatim keygen seal.key`")
    if not file.parent.is_dir():
        raise WrongInput(f"there is no folder {file.parent} for the key; make it, or name another")
    try:
        if force and os.path.lexists(file):
            _set_aside(file)
        made = make_key(file)
    except BadKey as error:
        raise WrongInput(str(error)) from None
    click.echo(made.public)


def _set_aside(file: Path) -> None:
    """No key is lost by --force: seals that it signed can only be explained with it."""
    old = file.with_name(file.name + ".old")
    try:
        os.link(file, old, follow_symlinks=False)
    except FileExistsError:
        raise WrongInput(f"{old} is there, too; move it away first") from None
    file.unlink()
    click.echo(f"the key that was there is now {old}", err=True)


@click.command()
@click.argument("id")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="File for the proof. [default: standard output]")
@settings_options("archive")
def prove(id: str, output: Path | None, **flags: Any) -> None:
    """Make a proof that an exchange was recorded as it is: a small file that anyone can check, without the recordings.

    It holds the exchange's records, the few hashes that lead from them to the root of their hour, and the hour's seal. ID is an exchange's
    id or its beginning, as for `verbatim show`; its hour must be sealed. It shows what was recorded, so keep it as private as that.

    \b
    Examples:
      verbatim prove 01934f7e-8a6b -o exchange.proof.json
      verbatim check-proof exchange.proof.json --key seal.pub
    """
    folder = read_settings(flags, exists="read").archive
    try:
        text = json.dumps(proof_of(folder, _whole_id(folder, id)), ensure_ascii=False, indent=1) + "\n"
        if output is None:
            click.echo(text, nl=False)
        else:
            _write(output, text.encode())
    except ArchiveError as error:
        raise WrongInput(str(error)) from None


def _whole_id(folder: Path, id: str) -> bytes:
    return bytes.fromhex(Reader(folder).get(id).entry.id.replace("-", ""))


def _write(path: Path, data: bytes) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise WrongInput(f"{path} is there already; choose another name") from None
    with open(fd, "wb") as file:
        file.write(data)


@click.command(name="check-proof")
@click.argument("proof", type=click.File("rb"))
@click.option("--key", metavar="KEY", help="The public key that must have signed: 64 hexadecimal digits, or a file that holds it.")
@click.option("--root", metavar="SHA256", callback=sha256, help="The root that the hour's seal must have, from whom you trust to know it.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a record.")
def check_proof(proof: Any, key: str | None, root: str | None, as_json: bool) -> None:
    """Check a proof that `verbatim prove` made. Needs nothing but the file; `-` reads it from standard input.

    The exit code is 0 when it holds, 1 when it does not, 2 when it is no proof.

    \b
    Examples:
      verbatim check-proof exchange.proof.json --key seal.pub
      verbatim check-proof exchange.proof.json --json | jq -r .line | jq .
    """
    try:
        proved = check(proof.read(_LARGEST), key=None if key is None else public_key(key), root=root)
    except BadProof as error:
        click.echo(f"does not hold: {one_line(str(error))}")
        sys.exit(1)
    except ArchiveError as error:
        raise WrongInput(str(error)) from None
    if as_json:
        for each in proved:
            click.echo(json.dumps(dataclasses.asdict(each), ensure_ascii=False))
        return
    for each in proved:
        place = f"record {each.index} of {each.records:,} (from 0) in the hour {each.segment}, sealed at {each.sealed_at}"
        click.echo(one_line(f"holds: {place} with the root {each.root}, {_signed(each.key, key, root)}"))


def _signed(signer: str | None, key: str | None, root: str | None) -> str:
    if key is not None:
        return "signed by your key"
    if root is not None:
        return "which is the one you gave"
    if signer is None:
        return "not signed: it proves what it says to those who know that root from elsewhere (--root)"
    return f"signed by {signer}, which was not checked against a key of yours (--key)"
