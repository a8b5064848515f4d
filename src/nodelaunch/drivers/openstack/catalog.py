"""Finds the parts of servers by their configured names: flavors, images, networks, server groups.

All callers share one reading of each list. A list is read again when it is old, when a name is missing from it, or when
the cloud rejects a request that was made from it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from nodelaunch.drivers.cloudoptions import CloudImage
from nodelaunch.drivers.openstack.client import Client
from nodelaunch.drivers.openstack.config import OpenStackLabel
from nodelaunch.drivers.openstack.model import Flavor, Image, Networks
from nodelaunch.errors import LabelUnusableError

T = TypeVar("T")

KEPT_S: Final = 300.0
"""Longest age of a list. Source: Nodepool 11, for a wanted image that is missing."""
MISSING_S: Final = 10.0
"""Longest age of a list from which a name is missing."""


class Cached(Generic[T]):
    """A value read from the cloud and kept for a while."""

    def __init__(self, read: Callable[[], Awaitable[T]]) -> None:
        self._read = read
        self._value: T | None = None
        self._read_at: float | None = None
        self._reading = asyncio.Lock()

    async def get(self, max_age_s: float = KEPT_S) -> T:
        """Return the value, read again if it is older than *max_age_s*. Raises: DriverError."""
        asked_at = asyncio.get_running_loop().time()
        async with self._reading:
            if self._value is None or self._read_at is None or self._read_at < asked_at - max_age_s:
                began_at = asyncio.get_running_loop().time()
                self._value = await self._read()
                self._read_at = began_at
            return self._value

    def forget(self) -> None:
        self._read_at = None


class CloudCatalog:
    """The catalog of one account. A name that can't be found raises LabelUnusableError."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.flavors: Cached[list[Flavor]] = Cached(client.flavors)
        self.networks: Cached[Networks] = Cached(client.networks)
        self._groups = Cached(client.server_groups)
        self._images: dict[str, Cached[Image | None]] = {}
        self._unlisted: dict[str, Flavor | None] = {}

    def forget(self) -> None:
        """Forget all lists, because they may be wrong."""
        self.flavors.forget()
        self.networks.forget()
        self._groups.forget()
        self._images.clear()
        self._unlisted.clear()

    async def flavor(self, label: OpenStackLabel) -> Flavor:
        """Return the flavor by name or id, by memory, or the first with enough memory whose name contains the given
        text."""
        found = _flavor(await self.flavors.get(), label) or _flavor(await self.flavors.get(MISSING_S), label)
        if found is None:
            raise self._unusable(f"label {label.name}: no flavor {label.flavor_in_words}")
        return found

    async def flavor_of_id(self, flavor_id: str) -> Flavor | None:
        """Return a flavor, also one that is not listed for this project; None if it is gone."""
        listed = next((flavor for flavor in await self.flavors.get() if flavor.id == flavor_id), None)
        if listed is None and flavor_id not in self._unlisted:
            self._unlisted[flavor_id] = await self._client.flavor(flavor_id)
        return listed or self._unlisted.get(flavor_id)

    async def image_id(self, image: CloudImage) -> str:
        """Return the configured id, or the id of the newest image of that name."""
        if image.image_id:
            return image.image_id
        found = await self.find_image(image)
        if found is None:
            raise self._unusable(f"no active image is called {image.in_cloud}")
        return found.id

    async def find_image(self, image: CloudImage) -> Image | None:
        """Return the newest active image of that name, or None. If only ``name`` is configured, it may also be an
        id."""
        name = image.in_cloud
        if name not in self._images:
            self._images[name] = Cached(lambda: self._newest(name, may_be_id=image.image_name is None))
        kept = self._images[name]
        return await kept.get() or await kept.get(MISSING_S)

    async def _newest(self, name: str, *, may_be_id: bool) -> Image | None:
        images = await self._client.images(name)
        if images:
            return max(images, key=lambda image: image.created_at)
        return await self._client.image_of_id(name) if may_be_id else None

    async def network_ids(self, names: tuple[str, ...]) -> list[str]:
        """Return the ids in the order of *names*; without names, of the default network in ``clouds.yaml``."""
        networks = await self.networks.get()
        wanted = names or ((networks.default,) if networks.default else ())
        if any(networks.find(name) is None for name in wanted):
            networks = await self.networks.get(MISSING_S)
        ids = []
        for name in wanted:
            network = networks.find(name)
            if network is None:
                raise self._unusable(f"no network is called {name}")
            ids.append(network.id)
        return ids

    async def server_group_id(self, name: str) -> str:
        found = (await self._groups.get()).get(name) or (await self._groups.get(MISSING_S)).get(name)
        if found is None:
            raise self._unusable(f"no server group is called {name}")
        return found

    def _unusable(self, text: str) -> LabelUnusableError:
        return LabelUnusableError(text, provider=self._client.provider)


def _flavor(flavors: list[Flavor], label: OpenStackLabel) -> Flavor | None:
    if label.min_ram is None:
        return next((flavor for flavor in flavors if label.flavor_name in (flavor.name, flavor.id)), None)
    by_size = sorted(flavors, key=lambda flavor: (flavor.ram, flavor.name))
    part = label.flavor_name or ""
    return next((flavor for flavor in by_size if flavor.ram >= label.min_ram and part in flavor.name), None)
