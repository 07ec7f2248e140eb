"""TLS towards upstreams: which files are taken, what is said of those that are not, whom a context trusts."""

from __future__ import annotations

import os
import ssl
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from gateway.settings import SettingsError, load
from gateway.tls import new_tls_context, problem_with_files, wire_context

PASSWORD = b"canary-password"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ca.pem, cert.pem, key.pem, both.pem (certificate and key), other.pem (another key), locked.pem (a locked key)."""
    folder = tmp_path_factory.mktemp("files")
    ca = trustme.CA()
    ours, other = ca.issue_cert("client.example"), ca.issue_cert("other.example")
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    ours.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
    ours.private_key_pem.write_to_path(str(folder / "key.pem"))
    ours.private_key_and_cert_chain_pem.write_to_path(str(folder / "both.pem"))
    other.private_key_pem.write_to_path(str(folder / "other.pem"))
    key = serialization.load_pem_private_key(ours.private_key_pem.bytes(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(PASSWORD)
    )
    (folder / "locked.pem").write_bytes(locked)
    (folder / "both-locked.pem").write_bytes(locked + ours.cert_chain_pems[0].bytes())
    (folder / "nonsense.pem").write_text("nothing of the kind\n")
    return folder


GOOD = [
    ("ca.pem", None, None),
    (None, "cert.pem", "key.pem"),
    (None, "both.pem", None),
    ("ca.pem", "both.pem", "key.pem"),
    (None, None, None),
]


@pytest.mark.parametrize("names", GOOD)
def test_files_in_order_make_a_context(files: Path, names: tuple[str | None, str | None, str | None]) -> None:
    ca_file, client_cert, client_key = (name and str(files / name) for name in names)
    assert problem_with_files(ca_file, client_cert, client_key) is None
    context = wire_context(ca_file, client_cert, client_key)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname


@pytest.mark.parametrize(
    ("names", "key", "why"),
    [
        (("none.pem", None, None), "ca_file", "there is no file"),
        (("nonsense.pem", None, None), "ca_file", "holds no certificate in PEM form"),
        (("", None, None), "ca_file", "cannot be read: Is a directory"),
        ((None, "none.pem", None), "client_cert", "there is no file"),
        ((None, "cert.pem", "none.pem"), "client_key", "there is no file"),
        ((None, None, "key.pem"), "client_key", "needs client_cert"),
        ((None, "cert.pem", None), "client_cert", "must hold a certificate in PEM form, and its private key"),
        ((None, "nonsense.pem", "key.pem"), "client_cert", "must hold a certificate in PEM form"),
        ((None, "cert.pem", "other.pem"), "client_key", "does not belong to the certificate"),
        ((None, "cert.pem", "locked.pem"), "client_key", "is encrypted"),
        ((None, "both-locked.pem", None), "client_cert", "is encrypted"),
    ],
)
def test_a_file_that_cannot_serve_is_told_in_one_sentence(
    files: Path, names: tuple[str | None, str | None, str | None], key: str, why: str
) -> None:
    chosen = [None if name is None else str(files / name) for name in names]
    problem = problem_with_files(*chosen)
    assert problem is not None
    assert problem[0] == key
    assert why in problem[1]
    assert "\n" not in problem[1]


def test_the_settings_name_the_place_of_an_unusable_file(files: Path, tmp_path: Path) -> None:
    config = tmp_path / "verbatim.toml"
    config.write_text(f'[routes.x]\nupstream = "https://h"\nclient_cert = "{files / "cert.pem"}"\nclient_key = "{files / "locked.pem"}"\n')
    with pytest.raises(SettingsError, match=r"verbatim.toml, line 4: client_key of route 'x': the key in .* is encrypted; .* openssl pkey"):
        load({}, {}, config)
    config.write_text(f'[routes.x]\nupstream = "https://h"\nclient_key = "{files / "key.pem"}"\n')
    with pytest.raises(SettingsError, match=r"line 3: client_key of route 'x': needs client_cert"):
        load({}, {}, config)
    config.write_text(f'[routes.x]\nupstream = "http://h"\nclient_cert = "{files / "both.pem"}"\n')
    with pytest.raises(SettingsError, match=r"line 3: route 'x': client_cert must belong to an https:// upstream"):
        load({}, {}, config)
    config.write_text(f'[routes.x]\nupstream = "https://h"\nclient_cert = "{files / "both.pem"}"\n')
    assert load({}, {}, config).routes["x"].client_cert == str(files / "both.pem")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_key_that_may_not_be_read_is_told(files: Path, tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_bytes((files / "key.pem").read_bytes())
    key.chmod(stat.S_IWUSR)
    assert problem_with_files(None, str(files / "cert.pem"), str(key)) == ("client_key", f"{str(key)!r} cannot be read: Permission denied")


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no file of trusted certificates")
def test_the_system_s_store_is_read_once_for_all_connections(files: Path, tmp_path: Path) -> None:
    """SSL_CERT_FILE stands for the system's store, as OpenSSL and truststore have it."""
    store = tmp_path / "store.pem"
    store.write_bytes((files / "ca.pem").read_bytes())
    script = (
        f"import os, ssl\nfrom gateway.tls import wire_context\ncontext = wire_context()\nos.unlink({str(store)!r})\n"
        "for _ in range(3): context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname='h')\n"
        "print(type(context) is ssl.SSLContext, context.cert_store_stats()['x509_ca'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "SSL_CERT_FILE": str(store), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "True 1\n"


def test_a_ca_file_is_trusted_instead_of_the_system_s_store(files: Path) -> None:
    assert new_tls_context(str(files / "ca.pem")).cert_store_stats() == {"x509": 1, "crl": 0, "x509_ca": 1}
