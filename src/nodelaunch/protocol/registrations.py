"""Records that processes publish while they live, and the record that remains of a pool.

Source: Nodepool 11, its component registry; `Presence` and `KnownPool` are our own, outside Nodepool's tree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, ClassVar, Self
from zlib import crc32

from nodelaunch.protocol.recordcoding import Amounts, Flag, Record, Text, Texts, Whole, Word, text
from nodelaunch.protocol.states import ComponentState

# -- components -----------------------------------------------------------------------------------------------------


class Component(Record, frozen=True):
    """A live process, or a part of one; its znode exists as long as it lives. Keys are written sorted."""

    SORTED: ClassVar[bool] = True
    hostname: Annotated[str, text] = ""
    kind: Annotated[str, text] = ""
    model_api: Whole = 0
    """Must be 0: every Nodepool process takes the minimum over all components and refuses to go below its own."""
    state: Annotated[ComponentState, ComponentState] = ComponentState.STOPPED
    version: Text = None

    @classmethod
    def from_bytes(cls, path: str, data: bytes) -> Self:
        """Return the component in *data*. Raises: RecordInvalidError."""
        return cls._read(path, data)


class LauncherComponent(Component, frozen=True):
    kind: Annotated[str, text] = "launcher"


class PoolRegistration(Component, frozen=True):
    """The registration of one pool for its peers; ``id`` is the token that it puts into ``declined_by``."""

    kind: Annotated[str, text] = "pool"
    id: Text = None
    name: Text = None
    provider_name: Text = None
    supported_labels: Texts = ()
    priority: Whole = 100
    paused: Flag = False


# -- our own, outside Nodepool's tree -------------------------------------------------------------------------------


class Presence(Record, frozen=True):
    """The record of one nodelaunch process for the others; ephemeral."""

    id: Word = ""
    """An id that is different for each process."""
    hostname: Word = ""
    version: Text = None
    state: Annotated[ComponentState, ComponentState] = ComponentState.RUNNING
    min_ready: Amounts = None
    """Label → number of nodes that the process would keep ready; labels without such nodes are left out."""
    pools: Texts = ()
    """Ids of the pools that the process runs."""
    knows: Texts = ()
    """Ids of the other processes that this one knows to have pools, or to work at providers."""
    providers: Texts = ()
    """Providers at which the process may create nodes: those of its pools, including pools that drain and are not
    registered any more."""

    @classmethod
    def from_bytes(cls, path: str, data: bytes) -> Self:
        """Return the presence in *data*. Raises: RecordInvalidError."""
        return cls._read(path, data)


class KnownPool(Record, frozen=True):
    """The labels of a pool, kept while it is not registered, so that its return can be awaited."""

    provider: str
    pool: str
    labels: Texts = ()

    @classmethod
    def from_bytes(cls, path: str, data: bytes, *, names: tuple[str, str]) -> Self:
        """*names*: provider and pool, as `paths.known_pool_at` finds them in *path*. Raises: RecordInvalidError."""
        return cls._read(path, data, provider=names[0], pool=names[1])


def turn_of(request_id: str, launchers: int) -> int:
    """Return the number, below *launchers*, of the launcher whose turn it is to serve a request, and to clean up after
    it."""
    return crc32(request_id.encode()) % launchers if launchers > 1 else 0


def keeper_of(label: str, presences: Iterable[Presence]) -> Presence | None:
    """Return the owner of *label*: the process that keeps its nodes ready. All processes compute the same one.

    Rendezvous hashing: when a process comes or goes, only the labels that it gets or had change their owner.
    """
    willing = [p for p in presences if p.state is ComponentState.RUNNING and (p.min_ready or {}).get(label, 0) > 0]
    return max(willing, key=lambda p: sha256(f"{label}\0{p.id}".encode()).digest(), default=None)


def process_names(presences: Iterable[Presence]) -> dict[str, str]:
    """Return a name for each process, by id: its host name, with the first characters of its id if several share the
    name."""
    known = list(presences)
    hosts = Counter(each.hostname for each in known)
    return {
        each.id: each.hostname if hosts[each.hostname] == 1 else f"{each.hostname} ({short_id(each.id)})"
        for each in known
    }


def short_id(process: str) -> str:
    """Return the first characters of a process's id, which are enough to distinguish it."""
    return process[:8]


@dataclass(frozen=True, slots=True)
class RegisteredPool:
    """A registered pool, of this process or another."""

    pool_id: str
    provider: str
    priority: int
    is_paused: bool
    labels: frozenset[str]
    pool: str = ""
    """The pool's name."""
    launcher: str = ""
    """Id of the nodelaunch process that runs the pool; empty for pools of other programs."""
    is_stopped: bool = False
    """True if an operator has paused it; ``is_paused`` is then True, too."""
