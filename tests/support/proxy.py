"""An HTTP proxy before a service, which answers in its place where a test says so.

What does *not* belong here: what the service is.
"""

from __future__ import annotations

import http.client
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import urlsplit

HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length"})


@dataclass
class Answer:
    """Answer in place of the service's, to the next *times* requests like *method* and *path* (a regex)."""

    method: str
    path: str
    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b"{}"
    times: int = 1
    is_lie: bool = False
    """Said when the service has done what it was asked."""


class Proxy:
    """Use as a context manager; ``url`` leads through it to *target*."""

    def __init__(self, target: str) -> None:
        self._target = urlsplit(target)
        self.answers: list[Answer] = []
        self.rewrite: Callable[[str, bytes], bytes] | None = None
        """Function that replaces the body of a service's answer, given the method and path of the request."""
        self.delay_s = 0.0
        """Delay before each request is passed on."""
        self.given: list[tuple[str, int]] = []
        """Requests that were answered in the service's place, and how."""
        self.passed: list[tuple[str, int]] = []
        """Requests that the service answered, and how."""
        self.tokens: set[str] = set()
        """All tokens that the service received."""
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one(self) -> None:
                proxy._handle(self)

            do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = handle_one  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}{self._target.path}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _scripted(self, method: str, path: str) -> Answer | None:
        with self._lock:
            for answer in self.answers:
                if answer.times and answer.method == method and re.search(answer.path, path):
                    answer.times -= 1
                    self.given.append((f"{method} {path}", answer.status))
                    return answer
        return None

    def _handle(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        answer = self._scripted(request.command, request.path)
        try:
            if answer is not None:
                if answer.is_lie:
                    self._passed_on(request, body)
                self._say(request, answer.status, answer.headers, answer.body)
            else:
                time.sleep(self.delay_s)
                self.tokens |= {token for token in [request.headers.get("X-Auth-Token")] if token}
                status, headers, reply = self._passed_on(request, body)
                self.passed.append((f"{request.command} {request.path}", status))
                if self.rewrite is not None:
                    reply = self.rewrite(f"{request.command} {request.path}", reply)
                self._say(request, status, headers, reply)
        except (BrokenPipeError, ConnectionResetError):
            request.close_connection = True

    def _passed_on(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        connection = http.client.HTTPConnection(str(self._target.hostname), self._target.port, timeout=120)
        try:
            headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
            connection.request(request.command, request.path, body or None, headers)
            reply = connection.getresponse()
            data = reply.read()
            kept = {name: value for name, value in reply.getheaders() if name.lower() not in HOP_BY_HOP}
            return reply.status, kept, data
        except OSError as error:
            return 502, {}, str(error).encode()
        finally:
            connection.close()

    @staticmethod
    def _say(request: BaseHTTPRequestHandler, status: int, headers: Mapping[str, str], body: bytes) -> None:
        request.send_response_only(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body)
