"""Secrets on disk: Ed25519 seeds, the cluster's certificate authority, TLS certificates of nodes.

A seed file holds 64 hexadecimal digits and a newline. Files with secrets are made with mode 0600 and refused when others may
read them. Certificates are ECDSA P-256, for two years; the common name is the validator's name, and that is what peers check.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import secrets
import ssl
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from consensus.crypto import SEED_BYTES, Ed25519Signer
from consensus.errors import InputError

VALIDITY_DAYS = 730
MAX_SECRET_BYTES = 64 * 1024


# ------------------------------------------------------------------------------------------------------------ secret files


def write_secret(path: Path, data: bytes) -> None:
    """Make a file that its owner alone may read (mode 0600).

    Raises:
        InputError: it exists already, or cannot be made.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise InputError(str(path), error.strerror or str(error)) from error


def read_secret(path: Path) -> bytes:
    """Return the contents of a secret file.

    Raises:
        InputError: it is not there, is too long, or others may read it.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise InputError(str(path), f"others may read this secret (mode {mode:03o}); run chmod 600 on it")
            data = file.read(MAX_SECRET_BYTES + 1)
    except OSError as error:
        raise InputError(str(path), error.strerror or str(error)) from error
    if len(data) > MAX_SECRET_BYTES:
        raise InputError(str(path), f"is longer than {MAX_SECRET_BYTES} bytes")
    return data


def create_signer(path: Path) -> Ed25519Signer:
    """Make a new key pair and keep its seed in the file ``path``.

    Raises:
        InputError: the file exists already, or cannot be made.
    """
    seed = secrets.token_bytes(SEED_BYTES)
    write_secret(path, seed.hex().encode() + b"\n")
    return Ed25519Signer(seed)


def read_signer(path: Path) -> Ed25519Signer:
    """Return the signer whose seed stands in the file ``path``.

    Raises:
        InputError: it is not there, others may read it, or it is no seed.
    """
    try:
        text = read_secret(path).decode("ascii").strip()
        seed = bytes.fromhex(text)
    except ValueError as error:
        raise InputError(str(path), "is not an Ed25519 seed of 64 hexadecimal digits") from error
    if len(seed) != SEED_BYTES or len(text) != 2 * SEED_BYTES:
        raise InputError(str(path), f"has {len(text)} characters, an Ed25519 seed has {2 * SEED_BYTES} hexadecimal digits")
    return Ed25519Signer(seed)


def read_password(path: Path) -> str:
    """Return the password in a secret file (one line).

    Raises:
        InputError: it is not there, others may read it, or it is empty or not text.
    """
    try:
        password = read_secret(path).decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise InputError(str(path), "is not UTF-8 text") from error
    if not password or "\n" in password:
        raise InputError(str(path), "must hold one line with the password")
    return password


# ------------------------------------------------------------------------------------------------------------ certificates


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority in memory."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True)
class PemPair:
    """A certificate with its private key, both PEM."""

    certificate: bytes
    key: bytes


def create_authority(common_name: str) -> Authority:
    """Make a certificate authority that signs node certificates and nothing else."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(common_name)
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        _builder(name, name, key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate, key)


def authority_pem(authority: Authority) -> PemPair:
    """Return certificate and key of an authority for files."""
    return PemPair(authority.certificate.public_bytes(serialization.Encoding.PEM), _key_pem(authority.key))


def load_authority(certificate_path: Path, key_path: Path) -> Authority:
    """Read an authority back, to certify another node.

    Raises:
        InputError: a file is not there, is no certificate or key, or they do not belong together.
    """
    certificate = read_certificate(certificate_path)
    try:
        key = serialization.load_pem_private_key(read_secret(key_path), None)
    except (ValueError, TypeError) as error:
        raise InputError(str(key_path), "is not a private key in PEM form") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise InputError(str(key_path), f"is not the key of {certificate_path.name}")
    return Authority(certificate, key)


def issue_certificate(authority: Authority, name: str, hosts: Sequence[str]) -> PemPair:
    """Certify a node.

    Args:
        name: the validator's name: becomes the common name, which peers check.
        hosts: DNS names and IP addresses under which it is reached.

    Raises:
        InputError: a host is no DNS name or IP address.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    certificate = (
        _builder(_name(name), authority.certificate.subject, key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([_alternative(host) for host in dict.fromkeys(hosts)]), critical=False)
        .add_extension(usages, critical=False)
        .add_extension(issuer_key, critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    return PemPair(certificate.public_bytes(serialization.Encoding.PEM), _key_pem(key))


def read_certificate(path: Path) -> x509.Certificate:
    """Read a certificate file.

    Raises:
        InputError: it is not there or is no certificate in PEM form.
    """
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise InputError(str(path), error.strerror or str(error)) from error
    except ValueError as error:
        raise InputError(str(path), "is not a certificate in PEM form") from error


def certificate_days_left(path: Path, now_ms: int) -> int:
    """Return the whole days until a certificate expires (negative: it has).

    Args:
        now_ms: the machine's Unix time.

    Raises:
        InputError: the file is no certificate.
    """
    end = read_certificate(path).not_valid_after_utc
    return (int(end.timestamp() * 1000) - now_ms) // 86_400_000


# --------------------------------------------------------------------------------------------------------------------- TLS


@dataclass(frozen=True, slots=True)
class TlsContexts:
    """TLS 1.3 with mutual certificates of one authority, for incoming and outgoing links.

    The common name of the other side is checked by :mod:`node.transport`, not here: hosts may change, validators' names do not.
    """

    server: ssl.SSLContext
    client: ssl.SSLContext


def load_tls(certificate: Path, key: Path, authority: Path) -> TlsContexts:
    """Make the TLS contexts of a node from its files.

    Raises:
        InputError: a file is not there, is not what it should be, or certificate and key do not belong together.
    """
    read_secret(key)
    read_certificate(certificate)
    read_certificate(authority)
    contexts = []
    for purpose in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT):
        context = ssl.SSLContext(purpose)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_cert_chain(certificate, key, password="")
        except (OSError, ssl.SSLError) as error:
            raise InputError(str(key), f"is not the private key of {certificate.name}") from error
        try:
            context.load_verify_locations(authority)
        except (OSError, ssl.SSLError) as error:
            raise InputError(str(authority), "is not a certificate authority") from error
        contexts.append(context)
    return TlsContexts(contexts[0], contexts[1])


# ---------------------------------------------------------------------------------------------------------------- internal


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=VALIDITY_DAYS))
    )


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError as error:
        raise InputError("host", f"{host!r} is neither a DNS name nor an IP address") from error


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
