"""The driver of ``driver: test``: a launch succeeds at once."""

from __future__ import annotations

from collections.abc import AsyncIterator

from nodelaunch.drivers.test.config import TestProvider
from nodelaunch.errors import InstanceNotFoundError
from nodelaunch.protocol.driver import DriverContext, ExternalId, Instance, InstanceSpec, LabelTraits
from nodelaunch.protocol.quota import INSTANCES, NO_LIMITS, Limits, Usage


class TestDriver:
    """Remembers what it made for as long as it lives, so that it can list and delete it."""

    def __init__(self, config: TestProvider, _context: DriverContext) -> None:
        self._config = config
        self._instances: dict[ExternalId, Instance] = {}

    def label_traits(self, pool: str, label: str) -> LabelTraits:  # noqa: ARG002  every label is alike
        return LabelTraits(host_key_checking=False)

    async def create_instance(self, spec: InstanceSpec) -> ExternalId:
        external_id = ExternalId(spec.name)
        self._instances[external_id] = Instance(external_id, dict(spec.metadata), is_active=True)
        return external_id

    async def wait_until_active(self, external_id: ExternalId) -> Instance:
        if external_id not in self._instances:
            raise InstanceNotFoundError("no such instance", provider=self._config.name, external_id=external_id)
        return self._instances[external_id]

    async def delete_instance(self, external_id: ExternalId) -> None:
        self._instances.pop(external_id, None)

    async def list_instances(self) -> AsyncIterator[Instance]:
        for instance in list(self._instances.values()):
            yield instance

    async def quota_limits(self) -> Limits:
        return NO_LIMITS

    async def quota_for_label(self, pool: str, label: str) -> Usage:  # noqa: ARG002  every label is alike
        return Usage({INSTANCES: 1})

    async def label_ready(self, pool: str, label: str) -> bool:  # noqa: ARG002  every label is alike
        return True

    async def aclose(self) -> None:
        """Nothing to let go of."""
