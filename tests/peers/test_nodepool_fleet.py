"""nodelaunch and nodepool-launcher at work on one ZooKeeper at the same time, each as its own operator started it."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from support.nodepool import Daemon, Load, Site, commands_fixture, nodepool_fixture, site_fixture  # noqa: F401  fixtures
from support.process import Serve

pytestmark = [pytest.mark.nodepool, pytest.mark.zookeeper]

LABELS = """
labels: [{name: ours}, {name: theirs}, {name: both}]
providers:
"""
PROVIDER = """
  - name: {name}
    driver: fake
    cloud: fake
    rate: 0.0001
    boot-time: 0.1
    cloud-images: [{{name: image, image-id: fake-image-id, username: zuul}}]
    pools:
      - name: main
        max-servers: 20
        labels:
          - {{name: {label}, cloud-image: image, min-ram: 8192}}
          - {{name: both, cloud-image: image, min-ram: 8192}}
"""
OURS = LABELS + PROVIDER.format(name="ours", label="ours")
THEIRS = LABELS + "".join(PROVIDER.format(name=f"theirs-{number}", label="theirs") for number in (1, 2, 3))
"""Three clouds, because Nodepool's grants 20 servers; nodelaunch gives back a server sooner and does with one."""


def start(site: Site) -> tuple[Serve, Daemon]:
    """Both, once all their pools are registered."""
    launcher = site.launcher(site.config("theirs", THEIRS))
    serve = site.serve(site.config("ours", OURS))
    site.await_pools(4)
    return serve, launcher


def stop(serve: Serve, launcher: Daemon) -> None:
    """End both in order; neither has complained of anything."""
    codes = launcher.stop(), serve.stop()
    assert launcher.complaints == []
    assert serve.complaints == []
    assert codes == (0, 0)


def test_unknown_label_is_declined_by_every_pool_of_both(site: Site) -> None:
    serve, launcher = start(site)
    ids = {pool["id"] for pool in site.pools()}
    assert len(ids) == 4
    for labels in (("no-such-label",), ("ours", "no-such-label"), ("ours", "theirs")):
        request = site.requestor.await_state(site.requestor.submit(*labels), "failed")
        assert set(request["declined_by"]) == ids
        assert request["nodes"] == []
    stop(serve, launcher)


def test_both_see_each_others_components(site: Site) -> None:
    serve, launcher = start(site)
    seen = site.programs.ask("components", site.folder / "theirs.yaml")
    assert seen["complaints"] == []
    assert seen["model_api"] == 0
    pools = {pool["provider_name"]: pool for pool in seen["pool"]}
    assert set(pools) == {"ours", "theirs-1", "theirs-2", "theirs-3"}
    assert pools["ours"].keys() == pools["theirs-1"].keys()
    assert sorted(pools["ours"]["supported_labels"]) == ["both", "ours"]
    assert {label for pool in site.pools() for label in pool["supported_labels"]} == {"ours", "theirs", "both"}
    mine, other = sorted(seen["launcher"], key=lambda each: each["version"])
    assert mine.keys() == other.keys()
    stop(serve, launcher)


def test_five_hundred_requests_are_served_by_both_together(site: Site) -> None:
    kinds = itertools.cycle([("ours",), ("theirs",), ("both",), ("both", "both"), ("ours", "both"), ("both", "theirs")])
    serve, launcher = start(site)
    load = Load(site.requestor, itertools.islice(kinds, 500), workers=60)
    load.finish()
    ids = Counter(node["id"] for node in load.nodes)
    assert max(ids.values()) == 1
    servers = Counter((node["provider"], node["external_id"]) for node in load.nodes)
    assert max(servers.values()) == 1
    givers = {(node["provider"].partition("-")[0], *node["type"]) for node in load.nodes}
    assert givers == {("ours", "ours"), ("theirs", "theirs"), ("ours", "both"), ("theirs", "both")}
    site.requestor.await_children("/nodepool/nodes", lambda names: not names)
    assert site.requestor.children("/nodepool/requests") == []
    stop(serve, launcher)
