"""HTTP exchanges of openstacksdk with a cloud, recorded and played back: as an adapter of its session.

What does *not* belong here: which exchanges (tests/real_openstack/record.py), and what is made of them (tests/unit).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import BaseAdapter, HTTPAdapter

from nodelaunch.drivers.openstack.client import Client

FOLDER = Path(__file__).parents[1] / "unit" / "openstack_exchanges"
KEPT_HEADERS = ("Content-Type", "Retry-After", "X-Subject-Token")
CLOUD = {
    "auth": {
        "auth_url": "http://127.0.0.1:28500/v3", "username": "user", "password": "secret", "project_name": "project",
        "user_domain_name": "Default", "project_domain_name": "Default",
    },
    "region_name": "RegionOne",
}  # fmt: skip


def address_of(request: requests.PreparedRequest) -> str:
    """Return the service and the path of *request*, without parts that differ between machines."""
    parts = urlsplit(request.url or "")
    return f"{parts.netloc}{parts.path}" + (f"?{parts.query}" if parts.query else "")


class Recorder(HTTPAdapter):
    """Passes requests on, and keeps what was answered."""

    def __init__(self) -> None:
        super().__init__()
        self.exchanges: list[dict[str, Any]] = []

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:  # type: ignore[override]
        response = super().send(request, **options)
        headers = {name: response.headers[name] for name in KEPT_HEADERS if name in response.headers}
        if "X-Subject-Token" in headers:
            headers["X-Subject-Token"] = "token"
        self.exchanges.append({
            "method": request.method, "url": address_of(request), "status": response.status_code, "headers": headers,
            "body": _without_secrets(response) if "json" in headers.get("Content-Type", "") else response.text,
        })  # fmt: skip
        return response


def _without_secrets(response: requests.Response) -> Any:
    return json.loads(re.sub(r'("adminPass": )"[^"]*"', r'\1"secret"', response.text))


class Player(BaseAdapter):
    """Answers as it was recorded; what was never asked then is an error."""

    def __init__(self, exchanges: list[dict[str, Any]]) -> None:
        super().__init__()
        self._left = list(exchanges)
        self.sent: list[tuple[str, str, Any]] = []

    def say(self, path: str, message: str) -> None:
        """Replace the message in the refusal of a POST to *path* by *message*."""
        (found,) = [each for each in self._left if each["method"] == "POST" and each["url"].endswith(path)]
        ((kind, refusal),) = found["body"].items()
        found["body"] = {kind: {**refusal, "message": message}}

    def send(self, request: requests.PreparedRequest, **_: Any) -> requests.Response:  # type: ignore[override]
        url = address_of(request)
        found = [each for each in self._left if (each["method"], each["url"]) == (request.method, url)]
        assert found, f"{request.method} {url} was not recorded"
        if len(found) > 1:
            self._left.remove(found[0])
        self.sent.append((request.method or "", url, request.body))
        response = requests.Response()
        response.status_code = found[0]["status"]
        response.headers.update(found[0]["headers"])
        body = found[0]["body"]
        response._content = (body if isinstance(body, str) else json.dumps(body)).encode()
        response.request, response.url = request, request.url or ""
        return response

    def close(self) -> None:
        pass


def client_through(adapter: BaseAdapter, *, name: str = "lab", cloud: str = "devcloud") -> Client:
    """A client whose every request goes through *adapter*."""

    class Through(Client):
        def _connect(self) -> Any:
            connection = super()._connect()
            connection.session.session = requests.Session()
            connection.session.session.mount("http://", adapter)
            return connection

    return Through(name, cloud=cloud, region=None, interval_s=0.0)


def recorded(case: str) -> Player:
    return Player(json.loads((FOLDER / f"{case}.json").read_text()))
