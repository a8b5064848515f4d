"""Tables on a terminal."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from nodelaunch.cli.main import main
from nodelaunch.cli.tables import aligned
from nodelaunch.protocol import paths
from nodelaunch.protocol.records import PoolRegistration
from nodelaunch.store.embedded.socket import StoreServer
from nodelaunch.store.embedded.store import EmbeddedStore


def test_each_row_is_a_line_on_a_narrow_terminal() -> None:
    """An id that is cut, or broken to fit, can be neither searched for nor copied."""
    labels = ",".join(["debian-12", "arm-lab"] * 5)
    rows = [[f"000000000{number}", labels, "f" * 36] for number in range(3)]
    head, *lines = aligned([["ID", "Label", "Server ID"], *rows]).splitlines()
    assert head.split("  ")[0] == "ID"
    assert [line.split() for line in lines] == rows


def test_columns_stand_below_each_other() -> None:
    text = aligned([["A", "B"], ["long", "x"], ["", "y"]])
    assert text == "A     B\nlong  x\n      y"


def test_control_characters_are_made_visible() -> None:
    assert "\x1b" not in aligned([["A"], ["\x1b[2J"]])


async def test_names_that_nothing_has_are_noted_beside_the_list(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "nodelaunch.yaml"
    config.write_text(f"embedded-store: {{path: {tmp_path}/store}}")
    record = PoolRegistration(id="p", hostname="here", provider_name="cloud", name="main", supported_labels=("small",))
    async with EmbeddedStore(None) as store, StoreServer(store, f"{tmp_path}/store.sock"):
        await store.ensure(*paths.ALWAYS_THERE)
        await store.create(f"{paths.POOLS}/here", record.to_bytes(), ephemeral=True, sequence=True)
        wrong = ["--provider", "clod", "--pool", "main", "--label", "smal", "--json"]
        assert await asyncio.to_thread(main, ["list", *wrong, "-c", str(config)]) == 0
        out, errors = capsys.readouterr()
        assert out == "[]\n"
        assert errors.splitlines() == [
            "note: no record has the provider 'clod'; known: cloud",
            "note: no record has the label 'smal'; known: small",
        ]
        assert await asyncio.to_thread(main, ["request-list", "--label", "small", "-c", str(config)]) == 0
        assert capsys.readouterr() == ("no requests\n", "")
