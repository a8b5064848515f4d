"""The operations of the HTTP API: the routes and their description are made from this table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from nodelaunch.web.messages import (
    Hold,
    NewRequest,
    NodeShown,
    Renewal,
    RequestExplained,
    RequestList,
    RequestShown,
    Unhold,
)

PREFIX: Final = "/api/v1"
LONGEST_WAIT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Operation:
    """Describes one operation of the API: its route, and its part of the description, are made from it."""

    method: str
    path: str
    name: str
    about: str
    status: int
    answer: type[Any] | None
    body: type[Any] | None = None
    query: Sequence[tuple[str, str]] = ()
    """Numeric parameters of the query: name and description."""
    headers: Sequence[tuple[str, str]] = ()


WAITING: Final = (
    ("wait_s", f"Seconds to wait, {LONGEST_WAIT_S:g} at most; without it, the answer comes at once."),
    ("version", "Wait until the version differs; without it, until the request is fulfilled or ends."),
)
KEY: Final = (("Idempotency-Key", "The same key returns the same request instead of a new one."),)
OPERATIONS: Final = (
    Operation("POST", "/requests", "make_request", "Request nodes.", 201, RequestShown, NewRequest, headers=KEY),
    Operation("GET", "/requests", "list_requests", "List the requests that have not ended.", 200, RequestList),
    Operation(
        "GET", "/requests/{request_id}", "show_request", "Show a request, its reasons and its nodes.", 200,
        RequestExplained, query=WAITING,
    ),
    Operation(
        "POST", "/requests/{request_id}/renew", "renew_request", "Extend a request and its nodes.", 200,
        RequestShown, Renewal,
    ),
    Operation("DELETE", "/requests/{request_id}", "release_request", "Return the nodes.", 200, RequestShown),
    Operation("GET", "/nodes/{node_id}", "show_node", "Show a node.", 200, NodeShown),
    Operation("POST", "/nodes/{node_id}/hold", "hold_node", "Hold a node.", 200, NodeShown, Hold),
    Operation("POST", "/nodes/{node_id}/unhold", "unhold_node", "End a hold.", 200, NodeShown, Unhold),
    Operation("DELETE", "/nodes/{node_id}", "delete_node", "Mark a node for deletion by its launcher.", 202, NodeShown),
)  # fmt: skip
