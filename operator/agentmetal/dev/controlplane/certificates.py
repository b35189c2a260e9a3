"""Certificates of a development control plane: an authority in a directory, and what it signs. Used by `plane`.

Every pair is one PEM file (certificate, then key), written atomically and readable by its owner only: there is no
moment at which a certificate and a key do not belong together. Nothing here is meant for production.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = timedelta(days=3650)
CLOCK_SKEW = timedelta(hours=1)


def write_private(path: Path, content: bytes) -> None:
    """Replace a file atomically; nobody else can read it at any time."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    temporary.replace(path)


def signing_key(directory: Path, name: str) -> tuple[Path, Path]:
    """A key pair for ServiceAccount tokens, as files (private, public); made once."""
    private, public = directory / f"{name}.key", directory / f"{name}.pub"
    if not private.exists():
        write_private(private, _pem_of_key(ec.generate_private_key(ec.SECP256R1())))
    key = _load_key(private.read_bytes())
    write_private(
        public,
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
    )
    return private, public


@dataclass(frozen=True)
class Authority:
    """A certificate authority that lives in a directory as `<name>.crt` (for everybody) and `<name>.key`."""

    directory: Path
    name: str

    @property
    def certificate(self) -> Path:
        """The file others trust."""
        return self.directory / f"{self.name}.crt"

    def prepare(self) -> None:
        """Make the authority unless it is there."""
        if self.certificate.exists():  # written last: then the key is there too
            return
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"agentmetal development {self.name}")])
        builder = _builder(name, key.public_key(), issuer=name, issuer_key=key.public_key()).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
        write_private(self.directory / f"{self.name}.key", _pem_of_key(key))
        write_private(self.certificate, builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def client(self, user: str, groups: Sequence[str] = ()) -> Path:
        """The pair of a client: Kubernetes reads the user from the common name, groups from the organizations."""
        attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
        subject = x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, user)])
        return self._pair(f"client-{user.replace(':', '-')}", subject, (), (ExtendedKeyUsageOID.CLIENT_AUTH,))

    def server(self, name: str, names: Sequence[str], *, also_client: bool = False) -> Path:
        """The pair of a server for those DNS names and IP addresses."""
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        client = (ExtendedKeyUsageOID.CLIENT_AUTH,) if also_client else ()
        return self._pair(f"server-{name}", subject, names, (ExtendedKeyUsageOID.SERVER_AUTH, *client))

    def _pair(
        self, file: str, subject: x509.Name, names: Sequence[str], usages: Sequence[x509.ObjectIdentifier]
    ) -> Path:
        path = self.directory / f"{file}.pem"
        if path.exists() and x509.load_pem_x509_certificate(path.read_bytes()).subject == subject:
            return path
        issuer = x509.load_pem_x509_certificate(self.certificate.read_bytes())
        issuer_key = _load_key((self.directory / f"{self.name}.key").read_bytes())
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(subject, key.public_key(), issuer=issuer.subject, issuer_key=issuer_key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(map(_general_name, names)), critical=False)
        signed = builder.sign(issuer_key, hashes.SHA256())
        write_private(path, signed.public_bytes(serialization.Encoding.PEM) + _pem_of_key(key))
        return path


def _builder(
    subject: x509.Name, key: ec.EllipticCurvePublicKey, *, issuer: x509.Name, issuer_key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder(issuer, subject, key, x509.random_serial_number(), now - CLOCK_SKEW, now + LIFETIME)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem_of_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )


def _load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError(f"expected an elliptic curve key, found {type(key).__name__!r}")
    return key
