"""A store that loses its first session while it is entered waits for the next one."""

from __future__ import annotations

import pytest

from nodelaunch.errors import RecordGoneError, SessionLostError, StoreError
from nodelaunch.store.zookeeper.store import ZooKeeperStore


class Session:
    """The parts of a session that entering needs."""

    def __init__(self) -> None:
        self.waited = 0
        self.is_stopped = False

    def start(self, _audience: object) -> None:
        pass

    async def connected(self) -> int:
        self.waited += 1
        return self.waited

    async def stop(self) -> None:
        self.is_stopped = True


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> ZooKeeperStore:
    made = ZooKeeperStore([("127.0.0.1", 1)], chroot="/ours")
    monkeypatch.setattr(made, "session", Session())
    return made


async def test_lost_session_is_followed_by_another(store: ZooKeeperStore, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = [SessionLostError(), SessionLostError()]

    async def get(_path: str) -> None:
        if losses:
            raise losses.pop()

    monkeypatch.setattr(store._reader, "get", get)
    async with store:
        assert store.session.waited == 3


async def test_chroot_that_stays_away_is_told(store: ZooKeeperStore, monkeypatch: pytest.MonkeyPatch) -> None:
    async def get(path: str) -> None:
        raise RecordGoneError(path)

    monkeypatch.setattr(store._reader, "get", get)
    with pytest.raises(StoreError, match="the chroot is missing, and can't be created"):
        await store.__aenter__()
    assert store.session.is_stopped
