"""The checker finds what is planted in a history; the schedule is the same for the same seed."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

from drills import checker, schedule
from drills.checker import Use
from support.discipline import NODE_KEYS, REQUEST_KEYS
from support.txnlog import Write

LAUNCHER, ZUUL, OTHER = 1, 2, 3


class Story:
    """Writes a history, each write with the next zxid."""

    def __init__(self) -> None:
        self._zxids = itertools.count(1)
        self.writes: list[Write] = []
        self.write(LAUNCHER, "create", "/nodepool/components/pool/host-0000000000")

    def write(self, session: int, kind: Any, path: str, **fields: Any) -> None:
        data = json.dumps(fields).encode() if fields else b""
        self.writes.append(Write(next(self._zxids), session, kind, path, data))

    def node(self, session: int, kind: str, name: str, state: str) -> None:
        self.write(session, kind, f"/nodepool/nodes/{name}", **{**dict.fromkeys(NODE_KEYS), "state": state})

    def request(self, session: int, kind: str, name: str, state: str, *nodes: str) -> None:
        fields = {**dict.fromkeys(REQUEST_KEYS), "state": state, "nodes": nodes}
        self.write(session, kind, f"/nodepool/requests/{name}", **fields)

    def lock(self, session: int, kind: str, name: str) -> None:
        self.write(session, kind, f"/nodepool/nodes/{name}/lock/{session}__lock__{session:010}")

    def lock_request(self, session: int, kind: str, name: str) -> None:
        self.write(session, kind, f"/nodepool/requests-lock/{name}/{session}__lock__{session:010}")

    def served(self, request: str, node: str) -> None:
        """Add a correct history, up to where Zuul has the node's lock."""
        self.request(ZUUL, "create", request, "requested")
        self.lock_request(LAUNCHER, "create", request)
        self.request(LAUNCHER, "set", request, "pending")
        self.lock(LAUNCHER, "create", node)
        self.node(LAUNCHER, "create", node, "building")
        self.node(LAUNCHER, "set", node, "ready")
        self.lock(LAUNCHER, "delete", node)
        self.request(LAUNCHER, "set", request, "fulfilled", node)
        self.lock_request(LAUNCHER, "delete", request)
        self.lock(ZUUL, "create", node)

    def used(self, request: str, node: str) -> None:
        """The rest of it."""
        self.write(ZUUL, "delete", f"/nodepool/requests/{request}")
        self.node(ZUUL, "set", node, "in-use")
        self.node(ZUUL, "set", node, "used")
        self.lock(ZUUL, "delete", node)

    def faults(self, log: tuple[dict[str, Any], ...] = (), max_servers: int = 1, *uses: Use) -> list[str]:
        return checker.faults(self.writes, log, max_servers, uses)


def cloud_log(*what: str) -> Iterator[dict[str, Any]]:
    """Each of *what* is a ``+`` or ``-`` and an instance's id."""
    names = {"+": "create", "-": "gone", "?": "deleting"}
    for at, each in enumerate(what):
        yield {"at": float(at), "what": names[each[0]], "id": each[1:], "node_id": each[1:]}


def test_ordinary_life_is_no_fault() -> None:
    story = Story()
    story.served("r1", "n1")
    story.used("r1", "n1")
    uses = (Use("a", "x", 0.5, 1.0), Use("b", "y", 3.1, 3.9))
    assert story.faults(tuple(cloud_log("+a", "?a", "-a", "+b", "-b")), 1, *uses) == []


def test_node_handed_to_two_requests_is_found() -> None:
    story = Story()
    story.served("r1", "n1")
    story.request(ZUUL, "create", "r2", "requested")
    story.lock_request(LAUNCHER, "create", "r2")
    story.request(LAUNCHER, "set", "r2", "fulfilled", "n1")
    (fault,) = story.faults()
    assert "node n1 is given to r2" in fault
    assert "while r1 has it" in fault


def test_node_given_out_again_after_use_is_found() -> None:
    story = Story()
    story.served("r1", "n1")
    story.used("r1", "n1")
    story.lock(LAUNCHER, "create", "n1")
    story.node(LAUNCHER, "set", "n1", "ready")
    story.request(ZUUL, "create", "r2", "requested")
    story.lock_request(LAUNCHER, "create", "r2")
    story.request(LAUNCHER, "set", "r2", "fulfilled", "n1")
    ready, given = story.faults()
    assert "ready again" in ready
    assert "though it was in use before" in given


def test_node_held_by_two_is_found() -> None:
    story = Story()
    story.served("r1", "n1")
    story.lock(OTHER, "create", "n1")
    story.node(ZUUL, "set", "n1", "in-use")
    story.node(OTHER, "set", "n1", "in-use")
    without, second = story.faults()
    assert "without its lock" in without
    assert "by a second session" in second


def test_write_of_a_launcher_that_has_lost_its_lock_is_found() -> None:
    story = Story()
    story.served("r1", "n1")
    story.node(LAUNCHER, "set", "n1", "deleting")
    (fault,) = story.faults()
    assert "was written without its lock" in fault


def test_instances_beyond_max_servers_are_found() -> None:
    (fault,) = Story().faults(tuple(cloud_log("+a", "?a", "+b", "-a", "-b")))
    assert "2 instances at 2.00 where 1 may be: b" in fault


def test_node_that_two_say_they_have_is_found() -> None:
    uses = (Use("a", "x", 0.1, 0.5), Use("a", "y", 0.4, 0.9))
    (fault,) = Story().faults(tuple(cloud_log("+a", "?a", "-a")), 1, *uses)
    assert "used by x and by y" in fault


def test_instance_deleted_under_its_user_is_found() -> None:
    (fault,) = Story().faults(tuple(cloud_log("+a", "?a", "-a")), 1, Use("a", "x", 0.1, 1.5))
    assert "node a has no instance, or loses it" in fault


def test_node_without_instance_is_found() -> None:
    (fault,) = Story().faults((), 1, Use("a", "x", 0.1, 1.5))
    assert "node a has no instance, or loses it" in fault


def test_instance_of_an_earlier_attempt_may_go_while_the_node_is_in_use() -> None:
    log = [*cloud_log("+a", "+b", "?a", "-a")]
    for entry in log:
        entry["node_id"] = "n"
    assert Story().faults(tuple(log), 2, Use("n", "x", 1.5, 5.0)) == []


def test_schedule_is_that_of_its_seed() -> None:
    assert schedule.plan(7, 100) == schedule.plan(7, 100)
    assert schedule.plan(7, 100) != schedule.plan(8, 100)
    of_servers, *of_launchers = schedule.plan(7, 100)
    assert {fault.kind for fault in of_servers} == set(schedule.SERVER_KINDS)
    assert {fault.kind for track in of_launchers for fault in track} == set(schedule.LAUNCHER_KINDS)
