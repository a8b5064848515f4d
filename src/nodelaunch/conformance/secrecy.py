"""The check that a driver reveals no secrets. targets.py finds the secrets of a configuration."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import partial
from typing import Any, Final

import structlog

from nodelaunch.conformance.harness import Harness, Violation, require
from nodelaunch.conformance.levels import Level
from nodelaunch.conformance.probe import ProbeError, RefusedCall
from nodelaunch.conformance.registry import Check, check
from nodelaunch.driverhost.wire import messages as m
from nodelaunch.errors import DriverError
from nodelaunch.protocol.driver import InstanceSpec

CANARY: Final = "nodelaunch-canary-7f3a91c5"
"""Sent with each request here as ``requestor_data``, which is private to the requestor."""
NO_LABEL: Final = "no-such-label"

CHECKS: list[Check] = []


@partial(check, CHECKS)("D10", Level.SILVER)
async def secrets_are_never_said(harness: Harness) -> None:
    """Errors, log lines and output contain neither secrets of the configuration nor data of a requestor."""
    said = await (_said_here(harness) if harness.under_test.program is None else _said_elsewhere(harness))
    for where, text in said:
        for secret in (CANARY, *harness.under_test.secrets):
            require(secret not in text, f"the driver revealed a secret in {where}: {_around(text, secret)!r}")


def _around(text: str, secret: str) -> str:
    """Return text around *secret*, with the secret replaced: people read reports, too."""
    before, _, after = text.partition(secret)
    return f"{before[-60:]}<SECRET>{after[:30]}".replace(secret, "<SECRET>")


def _spec(harness: Harness, label: str | None = None) -> InstanceSpec:
    spec = harness.spec()
    request = {**spec.request, "requestor_data": {"token": CANARY}}
    return replace(spec, request=request, label=label or spec.label)


async def _said_here(harness: Harness) -> list[tuple[str, str]]:
    """Return errors, log lines and output of a driver in this process, each with its origin."""
    said: list[tuple[str, str]] = []
    output = io.StringIO()
    with _log_kept(said), redirect_stdout(output), redirect_stderr(output):
        driver = harness.open()
        outcomes: list[object] = [await harness.attempt("quota_limits", driver.quota_limits())]
        if harness.makes_instances:
            made = await harness.attempt("create_instance", harness.create(_spec(harness), driver=driver))
            outcomes += [
                made,
                await harness.attempt("create_instance", harness.create(_spec(harness, NO_LABEL), driver=driver)),
            ]
            if isinstance(made, str):
                outcomes.append(await harness.attempt("wait_until_active", harness.active(made, driver=driver)))
                await harness.attempt("delete_instance", harness.delete(made, driver=driver))
            for fault in harness.faults.named.values():
                async with fault():
                    outcomes.append(
                        await harness.attempt("create_instance", harness.create(_spec(harness), driver=driver))
                    )
                    outcomes.append(await harness.attempt("list_instances", harness.listed(driver)))
    said += [("an error", str(each)) for each in outcomes if isinstance(each, DriverError)]
    return [*said, ("its output", output.getvalue())]


@contextmanager
def _log_kept(said: list[tuple[str, str]]) -> Iterator[None]:
    """Add everything that is logged in the block to *said*, at all levels."""

    def keep(_logger: Any, _method: str, entry: MutableMapping[str, Any]) -> Any:
        said.append(("a log line", json.dumps(dict(entry), default=str)))
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[keep], wrapper_class=structlog.BoundLogger, cache_logger_on_first_use=False)
    try:
        yield
    finally:
        structlog.configure(**before)


async def _said_elsewhere(harness: Harness) -> list[tuple[str, str]]:
    """Return errors, notifications and output of a driver process during an instance's life, each with its origin."""
    probe = await harness.probe()
    try:
        await probe.open()
        if harness.makes_instances:
            await _live(harness, probe)
        await probe.ask(m.PING.name)
    except (ProbeError, RefusedCall) as error:
        raise Violation(f"the calls for one instance failed: {error}") from None
    probe.hang_up()
    await probe.ended(2.0)
    received = probe.received
    secrets = [("its output", received.output.decode(errors="replace"))]
    secrets += [(f"a notification, {method}", json.dumps(params)) for method, params in received.notes]
    texts = [*secrets, *(("an error", text) for text in received.errors)]
    for where, text in texts:
        require(probe.token not in text, f"the driver revealed its token in {where}")
    return texts


async def _live(harness: Harness, probe: Any) -> None:
    for label in (None, NO_LABEL):
        spec = m.Spec.model_validate(_spec(harness, label)).model_dump(mode="json")
        try:
            made = await probe.ask(m.CREATE.name, spec=spec)
        except RefusedCall:
            continue
        await probe.ask(m.WAIT.name, external_id=made["external_id"])
        await probe.ask(m.LIST.name)
        await probe.ask(m.DELETE.name, external_id=made["external_id"])
    for fault in harness.faults.named.values():
        async with fault():
            spec = m.Spec.model_validate(_spec(harness)).model_dump(mode="json")
            for method, params in ((m.CREATE.name, {"spec": spec}), (m.LIST.name, {})):
                try:
                    await probe.ask(method, **params)
                except RefusedCall:
                    continue
