"""Facts about a cloud: fetched in one round, kept as one value."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest

from nodelaunch.decisions.triage import LabelView
from nodelaunch.engine.provider.cloudfacts import CALL_TIMEOUT_S, CloudFacts, ask_cloud
from nodelaunch.errors import LabelUnusableError
from nodelaunch.protocol.driver import METADATA_NODE_ID, METADATA_PROVIDER, ExternalId, Instance
from nodelaunch.protocol.quota import Limits, Usage

pytestmark = pytest.mark.looptime
CONFIG = SimpleNamespace(name="cloud", pools=[SimpleNamespace(name="main", label_names=["small", "broken"])])


class Cloud:
    """A driver that answers questions about a cloud with three instances."""

    async def quota_limits(self) -> Limits:
        return Limits(instances=10)

    async def list_instances(self) -> AsyncIterator[Instance]:
        for provider, node_id in (("cloud", "known"), ("cloud", "unknown"), ("other", "unknown")):
            metadata = {METADATA_PROVIDER: provider, METADATA_NODE_ID: node_id}
            yield Instance(ExternalId(node_id), metadata, resources=Usage(instances=1, cores=2))

    async def quota_for_label(self, pool: str, label: str) -> Usage:
        if label == "broken":
            raise LabelUnusableError("no such flavor")
        return Usage(instances=1, cores=4)

    async def label_ready(self, pool: str, label: str) -> bool:
        return True


async def test_what_no_record_explains_counts_and_what_others_made_counts_twice() -> None:
    facts = await ask_cloud(Cloud(), CONFIG, {"known"})
    assert (facts.unmanaged, facts.foreign) == (Usage(instances=2, cores=4), Usage(instances=1, cores=2))
    assert facts.limits == Limits(instances=10)


async def test_label_that_can_t_be_used_is_broken_and_the_others_are_not() -> None:
    facts = await ask_cloud(Cloud(), CONFIG, set())
    assert facts.label("main", "small") == LabelView(Usage(instances=1, cores=4))
    assert facts.label("main", "broken").broken == "no such flavor"
    assert facts.label("elsewhere", "small") == LabelView()


def test_label_breaks_in_one_pool_and_keeps_its_need() -> None:
    before = CloudFacts(labels={("main", "small"): LabelView(Usage(cores=4)), ("b", "small"): LabelView()})
    after = before.with_broken_label("main", "small", "gone")
    assert after.label("main", "small") == LabelView(Usage(cores=4), broken="gone")
    assert after.label("b", "small").broken is None
    assert before.label("main", "small").broken is None


async def test_cloud_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    cloud = Cloud()
    monkeypatch.setattr(cloud, "quota_limits", lambda: asyncio.sleep(2 * CALL_TIMEOUT_S))
    with pytest.raises(TimeoutError):
        await ask_cloud(cloud, CONFIG, set())
