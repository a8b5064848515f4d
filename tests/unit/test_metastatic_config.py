"""Keys of the metastatic driver, and what is documented of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from nodelaunch.config.file import load_config
from nodelaunch.config.models import PoolConfig
from nodelaunch.drivers import DriverRegistry
from nodelaunch.drivers.metastatic import PLUGIN, MetastaticDriver, MetastaticProvider
from nodelaunch.drivers.metastatic.config import BACKING_KEYS, MetastaticLabel, MetastaticPool
from nodelaunch.errors import LabelUnusableError, ProviderUnavailableError
from nodelaunch.protocol.driver import DriverContext
from support.fakeclouds import NoScanner

MANUAL = Path(__file__).parents[2] / "docs" / "drivers" / "metastatic.md"


def a_provider(*labels: dict[str, Any], **pool: Any) -> MetastaticProvider:
    named = [{"name": f"label{n}", "backing-label": f"backing{n}", **label} for n, label in enumerate(labels)]
    return MetastaticProvider.model_validate(
        {"name": "meta", "driver": "metastatic", "pools": [{"name": "main", "labels": named, **pool}]}
    )


def test_defaults_are_nodepools() -> None:
    provider = a_provider({})
    (pool,) = provider.pools
    (label,) = pool.labels
    assert (label.max_parallel_jobs, label.grace_time, label.min_retention_time, label.max_age) == (1, 60, 0, None)
    assert not pool.checks_host_keys(label)
    launching = provider.launching
    assert (launching.retries, launching.timeout_s, launching.boot_timeout_s) == (3, 3600, 120)
    fields = {name.replace("_", "-"): info.default for name, info in MetastaticLabel.model_fields.items()}
    assert {key: fields[key] for key in BACKING_KEYS} == BACKING_KEYS


@pytest.mark.parametrize(
    ("pool", "label", "checks"),
    [(False, True, True), (True, False, False), (True, None, True), (False, None, False)],
)
def test_label_goes_before_pool_in_host_key_checking(*, pool: bool, label: bool | None, checks: bool) -> None:
    provider = a_provider({} if label is None else {"host-key-checking": label}, **{"host-key-checking": pool})
    (made,) = provider.pools
    assert made.checks_host_keys(made.labels[0]) is checks


def test_driver_needs_a_cluster() -> None:
    with pytest.raises(ProviderUnavailableError):
        MetastaticDriver.open(a_provider({}), DriverContext(NoScanner()))


async def test_driver_knows_its_labels() -> None:
    driver = MetastaticDriver.open(a_provider({}), DriverContext(NoScanner(), cluster=object()))  # type: ignore[arg-type]
    assert await driver.label_ready("main", "label0")
    assert (await driver.quota_for_label("main", "label0"))["instances"] == 1
    for pool, label in (("main", "other"), ("other", "label0")):
        with pytest.raises(LabelUnusableError):
            await driver.quota_for_label(pool, label)


# -- what is documented ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("example", re.findall(r"```yaml\n(.*?)```", MANUAL.read_text(), re.DOTALL))
def test_documented_configuration_loads(example: str, tmp_path: Path) -> None:
    file = tmp_path / "nodelaunch.yaml"
    file.write_text(example)
    config, warnings = load_config(file, drivers=DriverRegistry([PLUGIN]), environ={})
    assert config.providers[1].pools[0].label_names
    assert warnings == ()


def test_every_key_is_documented() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \|", MANUAL.read_text(), re.MULTILINE)
    of_every_pool = set(PoolConfig.model_fields)
    wanted = {*MetastaticPool.model_fields, "boot_timeout", "rate"} - of_every_pool
    assert set(rows) == {name.replace("_", "-") for name in {*wanted, *MetastaticLabel.model_fields}}
