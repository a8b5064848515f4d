"""Output of ``nodelaunch leaks`` for providers that it cannot search."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodelaunch.cli.main import FAILED, main

CONFIG = """
embedded-store: {{path: {folder}/store.sqlite}}
labels: [{{name: small}}]
providers:
  - name: cloud
    driver: fake
    cloud-images: [{{name: image}}]
    pools: [{{name: main, labels: [{{name: small, cloud-image: image, min-ram: 8192}}]}}]
"""


def test_provider_that_is_not_configured_is_no_good_news(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "nodelaunch.yaml"
    config.write_text(CONFIG.format(folder=tmp_path))
    assert main(["leaks", "--provider", "nope", "-c", str(config)]) == FAILED
    said = capsys.readouterr()
    assert (said.out, said.err) == (
        "",
        "nodelaunch: there is no provider 'nope' in the configuration; providers: cloud\n",
    )
