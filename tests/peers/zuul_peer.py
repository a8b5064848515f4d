"""Zuul's own classes at work, run by the Python of an environment that has Zuul, with commands over stdin.

A process is one Zuul: a scheduler with both tree caches on, and an executor with its own ZooKeeper session. Each line
of stdin is a JSON object ``{"do": name, ...}``; each gets one line on stdout, ``{"ok": result}`` or ``{"error":
traceback}``. The process keeps Zuul's log lines at WARNING or above, and ``complaints`` returns them. What does *not*
belong here: imports of nodelaunch, which this process cannot import, and verdicts (the tests).
"""

from __future__ import annotations

import inspect
import json
import logging
import os
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable
from configparser import ConfigParser
from types import SimpleNamespace
from typing import Any

from zuul import model
from zuul.lib.tracing import Tracing
from zuul.nodepool import Nodepool
from zuul.zk import ZooKeeperClient
from zuul.zk.event_queues import EventWatcher
from zuul.zk.system import ZuulSystem

PATIENCE_S = 30.0
"""Time limit for each wait."""
RECHECK_S = 1.0
PROJECT = "example.org/project"


class Complaints(logging.Handler):
    """Keeps what was logged at WARNING or above, with its traceback, and what ended a thread."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.kept: list[str] = []
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.kept.append(self.format(record))

    def thread_ended(self, args: threading.ExceptHookArgs) -> None:
        text = "".join(traceback.format_exception(args.exc_type, args.exc_value, args.exc_traceback))
        self.kept.append(f"thread {args.thread}: {text}")

    def take(self) -> list[str]:
        taken, self.kept = self.kept, []
        return taken


class Changes:
    """Wakes who waits for a change in what the caches hold, or in an event queue."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._count = 0

    def __call__(self, *_: object) -> None:
        with self._condition:
            self._count += 1
            self._condition.notify_all()

    def until(self, found: Callable[[], Any]) -> Any:
        """Return the first true result of *found*, which is called again after each change, and at intervals."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            seen = self._count
            if result := found():
                return result
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {PATIENCE_S:g} s")
            with self._condition:
                self._condition.wait_for(lambda seen=seen: self._count != seen, RECHECK_S)


class Scheduler:
    """Asks for nodes and hears of the answers, through Zuul's request cache, node cache and result event queues."""

    def __init__(self, connect: Callable[[], ZooKeeperClient]) -> None:
        self.client = connect()
        self.system_id = ZuulSystem(self.client).system_id
        self.nodepool = Nodepool(self.client, self.system_id, statsd=None, scheduler=True)
        self.zk = self.nodepool.zk_nodepool
        self.changes = Changes()
        for tree in (self.zk._node_request_tree, self.zk._node_tree):
            tree.listen(self.changes)
        EventWatcher(self.client, self.changes)
        self.jobs: dict[str, Job] = {}
        self.provisioned: set[str] = set()

    def close(self) -> None:
        self.nodepool.stop()
        self.client.disconnect()

    def request(self, job: Job, *, priority: int, relative_priority: int, provider: str | None) -> model.NodeRequest:
        self.nodepool.pipeline_result_events[job.tenant][job.pipeline]
        request = self.nodepool.requestNodes(
            job.build_set, SimpleNamespace(nodeset=job.nodeset, uuid=job.uuid, name=job.name), job.tenant,
            job.pipeline, provider, priority, relative_priority, SimpleNamespace(zuul_event_id=uuid.uuid4().hex),
        )  # fmt: skip
        self.jobs[request.id] = job
        return request

    def await_provisioned(self, request_id: str) -> model.NodesetInfo:
        """Wait for the event that says the request was answered, and do what the scheduler does then."""
        job = self.jobs[request_id]
        self.changes.until(lambda: request_id in self._drain(job))
        request = self.zk.getNodeRequest(request_id)
        if request.build_set_uuid != job.build_set or request.job_uuid != job.uuid:
            raise LookupError(f"{request_id} belongs to another job now: {request.toDict()}")
        return self.nodepool.getNodesetInfo(request, job.nodeset)

    def _drain(self, job: Job) -> set[str]:
        """The requests whose event has come, now or earlier."""
        queue = self.nodepool.pipeline_result_events[job.tenant][job.pipeline]
        for event in queue:
            self.provisioned.add(event.request_id)
            queue.ack(event)
        return self.provisioned


