"""Machines that exist, some of them for some tenants only: a pool says what a look at all of them says."""

from __future__ import annotations

from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from nodelaunch.decisions.triage import FreeCapacity, IdleNode, MachineView, judge
from nodelaunch.protocol.access import Allowed, asker_of
from nodelaunch.protocol.records import NodeRequest
from nodelaunch.protocol.verdicts import Accept, Decline
from support.builders import a_pool_view, a_request, an_idle_node, some_idle

TENANTS = ("a", "b")
LABELS = ("small", "big")
ALLOWED = st.none() | st.frozensets(st.sampled_from(TENANTS))
MACHINES = st.lists(st.builds(MachineView, st.frozensets(st.sampled_from(LABELS), min_size=1), ALLOWED), max_size=4)


def _can_serve(request: NodeRequest, machines: list[MachineView]) -> bool:
    """Return whether each wanted label can have its own machine that the request's tenant may use."""
    wanted, asker = request.node_types, asker_of(request)
    mine = [machine for machine in machines if asker.may_use(machine.allowed_tenants)]
    return any(
        all(label in machine.labels for label, machine in zip(wanted, some, strict=True))
        for some in permutations(mine, len(wanted))
    )


@given(
    MACHINES,
    st.sets(st.integers(0, 3)),
    st.lists(st.sampled_from(LABELS), min_size=1, max_size=3),
    st.none() | st.sampled_from(TENANTS),
    ALLOWED,
)
def test_a_tenant_gets_waits_for_or_is_declined_by_what_it_may_use(
    machines: list[MachineView], busy: set[int], wanted: list[str], tenant: str | None, of_pool: Allowed
) -> None:
    """Given machines where idle ones that it may use are enough; declined exactly where all it may use are not."""
    view = a_pool_view(can_launch=False, machines=machines, allowed_tenants=of_pool)
    request = a_request(*wanted, tenant_name=tenant)
    may_use_pool = of_pool is None or tenant in of_pool
    idle = {n: machine for n, machine in enumerate(machines) if n not in busy}
    nodes: dict[str, MachineView] = {}
    mine: list[IdleNode] = []
    for n, machine in idle.items():
        node = an_idle_node(n, *machine.labels)
        nodes[node.id] = machine
        mine += [node] if asker_of(request).may_use(machine.allowed_tenants) else []
    verdict = judge(request, view, FreeCapacity(idle=some_idle(*mine)))
    assert isinstance(verdict, Decline) is not (may_use_pool and _can_serve(request, machines))
    assert isinstance(verdict, Accept) is (may_use_pool and _can_serve(request, list(idle.values())))
    if isinstance(verdict, Accept):
        given_ = [nodes[node_id] for node_id in verdict.reuse if node_id is not None]
        assert len(given_) == len(wanted)
        assert all(machine.allowed_tenants is None or tenant in machine.allowed_tenants for machine in given_)
