"""Nodepool's command line while nodelaunch serves: conformance check C13, and the components both register."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.nodepool import Site, commands_fixture, site_fixture  # noqa: F401  the fixtures behind `site`

pytestmark = [pytest.mark.nodepool, pytest.mark.zookeeper]

CONFIG = """
labels: [{{name: small}}, {{name: big}}, {{name: kept, min-ready: 2}}]
providers:
  - name: cloud
    driver: fake
    cloud: fake
    boot-time: 0.2
    cloud-file: {cloud_file}
    cloud-images: [{{name: image, username: zuul}}]
    pools:
      - name: main
        max-servers: 16
        labels:
          - {{name: small, cloud-image: image, min-ram: 8192}}
          - {{name: big, cloud-image: image, flavor-name: Fake Flavor}}
          - {{name: kept, cloud-image: image, min-ram: 8192}}
"""


@pytest.fixture
def config(site: Site) -> Path:
    return site.config("nodepool", CONFIG.format(cloud_file=site.folder / "cloud.sqlite"))


def test_list_shows_what_nodelaunch_keeps_ready(site: Site, config: Path) -> None:
    serve = site.serve(config)
    site.requestor.await_children("/nodepool/nodes", lambda names: len(names) == 2)
    listed = site.nodepool(config, "list", "--detail")
    assert listed.is_good, listed
    assert {(row["Provider"], row["Label"], row["Pool"]) for row in listed.rows} == {("cloud", "kept", "main")}
    assert serve.complaints == []
