"""A CA of our own with a server's and a client's certificate, as mutual TLS with ZooKeeper takes."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from nodelaunch.store.zookeeper.store import TlsFiles


@dataclass(frozen=True)
class Certificates:
    folder: Path

    @property
    def client(self) -> TlsFiles:
        return self.of("client")

    def of(self, who: str) -> TlsFiles:
        return TlsFiles(str(self.folder / f"{who}.crt"), str(self.folder / f"{who}.key"), str(self.folder / "ca.crt"))


def make_certificates(folder: Path, *, host: str | None = None) -> Certificates:
    """ca.crt, and {server,client,zuul}.{crt,key}; server.pem is key and certificate together.

    The server's names *host*; None: none. The subjects are ``CN=some server`` and so on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ca_key = rsa.generate_private_key(65537, 2048)
    ca_name = _name("nodelaunch test CA")
    ca = _builder(ca_name, ca_name, ca_key.public_key()).add_extension(
        x509.BasicConstraints(ca=True, path_length=None), critical=True
    )
    ca_cert = ca.sign(ca_key, hashes.SHA256())
    (folder / "ca.crt").write_bytes(ca_cert.public_bytes(serialization.Encoding.PEM))
    for who in ("server", "client", "zuul"):
        key = rsa.generate_private_key(65537, 2048)
        builder = _builder(_name(f"some {who}"), ca_name, key.public_key())
        if who == "server" and host is not None:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        cert = builder.sign(ca_key, hashes.SHA256())
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        crt = cert.public_bytes(serialization.Encoding.PEM)
        (folder / f"{who}.key").write_bytes(pem)
        (folder / f"{who}.crt").write_bytes(crt)
        (folder / f"{who}.pem").write_bytes(pem + crt)
    return Certificates(folder)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(subject: x509.Name, issuer: x509.Name, key: rsa.RSAPublicKey) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=30))
    )
