"""nodelaunch with Nodepool's builder: conformance check C14. The builder decides what images there are."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from support.nodepool import Site, commands_fixture, nodepool_fixture, site_fixture  # noqa: F401  fixtures

pytestmark = [pytest.mark.nodepool, pytest.mark.zookeeper]

CONFIG = """
elements-dir: {folder}
images-dir: {folder}/images
build-log-dir: {folder}/logs
labels: [{{name: kept, min-ready: 1}}, {{name: built}}]
diskimages:
  - name: image
    dib-cmd: {folder}/make-image
    formats: [qcow2]
    elements: [vm]
    username: debian
    python-path: /usr/bin/python3
providers:
  - name: cloud
    driver: fake
    cloud: fake
    boot-time: 0
    diskimages: [{{name: image}}]
    pools:
      - name: main
        max-servers: 8
        labels:
          - {{name: kept, diskimage: image, min-ram: 8192}}
          - {{name: built, diskimage: image, min-ram: 8192}}
"""
MAKE_IMAGE = """#!/bin/sh
# Takes the options that diskimage-builder takes, and makes the file that -o and -t name.
set -eu
while [ $# -gt 0 ]; do
    case "$1" in
        -o) out=$2; shift 2 ;;
        -t) type=$2; shift 2 ;;
        --qemu-img-options) shift 2 ;;
        *) shift ;;
    esac
done
echo "an image" > "$out.$type"
mkdir "$out.d"
"""


@pytest.fixture
def config(site: Site) -> Path:
    for name in ("images", "logs"):
        (site.folder / name).mkdir()
    command = site.folder / "make-image"
    command.write_text(MAKE_IMAGE)
    command.chmod(0o755)
    return site.config("nodepool", CONFIG.format(folder=site.folder))


def await_uploads(site: Site, config: Path, count: int) -> list[str]:
    """Wait until so many uploads are listed as ready; their paths, oldest first."""
    deadline = time.monotonic() + 90
    while True:
        listed = site.nodepool(config, "image-list")
        assert listed.is_good, listed
        ready = [row for row in listed.rows if row["State"] == "ready"]
        if len(ready) == count:
            return [
                f"/nodepool/images/image/builds/{row['Build ID']}/providers/cloud/images/{row['Upload ID']}"
                for row in sorted(ready, key=lambda row: row["Age"], reverse=True)
            ]
        assert time.monotonic() < deadline, listed


def test_launches_follow_what_the_builder_uploads_and_the_operator_deletes(site: Site, config: Path) -> None:
    serve, builder = site.serve(config), site.builder(config)
    (first,) = await_uploads(site, config, 1)
    (kept,) = site.requestor.await_children("/nodepool/nodes", lambda names: len(names) == 1)
    kept_node = site.requestor.await_data(f"/nodepool/nodes/{kept}", lambda node: node["state"] == "ready")
    (node,) = site.requestor.run_job("built")
    for made in (kept_node, node):
        assert made["image_id"] == first
        assert (made["username"], made["python_path"]) == ("debian", "/usr/bin/python3")

    assert site.nodepool(config, "image-build", "image").is_good
    _, second = await_uploads(site, config, 2)
    (node,) = site.requestor.run_job("built")
    assert node["image_id"] == second

    for command in (("dib-image-list",), ("image-status",), ("image-pause", "image"), ("info", "cloud")):
        assert site.nodepool(config, *command).is_good
    assert builder.complaints == []
    builder.kill()  # it would upload again what is deleted now
    *_, build, _, _, _, upload = second.split("/")
    which = ("--provider", "cloud", "--image", "image", "--build-id", build, "--upload-id", upload)
    assert site.nodepool(config, "image-delete", *which).is_good
    (node,) = site.requestor.run_job("built")
    assert node["image_id"] == first
    assert serve.stop() == 0
    assert serve.complaints == []
