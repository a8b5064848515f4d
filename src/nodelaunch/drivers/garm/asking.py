"""Asks a provider of interface v0.1.1 for its options while a configuration is read. config.py uses the answer."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from nodelaunch.drivers.garm.calls import Done, TooMuchOutputError, run
from nodelaunch.drivers.garm.interface import EXIT_NOT_RUN, AnswerError, GarmCommand, Version, environment, read_object
from nodelaunch.drivers.plugin import DriverNotFoundError

TIMEOUT_S: Final = 20.0
"""Time limit of each question."""
NOBODY: Final = "00000000-0000-4000-8000-000000000000"
"""Controller id for these questions; no instance has it."""


@dataclass(frozen=True, slots=True)
class OptionSchemas:
    """JSON Schemas of a provider's options. None: the provider describes none."""

    config: dict[str, Any] | None = None
    extra_specs: dict[str, Any] | None = None

    @classmethod
    def read(cls, config: str | None, extra_specs: str | None) -> OptionSchemas:
        return cls(*(None if text is None else _inlined(json.loads(text)) for text in (config, extra_specs)))


def schemas_of(executable: str, config_file: str, passed: tuple[str, ...]) -> tuple[str | None, str | None]:
    """Return the schemas of the provider's configuration file and of its extra specs, as JSON.

    Blocks, with or without a running event loop. Raises: DriverNotFoundError for the key ``executable``.
    """
    path, file = str(Path(executable).expanduser()), str(Path(config_file).expanduser())
    outcome: list[tuple[str | None, str | None] | DriverNotFoundError] = []

    def ask() -> None:
        # A loop of its own: the caller has none, or this call blocks it.
        with asyncio.Runner() as runner:
            outcome.append(runner.run(_asked(path, file, passed)))

    thread = threading.Thread(target=ask, name=f"schemas of {path}")
    thread.start()
    thread.join()
    if not outcome:
        raise DriverNotFoundError(f"{path} could not be asked for its options", key="executable")
    if isinstance(outcome[0], DriverNotFoundError):
        raise outcome[0]
    return outcome[0]


async def _asked(path: str, file: str, passed: tuple[str, ...]) -> tuple[str | None, str | None] | DriverNotFoundError:
    try:
        config = await _answer(path, file, passed, GarmCommand.CONFIG_SCHEMA)
        return config, await _answer(path, file, passed, GarmCommand.EXTRA_SPECS_SCHEMA)
    except DriverNotFoundError as error:
        return error


async def _answer(path: str, file: str, passed: tuple[str, ...], command: GarmCommand) -> str | None:
    told = environment(command, Version.V011, controller_id=NOBODY, config_file=file)
    try:
        done = await run([path], told, name=Path(path).name, passed=passed, timeout_s=TIMEOUT_S)
        if done.code == 0:
            return json.dumps(read_object(done.output), sort_keys=True) if done.output.strip() else None
        why = _failed(done)
    except TimeoutError:
        why = f"did not answer within {TIMEOUT_S:g} s"
    except TooMuchOutputError:
        why = "printed too much"
    except AnswerError as error:
        why = f"printed {error}"
    raise DriverNotFoundError(f"asked for its options ({command}), {path} {why}", key="executable")


def _failed(done: Done) -> str:
    said = f": {done.said}" if done.said else ""
    if done.code == EXIT_NOT_RUN:
        return f"could not be started{said}"
    return f"ended with exit code {done.code}{said}; if it has interface v0.1.0 only, set interface-version: v0.1.0"


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """Return *schema* without a reference at its root: schema generators in Go write structures that way."""
    reference = schema.get("$ref")
    if not isinstance(reference, str):
        return schema
    for word in ("$defs", "definitions"):
        defs = schema.get(word)
        target = defs.get(reference.rpartition("/")[2]) if isinstance(defs, dict) else None
        if isinstance(target, dict):
            return {**target, "$defs": defs}
    return {}
