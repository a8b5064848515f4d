"""Where traces go, as the environment says; without anything of OpenTelemetry's, which may not be installed.

What does *not* belong here: the traces (traces.py).
"""

from __future__ import annotations

import os
from typing import Final

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""Variables that say it, the first that is set. Source: OpenTelemetry's specification of its OTLP exporter."""


def traces_endpoint() -> str | None:
    """Where traces are sent to; None: nowhere."""
    return next(filter(None, map(os.environ.get, ENDPOINTS)), None)
