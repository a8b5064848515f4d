"""Spans of requests and launches, and what they belong to."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from nodelaunch.errors import LaunchFailedError
from nodelaunch.traces import Tracing
from support.launchers import running

pytestmark = pytest.mark.looptime

SPAN = {"name": "RequestNodes", "trace_id": 0x9AFCDDD8F6A0CFF1A0B0AD2A5DB6A148, "span_id": 7, "trace_flags": 1}


async def test_request_is_traced_as_a_part_of_zuuls(tmp_path: Path) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    async with running(tmp_path, boot_time=20.0) as site:
        tracing = Tracing(site.launcher, provider)
        driver = site.launcher.providers["cloud"].driver
        create, failures = driver.create_instance, [LaunchFailedError("no luck")]

        async def fail_once(spec: object) -> str:
            await asyncio.sleep(2.0)
            if failures:
                raise failures.pop()
            return await create(spec)

        driver.create_instance = fail_once
        await site.job("small", requestor_data={"span_info": SPAN})
        await site.until(lambda: bool([s for s in exporter.get_finished_spans() if s.name == "node request"]))
        tracing.close()
        await site.job("small")
    spans = exporter.get_finished_spans()
    (request,) = [span for span in spans if span.name == "node request"]
    assert (request.context.trace_id, request.parent.span_id) == (SPAN["trace_id"], 7)
    assert request.attributes["nodelaunch.outcome"] == "fulfilled"
    launches = [span for span in spans if span.name == "launch node"]
    assert [span.attributes["nodelaunch.result"] for span in launches] == ["failed", "ready"]
    assert all(span.parent.span_id == request.context.span_id for span in launches)
    assert launches[0].status.description is not None
    assert "no luck" in launches[0].status.description
    (active,) = [span for span in spans if span.name == "active"]
    assert active.parent.span_id == launches[1].context.span_id
    assert active.end_time - active.start_time == pytest.approx(20e9, rel=0.05)
    assert request.start_time <= launches[0].start_time < active.start_time < active.end_time <= request.end_time


@pytest.mark.parametrize("data", [None, [], {"span_info": None}, {"span_info": {"trace_id": "x"}}, {"span_info": {}}])
async def test_request_without_a_span_has_a_trace_of_its_own(tmp_path: Path, data: object) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    async with running(tmp_path) as site:
        Tracing(site.launcher, provider)
        await site.job("small", requestor_data=data)
        await site.until(lambda: bool([s for s in exporter.get_finished_spans() if s.name == "node request"]))
    (request,) = [span for span in exporter.get_finished_spans() if span.name == "node request"]
    assert request.parent is None
