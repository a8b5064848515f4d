"""Loggers of the package, and the set-up of structlog, which only the command line calls.

In a program that has set up neither structlog nor Python's logging, nothing is printed.

The context keys used everywhere: ``provider pool label request_id node_id external_id event_id took_s detail``. An
event name is constant; variable data are keys. Secrets never reach a log call.

A log call never raises because of its stream: a line that can't be written is dropped.

The import of structlog takes longer than most commands run: structlog is imported at the first log line, unless the
program has imported it already.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TextIO

if TYPE_CHECKING:
    import structlog


def get_logger(name: str) -> Logger:
    """Return a logger with structlog's methods.

    The logger follows structlog's configuration. If structlog is not configured, it writes to the logger *name* of
    Python's logging, with the facts as text and in ``record.facts``.
    """
    return Logger(name)


class Logger:
    """Decides at each call which logging package is used, because modules create their loggers on import.

    structlog's bound logger is kept while the configuration is the same: making it costs more than a line.
    """

    __slots__ = ("_context", "_made", "_made_of", "_name")

    def __init__(self, name: str, context: dict[str, Any] | None = None) -> None:
        self._name = name
        self._context = context or {}
        self._made: Any = None
        self._made_of: tuple[object, ...] = ()

    def bind(self, **context: Any) -> Logger:
        """Return a logger with these facts in each of its lines."""
        return Logger(self._name, {**self._context, **context})

    def debug(self, event: str, /, **facts: Any) -> None:
        self._log("debug", event, facts)

    def info(self, event: str, /, **facts: Any) -> None:
        self._log("info", event, facts)

    def warning(self, event: str, /, **facts: Any) -> None:
        self._log("warning", event, facts)

    def error(self, event: str, /, **facts: Any) -> None:
        self._log("error", event, facts)

    def exception(self, event: str, /, **facts: Any) -> None:
        """Log as `error`, with the traceback of the exception that is being handled."""
        self._log("exception", event, facts)

    def _log(self, method: str, event: str, facts: dict[str, Any]) -> None:
        if _SET_UP.is_awaited:
            if _NUMBERS[method] < _SET_UP.least:
                return
            _SET_UP.begin()
        if (direct := _SET_UP.direct) is not None and direct.is_in_use():
            if _NUMBERS[method] >= direct.least:
                if method == "exception":
                    facts.setdefault("exc_info", True)
                direct.write(_text(method, event, {**self._context, **facts} if self._context else facts))
            return
        config = _structlog_config()
        if config is None:
            _log_plainly(logging.getLogger(self._name), method, event, self._context | facts)
            return
        made_of = (config["wrapper_class"], config["logger_factory"], config["processors"])
        if made_of != self._made_of:
            wrapper_class, logger_factory, processors = made_of
            self._made = wrapper_class(logger_factory(self._name), processors, dict(self._context))
            self._made_of = made_of
        getattr(self._made, method)(event, **facts)


def _structlog_config() -> dict[str, Any] | None:
    """Return structlog's configuration; None if structlog is not configured or not imported."""
    structlog = sys.modules.get("structlog")
    return structlog.get_config() if structlog is not None and structlog.is_configured() else None


def _log_plainly(logger: logging.Logger, method: str, event: str, facts: dict[str, Any]) -> None:
    """Log through the standard library."""
    if not logger.isEnabledFor(number := _NUMBERS[method]):
        return
    failure = facts.pop("exc_info", method == "exception")
    text = f"{event} {_spelled(facts)}" if facts else event
    logger.log(number, "%s", text, exc_info=failure, extra={"facts": facts}, stacklevel=4)


def _spelled(facts: dict[str, Any]) -> str:
    """Return ``key=value`` for each of *facts*, by key; a value that could be read as several is shown with quotes."""
    return " ".join(
        [
            f"{key}={value if type(value) is str and _PLAIN(value) else repr(value)}"
            for key, value in sorted(facts.items())
        ]
    )


