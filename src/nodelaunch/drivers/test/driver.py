"""The driver of ``driver: test``: a launch succeeds at once, without a cloud."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator

from nodelaunch.drivers.test.config import TestProvider
from nodelaunch.errors import InstanceNotFoundError
from nodelaunch.protocol.driver import DriverContext, ExternalId, Instance, InstanceSpec, LabelTraits
from nodelaunch.protocol.quota import INSTANCES, NO_LIMITS, Limits, Usage


class TestCloud:
    """The instances that exist. Each id is used once, even if a node is launched several times."""

    __test__ = False

    def __init__(self) -> None:
        self.instances: dict[ExternalId, Instance] = {}
        self._numbers = itertools.count(1)

    def add(self, spec: InstanceSpec) -> ExternalId:
        external_id = ExternalId(f"{spec.name}-{next(self._numbers)}")
        self.instances[external_id] = Instance(
            external_id, dict(spec.metadata), is_active=True, zone=spec.zone, resources=Usage({INSTANCES: 1})
        )
        return external_id


class TestDriver:
    """*cloud* keeps instances beyond the life of this driver. Instances of earlier processes are gone in any case."""

    __test__ = False

    def __init__(self, config: TestProvider, _context: DriverContext, *, cloud: TestCloud | None = None) -> None:
        self._config = config
        self._cloud = cloud or TestCloud()

    def label_traits(self, pool: str, label: str) -> LabelTraits:  # noqa: ARG002  all labels are equal
        return LabelTraits(host_key_checking=False)

    async def create_instance(self, spec: InstanceSpec) -> ExternalId:
        return self._cloud.add(spec)

    async def wait_until_active(self, external_id: ExternalId) -> Instance:
        try:
            return self._cloud.instances[external_id]
        except KeyError:
            raise InstanceNotFoundError(
                "no such instance", provider=self._config.name, external_id=external_id
            ) from None

    async def delete_instance(self, external_id: ExternalId) -> None:
        self._cloud.instances.pop(external_id, None)

    async def list_instances(self) -> AsyncIterator[Instance]:
        for instance in list(self._cloud.instances.values()):
            yield instance

    async def quota_limits(self) -> Limits:
        return NO_LIMITS

    async def quota_for_label(self, pool: str, label: str) -> Usage:  # noqa: ARG002  all labels are equal
        return Usage({INSTANCES: 1})

    async def label_ready(self, pool: str, label: str) -> bool:  # noqa: ARG002  all labels are equal
        return True

    async def aclose(self) -> None:
        """Do nothing: no resource is held."""
