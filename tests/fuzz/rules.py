"""Rules that must hold at every moment of a simulated run, checked with each transaction and each event of a cloud.

The rules see the server's state, not what a client believes. The permitted transitions are written down from the wire
reference once more, not taken from the code under test. What does *not* belong here: causing events (world.py).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from fuzz.cloud import CloudEvent
from fuzz.moves import LAUNCHER_MOVES, REQUEST_MOVES, USER_MOVES
from fuzz.scenario import CORES, TENANT, PoolPlan, ProviderPlan, Scenario
from fuzz.store import Transaction
from nodelaunch.protocol import paths
from nodelaunch.protocol.paths import NodeId, RequestId
from nodelaunch.protocol.pauses import Target
from nodelaunch.protocol.records import Node, NodeRequest, PoolRegistration
from nodelaunch.protocol.states import NodeState, RequestState
from nodelaunch.store.embedded.znodes import Change

N, R = NodeState, RequestState
KEPT = frozenset({N.READY, N.IN_USE, N.HOLD})
"""States in which the owner of a node, or its next owner, relies on the server."""


@dataclass(frozen=True, slots=True)
class Server:
    cloud: str
    node_id: NodeId
    provider: str
    pool: str


@dataclass(slots=True)
class Overtaken:
    """A request that was accepted, and by whom it may turn out to have been unjustly."""

    at: float
    waiting: list[NodeRequest]
    launcher: str


@dataclass(slots=True)
class Accusation:
    """Requests that had to wait, it seems, for one that came later."""

    at: float
    since: float
    """Time at which the later request was accepted."""
    overtaken: list[RequestId]
    detail: str


@dataclass(slots=True)
class Rules:
    """``broken(rule, detail)`` is called where one does not hold, ``note(who, text)`` with what happened."""

    scenario: Scenario
    now: Callable[[], float]
    broken: Callable[[str, str], None]
    note: Callable[[str, str], None]
    requests: dict[RequestId, NodeRequest] = field(default_factory=dict)
    nodes: dict[NodeId, Node] = field(default_factory=dict)
    servers: dict[str, Server] = field(default_factory=dict)
    pools: dict[str, PoolRegistration] = field(default_factory=dict)
    pool_home: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    """Launcher, provider and pool of each pool id there ever was."""
    owners: dict[RequestId, int] = field(default_factory=dict)
    """Sessions of ephemeral requests."""
    failures: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Number of failed launch steps, by request and provider."""
    final_failures: set[tuple[str, str]] = field(default_factory=set)
    missing_images: bool = False
    unruly: bool = False
    """Set if servers may exist that no launcher can know of: left by failed creates, or foreign."""
    doomed: set[NodeId] = field(default_factory=set)
    """Nodes that their owners lost to an operator or a vanished server."""
    calm_since: dict[str, float] = field(default_factory=dict)
    """Start of the time with a good connection, by launcher."""
    paused_at: dict[Target, float] = field(default_factory=dict)
    """Targets that operators have paused, and since when."""
    checks: Counter[str] = field(default_factory=Counter)
    _contenders: defaultdict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))
    _registered_at: dict[str, float] = field(default_factory=dict)
    """Start of the registration, by id of the pool, while it is registered."""
    _touched: dict[RequestId, float] = field(default_factory=dict)
    _written_under: dict[NodeId, frozenset[str]] = field(default_factory=dict)
    """Contenders for a node's lock that its last writer still has after that write, by node."""
    _taken_at: dict[RequestId, float] = field(default_factory=dict)
    """Time at which a launcher last took the request."""
    _accepted: dict[RequestId, Overtaken] = field(default_factory=dict)
    _accused: list[Accusation] = field(default_factory=list)
    _foreign_peak: Counter[str] = field(default_factory=Counter)

    # -- what the world knows ---------------------------------------------------------------------------------------

    def must(self, holds: object, rule: str, detail: str) -> None:
        self.checks[rule] += 1
        if not holds:
            self.broken(rule, detail)

    def is_launcher(self, name: str) -> bool:
        return any(plan.name == name for plan in self.scenario.launchers)

    def holder(self, lock_path: str) -> int | None:
        """Return the session that has the lock, 0 for a persistent contender, None if the lock is free."""
        contenders = self._contenders.get(lock_path)
        return contenders[min(contenders, key=_sequence)] if contenders else None

    def _own_contenders(self, node_id: NodeId, session: int) -> frozenset[str]:
        lock = self._contenders.get(paths.node_lock(node_id), {})
        return frozenset(contender for contender, owner in lock.items() if owner == session)

    def is_locked(self, lock_path: str) -> bool:
        return self.holder(lock_path) is not None

    def node(self, node_id: NodeId) -> Node | None:
        return self.nodes.get(node_id)

    @property
    def lag(self) -> float:
        """Return the longest delay, in seconds, with which a launcher with a good connection learns of a change."""
        return 200 * self.scenario.latency_s + 0.5

    def is_calm(self, launcher: str) -> bool:
        return self.now() - self.calm_since.get(launcher, 0.0) > 10 * self.lag

    def touched_at(self, request_id: RequestId) -> float:
        """Return when the request, or its lock, last changed."""
        return self._touched.get(request_id, 0.0)

    # -- transactions -----------------------------------------------------------------------------------------------

    def on_transaction(self, transaction: Transaction) -> None:
        before: dict[str, int | None] = {}
        records: list[Change] = []
        for change in transaction.changes:
            if change.old is not None and change.new is not None and change.old.entry == change.new.entry:
                continue
            if paths.contender_sequence(change.path.rpartition("/")[2]) is not None:
                directory = change.path.rpartition("/")[0]
                before.setdefault(directory, self.holder(directory))
                self._on_contender(change, directory, transaction)
            else:
                records.append(change)
        for change in records:
            self._on_record(change, transaction, before)
        self._judge()

    def _on_contender(self, change: Change, directory: str, transaction: Transaction) -> None:
        if change.new is not None:
            self._contenders[directory][change.path] = change.new.entry.stat.owner
            self.note(transaction.client.name, f"contends for {_short(directory)}")
            return
        owner = self._contenders[directory].pop(change.path, None)
        self.note(transaction.client.name, f"{'loses' if transaction.is_expiry else 'leaves'} {_short(directory)}")
        node = self.nodes.get(_node_of(directory))
        is_over = node is None or node.state in (N.DELETING, N.DELETED)
        self.must(
            owner == transaction.session or is_over,
            "locks are removed by their owners",
            f"{change.path} was not its own",
        )
        if (request_id := _request_id_of_contender(change.path)) is not None:
            self._touched[request_id] = self.now()

    def _on_record(self, change: Change, transaction: Transaction, before: dict[str, int | None]) -> None:
        who = transaction.client.name
        if (request_id := paths.request_id_at(change.path)) is not None:
            lock = paths.request_lock(request_id)
            holders = (before.get(lock, self.holder(lock)), self.holder(lock))
            self._on_request(request_id, change, transaction, has_lock=transaction.session in holders)
        elif (node_id := paths.node_id_at(change.path)) is not None:
            lock = paths.node_lock(node_id)
            holders = (before.get(lock, self.holder(lock)), self.holder(lock))
            self._on_node(node_id, change, transaction, before, has_lock=transaction.session in holders)
        elif paths.is_child(change.path, paths.POOLS):
            self._on_pool(change, who)

    def _on_pool(self, change: Change, who: str) -> None:
        if change.new is None:
            gone = self.pools.pop(change.path, None)
            self._registered_at.pop(gone.id or "" if gone else "", None)
            self.note(who, f"pool {gone and gone.provider_name}/{gone and gone.name} is not registered any more")
            return
        pool = PoolRegistration.from_bytes(change.path, change.new.entry.data)
        self.pools[change.path] = pool
        self._registered_at.setdefault(pool.id or "", self.now())
        self.pool_home[pool.id or ""] = (who, pool.provider_name or "", pool.name or "")
        self.note(who, f"pool {pool.provider_name}/{pool.name} is registered{', paused' if pool.paused else ''}")

    # -- requests ---------------------------------------------------------------------------------------------------

    def _on_request(self, request_id: RequestId, change: Change, transaction: Transaction, *, has_lock: bool) -> None:
        who = transaction.client.name
        old = self.requests.pop(request_id, None)
        self._touched[request_id] = self.now()
        if change.new is None:
            self.note(who, f"request {request_id} is deleted, was {old and old.state.value}")
            is_own = not self.is_launcher(who) or self.owners.get(request_id) == transaction.session
            self.must(is_own, "only the requestor deletes a request", f"{who} deleted {request_id}")
            if old is not None and old.requestor == paths.MIN_READY_REQUESTOR and not transaction.is_expiry:
                is_free = not self._has_tied_node(old)
                self.must(
                    is_free, "nodes kept ready are freed before their request goes", f"{who} deleted {request_id}"
                )
            return
        entry = change.new.entry
        new = NodeRequest.from_bytes(entry.path, entry.data, request_id=request_id)
        self.requests[request_id] = new
        if old is None:
            if entry.stat.owner:
                self.owners[request_id] = entry.stat.owner
            self.note(who, f"asks for {','.join(new.node_types)} with {request_id}")
            self._check_min_ready(who, new)
            return
        self.note(who, f"request {request_id}: {old.state.value} -> {new.state.value} {_lists(new)}")
        self.must(has_lock, "a request is written under its lock", f"{who} wrote {request_id}")
        if self.is_launcher(who):
            self._check_move(who, old, new, transaction.session)
        else:
            self.must(old.state is new.state is R.REQUESTED, "only waiting requests are revised", request_id)

    def _check_move(self, who: str, old: NodeRequest, new: NodeRequest, session: int) -> None:
        self.must(
            (old.state, new.state) in REQUEST_MOVES,
            "requests move as agreed",
            f"{old.id}: {old.state.value} -> {new.state.value} by {who}",
        )
        same = ("node_types", "requestor", "tenant_name", "provider", "relative_priority", "reuse", "created_time")
        self.must(
            all(getattr(old, name) == getattr(new, name) for name in same), "what was asked stays as asked", new.id
        )
        self._check_decline(who, old, new)
        self.must(new.state is R.FULFILLED or not new.nodes, "only fulfilled requests list nodes", new.id)
        if new.state is R.FULFILLED:
            self._check_fulfilled(new, session)
        if new.state is R.PENDING:
            if old.state is not R.PENDING:
                self._taken_at[new.id] = self.now()
            self._note_overtaken(who, new)
        if old.state is R.PENDING and new.state in (R.REQUESTED, R.FAILED):
            kept = [n.id for n in self.nodes.values() if n.allocated_to == new.id and n.state is N.READY]
            self.must(not kept, "a request handed back leaves its nodes free", f"{new.id} still has {kept}")

    def _check_decline(self, who: str, old: NodeRequest, new: NodeRequest) -> None:
        more = [pool_id for pool_id in new.declined_by if pool_id not in old.declined_by]
        is_longer = new.declined_by[: len(old.declined_by)] == old.declined_by
        is_once = len(set(new.declined_by)) == len(new.declined_by)
        self.must(is_longer and is_once, "declined-by only grows", f"{new.id}: {old.declined_by} -> {new.declined_by}")
        for pool_id in more:
            launcher, provider, pool = self.pool_home.get(pool_id, ("?", "?", "?"))
            self.must(launcher == who, "pools decline for themselves", f"{new.id}: {pool_id} by {who}")
            why = self._why_declined(new, provider, pool)
            self.must(why, "nothing is declined without a reason", f"{new.id} ({_lists(new)}) by {pool_id}")
            self.note(who, f"declines {new.id} for {provider}/{pool}: {why}")
        if new.state is R.FAILED and self.is_calm(who):
            known = [pool_id for pool_id, at in self._registered_at.items() if self.now() - at > self.lag]
            missing = [pool_id for pool_id in known if pool_id not in new.declined_by]
            self.must(not missing, "a request fails when all pools declined", f"{new.id} was not declined by {missing}")

    def _why_declined(self, request: NodeRequest, provider_name: str, pool_name: str) -> str | None:
        """Return a reason for the pool to decline the request, as far as an observer can know."""
        provider, pool = self.plans(provider_name, pool_name)
        labels = request.node_types
        if not pool.fits(labels):
            return "it is more than the pool could have"
        limit = self.scenario.cloud(provider.cloud).max_servers - self._foreign_peak[provider.name]
        if not pool.ignores_quota and len(labels) > limit:
            return "it is more than the cloud could give"
        if request.requestor == paths.MIN_READY_REQUESTOR:
            return "nodes to be kept ready get what is to spare"
        if request.tenant_name == TENANT and len(labels) > (self.scenario.tenant_servers or 99):
            return "it is more than the tenant may have"
        if (request.id, provider_name) in self.final_failures:
            return "a launch failed for good"
        if self.failures[request.id, provider_name] >= provider.retries:
            return "launches failed"
        return "an image was missing" if self.missing_images else None

    def _check_fulfilled(self, request: NodeRequest, session: int) -> None:
        nodes = [self.nodes.get(node_id) for node_id in request.nodes]
        there = [node for node in nodes if node is not None]
        where = f"{request.id} with {request.nodes}"
        self.must(len(there) == len(nodes), "nodes of a fulfilled request exist", where)
        self.must(len(set(request.nodes)) == len(request.nodes), "no node is given twice", where)
        for node in there:
            self.must(
                node.state is N.READY, "nodes of a fulfilled request are ready", f"{where}: {node.id} {node.state}"
            )
            self.must(node.allocated_to == request.id, "nodes are allocated when given", f"{where}: {node.id}")
            lock = self._contenders.get(paths.node_lock(node.id), {})
            # Others may look, and leave; the sweeper may, too.
            free = self._written_under.get(node.id, frozenset()).isdisjoint(lock)
            self.must(free, "nodes are unlocked when given", f"{where}: {node.id}")
        labels = [set(node.type) for node in there]
        in_order = len(labels) == len(request.node_types) and all(
            label in has for label, has in zip(request.node_types, labels, strict=False)
        )
        self.must(in_order, "nodes come in the order of labels", f"{where}: {request.node_types}, {labels}")
        for other in self.requests.values():
            is_kept = other.id == request.id or other.requestor == paths.MIN_READY_REQUESTOR  # freed, then deleted
            shared = set() if is_kept else set(other.nodes) & set(request.nodes)
            self.must(not shared, "no node is given to two", f"{shared} to {request.id} and {other.id}")

    def _has_tied_node(self, request: NodeRequest) -> bool:
        return any((node := self.nodes.get(node_id)) and node.allocated_to == request.id for node_id in request.nodes)

    def _asks(self, request: NodeRequest) -> bool:
        """Return whether the request is unanswered; a fulfilled request counts as unanswered while a node is tied to
        it.
        """
        return request.state is not R.FAILED and (request.state is not R.FULFILLED or self._has_tied_node(request))

    def _check_min_ready(self, who: str, request: NodeRequest) -> None:
        if request.requestor != paths.MIN_READY_REQUESTOR:
            return
        (label,) = request.node_types
        alike = [
            other
            for other in self.requests.values()
            if other.requestor == request.requestor and label in other.node_types and self._asks(other)
        ]
        wanted = sum(plan.min_ready.get(label, 0) for plan in self.scenario.launchers)
        self.must(len(alike) <= wanted, "no more is kept ready than configured", f"{who}: {len(alike)} of {label}")

    # -- order ------------------------------------------------------------------------------------------------------

    def _note_overtaken(self, who: str, accepted: NodeRequest) -> None:
        """Note the requests that have waited for what *accepted* gets, or less, and should have got it first."""
        if not self.is_calm(who):
            return
        waiting = [
            request
            for request in self.requests.values()
            if request.state is R.REQUESTED
            and request.order < accepted.order
            and request.requestor != paths.MIN_READY_REQUESTOR
            and (request.tenant_name, request.provider) == (accepted.tenant_name, accepted.provider)
            and not Counter(request.node_types) - Counter(accepted.node_types)
            and set(request.declined_by) >= set(accepted.declined_by)
            and self.now() - self._touched[request.id] > self.lag
            and not self.is_locked(paths.request_lock(request.id))
        ]
        self._accepted[accepted.id] = Overtaken(self.now(), waiting, who)

    def _check_order(self, who: str, node: Node) -> None:
        """Check the order of requests: the first node shows which pool has accepted the request."""
        overtaken = self._accepted.pop(node.allocated_to or RequestId(""), None)
        if overtaken is None or overtaken.launcher != who:
            return
        mine = {
            pool_id
            for pool_id, home in self.pool_home.items()
            if home == (who, node.provider, node.pool) and any(p.id == pool_id for p in self.pools.values())
        }
        unjustly = [request.id for request in overtaken.waiting if not mine & set(request.declined_by)]
        if unjustly:
            detail = f"{node.allocated_to} got {node.provider}/{node.pool} before {unjustly}"
            self._accused.append(Accusation(self.now(), overtaken.at, unjustly, detail))

    def _judge(self) -> None:
        """A request that is taken with the one that got a node before it was not overtaken: only messages were."""
        while self._accused and self._accused[0].at < self.now() - self.lag:
            accusation = self._accused.pop(0)
            left = [i for i in accusation.overtaken if i in self.requests and self._touched[i] <= accusation.since]
            self.must(not left, "first come, first served", accusation.detail)

    # -- nodes ------------------------------------------------------------------------------------------------------

    def _on_node(
        self,
        node_id: NodeId,
        change: Change,
        transaction: Transaction,
        before: dict[str, int | None],
        *,
        has_lock: bool,
    ) -> None:
        who = transaction.client.name
        old = self.nodes.pop(node_id, None)
        if change.new is None:
            self.note(who, f"node {node_id} is removed, was {old and old.state.value}")
            self._check_removed(who, node_id, old)
            return
        entry = change.new.entry
        self.must(entry.data, "nodes are not brought back by a lock", f"{node_id} by {who}")
        new = self.nodes[node_id] = Node.from_bytes(entry.path, entry.data, node_id=node_id)
        was = f"{old.state.value} -> " if old else ""
        self.note(who, f"node {node_id}: {was}{new.state.value} for {new.allocated_to} as {new.external_id}")
        if old is None:
            begins_well = new.state is N.INIT or (new.state is N.BUILDING and has_lock)
            self.must(begins_well and new.allocated_to, "nodes begin for a request, as init or locked", node_id)
            self._check_pauses(who, new)
        else:
            self._written_under[node_id] = self._own_contenders(node_id, transaction.session)
            is_over = old.state in (
                N.DELETING,
                N.DELETED,
            )  # a client that removes the record removes the locks of others with it
            under_lock = has_lock or (is_over and self.is_launcher(who))
            self.must(under_lock, "a node is written under its lock", f"{who} wrote {node_id} ({old.state.value})")
            moves = LAUNCHER_MOVES if self.is_launcher(who) else USER_MOVES
            legal = (old.state, new.state) in moves
            self.must(legal, "nodes move as agreed", f"{node_id}: {was}{new.state.value} by {who}")
            if self.is_launcher(who):
                self._check_allocation(who, old, new, transaction.session, before)
        if new.allocated_to and (old is None or old.allocated_to != new.allocated_to):
            self._check_order(who, new)
            self._check_tenant(new)

    def _check_pauses(self, who: str, node: Node) -> None:
        """Check that the request of a new node was accepted before its launcher could know of the pause."""
        targets = (
            Target.provider(node.provider or ""), Target.pool(node.provider or "", node.pool or ""),
            Target.launcher(who),
        )  # fmt: skip
        since = min((self.paused_at[target] for target in targets if target in self.paused_at), default=self.now())
        taken_at = self._taken_at.get(node.allocated_to or RequestId(""), 0.0)
        if self.is_calm(who):
            self.must(taken_at <= since + self.lag, "what is paused takes no request", f"{node.id} by {who}")

    def _check_removed(self, who: str, node_id: NodeId, old: Node | None) -> None:
        if old is None:
            return
        self.must(self.is_launcher(who), "only launchers remove nodes", f"{node_id} by {who}")
        self.must(old.state in (N.DELETING, N.DELETED), "nodes are removed after deletion", f"{node_id} {old.state}")
        left = old.external_id in self.servers
        self.must(not left, "a record goes after its server", f"{node_id} left {old.external_id}")
        self._count_foreign()

    def _check_allocation(self, who: str, old: Node, new: Node, session: int, before: dict[str, int | None]) -> None:
        request = self.requests.get(old.allocated_to or RequestId(""))
        if request is not None and request.state is R.FULFILLED and old.id in request.nodes:
            is_own = self.owners.get(request.id) == session
            kept = new.allocated_to == old.allocated_to and new.state is old.state
            detail = f"{who} changed {old.id} of {request.id}"
            self.must(kept or is_own or old.state is not N.READY, "what was given stays given", detail)
        if old.allocated_to != new.allocated_to:
            direct = bool(old.allocated_to and new.allocated_to)
            self.must(not direct, "a node is freed before it is given again", f"{old.id}: {old.allocated_to}")
            if request is not None and request.state in (R.REQUESTED, R.PENDING):
                lock = paths.request_lock(request.id)
                mine = {session, None} & {before.get(lock, self.holder(lock)), self.holder(lock)}
                self.must(mine, "a node is freed by who works for its request", f"{old.id} of {request.id} by {who}")
        if new.allocated_to and not old.allocated_to:
            wanted = self.requests.get(new.allocated_to)
            holder = self.holder(paths.request_lock(new.allocated_to))
            mine = wanted is None or holder == session
            self.must(mine, "a node is given by who works for its request", f"{new.id} to {new.allocated_to} by {who}")

    def _check_tenant(self, node: Node) -> None:
        limit = self.scenario.tenant_servers
        if node.tenant_name != TENANT or limit is None:
            return
        used = [n.id for n in self.nodes.values() if n.tenant_name == TENANT and not n.is_idle]
        self.must(len(used) <= limit, "tenants get what they may have", f"{used} for at most {limit}")

    # -- clouds -----------------------------------------------------------------------------------------------------

    def on_cloud(self, event: CloudEvent) -> None:
        node_id = NodeId(event.metadata.get("nodepool_node_id", ""))
        self.note(event.cloud, f"{event.what} {event.id} of node {node_id or '-'} for {event.by or 'nobody'}")
        if event.what == "create" and event.id is not None:
            where = (event.metadata.get("nodepool_provider_name", ""), event.metadata.get("nodepool_pool_name", ""))
            self.servers[event.id] = Server(event.cloud, node_id, *where)
            self._check_capacity(self.servers[event.id], event.by or "")
            self._count_foreign()
        elif event.what == "deleting" and event.id is not None:
            self._check_unused(event.id, event.by)
        elif event.what == "gone":
            self.servers.pop(event.id or "", None)

    def _check_unused(self, server_id: str, by: str | None) -> None:
        users = [n.id for n in self.nodes.values() if n.external_id == server_id and n.state in KEPT]
        self.must(not users, "no server in use is deleted", f"{server_id} of {users} by {by}")

    def _check_capacity(self, server: Server, by: str) -> None:
        may_have_twin = self.unruly or not self.is_calm(by)  # it may be cut off, and not know that another goes on
        if server.node_id not in self.nodes:
            return
        alike = [
            other
            for other in self.servers.values()
            if (other.provider, other.pool) == (server.provider, server.pool) and other.node_id in self.nodes
        ]
        if not may_have_twin:
            twins = [other for other in alike if other.node_id == server.node_id]
            self.must(len(twins) == 1, "a node has one server", f"{server.node_id} has {len(twins)}")
        _, pool = self.plans(server.provider, server.pool)
        if may_have_twin:  # no launcher can count what a failed create left
            alike = list({other.node_id: other for other in alike}.values())
        disks = sum("disk" in self.nodes[other.node_id].type for other in alike)
        detail = f"{server.provider}/{server.pool}: {len(alike)} servers, {disks} volumes, {pool}"
        self.must(len(alike) <= pool.max_servers, "capacity is never exceeded", detail)
        self.must(CORES * len(alike) <= (pool.max_cores or 999), "capacity is never exceeded", detail)
        self.must(disks <= (pool.max_volumes or 99), "capacity is never exceeded", detail)

    def _count_foreign(self) -> None:
        """Count the capacity that foreign servers take: a provider may not rely on it."""
        for provider in {p.name: p for plan in self.scenario.launchers for p in plan.providers}.values():
            others = [
                server
                for server in self.servers.values()
                if server.cloud == provider.cloud and server.provider != provider.name
            ]
            self._foreign_peak[provider.name] = max(self._foreign_peak[provider.name], len(others))

    def plans(self, provider: str, pool: str) -> tuple[ProviderPlan, PoolPlan]:
        for plan in (p for launcher in self.scenario.launchers for p in launcher.providers if p.name == provider):
            return plan, next(each for each in plan.pools if each.name == pool)
        raise KeyError(provider)

    # -- at the end -------------------------------------------------------------------------------------------------

    def unfinished(self) -> list[str]:
        """Return the events that are still due before the run is at rest, a line each."""
        asked = [request for request in self.requests.values() if request.requestor != paths.MIN_READY_REQUESTOR]
        found = [f"request {request.id} is {request.state.value} ({_lists(request)})" for request in asked]
        for node in self.nodes.values():
            if not node.is_idle:
                found.append(f"node {node.id} is {node.state.value} for {node.allocated_to}")
            elif node.external_id not in self.servers:
                continue  # its server vanished; its user will find out
        known = {node.external_id for node in self.nodes.values()}
        found += [
            f"server {server_id} of node {server.node_id} is nobody's"
            for server_id, server in self.servers.items()
            if server_id not in known and server.provider
        ]
        return [*found, *self._not_ready()]

    def _not_ready(self) -> Iterable[str]:
        idle: Counter[str] = Counter(label for node in self.nodes.values() if node.is_idle for label in node.type)
        wanted = Counter[str]()
        for plan in self.scenario.launchers:
            wanted |= Counter(plan.min_ready)
        for label, count in idle.items():
            most = sum(plan.min_ready.get(label, 0) for plan in self.scenario.launchers)
            if count > most:
                yield f"{count} nodes of {label} are idle, {most} are to be kept"
        if self._has_capacity_for(wanted):
            yield from (
                f"{idle[label]} of {label} are ready, not {n}" for label, n in wanted.items() if idle[label] < n
            )

    def _has_capacity_for(self, wanted: Counter[str]) -> bool:
        """Return whether all nodes to be kept ready certainly fit: a single pool has capacity for them all."""
        total = list(wanted.elements())
        return len(self.scenario.launchers) == 1 and any(
            pool.fits(total) and len(total) <= self.scenario.cloud(provider.cloud).max_servers // 2
            for plan in self.scenario.launchers
            for provider in plan.providers
            for pool in provider.pools
            if len(plan.providers) == len(provider.pools) == 1
        )


def _lists(request: NodeRequest) -> str:
    nodes = f" nodes {','.join(request.nodes)}" if request.nodes else ""
    return f"{','.join(request.node_types)}{nodes}, declined by {len(request.declined_by)}"


def _sequence(path: str) -> str:
    return paths.contender_sequence(path.rpartition("/")[2]) or ""


def _short(directory: str) -> str:
    return directory.removeprefix(paths.ROOT + "/")


def _node_of(directory: str) -> NodeId:
    return NodeId(directory.removeprefix(paths.NODES + "/").removesuffix("/lock"))


def _request_id_of_contender(path: str) -> RequestId | None:
    """The id of the request whose lock the contender at *path* contends for, if it is one."""
    request_id, _, rest = path[len(paths.REQUEST_LOCKS) + 1 :].partition("/")
    return RequestId(request_id) if rest and paths.contender_sequence(rest) is not None else None