logging.getLogger("nodelaunch").addHandler(logging.NullHandler())  # without a handler, Python prints warnings
EVENT_WIDTH = 24
"""Columns for the event's name, so that the keys of most lines are aligned."""
_LEVELS: Final = {"warn": "warning", "exception": "error"}
_HEADS: Final = {
    method: f"[{_LEVELS.get(method, method):<9}] "
    for method in ("debug", "info", "warn", "warning", "error", "exception", "critical")
}
"""The text before the event of a line, by the method that logs it."""
_NUMBERS: Final = {
    "debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR,
    "exception": logging.ERROR,
}  # fmt: skip
"""The standard library's level of each method."""
_seconds: dict[int, str] = {}
"""The last second that was formatted, and its text."""
_PLAIN = re.compile(r"""[^\s="']*""").fullmatch
"""Matches a text that needs no quotes."""


class _SetUp:
    """The set-up that `configure` has postponed until the first line."""

    def __init__(self) -> None:
        self.least = 0
        """The level of the first line that starts the set-up."""
        self.is_awaited = False
        self.direct: _Direct | None = None
        self._begin: Callable[[], None] | None = None

    def wait(self, begin: Callable[[], None], least: int) -> None:
        self._begin, self.least, self.is_awaited = begin, least, True

    def begin(self) -> None:
        """Run the set-up, unless it has run already."""
        begin, self._begin, self.is_awaited = self._begin, None, False
        if begin is not None and _structlog_config() is None:
            begin()


class _Direct:
    """Writes lines of text without structlog's loggers, while structlog is configured to write the same lines.

    structlog's other work on a line takes longer than the line itself.
    """

    def __init__(self, get_config: Callable[[], dict[str, Any]], least: int, write: Callable[[str], None]) -> None:
        config = get_config()
        self._get_config = get_config
        self._wrapper_class: object = config["wrapper_class"]
        self._logger_factory: object = config["logger_factory"]
        self._processors = list(config["processors"])
        self.least: int = least
        """The level of the least important line that is written."""
        self.write: Callable[[str], None] = write

    def is_in_use(self) -> bool:
        """Return True if structlog's configuration is unchanged: a program that configures structlog again gets its
        lines."""
        config = self._get_config()
        return (
            config["wrapper_class"] is self._wrapper_class
            and config["logger_factory"] is self._logger_factory
            and config["processors"] == self._processors
        )


_SET_UP: Final = _SetUp()


def configure(
    *, level: str = "info", as_json: bool = False, stream: TextIO | None = None, is_late: bool = False
) -> None:
    """Log to *stream* (default: standard error), as JSON lines or as aligned text for people.

    *is_late*: configure structlog at the first line; for programs in which no other code uses structlog.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    begin = partial(_configure_structlog, number, as_json, stream or sys.stderr)
    if is_late and "structlog" not in sys.modules:
        _SET_UP.wait(begin, number)
    else:
        begin()
    logging.basicConfig(handlers=[LibraryHandler()], level=max(number, logging.WARNING), force=True)


def _configure_structlog(number: int, as_json: bool, out: TextIO) -> None:
    import structlog

    lines = _LineLogger(out)
    structlog.configure(
        processors=_as_json() if as_json else _as_text(out),
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *_arguments: lines,
        cache_logger_on_first_use=False,
    )
    is_plain = structlog.get_config()["processors"] == [_line]
    _SET_UP.direct = _Direct(structlog.get_config, number, lines.msg) if is_plain else None


def _as_json() -> list[structlog.typing.Processor]:
    import structlog

    return [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(),
    ]


def _as_text(out: TextIO) -> list[structlog.typing.Processor]:
    if not out.isatty():
        return [_line]
    import structlog

    return [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.dev.ConsoleRenderer(
            pad_event_to=EVENT_WIDTH,
            exception_formatter=structlog.dev.plain_traceback,  # other formatters show variables
        ),
    ]


def _now() -> str:
    """Return the time in UTC, to the microsecond; the part up to the second is cached."""
    now = time.time()
    second = int(now)
    if second not in _seconds:
        _seconds.clear()
        _seconds[second] = datetime.fromtimestamp(second, UTC).isoformat()[:19]
    return f"{_seconds[second]}.{int((now - second) * 1e6):06d}Z"


def _line(_logger: object, method: str, event: structlog.typing.EventDict) -> str:
    """Return one event as text, as structlog's console shows it without colours, in a fraction of the time."""
    return _text(method, event.pop("event"), dict(event))


