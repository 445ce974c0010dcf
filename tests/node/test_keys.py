"""Secret files and certificates."""

import datetime
import ssl
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.crypto import ED25519, verify
from consensus.errors import InputError
from node.keys import (
    authority_pem,
    certificate_days_left,
    create_authority,
    create_signer,
    issue_certificate,
    load_authority,
    load_tls,
    read_certificate,
    read_password,
    read_signer,
    write_secret,
)


def test_seed_file_round_trip(tmp_path: Path) -> None:
    signer = create_signer(tmp_path / "key")
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    again = read_signer(tmp_path / "key")
    assert again.public_key == signer.public_key
    assert verify(ED25519, signer.public_key, b"message", again.sign(b"message"))
    assert create_signer(tmp_path / "other").public_key != signer.public_key
    with pytest.raises(InputError, match="File exists"):
        create_signer(tmp_path / "key")
    assert read_signer(tmp_path / "key").public_key == signer.public_key


def test_secrets_that_others_may_read_are_refused(tmp_path: Path) -> None:
    create_signer(tmp_path / "key")
    for mode in (0o640, 0o604, 0o660):
        (tmp_path / "key").chmod(mode)
        with pytest.raises(InputError, match=r"others may read this secret .*chmod 600"):
            read_signer(tmp_path / "key")
    (tmp_path / "key").chmod(0o400)
    read_signer(tmp_path / "key")


@pytest.mark.parametrize("data", [b"", b"ab" * 31, b"ab" * 33, b"zz" * 32, b"\xff" * 64, bytes(32), b"ab" * 32 + b"\nmore"])
def test_what_is_no_seed_is_refused(tmp_path: Path, data: bytes) -> None:
    write_secret(tmp_path / "key", data)
    with pytest.raises(InputError) as caught:
        read_signer(tmp_path / "key")
    assert caught.value.field == str(tmp_path / "key")


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=100))
def test_garbage_in_secret_files_is_never_a_crash(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("keys") / "key"
    write_secret(path, data)
    for read in (read_signer, read_password):
        try:
            read(path)
        except InputError as error:
            assert error.field == str(path)


def test_passwords(tmp_path: Path) -> None:
    write_secret(tmp_path / "good", "pass wörd \n".encode())
    assert read_password(tmp_path / "good") == "pass wörd "
    write_secret(tmp_path / "empty", b"\n")
    write_secret(tmp_path / "two", b"a\nb\n")
    for name in ("empty", "two", "absent"):
        with pytest.raises(InputError):
            read_password(tmp_path / name)


def node_files(folder: Path) -> None:
    authority = create_authority("GridPact test")
    pair = issue_certificate(authority, "dc1", ["10.0.0.1", "dc1.example", "10.0.0.1", "::1"])
    pem = authority_pem(authority)
    (folder / "tls.crt").write_bytes(pair.certificate)
    write_secret(folder / "tls.key", pair.key)
    (folder / "ca.crt").write_bytes(pem.certificate)
    write_secret(folder / "ca.key", pem.key)


def test_certificates(tmp_path: Path) -> None:
    node_files(tmp_path)
    certificate = read_certificate(tmp_path / "tls.crt")
    assert certificate.subject.rfc4514_string() == "CN=dc1"
    assert certificate.issuer.rfc4514_string() == "CN=GridPact test"
    names = certificate.extensions.get_extension_for_oid(read_certificate(tmp_path / "tls.crt").extensions[1].oid).value
    assert "10.0.0.1" in str(names)
    assert "dc1.example" in str(names)
    now_ms = int(datetime.datetime.now(datetime.UTC).timestamp() * 1000)
    assert certificate_days_left(tmp_path / "tls.crt", now_ms) == 729
    assert certificate_days_left(tmp_path / "tls.crt", now_ms + 731 * 86_400_000) < 0
    authority = load_authority(tmp_path / "ca.crt", tmp_path / "ca.key")
    again = issue_certificate(authority, "dc5", ["127.0.0.1"])
    assert b"BEGIN CERTIFICATE" in again.certificate
    with pytest.raises(InputError, match="is not the key of"):
        load_authority(tmp_path / "ca.crt", tmp_path / "tls.key")
    with pytest.raises(InputError, match="neither a DNS name nor"):
        issue_certificate(authority, "dc6", ["höst"])


def test_tls_contexts_ask_for_certificates_and_tls_13(tmp_path: Path) -> None:
    node_files(tmp_path)
    contexts = load_tls(tmp_path / "tls.crt", tmp_path / "tls.key", tmp_path / "ca.crt")
    for context in (contexts.server, contexts.client):
        assert context.minimum_version == ssl.TLSVersion.TLSv1_3
        assert context.verify_mode == ssl.CERT_REQUIRED


def test_wrong_tls_files_are_named(tmp_path: Path) -> None:
    node_files(tmp_path)
    (tmp_path / "other").mkdir()
    node_files(tmp_path / "other")
    crt, key, ca = tmp_path / "tls.crt", tmp_path / "tls.key", tmp_path / "ca.crt"
    with pytest.raises(InputError, match=r"tls\.key: is not the private key of tls\.crt"):
        load_tls(crt, tmp_path / "other/tls.key", ca)
    with pytest.raises(InputError, match=r"absent: No such file"):
        load_tls(tmp_path / "absent", key, ca)
    with pytest.raises(InputError, match=r"tls\.key: is not a certificate"):
        load_tls(crt, key, key)
    write_secret(tmp_path / "garbage", b"garbage")
    with pytest.raises(InputError, match="garbage: is not the private key"):
        load_tls(crt, tmp_path / "garbage", ca)
    with pytest.raises(InputError, match="garbage: is not a private key in PEM form"):
        load_authority(ca, tmp_path / "garbage")
    key.chmod(0o644)
    with pytest.raises(InputError, match="others may read"):
        load_tls(crt, key, ca)
