"""Keys: private to their owner, never overwritten, refused with what to do when they are not as they should be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from commandline import ROOT, clean_environment
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from archive.errors import BadKey
from archive.proof.keys import Key, load_key, make_key, public_key, signed_by

PEM = serialization.Encoding.PEM
PKCS8 = serialization.PrivateFormat.PKCS8
SPKI = serialization.PublicFormat.SubjectPublicKeyInfo


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "seal.key"


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_a_key_file_is_private_under_any_umask(path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        key = make_key(path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_key(path).public == key.public
    assert path.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----\n")


def test_a_signature_is_good_for_its_bytes_and_its_key_only(path: Path, tmp_path: Path) -> None:
    key, other = make_key(path), make_key(tmp_path / "other.key")
    signature = key.sign(b"what was said")
    assert len(signature) == 64
    assert signature == load_key(path).sign(b"what was said")
    assert signed_by(key.public, signature, b"what was said")
    assert not signed_by(key.public, signature, b"what was  said")
    assert not signed_by(other.public, signature, b"what was said")
    assert not signed_by(key.public, signature[:-1], b"what was said")
    assert not signed_by("00", signature, b"what was said")


def test_a_signature_is_that_of_rfc_8032() -> None:
    # Section 7.1, TEST 2.
    secret = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    key = Key(ed25519.Ed25519PrivateKey.from_private_bytes(secret))
    assert key.public == "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    assert key.sign(b"\x72").hex() == (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )


def test_a_key_is_never_overwritten(path: Path, tmp_path: Path) -> None:
    make_key(path)
    text = path.read_bytes()
    with pytest.raises(BadKey, match="never overwritten"):
        make_key(path)
    assert path.read_bytes() == text
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadKey):
        make_key(link)
    assert not (tmp_path / "elsewhere").exists()


def test_a_key_that_others_may_read_is_refused(path: Path) -> None:
    make_key(path)
    for mode in (0o640, 0o604, 0o660):
        path.chmod(mode)
        with pytest.raises(BadKey, match=f"chmod 600 {path}"):
            load_key(path)
    path.chmod(0o400)
    load_key(path)


def test_what_is_no_key_is_refused_without_showing_it(path: Path, tmp_path: Path) -> None:
    make_key(path)
    (tmp_path / "link").symlink_to(path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("sk-canary")
    (tmp_path / "curve").write_bytes(ec.generate_private_key(ec.SECP256R1()).private_bytes(PEM, PKCS8, serialization.NoEncryption()))
    locked = ed25519.Ed25519PrivateKey.generate().private_bytes(PEM, PKCS8, serialization.BestAvailableEncryption(b"canary"))
    (tmp_path / "locked").write_bytes(locked)
    os.mkfifo(tmp_path / "pipe")
    for name, told in [
        ("none", "cannot be opened"),
        ("link", "cannot be opened"),
        ("folder", "no regular file"),
        ("pipe", "no regular file"),
        ("text", "no private key"),
        ("curve", "another kind"),
        ("locked", "passphrase"),
    ]:
        where = tmp_path / name
        if where.is_file() and not where.is_symlink():
            where.chmod(0o600)
        with pytest.raises(BadKey, match=told) as raised:
            load_key(where)
        assert "canary" not in str(raised.value)


def test_a_public_key_is_given_as_digits_or_as_a_file(path: Path, tmp_path: Path) -> None:
    key = make_key(path)
    digits = tmp_path / "digits"
    digits.write_text(key.public + "\n")
    pem = tmp_path / "pem"
    pem.write_bytes(ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(key.public)).public_bytes(PEM, SPKI))
    for given in (key.public, key.public.upper(), digits, pem):
        assert public_key(str(given)) == key.public
    curve = tmp_path / "curve"
    curve.write_bytes(ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(PEM, SPKI))
    (tmp_path / "text").write_text("hello")
    for given, told in (
        (path, "is the private key; give its public half"),
        ("00ff", "neither"),
        (curve, "another kind"),
        (tmp_path / "text", "no public key"),
        (tmp_path, "neither"),
    ):
        with pytest.raises(BadKey, match=told):
            public_key(str(given))


def test_a_key_shows_only_its_public_half(path: Path) -> None:
    key = make_key(path)
    secret = path.read_text().splitlines()[1]
    assert repr(key) == str(key) == f"Key(public={key.public})"
    assert secret not in repr(key)


def test_a_full_disk_leaves_no_half_a_key(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "write", lambda fd, data: len(data) - 1)
    with pytest.raises(BadKey, match="disk full"):
        make_key(path)
    assert not path.exists()


def test_the_library_is_not_loaded_before_a_key_is_used() -> None:
    script = "import sys, archive.proof.keys, archive.proof.seal, archive.proof.verify; sys.exit('cryptography' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, env=clean_environment(), cwd=ROOT, timeout=30)