def _text(method: str, event: object, facts: dict[str, Any]) -> str:
    """Return the line of *event*; remove ``exc_info`` from *facts*, and put the traceback below the line."""
    failure = facts.pop("exc_info", None) if "exc_info" in facts else None
    line = f"{_now()} {_HEADS.get(method) or f'[{method:<9}] '}{event!s:<{EVENT_WIDTH}}"
    if facts:
        line = f"{line} {_pairs(facts)}"
    if failure:
        import structlog

        formatted = structlog.processors.format_exc_info(None, method, {"exc_info": failure})
        if "exception" in formatted:
            line += "\n" + formatted["exception"]
    return line


class _Form(NamedTuple):
    """The text format of facts with the same keys."""

    template: str
    """The keys in order, with a place for each value."""
    values_of: Callable[[dict[str, Any]], tuple[object, ...]]
    """The values, in the order of the template."""
    size: int


def _pairs(facts: dict[str, Any]) -> str:
    """Return ``key=value`` for each of *facts*, by key, with quotes where a value could be read as several."""
    form = _FORMS.get(keys := tuple(facts)) or _new_form(keys)
    values = form.values_of(facts)
    if _SHOWN_AS_TEXT.issuperset(map(type, values)):
        text = form.template % values
        if (
            text.count(" ") == form.size - 1 and text.count("=") == form.size
            and '"' not in text and "'" not in text and text.isprintable()
        ):  # fmt: skip
            return text
    return _spelled(facts)


def _new_form(keys: tuple[str, ...]) -> _Form:
    if len(_FORMS) >= MAX_FORMS:
        _FORMS.clear()
    ordered = sorted(keys)
    pick = itemgetter(*ordered) if len(ordered) > 1 else lambda facts: (facts[ordered[0]],)
    form = _FORMS[keys] = _Form(" ".join(f"{key.replace('%', '%%')}=%s" for key in ordered), pick, len(ordered))
    return form


_FORMS: Final[dict[tuple[str, ...], _Form]] = {}
"""Formats by their keys in the given order: about one for each call that logs."""
MAX_FORMS: Final = 1000
_SHOWN_AS_TEXT: Final = frozenset({str, int, float, bool, type(None)})
"""Types of values that are shown as ``str``, except texts that need quotes."""


class _LineLogger:
    """Writes lines to a text stream, and drops lines that can't be written."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._write = out.write
        self._flush = out.flush

    def msg(self, line: str) -> None:
        """Write *line* at once."""
        try:
            self._write(line + "\n")
            self._flush()
        except BrokenPipeError:
            self._discard()
        except (OSError, ValueError):
            pass

    log = debug = info = warn = warning = err = error = exception = fatal = critical = failure = msg

    def _discard(self) -> None:
        """Point the descriptor of the stream, whose reader has closed the pipe, at the null device.

        The stream keeps what it could not write and writes it at the next flush. The last one, when the interpreter
        ends, would fail again and turn exit code 0 into 120. Source: Python's signal module, note on SIGPIPE.
        """
        with suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            try:
                os.dup2(null, self._out.fileno())
            finally:
                os.close(null)


class LibraryHandler(logging.Handler):
    """Passes on the log records of libraries, so that the whole log has one format."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            import structlog

            _SET_UP.begin()
            structlog.get_logger().log(
                record.levelno, "library", logger=record.name, detail=record.getMessage(), exc_info=record.exc_info
            )
        except Exception:  # noqa: BLE001  as every handler of the standard library
            self.handleError(record)
