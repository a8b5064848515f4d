"""Drivers in this process, each broken in one way: the fake driver but for a few lines, and what has to find it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from nodelaunch.drivers.fake.cloud import FakeCloud
from nodelaunch.drivers.fake.config import FakeProvider
from nodelaunch.drivers.fake.driver import FakeDriver
from nodelaunch.errors import (
    DriverError,
    ErrorKind,
    InstanceNotFoundError,
    LaunchFailedError,
    ProviderUnavailableError,
    QuotaExceededError,
    StaleFenceError,
)
from nodelaunch.protocol.driver import (
    METADATA_NODE_ID,
    METADATA_PROVIDER,
    DriverContext,
    ExternalId,
    Fence,
    Instance,
    InstanceSpec,
    Limits,
    Usage,
)

log = structlog.get_logger(__name__)


class WaitsInCreate(FakeDriver):
    async def create_instance(self, spec: InstanceSpec) -> ExternalId:
        external_id = await super().create_instance(spec)
        await self.wait_until_active(external_id)
        return external_id


class ForgetsMetadata(FakeDriver):
    async def create_instance(self, spec: InstanceSpec) -> ExternalId:
        return await super().create_instance(replace(spec, metadata={}))


class TagsAfterwards(FakeDriver):
    """Gives the metadata in a second call."""

    tags: dict[str, dict[str, str]]

    def __init__(self, config: FakeProvider, context: DriverContext, cloud: FakeCloud | None) -> None:
        super().__init__(config, context, cloud=cloud)
        self.tags = self.cloud.__dict__.setdefault("tags", {})

    async def create_instance(self, spec: InstanceSpec) -> ExternalId:
        external_id = await super().create_instance(replace(spec, metadata={}))
        self.tags[external_id] = dict(spec.metadata)
        return external_id

    async def list_instances(self) -> AsyncIterator[Instance]:
        async for instance in super().list_instances():
            yield replace(instance, metadata={**instance.metadata, **self.tags.get(instance.external_id, {})})


class Hiding(FakeDriver):
    """Lists all but what is hidden."""

    hidden: set[str]

    def __init__(self, config: FakeProvider, context: DriverContext, cloud: FakeCloud | None) -> None:
        super().__init__(config, context, cloud=cloud)
        self.hidden = self.cloud.__dict__.setdefault("hidden", set())

    async def list_instances(self) -> AsyncIterator[Instance]:
        async for instance in super().list_instances():
            if instance.external_id not in self.hidden:
                yield instance


class LeaksWhenCreateFails(Hiding):
    async def create_instance(self, spec: InstanceSpec) -> ExternalId:
        try:
            return await super().create_instance(spec)
        except DriverError:
            self.hidden.add(self.cloud.add(name="volume of " + spec.name))
            raise


class LeaksWhenCancelled(Hiding):
    async def create_instance(self, spec: InstanceSpec) -> ExternalId:
        try:
            return await super().create_instance(spec)
        except asyncio.CancelledError:
            self.hidden.add(self.cloud.add(name="volume of " + spec.name))
            raise


class WaitsOnce(FakeDriver):
    async def wait_until_active(self, external_id: ExternalId) -> Instance:
        waited_for = self.cloud.__dict__.setdefault("waited_for", set())
        if external_id in waited_for:
            raise InstanceNotFoundError("not waiting for that", external_id=external_id)
        try:
            return await super().wait_until_active(external_id)
        finally:
            waited_for.add(external_id)


class WaitsForTheDeleted(FakeDriver):
    async def wait_until_active(self, external_id: ExternalId) -> Instance:
        try:
            return await super().wait_until_active(external_id)
        except InstanceNotFoundError:
            if any(entry["id"] == external_id for entry in self.cloud.log()):
                await asyncio.Event().wait()
            raise


class GivesBootingInstances(FakeDriver):
    async def wait_until_active(self, external_id: ExternalId) -> Instance:
        return replace(await super().wait_until_active(external_id), is_active=False)


class DeletesWithoutWaiting(FakeDriver):
    async def delete_instance(self, external_id: ExternalId) -> None:
        await self._ask(lambda: self.cloud.delete(external_id, delete_time=0.05))


class ComplainsOfSecondDelete(FakeDriver):
    async def delete_instance(self, external_id: ExternalId) -> None:
        deleted = self.cloud.__dict__.setdefault("deleted", set())
        if external_id in deleted:
            raise LaunchFailedError("deleted already", external_id=external_id)
        deleted.add(external_id)
        await super().delete_instance(external_id)


class HidesForeign(FakeDriver):
    async def list_instances(self) -> AsyncIterator[Instance]:
        async for instance in super().list_instances():
            if METADATA_PROVIDER in instance.metadata:
                yield instance


class ListsTwice(FakeDriver):
    async def list_instances(self) -> AsyncIterator[Instance]:
        async for instance in super().list_instances():
            yield instance
            yield instance


class MiscountsResources(FakeDriver):
    async def quota_for_label(self, pool: str, label: str) -> Usage:
        return await super().quota_for_label(pool, label) + Usage(cores=1)


class LetsCloudsErrorsOut(FakeDriver):
    async def quota_limits(self) -> Limits:
        self.cloud.check("limits")
        return await super().quota_limits()


class TripsOverUnknownLabels(FakeDriver):
    async def quota_for_label(self, pool: str, label: str) -> Usage:
        known = {"small": await super().quota_for_label(pool, "small")}
        return known[label]


class KnowsOnlyItsOwn(FakeDriver):
    """Keeps in mind what it made; its successor knows nothing of it."""

    def __init__(self, config: FakeProvider, context: DriverContext, cloud: FakeCloud | None) -> None:
        super().__init__(config, context, cloud=cloud)
        self.names: set[str] = set()

    async def create_instance(self, spec: InstanceSpec) -> ExternalId:
        self.names.add(spec.node_id)
        return await super().create_instance(spec)

    async def list_instances(self) -> AsyncIterator[Instance]:
        async for instance in super().list_instances():
            node_id = instance.metadata.get(METADATA_NODE_ID)
            is_known = node_id is None or node_id in self.names
            yield instance if is_known else replace(instance, metadata={METADATA_PROVIDER: "unknown"})


class DeletesOnlyItsOwn(FakeDriver):
    """Takes what its predecessor made for gone."""

    def __init__(self, config: FakeProvider, context: DriverContext, cloud: FakeCloud | None) -> None:
        super().__init__(config, context, cloud=cloud)
        self.seen: set[str] = set()

    async def create_instance(self, spec: InstanceSpec) -> ExternalId:
        external_id = await super().create_instance(spec)
        self.seen.add(external_id)
        return external_id

    async def list_instances(self) -> AsyncIterator[Instance]:
        async for instance in super().list_instances():
            if instance.is_active:
                self.seen.add(instance.external_id)
            yield instance

    async def delete_instance(self, external_id: ExternalId) -> None:
        if external_id in self.seen:
            await super().delete_instance(external_id)


class DeletesAllWhenClosed(FakeDriver):
    def __init__(self, config: FakeProvider, context: DriverContext, cloud: FakeCloud | None) -> None:
        super().__init__(config, context, cloud=cloud)
        self.mine: list[ExternalId] = []

    async def create_instance(self, spec: InstanceSpec) -> ExternalId:
        external_id = await super().create_instance(spec)
        self.mine.append(external_id)
        return external_id

    async def aclose(self) -> None:
        for external_id in self.mine:
            await self.delete_instance(external_id)


class BlocksTheLoop(FakeDriver):
    """Connects when first asked, synchronously."""

    is_connected = False

    async def label_ready(self, pool: str, label: str) -> bool:
        if not self.is_connected:
            time.sleep(0.6)
            self.is_connected = True
        return await super().label_ready(pool, label)


class MixesUpConcurrentCreates(FakeDriver):
    """Keeps the spec on itself while it waits."""

    async def create_instance(self, spec: InstanceSpec) -> ExternalId:
        self.spec = spec
        await asyncio.sleep(0)
        return await super().create_instance(replace(self.spec, name=spec.name))


class TriesAgainItself(FakeDriver):
    """Takes an answer that was lost for a create that was not done."""

    async def create_instance(self, spec: InstanceSpec) -> ExternalId:
        try:
            return await super().create_instance(spec)
        except ProviderUnavailableError:
            return await super().create_instance(spec)


class LeavesVolumes(FakeDriver):
    """Deletes the instance, not the volume that it made for it."""

    volumes: dict[str, str]

    def __init__(self, config: FakeProvider, context: DriverContext, cloud: FakeCloud | None) -> None:
        super().__init__(config, context, cloud=cloud)
        self.volumes = self.cloud.__dict__.setdefault("volumes", {})

    async def create_instance(self, spec: InstanceSpec) -> ExternalId:
        external_id = await super().create_instance(spec)
        self.volumes[f"volume of {spec.name}"] = external_id
        return external_id

    async def cloud_resources(self) -> Mapping[str, str | None]:
        return {**await super().cloud_resources(), **self.volumes}


class CleansUpAfterOthers(FakeDriver):
    """Deletes every resource that it doesn't know."""

    async def delete_instance(self, external_id: ExternalId) -> None:
        await super().delete_instance(external_id)
        for server in self.cloud.servers():
            if METADATA_PROVIDER not in server.metadata:
                self.cloud.remove(server.id)


