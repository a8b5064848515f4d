"""structlog set-up, called by the command line and by nobody else.

The context keys used everywhere: ``provider pool label request_id node_id external_id event_id took_s detail``. An
event name is constant; what varies is a key. What does *not* belong here: secrets. They never reach a log call.
"""

from __future__ import annotations

import logging
import sys
from typing import TextIO

import structlog


def configure(*, level: str = "info", as_json: bool = False, stream: TextIO | None = None) -> None:
    """Log to *stream* (default: standard error), as JSON lines or, for people, as aligned text."""
    out = stream or sys.stderr
    renderer: structlog.typing.Processor
    if as_json:
        renderer = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=out.isatty(), pad_event_to=24)
    timestamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        timestamp,
    ]
    if as_json:
        shared.append(structlog.processors.format_exc_info)
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[LibraryHandler()], level=max(number, logging.WARNING), force=True)


class LibraryHandler(logging.Handler):
    """Passes on what libraries log through the standard library, so that all of the log has one form."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            structlog.get_logger().log(
                record.levelno, "library", logger=record.name, detail=record.getMessage(), exc_info=record.exc_info
            )
        except Exception:  # noqa: BLE001  as every handler of the standard library
            self.handleError(record)
