"""Log lines about ZooKeeper servers that cannot be reached."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from nodelaunch.connecting import no_session
from nodelaunch.store.zookeeper.dial import Dialer
from nodelaunch.store.zookeeper.store import ZooKeeperStore

REFUSED, EXPIRED = OSError("Connect call failed"), OSError("certificate has expired")


class Scripted(Dialer):
    """Meets *errors*, one at a time; None: the server takes the session."""

    def __init__(self, *errors: Exception | None) -> None:
        super().__init__([("zk1", 2281)], None, 10.0)
        self._errors = iter(errors)

    async def _addresses(self, _host: str, _port: int) -> list[str]:
        return ["127.0.0.1"]

    async def _open(self, *_arguments: Any) -> Any:
        if (error := next(self._errors)) is not None:
            raise error


@pytest.fixture(autouse=True)
def logging() -> Iterator[None]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(0))
    yield
    structlog.reset_defaults()


async def told(*errors: Exception | None) -> tuple[list[str], Scripted]:
    async def greet(_connection: object) -> None:
        pass

    dialer = Scripted(*errors)
    with capture_logs() as logs:
        for _ in errors:
            await dialer.dial(lambda: None, greet, timeout_s=1.0)  # type: ignore[arg-type, return-value]
    assert {entry["event"] for entry in logs} <= {"zookeeper_unreachable"}
    return [entry["detail"] for entry in logs], dialer


async def test_each_reason_of_an_outage_is_logged_once_when_it_comes() -> None:
    details, dialer = await told(REFUSED, REFUSED, EXPIRED, EXPIRED, TimeoutError(), REFUSED)
    assert details == ["Connect call failed", "certificate has expired", "TimeoutError"]
    assert dialer.trouble == "zk1:2281: Connect call failed"


async def test_reason_of_the_next_outage_is_logged_again() -> None:
    details, dialer = await told(REFUSED, None, REFUSED, None)
    assert details == ["Connect call failed"] * 2
    assert dialer.trouble is None


async def test_end_of_the_wait_for_a_session_names_server_and_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    store = ZooKeeperStore([("zk1", 2281)])
    monkeypatch.setattr(store.session.dialer, "trouble", "zk1:2281: certificate has expired")
    assert str(no_session(store, 30.0)) == "no session within 30 s; zk1:2281: certificate has expired"
