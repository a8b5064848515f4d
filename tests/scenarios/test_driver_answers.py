"""A driver in the launcher's own process that answers what can't be: its launch fails, and nothing else does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nodelaunch.errors import LaunchFailedError
from nodelaunch.protocol.driver import ExternalId, InstanceSpec
from nodelaunch.protocol.quota import Limits, Usage
from nodelaunch.protocol.states import NodeState, RequestState
from support.launchers import CONFIG, Running, running

pytestmark = pytest.mark.looptime

NESTED: Any = []
for _ in range(900):
    NESTED = [NESTED]


def waits_give(site: Running, monkeypatch: pytest.MonkeyPatch, **more: Any) -> None:
    driver = site.launcher.providers["cloud"].driver
    wait = driver.wait_until_active

    async def wait_until_active(external_id: ExternalId) -> Any:
        return replace(await wait(external_id), **more)

    monkeypatch.setattr(driver, "wait_until_active", wait_until_active)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("driver_data", NESTED),
        ("driver_data", {"a": object()}),
        ("attributes", {"a": {1}}),
        ("node_properties", {"a": 10**40}),
        ("host_keys", ["\ud800"]),
        ("expected_host_keys", ["\ud800"]),
        ("interface_ip", "not an ip\n"),
        ("connection_port", 10**30),
        ("resources", Usage(cores=float("nan"))),
        ("external_id", "another"),
        ("is_active", False),
    ],
)
async def test_instance_that_is_wrong_fails_its_launch_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str, value: Any
) -> None:
    async with running(tmp_path) as site:
        with monkeypatch.context() as patch:
            waits_give(site, patch, **{field: value})
            assert (await site.finished("small")).state is RequestState.FAILED
        await site.until(lambda: not site.nodes())
        assert site.cloud.servers() == [], "the instance of the launch that failed is deleted"
        assert len(await site.job("small")) == 1


async def test_id_that_is_none_fails_its_launch_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path) as site:
        with monkeypatch.context() as patch:

            async def create_instance(_spec: InstanceSpec) -> ExternalId:
                return ExternalId("")

            patch.setattr(site.launcher.providers["cloud"].driver, "create_instance", create_instance)
            assert (await site.finished("small")).state is RequestState.FAILED
        assert len(await site.job("small")) == 1


@pytest.mark.parametrize("is_ready", [True, False])
async def test_instance_that_is_another_nodes_is_refused_and_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_ready: bool
) -> None:
    """The driver names it for a second node, in its answer or as what a failed call left; recorded or not yet."""
    async with running(tmp_path) as site:
        driver = site.launcher.providers["cloud"].driver
        handle = await site.client.submit(["small"])
        await site.until(lambda: bool(site.cloud.servers()))
        if is_ready:
            await handle.finished()
        (external_id,) = (server.id for server in site.cloud.servers())

        async def same(_spec: InstanceSpec) -> ExternalId:
            return ExternalId(external_id)

        async def left(_spec: InstanceSpec) -> ExternalId:
            raise LaunchFailedError("no", external_id=external_id)

        for create in (same, left):
            with monkeypatch.context() as patch:
                patch.setattr(driver, "create_instance", create)
                assert (await site.finished("small")).state is RequestState.FAILED
        await site.until(lambda: len(site.nodes()) == 1)
        request = await handle.finished()
        assert request.state is RequestState.FULFILLED
        assert [server.id for server in site.cloud.servers()] == [external_id]
        (node,) = site.nodes(NodeState.READY)
        assert node.external_id == external_id


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        ("quota_limits", Limits(cores=float("nan"))),
        ("quota_for_label", Usage(cores=-1)),
        ("quota_for_label", None),
    ],
)
async def test_amounts_that_can_not_be_make_the_provider_count_as_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, answer: Any
) -> None:
    async with running(tmp_path) as site:
        provider = site.launcher.providers["cloud"]

        async def ask(*_arguments: str) -> Any:
            return answer

        with monkeypatch.context() as patch:
            patch.setattr(provider.driver, call, ask)
            provider.invalidate()
            await site.until(lambda: provider.down is not None)
            assert f"the driver's answer to {call} is invalid at amounts" in str(provider.down)
        await site.until(lambda: provider.down is None)
        assert len(await site.job("small")) == 1


# -- host keys that the driver gave its machines --------------------------------------------------------------------

KEY, OTHER = "ssh-ed25519 AAAA", "ssh-ed25519 BBBB"


class Scanner:
    """Machines that all have the same key."""

    def __init__(self) -> None:
        self.key = KEY
        self.scanned: list[str] = []

    async def host_keys(self, host: str, port: int, *, timeout_s: float) -> tuple[str, ...]:
        self.scanned.append(host)
        return (self.key,)

    async def reach(self, host: str, port: int, *, timeout_s: float) -> None:
        raise AssertionError("not asked for")


async def test_node_with_the_key_its_driver_gave_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key that was seen on the machine counts, not other keys that the driver gives."""
    scanner = Scanner()
    async with running(tmp_path, scanner=scanner) as site:
        waits_give(site, monkeypatch, expected_host_keys=[KEY], host_keys=[OTHER], node_properties={"spot": True})
        (node,) = await site.job("small")
        assert node.host_keys == (KEY,)
        assert node.node_properties == {"spot": True, "host_key_assurance": "verified"}
        assert scanner.scanned == [node.interface_ip]


async def test_node_without_the_key_its_driver_gave_it_is_not_offered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scanner = Scanner()
    scanner.key = OTHER
    async with running(tmp_path, scanner=scanner) as site:
        waits_give(site, monkeypatch, expected_host_keys=[KEY])
        request = await site.finished("small")
        assert request.state is RequestState.FAILED
        await site.until(lambda: not site.nodes())
        assert site.cloud.servers() == []
        assert len(scanner.scanned) > 1
        scanner.key = KEY
        assert len(await site.job("small")) == 1


async def test_key_that_the_driver_gave_and_nobody_is_to_look_for_is_recorded_unseen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CONFIG.replace("max-servers", "host-key-checking: false\n        max-servers")
    async with running(tmp_path, config, scanner=Scanner()) as site:
        waits_give(site, monkeypatch, expected_host_keys=[KEY])
        (node,) = await site.job("small")
        assert (node.host_keys, node.node_properties) == ((KEY,), {"host_key_assurance": "unseen"})


async def test_machine_that_can_not_be_looked_at_is_not_taken_for_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, scanner=Scanner()) as site:
        waits_give(site, monkeypatch, expected_host_keys=[KEY], interface_ip=None)
        request = await site.finished("small")
        assert request.state is RequestState.FAILED


@pytest.mark.parametrize("expected", [None, []])
async def test_record_says_nothing_where_no_key_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: list[str] | None
) -> None:
    async with running(tmp_path) as site:
        waits_give(site, monkeypatch, expected_host_keys=expected)
        (node,) = await site.job("small")
        assert node.node_properties == {}