class BelievesTheList(FakeDriver):
    """Treats an instance as missing if it is not listed."""

    async def wait_until_active(self, external_id: ExternalId) -> Instance:
        if external_id not in [instance.external_id async for instance in self.list_instances()]:
            raise InstanceNotFoundError("it is not listed", external_id=external_id)
        return await super().wait_until_active(external_id)


class DeletesOnlyTheListed(FakeDriver):
    async def delete_instance(self, external_id: ExternalId) -> None:
        if external_id in [instance.external_id async for instance in self.list_instances()]:
            await super().delete_instance(external_id)


class CallsQuotaAFailure(FakeDriver):
    async def create_instance(self, spec: InstanceSpec) -> ExternalId:
        try:
            return await super().create_instance(spec)
        except QuotaExceededError as error:
            raise LaunchFailedError(str(error), external_id=error.external_id) from None


class CallsAnythingTransient(FakeDriver):
    async def delete_instance(self, external_id: ExternalId) -> None:
        try:
            await super().delete_instance(external_id)
        except DriverError as error:
            raise ProviderUnavailableError(str(error)) from None


class KeepsTheTimeToItself(FakeDriver):
    async def list_instances(self) -> AsyncIterator[Instance]:
        try:
            async for instance in super().list_instances():
                yield instance
        except ProviderUnavailableError as error:
            raise ProviderUnavailableError(str(error), kind=error.kind) from None