class Executor:
    """Takes the nodes of an answered request, uses them, gives them back. It has no cache."""

    def __init__(self, connect: Callable[[], ZooKeeperClient]) -> None:
        self.client = connect()
        self.system_id = ZuulSystem(self.client).system_id
        self.nodepool = Nodepool(self.client, self.system_id, statsd=None, scheduler=False)
        self.builds: dict[str, tuple[Job, model.NodeSet]] = {}

    def close(self) -> None:
        self.client.disconnect()

    def accept(self, request_id: str, job: Job) -> list[dict[str, Any]]:
        request = self.nodepool.zk_nodepool.getNodeRequest(request_id)
        nodeset = job.nodeset.copy()
        self.nodepool.acceptNodes(request, nodeset)
        self.builds[request_id] = (job, nodeset)
        return self.nodes(request_id)

    def nodes(self, request_id: str) -> list[dict[str, Any]]:
        return [node.toDict() for node in self.builds[request_id][1].getNodes()]

    def use(self, request_id: str) -> None:
        job, nodeset = self.builds[request_id]
        self.nodepool.useNodeSet(nodeset, job.tenant, PROJECT)

    def give_back(self, request_id: str) -> None:
        job, nodeset = self.builds.pop(request_id)
        self.nodepool.returnNodeSet(nodeset, SimpleNamespace(uuid=job.uuid), job.tenant, PROJECT, 1.0)

    def hold(self, request_id: str, hold: model.HoldRequest) -> None:
        job, nodeset = self.builds[request_id]
        self.nodepool.holdNodeSet(nodeset, hold, SimpleNamespace(uuid=job.uuid), 1.0)


class Job:
    """Zuul's data of a job that needs nodes."""

    def __init__(self, labels: list[str], tenant: str, pipeline: str) -> None:
        self.uuid, self.build_set = uuid.uuid4().hex, uuid.uuid4().hex
        self.name = "unit-tests"
        self.tenant, self.pipeline = tenant, pipeline
        self.nodeset = model.NodeSet("nodes")
        for number, label in enumerate(labels):
            self.nodeset.addNode(model.Node([f"host{number}"], label))


