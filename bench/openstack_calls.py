"""Counts the API calls to launch and delete servers on a real OpenStack: nodelaunch beside Nodepool 11.0.0.

    PYTHONPATH=tests NODELAUNCH_OPENSTACK_LAB=FOLDER python bench/openstack_calls.py [--count 100] [--at-once 30]

Starts the control plane whose scripts are in FOLDER, a ZooKeeper server (Debian package zookeeper), and one launcher
after the other, each with the same configuration and the same requests, one node each: wait, lock, use, give back,
until no record is left. Calls are counted from the services' own logs. Nova says who asked. Neutron, Glance and Cinder
don't: what Nova asks of them for a server is measured beforehand, with servers that are made without any launcher, and
taken off. What each asks once, when it starts, counts as well. Nodepool is installed from the package index.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nodelaunch.client.nodes import NodeClient
from nodelaunch.protocol import paths
from nodelaunch.protocol.records import NodeRequest
from nodelaunch.protocol.states import RequestState
from nodelaunch.store.zookeeper.store import ZooKeeperStore
from support import nodepool
from support.certificates import make_certificates
from support.openstack import Calls, Lab, why_not
from support.process import Serve
from support.zookeeper import ZooKeeperServer

OTHERS = ("neutron", "glance", "cinder")
SAMPLE = 6
"""Number of servers that are created to count Nova's own calls to other services."""
CONFIG = """
labels: [{{name: node}}]
providers:
  - name: lab
    driver: openstack
    cloud: devcloud
    rate: 0
    launch-timeout: 900
    cloud-images: [{{name: debian, image-name: debian-12}}]
    pools:
      - name: main
        max-servers: {at_once}
        networks: [loopnet]
        host-key-checking: false
        auto-floating-ip: false
        labels: [{{name: node, cloud-image: debian, flavor-name: lab.tiny}}]
"""


def sampled(lab: Lab) -> dict[str, Counter[str]]:
    """Return the number of Nova's own calls to other services for `SAMPLE` servers, by service."""
    cloud = lab.cloud()
    (image,) = cloud.image.images(name="debian-12")
    network, flavor = cloud.network.find_network("loopnet"), cloud.compute.find_flavor("lab.tiny")
    calls = lab.calls()
    made = [
        cloud.compute.create_server(
            name="sample", image_id=image.id, flavor_id=flavor.id, networks=[{"uuid": network.id}]
        )
        for _ in range(SAMPLE)
    ]
    until(lambda: all(server.status == "ACTIVE" for server in cloud.compute.servers()))
    for server in made:
        cloud.compute.delete_server(server)
    until(lambda: not list(cloud.compute.servers()))
    return {service: calls.made(service) for service in OTHERS}


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(1)


async def load(client: NodeClient, count: int) -> None:
    async def job() -> None:
        request: NodeRequest = await (await client.submit(["node"])).finished()
        if request.state is not RequestState.FULFILLED:
            raise RuntimeError(f"request {request.id} is {request.state}")
        async with client.hold(request):
            pass

    await asyncio.gather(*(job() for _ in range(count)))
    while await client.store.children(paths.NODES):
        await asyncio.sleep(0.2)


def report(name: str, calls: Calls, base: dict[str, Counter[str]], count: int, took_s: float) -> None:
    made = {"nova": calls.made("nova")}
    for service in OTHERS:
        own = calls.made(service)
        for shape, internal in base[service].items():
            own[shape] = max(0, own[shape] - round(internal * count / SAMPLE))
        made[service] = +own
    made["keystone"] = Counter({k: v for k, v in calls.made("keystone").items() if k == "POST /v3/auth/tokens"})
    total = sum(sum(each.values()) for each in made.values())
    print(f"{name}: {total / count:.2f} calls per server; {count} servers in {took_s:.0f} s", flush=True)
    for service, each in made.items():
        shown = ", ".join(f"{n} x {shape}" for shape, n in each.most_common(6))
        print(f"  {service} {sum(each.values())}: {shown}", flush=True)


async def measure(
    site: nodepool.Site, name: str, client: NodeClient, lab: Lab, base: dict[str, Any], args: argparse.Namespace
) -> None:
    await asyncio.to_thread(lab.empty)
    calls = lab.calls()
    started = time.monotonic()
    config = site.config(name, CONFIG.format(at_once=args.at_once))
    start: Callable[[Path], Serve | nodepool.Daemon] = site.serve if name == "nodelaunch" else site.launcher
    process = await asyncio.to_thread(start, config)
    try:
        await load(client, args.count)
        report(name, calls, base, args.count, time.monotonic() - started)
    except RuntimeError:
        print(*process.log[-args.log_lines :], sep="\n")
        raise
    finally:
        await asyncio.to_thread(process.kill)


async def main(args: argparse.Namespace) -> None:
    if reason := why_not():
        raise SystemExit(reason)
    lab = Lab()
    lab.start()
    lab.mend()
    lab.empty()
    base = await asyncio.to_thread(sampled, lab)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = ZooKeeperServer(folder, make_certificates(folder))
        server.start()
        programs = nodepool.Nodepool(nodepool.installed(), folder)
        # Nodepool connects to none but public addresses, unless the cloud is said to be private.
        clouds = str(lab.clouds_with({"private": True}, folder))
        programs.environment["OS_CLIENT_CONFIG_FILE"] = os.environ["OS_CLIENT_CONFIG_FILE"] = clouds
        try:
            for launcher in args.launchers:
                site = nodepool.Site(server, f"/{launcher}", programs)
                async with (
                    ZooKeeperStore([(server.host, server.port)], chroot=launcher) as store,
                    NodeClient(store) as client,
                ):
                    await measure(site, launcher, client, lab, base, args)
                site.close()
        finally:
            server.kill()
            lab.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--at-once", type=int, default=30)
    parser.add_argument("--log-lines", type=int, default=20, help="of a launcher that fails")
    parser.add_argument("launchers", nargs="*", default=["nodelaunch", "nodepool"])
    asyncio.run(main(parser.parse_args()))