class LogsRequests(FakeDriver):
    """A log line for each create, with all there is."""

    async def create_instance(self, spec: InstanceSpec) -> ExternalId:
        log.debug("create", spec=spec)
        return await super().create_instance(spec)


class QuotesRequests(FakeDriver):
    """Errors that say too much."""

    async def create_instance(self, spec: InstanceSpec) -> ExternalId:
        try:
            return await super().create_instance(spec)
        except LaunchFailedError as error:
            error.args = (f"{error}, asked for {spec.request}",)
            raise


class ListsLate(FakeDriver):
    """Shows an instance the second time it is asked."""

    async def list_instances(self) -> AsyncIterator[Instance]:
        seen = self.cloud.__dict__.setdefault("seen", set())
        async for instance in super().list_instances():
            if instance.external_id in seen or METADATA_PROVIDER not in instance.metadata:
                yield instance
            seen.add(instance.external_id)


class KeepsFencesToItself(FakeDriver):
    """Another driver, which a launcher that was overtaken has, knows nothing of them."""

    def _own(self, fence: Fence) -> Fence:
        return replace(fence, node=f"{fence.node} of {id(self)}")

    async def create_instance(self, spec: InstanceSpec) -> ExternalId:
        return await super().create_instance(replace(spec, fence=self._own(spec.fence) if spec.fence else None))

    async def raise_fence(self, fence: Fence) -> None:
        await super().raise_fence(self._own(fence))

    async def delete_fenced(self, external_id: ExternalId, fence: Fence) -> None:
        await super().delete_fenced(external_id, self._own(fence))


class FencesOffCreatesOnly(FakeDriver):
    async def delete_fenced(self, external_id: ExternalId, fence: Fence) -> None:
        await self.delete_instance(external_id)


class CallsTheStaleAConflict(FakeDriver):
    async def create_instance(self, spec: InstanceSpec) -> ExternalId:
        try:
            return await super().create_instance(spec)
        except StaleFenceError as error:
            raise LaunchFailedError(str(error), kind=ErrorKind.CONFLICT) from None


class RefusesTheSameFence(FakeDriver):
    async def create_instance(self, spec: InstanceSpec) -> ExternalId:
        external_id = await super().create_instance(spec)
        if spec.fence is not None:
            await self.raise_fence(replace(spec.fence, number=spec.fence.number + 1))
        return external_id


class GoesByTheNodesId(FakeDriver):
    """Ignores the store: a node with the same id, of a store that was created again, can affect nothing."""

    async def raise_fence(self, fence: Fence) -> None:
        await super().raise_fence(replace(fence, node=fence.node.partition("@")[0]))


@dataclass(frozen=True)
class Mutant:
    driver: type[FakeDriver]
    rules: str
    checks: Sequence[str]
    """The checks that must fail, and no others."""
    deadline_s: float = 20.0
    """Short where a hanging call is the fault."""
    max_block_s: float = 0.5


