"""Finds the destination of traces from the environment, without OpenTelemetry, which may not be installed.

traces.py makes the traces.
"""

from __future__ import annotations

import os
from typing import Final

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""Variables that name the destination; the first one set counts. Source: OpenTelemetry's specification of its OTLP
exporter."""


def traces_endpoint() -> str | None:
    """Return the destination of traces, or None."""
    return next(filter(None, map(os.environ.get, ENDPOINTS)), None)
