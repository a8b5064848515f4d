"""The service of examples/embedded, served by uvicorn as its first lines say."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

SERVICE = Path(__file__).parents[2] / "examples" / "embedded" / "service.py"


@pytest.fixture
def address() -> Iterator[str]:
    """Yield the address of the service, once it answers."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    (words,) = re.findall(r"^    uvicorn (service:app) --app-dir \S+ --port 8000$", SERVICE.read_text(), re.MULTILINE)
    command = [sys.executable, "-m", "uvicorn", words, "--app-dir", str(SERVICE.parent), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                get(f"http://127.0.0.1:{port}/nodes/health/live")
                break
            except OSError:
                assert time.monotonic() < deadline
                assert process.poll() is None, process.communicate()
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        out, err = process.communicate(timeout=60)
    assert process.returncode in (0, -15), err
    assert "Traceback" not in err
    assert "node_ready" not in out + err  # the package prints nothing into a host's output


def get(address: str, *, method: str = "GET") -> str:
    request = urllib.request.Request(address, method=method)
    with urllib.request.urlopen(request, timeout=30) as reply:
        return str(reply.read().decode())


def test_service_with_machines(address: str) -> None:
    ran = json.loads(get(f"{address}/run?command=uptime", method="POST"))
    assert ran["ran"] == "uptime"
    assert ran["node"].isdigit()
    assert "small: ready after" in get(f"{address}/")
    status = json.loads(get(f"{address}/nodes/status.json"))
    assert [provider["name"] for provider in status["providers"]] == ["pretend"]
    assert "<title>nodelaunch</title>" in get(f"{address}/nodes/")
    assert "nodelaunch_ready 1.0" in get(f"{address}/nodes/metrics")
