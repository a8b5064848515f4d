"""Traces of requests and launches, for OpenTelemetry.

    tracing = Tracing(launcher)

Each request has a span from its creation to its end; in it, each attempt to launch a node has a span, and in that, each
stage. If a request from Zuul names a span, that span is the parent. The API of OpenTelemetry alone records nothing: the
host application, or `exporting`, sets up its SDK.
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, Status, StatusCode, TraceFlags

from nodelaunch import __version__
from nodelaunch.launcher import Launcher
from nodelaunch.log import Logger, get_logger
from nodelaunch.monitoring.tracesendpoint import traces_endpoint
from nodelaunch.protocol.events import LaunchEnded, RequestEnded
from nodelaunch.protocol.paths import RequestId

log: Logger = get_logger(__name__)

MOST_REQUESTS: Final = 10_000
"""The most requests whose launches are kept until they end."""
FLUSH_S: Final = 5.0
"""Time to send the last spans at the end."""


@asynccontextmanager
async def exporting(launcher: Launcher) -> AsyncIterator[None]:
    """Send the traces of *launcher* to the endpoint in the environment, inside the block. Raises: ImportError without
    the SDK of OpenTelemetry."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = {"service.name": os.environ.get("OTEL_SERVICE_NAME") or "nodelaunch", "service.version": __version__}
    provider = TracerProvider(resource=Resource.create({**named, "host.name": launcher.hostname}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    tracing = Tracing(launcher, provider)
    log.info("traces_sent", to=traces_endpoint())
    try:
        yield
    finally:
        tracing.close()
        await asyncio.to_thread(provider.force_flush, int(1000 * FLUSH_S))
        await asyncio.to_thread(provider.shutdown)


class Tracing:
    """Makes spans of *launcher*'s requests until `close`, with *provider* or the tracer provider of the process."""

    def __init__(self, launcher: Launcher, provider: trace.TracerProvider | None = None) -> None:
        self._launcher = launcher
        self._tracer = trace.get_tracer("nodelaunch", __version__, provider)
        self._launches: OrderedDict[RequestId, list[LaunchEnded]] = OrderedDict()
        """The spans of open requests."""
        self._stops = [
            launcher.events.subscribe(self._launch_ended, LaunchEnded),
            launcher.events.subscribe(self._request_ended, RequestEnded),
        ]

    def close(self) -> None:
        """Stop making spans."""
        while self._stops:
            self._stops.pop()()

    def _launch_ended(self, event: LaunchEnded) -> None:
        self._launches.setdefault(event.request_id, []).append(event)
        if len(self._launches) > MOST_REQUESTS:
            self._launches.popitem(last=False)

    def _request_ended(self, event: RequestEnded) -> None:
        seen = self._launcher.view.requests.get(event.request_id)
        parent = _context_of(None if seen is None else seen.record.requestor_data)
        facts = {
            "nodelaunch.request_id": event.request_id,
            "nodelaunch.provider": event.provider,
            "nodelaunch.pool": event.pool,
            "nodelaunch.outcome": event.outcome,
            "nodelaunch.labels": event.labels,
            "nodelaunch.nodes": event.nodes,
            "nodelaunch.requestor": event.requestor or "",
            "zuul_event_id": event.event_id or "",
        }
        span = self._span("node request", parent, event.at - event.age_s, facts)
        if event.outcome != "fulfilled":
            span.set_status(Status(StatusCode.ERROR, "; ".join(map(str, event.reasons)) or event.outcome))
        inside = trace.set_span_in_context(span)
        for launch in self._launches.pop(event.request_id, ()):
            self._trace_launch(launch, inside)
        span.end(_ns(event.at))

    def _trace_launch(self, launch: LaunchEnded, parent: Context) -> None:
        began = launch.at - launch.took_s
        facts = {
            "nodelaunch.node_id": launch.node_id or "",
            "nodelaunch.label": launch.label,
            "nodelaunch.zone": launch.zone or "",
            "nodelaunch.attempt": launch.attempt,
            "nodelaunch.result": launch.result,
        }
        span = self._span("launch node", parent, began, facts)
        if launch.result != "ready":
            span.set_status(Status(StatusCode.ERROR, launch.detail or launch.result))
        inside = trace.set_span_in_context(span)
        before_s = sum(took_s for name, took_s in launch.stages if name in ("queue", "quota"))
        at = began - before_s
        for name, took_s in launch.stages:
            where = parent if name in ("queue", "quota") else inside
            if took_s > 0:
                self._span(name, where, at, {}).end(_ns(at + took_s))
            at += took_s
        span.end(_ns(launch.at))

    def _span(self, name: str, parent: Context | None, began: float, facts: Mapping[str, Any]) -> Span:
        return self._tracer.start_span(name, parent, start_time=_ns(began), attributes=facts)


def _ns(at: float) -> int:
    return int(at * 1e9)


def _context_of(requestor_data: Any) -> Context | None:
    """Return the context of Zuul's span for the request. Source: Zuul, its ``tracing`` module."""
    info = requestor_data.get("span_info") if isinstance(requestor_data, dict) else None
    if not isinstance(info, dict):
        return None
    trace_id, span_id = info.get("trace_id"), info.get("span_id")
    if not isinstance(trace_id, int) or not isinstance(span_id, int):
        return None
    flags = info.get("trace_flags")
    context = SpanContext(
        trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags if isinstance(flags, int) else 1)
    )
    return trace.set_span_in_context(NonRecordingSpan(context)) if context.is_valid else None