class Peer:
    """The commands; each method named ``do_...`` is one, and its keyword arguments are the command's."""

    def __init__(self) -> None:
        self.complaints = Complaints()
        logging.getLogger().addHandler(self.complaints)
        threading.excepthook = self.complaints.thread_ended
        Tracing(ConfigParser())
        self.scheduler: Scheduler
        self.executor: Executor

    # -- life -------------------------------------------------------------------------------------------------------

    def do_open(self, hosts: str, cert: str, key: str, ca: str, timeout_s: float) -> dict[str, Any]:
        def connect() -> ZooKeeperClient:
            client = ZooKeeperClient(hosts, timeout=timeout_s, tls_cert=cert, tls_key=key, tls_ca=ca)
            client.connect()
            return client

        self.scheduler, self.executor = Scheduler(connect), Executor(connect)
        sessions = [role.client.client.client_id[0] for role in (self.scheduler, self.executor)]
        return {"system_id": self.scheduler.system_id, "sessions": sessions}

    def do_close(self) -> None:
        self.scheduler.close()
        self.executor.close()

    def do_complaints(self) -> list[str]:
        return self.complaints.take()

    # -- the scheduler ----------------------------------------------------------------------------------------------

    def do_submit(
        self,
        labels: list[str],
        tenant: str = "tenant",
        priority: int = 200,
        relative_priority: int = 0,
        provider: str | None = None,
    ) -> dict[str, Any]:
        job = Job(labels, tenant, "check")
        request = self.scheduler.request(
            job, priority=priority, relative_priority=relative_priority, provider=provider
        )  # fmt: skip
        return {"id": request.id, "body": request.toDict()}

    def do_await_provisioned(self, request_id: str) -> dict[str, Any]:
        info = self.scheduler.await_provisioned(request_id)
        request = self.scheduler.zk.getNodeRequest(request_id)
        return {**info.toDict(), "state": request.state, "body": request.toDict()}

    def do_delete_failed(self, request_id: str) -> bool:
        return bool(self.scheduler.nodepool.deleteNodeRequest(request_id))

    def do_cancel(self, request_id: str) -> None:
        self.scheduler.nodepool.cancelRequest(self.scheduler.zk.getNodeRequest(request_id))

    def do_revise(self, request_id: str, relative_priority: int) -> bool:
        """Return whether the cached request got its new relative priority; False: its lock was taken."""
        request = self.scheduler.zk.getNodeRequest(request_id, cached=True)
        return self.scheduler.nodepool.reviseRequest(request, relative_priority) is not False

    def do_request(self, request_id: str) -> dict[str, Any] | None:
        """Return the request as in the cache."""
        request = self.scheduler.zk._node_request_cache.get(request_id)
        return request and {"id": request.id, **request.toDict()}

    def do_requests(self) -> dict[str, dict[str, Any]]:
        zk = self.scheduler.zk
        found = [zk.getNodeRequest(request_id, cached=True) for request_id in zk.getNodeRequests(cached=True)]
        return {request.id: request.toDict() for request in found if request}

    def do_nodes(self) -> dict[str, dict[str, Any]]:
        return {node.id: node.toDict() for node in self.scheduler.zk.nodeIterator(cached=True)}

    def do_await_request(self, request_id: str, states: list[str]) -> dict[str, Any]:
        """Wait until the cache has the request in one of *states*."""
        return dict(self.scheduler.changes.until(lambda: self._request_in(request_id, states)))

    def _request_in(self, request_id: str, states: list[str]) -> dict[str, Any] | None:
        request = self.do_request(request_id)
        return request if request and request["state"] in states else None

    def do_await_no_request(self, request_id: str) -> None:
        """Wait until there is no such request, in ZooKeeper and in the cache."""
        zk = self.scheduler.zk
        self.scheduler.changes.until(
            lambda: request_id not in zk.getNodeRequests() and self.do_request(request_id) is None
        )

    def do_await_node(self, node_id: str, states: list[str]) -> dict[str, Any]:
        """Wait until the cache has the node in one of *states*."""
        return dict(self.scheduler.changes.until(lambda: self._node_in(node_id, states)))

    def _node_in(self, node_id: str, states: list[str]) -> dict[str, Any] | None:
        node = self.do_nodes().get(node_id)
        return node if node and node["state"] in states else None

    def do_await_no_node(self, node_id: str) -> None:
        """Wait until there is no such node, in ZooKeeper and in the cache, which may not have had it yet."""
        zk = self.scheduler.zk
        self.scheduler.changes.until(lambda: node_id not in zk.getNodes() and node_id not in self.do_nodes())

    def do_await_free(self, node_id: str) -> None:
        """Wait until the cache has the node ready and tied to no request."""
        self.scheduler.changes.until(lambda: is_idle(self.do_nodes().get(node_id, {})))

    def do_await_idle(self, count: int) -> dict[str, dict[str, Any]]:
        """Wait until there are *count* nodes, and the cache has each as ready and tied to no request."""

        def found() -> dict[str, Any]:
            nodes = self.do_nodes()
            are_all_known = sorted(nodes) == sorted(self.scheduler.zk.getNodes())
            return nodes if are_all_known and len(nodes) == count and all(map(is_idle, nodes.values())) else {}

        return dict(self.scheduler.changes.until(found))

    def do_await_no_nodes(self) -> None:
        self.scheduler.changes.until(lambda: not self.scheduler.zk.getNodes() and not self.do_nodes())

    def do_await_no_requests(self) -> None:
        """Wait until the cache has no request: one that kept a node ready goes just after its node is free."""
        self.scheduler.changes.until(lambda: not self.do_requests())

    def do_labels(self) -> list[list[str]]:
        """Return the labels as zuul-web shows them: by pool."""
        return [sorted(launcher.supported_labels) for launcher in self.scheduler.zk.getRegisteredLaunchers()]

    # -- the executor -----------------------------------------------------------------------------------------------

    def do_accept(self, request_id: str) -> list[dict[str, Any]]:
        return self.executor.accept(request_id, self.scheduler.jobs[request_id])

    def do_accept_for(self, request_id: str, labels: list[str]) -> list[dict[str, Any]]:
        """Accept the nodes as an executor in another process than the scheduler."""
        return self.executor.accept(request_id, Job(labels, "tenant", "check"))

    def do_use(self, request_id: str) -> list[dict[str, Any]]:
        self.executor.use(request_id)
        return self.executor.nodes(request_id)

    def do_prepare(self, request_id: str) -> list[Any]:
        """Do what the executor does with nodes of Kubernetes before a job: take the credentials out of them."""
        nodes = self.executor.builds[request_id][1].getNodes()
        taken = [node.connection_port for node in nodes]
        for node in nodes:
            node.connection_port = None
        return taken

    def do_give_back(self, request_id: str) -> None:
        self.executor.give_back(request_id)

    def do_hold(self, request_id: str, expiration_s: int | None, reason: str) -> str:
        """Hold the nodes for an autohold request made for it; its id."""
        hold = model.HoldRequest()
        hold.tenant, hold.project, hold.job, hold.ref_filter = "tenant", PROJECT, "unit-tests", ".*"
        hold.reason, hold.node_expiration = reason, expiration_s
        zk = self.executor.nodepool.zk_nodepool
        zk.storeHoldRequest(hold)
        self.executor.hold(request_id, hold)
        return str(hold.id)

    def do_remove_hold(self, hold_id: str) -> None:
        zk = self.scheduler.zk
        hold = zk.getHoldRequest(hold_id)
        # Since 13 Zuul's own launcher is asked about nodes of its own; there are none.
        takes_launcher = "launcher_client" in inspect.signature(zk.deleteHoldRequest).parameters
        zk.deleteHoldRequest(hold, *([None] if takes_launcher else []))

    # -- records ----------------------------------------------------------------------------------------------------

    def do_parse_request(self, body: str) -> dict[str, Any]:
        """The request with this body, read and written by Zuul."""
        return dict(model.NodeRequest.fromDict(json.loads(body)).toDict())

    def do_parse_node(self, body: str) -> dict[str, Any]:
        node = model.Node(None, None)
        node.updateFromDict(json.loads(body))
        return dict(node.toDict())

    # -- serving ----------------------------------------------------------------------------------------------------

    def answer(self, line: str) -> dict[str, Any]:
        command = json.loads(line)
        try:
            return {"ok": getattr(self, "do_" + command.pop("do"))(**command)}
        except Exception:
            return {"error": traceback.format_exc()}


def is_idle(node: dict[str, Any]) -> bool:
    return node.get("state") == "ready" and node["allocated_to"] is None


def main() -> None:
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # output of a library is no reply
    peer = Peer()
    for line in sys.stdin:
        replies.write(json.dumps(peer.answer(line)) + "\n")
    os._exit(0)  # Zuul's threads would keep the process


if __name__ == "__main__":
    main()