MUTANTS = (
    Mutant(WaitsInCreate, "D1", ["create_does_not_wait_for_boot"], deadline_s=1.0),
    Mutant(ForgetsMetadata, "D2.1 D2.2", [
        "metadata_is_listed_unchanged", "metadata_is_there_from_the_start",
        "what_a_failed_create_leaves_has_metadata",
    ]),
    Mutant(TagsAfterwards, "D2.1 D2.2", [
        "metadata_is_there_from_the_start", "what_a_failed_create_leaves_has_metadata",
    ]),
    Mutant(LeaksWhenCreateFails, "D3.1", ["a_failed_create_leaves_nothing_hidden"]),
    Mutant(LeaksWhenCancelled, "D3.2", ["a_cancelled_create_leaves_nothing_hidden"]),
    Mutant(TriesAgainItself, "D3.3", ["a_create_makes_one_instance"]),
    Mutant(WaitsOnce, "D4.1", ["anybody_may_wait_again", "a_cancelled_wait_can_be_taken_up"]),
    Mutant(GivesBootingInstances, "D4.1", ["anybody_may_wait_again", "a_cancelled_wait_can_be_taken_up"]),
    Mutant(WaitsForTheDeleted, "D4.2", ["waiting_for_a_deleted_instance_ends"], deadline_s=1.0),
    Mutant(DeletesWithoutWaiting, "D5.1 D5.2 D5.3 D6.3 D8.1", [
        "gone_when_delete_returns", "deleting_twice_is_fine", "a_cancelled_delete_can_be_taken_up",
        "another_driver_takes_over", "nothing_of_a_deleted_instance_stays", "a_lagging_list_misleads_nobody",
    ]),
    Mutant(ComplainsOfSecondDelete, "D5.2", ["deleting_twice_is_fine", "a_cancelled_delete_can_be_taken_up"]),
    Mutant(LeavesVolumes, "D5.1 D5.2 D5.3", [
        "gone_when_delete_returns", "deleting_twice_is_fine", "a_cancelled_delete_can_be_taken_up",
        "nothing_of_a_deleted_instance_stays",
    ]),
    Mutant(HidesForeign, "D6.2", ["other_peoples_are_listed"]),
    Mutant(ListsTwice, "D6.1", ["ours_are_listed_once"]),
    Mutant(ListsLate, "D3.1 D3.2 D6.1 D6.3", [
        "ours_are_listed_once", "a_failed_create_leaves_nothing_hidden", "a_cancelled_create_leaves_nothing_hidden",
        "a_lagging_list_misleads_nobody",
    ]),
    Mutant(MiscountsResources, "D11", ["ours_are_listed_once"]),
    Mutant(BelievesTheList, "D6.3", ["a_lagging_list_misleads_nobody"]),
    Mutant(DeletesOnlyTheListed, "D6.3", ["a_lagging_list_misleads_nobody"]),
    Mutant(CleansUpAfterOthers, "D6.4", ["other_peoples_are_left_alone"]),
    Mutant(LetsCloudsErrorsOut, "D7.1", ["a_failing_cloud_gives_driver_errors", "errors_are_of_their_kind"]),
    Mutant(TripsOverUnknownLabels, "D7.1", ["nonsense_gives_driver_errors"]),
    Mutant(CallsQuotaAFailure, "D7.2", ["errors_are_of_their_kind"]),
    Mutant(CallsAnythingTransient, "D7.2", ["errors_are_of_their_kind"]),
    Mutant(KeepsTheTimeToItself, "D12", ["it_says_when_to_ask_again"]),
    Mutant(KnowsOnlyItsOwn, "D8.1", ["another_driver_takes_over"]),
    Mutant(DeletesOnlyItsOwn, "D8.1", ["another_driver_takes_over"]),
    Mutant(DeletesAllWhenClosed, "D8.1", ["another_driver_takes_over"]),
    Mutant(BlocksTheLoop, "D9.2", ["the_loop_is_never_held_up"], max_block_s=0.2),
    Mutant(MixesUpConcurrentCreates, "D9.1", ["calls_run_side_by_side"]),
    Mutant(KeepsFencesToItself, "D14.1", ["stale_calls_are_refused"]),
    Mutant(FencesOffCreatesOnly, "D14.1", ["stale_calls_are_refused"]),
    Mutant(CallsTheStaleAConflict, "D14.1", ["stale_calls_are_refused"]),
    Mutant(RefusesTheSameFence, "D14.2", ["other_calls_are_not_refused"]),
    Mutant(GoesByTheNodesId, "D14.1 D14.2", ["stale_calls_are_refused", "other_calls_are_not_refused"]),
    Mutant(LogsRequests, "D10", ["secrets_are_never_said"]),
    Mutant(QuotesRequests, "D10", ["secrets_are_never_said"]),
)  # fmt: skip
