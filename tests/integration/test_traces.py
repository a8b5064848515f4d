"""``serve`` sends its traces to a collector, and its last ones when it ends."""

from __future__ import annotations

import http.server
import threading
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from support.process import Serve, run

CONFIG = """
webapp: {{port: 0, listen_address: 127.0.0.1}}
embedded-store: {{path: {store}}}
labels: [{{name: small}}]
providers:
  - name: cloud
    driver: fake
    boot-time: 0.1
    cloud-images: [{{name: image}}]
    pools: [{{name: main, max-servers: 2, labels: [{{name: small, cloud-image: image, min-ram: 8192}}]}}]
"""


class Collector(http.server.BaseHTTPRequestHandler):
    """Takes spans as OTLP over HTTP has them."""

    spans: list[str]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        sent = ExportTraceServiceRequest.FromString(body)
        for resource in sent.resource_spans:
            names = {each.key: each.value.string_value for each in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans.extend(f"{names['service.name']}: {span.name}" for span in scope.spans)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        """Says nothing."""


def test_traces_arrive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spans: list[str] = []
    handler = type("Handler", (Collector,), {"spans": spans})
    server = http.server.HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    config = tmp_path / "nodepool.yaml"
    config.write_text(CONFIG.format(store=tmp_path / "store.sqlite"))
    serve = Serve(config)
    try:
        serve.await_log("pool_registered")
        done = run("request", "small", "--json", "-c", str(config))
        assert done.returncode == 0, done.stderr
        assert serve.stop() == 0
        assert serve.complaints == []
    finally:
        serve.kill()
        server.shutdown()
        thread.join(10)
        server.server_close()
    assert {"nodelaunch: node request", "nodelaunch: launch node", "nodelaunch: active"} <= set(spans)
