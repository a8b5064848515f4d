"""Warnings about certificates that a configuration names: expired, soon to expire, not valid yet.

store/zookeeper/store.py checks that they can be read and belong together.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from nodelaunch.config.file import position_of
from nodelaunch.config.models import StoreConfig
from nodelaunch.errors import ConfigProblem

SOON = timedelta(days=14)


def certificate_warnings(
    config: StoreConfig,
    path: str | os.PathLike[str],
    *,
    secure: str | os.PathLike[str] | None = None,
    now: datetime | None = None,
) -> Iterator[ConfigProblem]:
    """Yield warnings about the certificates of ``zookeeper-tls``, each at its key in *path* or *secure*."""
    tls = config.zookeeper_tls
    for key, file in (("cert", tls.cert), ("ca", tls.ca)) if tls is not None else ():
        line, column = position_of(path, ("zookeeper-tls", key), secure=secure)
        for text in _doubts(Path(file), now or datetime.now(UTC)):
            yield ConfigProblem(os.fspath(path), line, column, f"{key}: {text}")


def _doubts(file: Path, now: datetime) -> Iterator[str]:
    try:
        certificates = x509.load_pem_x509_certificates(file.read_bytes())
    except (OSError, ValueError):
        return  # store/zookeeper/store.py reports it
    for certificate in certificates:
        begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if ends < now:
            yield f"the certificate expired on {ends:%Y-%m-%d}; servers reject it"
        elif ends < now + SOON:
            yield f"the certificate expires on {ends:%Y-%m-%d}"
        elif begins > now:
            yield f"the certificate is not valid before {begins:%Y-%m-%d}"
