"""Names are looked up in threads of their own; a name server that doesn't answer holds up nothing else."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from nodelaunch.network.resolving import Resolver

DEADLINE_S = 10.0
ANSWER = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 22))]


class NameServer:
    """Stands in for the system's resolver; it answers known names, and is silent about ``silent`` ones."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.at_once = self.peak = 0
        self.woken = threading.Event()
        self._mutex = threading.Lock()

    def look_up(self, host: str, *_: object, **__: object) -> object:
        with self._mutex:
            self.asked.append(host)
            self.at_once += 1
            self.peak = max(self.peak, self.at_once)
        try:
            if host.startswith("silent"):
                self.woken.wait(DEADLINE_S)
            if host == "unknown":
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            return ANSWER
        finally:
            with self._mutex:
                self.at_once -= 1


@pytest.fixture
def name_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    made = NameServer()
    monkeypatch.setattr(socket, "getaddrinfo", made.look_up)
    yield made
    made.woken.set()


async def test_silent_name_server_leaves_the_threads_of_the_loop_alone(name_server: NameServer) -> None:
    resolver = Resolver(at_once=100)
    asking = [asyncio.create_task(resolver.addresses(f"silent-{n}", 22)) for n in range(100)]
    async with asyncio.timeout(DEADLINE_S):
        while len(name_server.asked) < 100:
            await asyncio.sleep(0)
        assert await asyncio.to_thread(lambda: "done") == "done"
        assert await Resolver(at_once=1).addresses("other", 22) == ANSWER
        name_server.woken.set()
        assert await asyncio.gather(*asking) == [ANSWER] * 100


async def test_who_does_not_get_a_place_waits_for_one(name_server: NameServer) -> None:
    resolver = Resolver(at_once=2)
    async with asyncio.timeout(DEADLINE_S):
        asking = [asyncio.create_task(resolver.addresses(f"silent-{n}", 22)) for n in range(50)]
        await asyncio.sleep(0)
        assert len([each for each in threading.enumerate() if each.name.startswith("look-up")]) <= 2
        name_server.woken.set()
        found = await asyncio.gather(*asking)
    assert found == [ANSWER] * 50
    assert name_server.peak <= 2


async def test_same_name_is_looked_up_once_at_a_time(name_server: NameServer) -> None:
    resolver = Resolver(at_once=8)
    async with asyncio.timeout(DEADLINE_S):
        gone, *asking = (asyncio.create_task(resolver.addresses("silent", 22)) for _ in range(3))
        await asyncio.sleep(0)
        gone.cancel()  # a cancelled caller takes nothing from the others
        name_server.woken.set()
        assert await asyncio.gather(*asking) == [ANSWER] * 2
    assert name_server.asked == ["silent"]


async def test_name_that_does_not_exist_is_told_to_everybody_who_asked(name_server: NameServer) -> None:
    resolver = Resolver(at_once=1)
    async with asyncio.timeout(DEADLINE_S):
        found = await asyncio.gather(*(resolver.addresses("unknown", 22) for _ in range(2)), return_exceptions=True)
        assert [type(each) for each in found] == [socket.gaierror] * 2
        assert await resolver.addresses("other", 22) == ANSWER


async def test_address_needs_no_name_server() -> None:
    resolver = Resolver(at_once=0)
    assert [each[4][0] for each in await resolver.addresses("192.0.2.7", 22)] == ["192.0.2.7"]
    assert [each[4][0] for each in await resolver.addresses("2001:db8::7", None)] == ["2001:db8::7"]


def test_look_up_without_an_answer_does_not_keep_the_process() -> None:
    code = """
import asyncio, socket, threading
from nodelaunch.network.resolving import Resolver
socket.getaddrinfo = lambda *_, **__: threading.Event().wait()
async def main():
    try:
        async with asyncio.timeout(0.05):
            await Resolver(4).addresses("silent", 22)
    except TimeoutError:
        print("gave up")
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=DEADLINE_S, check=True)
    assert done.stdout == "gave up\n"
