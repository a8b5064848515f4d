"""Output of ``config plan`` equals the effect of a reload, on pools and on nodes."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodelaunch.config.file import Loaded, load_with_places
from nodelaunch.drivers import DriverRegistry
from nodelaunch.operations.plan import NodeChange, node_changes, plan
from nodelaunch.protocol import paths
from nodelaunch.protocol.states import NodeState
from scenarios.test_reload import LAB, SECOND_POOL, WITH_LABELS
from support.launchers import LoopClock, Running, running, written

pytestmark = pytest.mark.looptime


def loaded(path: Path) -> Loaded:
    return load_with_places(path, drivers=DriverRegistry(), environ={})


async def idle_node(site: Running, label: str) -> str:
    """Return the id of a ready node that is unassigned."""
    request = await site.finished(label)
    await site.store.delete(f"/nodepool/requests/{request.id}")
    (node_id,) = request.nodes
    await site.until(lambda: site.view.nodes[node_id].record.is_idle and not site.view.is_node_locked(node_id))
    return node_id


class Planned:
    """A plan for the running launcher, which can then be carried out."""

    def __init__(self, site: Running, old: Path, new: Path) -> None:
        self._site = site
        self._new = loaded(new)
        before = loaded(old)
        self.plan = plan(before, self._new)
        self.nodes = node_changes(self.plan, before.config, self._new.config, site.view, LoopClock().now())

    def changes(self) -> dict[str, NodeChange]:
        return {each.node.id: each for each in self.nodes}

    async def carry_out(self) -> None:
        """Reload: what changed, and which nodes go, is as planned."""
        kept = set(self._site.view.nodes) - {each.node.id for each in self.nodes if each.becomes == "deleted"}
        assert await self._site.launcher.reload(self._new.config) == self.plan.changes
        await self._site.until(lambda: set(self._site.view.nodes) == kept)


async def test_nodes_that_no_pool_offers_are_deleted_as_planned(tmp_path: Path) -> None:
    async with running(tmp_path, WITH_LABELS, more=SECOND_POOL + LAB) as site:
        rare, bare, small = [await idle_node(site, label) for label in ("rare", "bare", "small")]
        old = written(tmp_path, WITH_LABELS, more=SECOND_POOL + LAB, name="old.yaml")
        planned = Planned(site, old, written(tmp_path, WITH_LABELS))
        assert set(planned.changes()) == {rare, bare}
        assert {each.becomes for each in planned.nodes} == {"deleted"}
        assert {each.node.id: each.reason for each in planned.nodes} == {
            rare: "its pool is not configured any more", bare: "its provider is not configured any more",
        }  # fmt: skip
        await planned.carry_out()
        assert set(site.view.nodes) == {small}


async def test_nodes_that_are_too_old_for_the_new_limit_are_deleted_as_planned(tmp_path: Path) -> None:
    async with running(tmp_path, max_ready_age=5000) as site:
        big = await idle_node(site, "big")
        held = await idle_node(site, "small")
        record = site.view.nodes[held].record
        hold = record.into(NodeState.HOLD, LoopClock().now())
        await site.store.put(paths.node(held), hold.to_bytes())
        began = LoopClock().now()
        await site.until(lambda: LoopClock().now() > began + 100)
        old = written(tmp_path, max_ready_age=5000, name="old.yaml")
        assert not Planned(site, old, written(tmp_path, max_ready_age=3000)).nodes
        new = written(tmp_path, max_ready_age=50, more="max-hold-age: 50\n")
        planned = Planned(site, old, new)
        assert {each.node.id: each.reason for each in planned.nodes} == {
            big: "it is older than max-ready-age allows", held: "it is older than max-hold-age allows",
        }  # fmt: skip
        await planned.carry_out()


async def test_nodes_made_another_way_are_outdated_and_stay(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        small, big = await idle_node(site, "small"), await idle_node(site, "big")
        old = written(tmp_path, name="old.yaml")
        new = written(tmp_path)
        new.write_text(
            new.read_text().replace(
                "name: big, cloud-image: image, min-ram: 8192", "name: big, cloud-image: image, min-ram: 4096"
            )
        )
        planned = Planned(site, old, new)
        assert {node_id: each.becomes for node_id, each in planned.changes().items()} == {big: "outdated"}
        assert "providers[cloud].pools[main].labels[big].min-ram" in planned.nodes[0].reason
        await planned.carry_out()
        new.write_text(old.read_text().replace("[{name: image}]", "[{name: image, image-id: abc}]"))
        assert set(Planned(site, old, new).changes()) == {small, big}
        new.write_text(old.read_text().replace("max-servers: 10", "max-servers: 9"))
        assert not Planned(site, old, new).nodes
