"""Ed25519 keys (RFC 8032) that sign seals: made, read from a private file, and checked against. Signs bytes it is given, nothing else.

`cryptography` is imported only when a key is used: the recorder and the viewer never load it.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from archive.errors import BadKey

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = ["Key", "load_key", "make_key", "public_key", "signed_by"]

_PUBLIC: Final = re.compile(r"[0-9a-f]{64}")
_LONGEST: Final = 16 << 10
"""Bytes of a key file: a PEM of one key has about 120."""
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


class Key:
    """A private key in memory. Shows itself by its public half only."""

    __slots__ = ("_private", "public")

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public = private.public_key().public_bytes_raw().hex()
        """The public key, 64 hexadecimal digits."""

    def sign(self, data: bytes) -> bytes:
        """The signature of `data`, 64 bytes; the same every time."""
        return self._private.sign(data)

    def __repr__(self) -> str:
        return f"Key(public={self.public})"


def make_key(path: Path) -> Key:
    """Make a key and write it to `path` as PEM PKCS#8, mode 0600, safe from a power loss. Raises BadKey where something lies there
    already, whatever it is; OSError for what the disk does, and then nothing is left there."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    text = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise BadKey(
            f"{path} is there already, and a key is never overwritten; choose another name, or have it renamed with --force"
        ) from None
    try:
        os.fchmod(fd, 0o600)
        written = os.write(fd, text)
        os.fsync(fd)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)
    if written != len(text):
        path.unlink(missing_ok=True)
        raise BadKey(f"{path} could not be written whole; is the disk full?")
    return Key(private)


def load_key(path: Path) -> Key:
    """The private key in `path`. Raises BadKey, saying what to do, for a file that is not there, is a symbolic link, may be read by
    others, or holds no Ed25519 key without a passphrase."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    text = _read(path, private=True)
    try:
        private = load_pem_private_key(text, password=None)
    except TypeError:
        raise BadKey(f"the key in {path} has a passphrase, which nobody is there to type; `verbatim keygen` makes one without") from None
    except Exception:  # the library's many ways to say no; its words might show what the file holds
        raise BadKey(f"{path} holds no private key in PEM; `verbatim keygen FILE` makes one") from None
    if not isinstance(private, Ed25519PrivateKey):
        raise BadKey(f"{path} holds a key of another kind than Ed25519; `verbatim keygen FILE` makes one")
    return Key(private)


def public_key(text: str) -> str:
    """The public key that `text` gives, as 64 hexadecimal digits: itself, or the name of a file that holds them or a PEM of the public key.
    Raises BadKey, also for a private key: where seals are only checked it has no business."""
    if _PUBLIC.fullmatch(text.strip().lower()):
        return text.strip().lower()
    path = Path(text)
    if not path.is_file():
        raise BadKey(f"{text} is neither a public key of 64 hexadecimal digits nor a file that holds one")
    data = _read(path, private=False)
    if b"PRIVATE KEY" in data:
        raise BadKey(f"{path} is the private key; give its public half, which `verbatim keygen` printed when it made the key")
    found = _PUBLIC.fullmatch(data.decode("ascii", "replace").strip().lower())
    return found[0] if found else _from_pem(path, data)


def signed_by(public: str, signature: bytes, data: bytes) -> bool:
    """Whether `signature` is that of `data` by the private half of `public` (64 hexadecimal digits)."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


def _from_pem(path: Path, data: bytes) -> str:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(data)
    except Exception:  # see load_key
        raise BadKey(f"{path} holds no public key; give what `verbatim keygen` printed") from None
    if not isinstance(key, Ed25519PublicKey):
        raise BadKey(f"{path} holds a key of another kind than Ed25519; give what `verbatim keygen` printed")
    return key.public_bytes_raw().hex()


def _is_public(data: bytes) -> bool:
    return b"PUBLIC KEY" in data or _PUBLIC.fullmatch(data.decode("ascii", "replace").strip().lower()) is not None


def _read(path: Path, *, private: bool) -> bytes:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (os.O_NOFOLLOW if private else 0)
    try:
        fd = os.open(path, flags)
    except OSError as error:
        raise BadKey(f"the key file {path} cannot be opened: {error.strerror}") from None
    try:
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode):
            raise BadKey(f"the key file {path} is no regular file")
        data = os.read(fd, _LONGEST)
        if private and _is_public(data):
            raise BadKey(f"{path} is a public key, which checks seals; the private key signs them: the file that `verbatim keygen` made")
        if private and stat.S_IMODE(about.st_mode) & _OTHERS:
            raise BadKey(f"the key file {path} may be read by others than its owner; run `chmod 600 {path}`")
        return data
    finally:
        os.close(fd)
