"""The view of node requests: records, locks, open requests, and requests for min-ready nodes."""

from __future__ import annotations

from collections.abc import Mapping

from nodelaunch.engine.view.events import (
    MinReadyRequestChanged,
    Notifier,
    RequestRemoved,
    RequestSeen,
    RequestUnlocked,
    Versioned,
)
from nodelaunch.errors import RecordInvalidError
from nodelaunch.protocol import paths
from nodelaunch.protocol.paths import RequestId
from nodelaunch.protocol.records import NodeRequest
from nodelaunch.protocol.states import RequestState
from nodelaunch.protocol.store import Entry

_BELOW = len(paths.REQUESTS) + 1
_BELOW_LOCKS = len(paths.REQUEST_LOCKS) + 1


class RequestView(Notifier):
    """The part of the view about requests.

    Invariants: ``open_requests`` has exactly the requests in state requested, ``pending_requests`` exactly the pending
    ones, each in its present version; ``stray_lock_dirs`` has exactly the lock directories whose request is not in
    ``requests``; ``min_ready_asked`` has, by label, the requests for min-ready nodes that have not failed. No set of
    request ids or contenders is empty.
    """

    def __init__(self) -> None:
        super().__init__()
        self.requests: dict[RequestId, Versioned[NodeRequest]] = {}
        self.open_requests: dict[RequestId, Versioned[NodeRequest]] = {}
        """Requests in state requested, in the order in which they entered it."""
        self.pending_requests: dict[RequestId, Versioned[NodeRequest]] = {}
        """Pending requests, of this launcher or another."""
        self.min_ready_asked: dict[str, set[RequestId]] = {}
        """Requests for a min-ready node of a label, from any launcher, that have not failed."""
        self._request_contenders: dict[RequestId, set[str]] = {}
        self._request_lock_dirs: dict[RequestId, float] = {}
        self.stray_lock_dirs: dict[RequestId, float] = {}
        """Lock directories without a request, with the time each was made, in seconds since 1970."""

    # -- reading ----------------------------------------------------------------------------------------------------

    def request(self, request_id: RequestId | None) -> NodeRequest | None:
        seen = self.requests.get(request_id) if request_id else None
        return seen.record if seen is not None else None

    def is_request_locked(self, request_id: RequestId) -> bool:
        """Return True if the request's lock has a contender."""
        return request_id in self._request_contenders

    @property
    def request_lock_dirs(self) -> Mapping[RequestId, float]:
        """Lock directories of requests, with the time each was made, in seconds since 1970."""
        return self._request_lock_dirs

    # -- input from the trees ---------------------------------------------------------------------------------------

    def request_entry_changed(self, entry: Entry) -> None:
        """Handle an entry below `paths.REQUESTS` that is new or has changed."""
        request_id = RequestId(entry.path[_BELOW:])
        if "/" in request_id:
            return
        if self.unreadable:
            self._mark_readable(entry.path)
        try:
            record = self._decode_request(request_id, entry)
        except RecordInvalidError as error:
            self._mark_unreadable(entry, error)
            self._request_gone(request_id)
            return
        old = self.requests.get(request_id)
        if old is None:
            if not paths.is_request_id(request_id):
                return
            self.stray_lock_dirs.pop(request_id, None)
        seen = self.requests[request_id] = Versioned(record, entry)
        before = old.record if old is not None else None
        if record.state is RequestState.REQUESTED:
            self.open_requests[request_id] = seen
        elif before is None or before.state is RequestState.REQUESTED:
            self.open_requests.pop(request_id, None)
        if record.state is RequestState.PENDING:
            self.pending_requests[request_id] = seen
        elif before is not None and before.state is RequestState.PENDING:
            del self.pending_requests[request_id]
        self._notify(RequestSeen(request_id, before))
        if record.requestor == paths.MIN_READY_REQUESTOR or (
            before is not None and before.requestor == paths.MIN_READY_REQUESTOR
        ):
            self._count(request_id, before, record)

    def request_entry_removed(self, path: str) -> None:
        """Handle the removal of an entry below `paths.REQUESTS`."""
        self._mark_readable(path)
        self._request_gone(RequestId(path[_BELOW:]))

    @staticmethod
    def _decode_request(request_id: RequestId, entry: Entry) -> NodeRequest:
        """Return the request in *entry*, without decoding if this process wrote it. Raises: RecordInvalidError."""
        record = entry.record
        if isinstance(record, NodeRequest):
            return record if record.id == request_id else record.changed(id=request_id)
        return NodeRequest.from_bytes(entry.path, entry.data, request_id=request_id, modified_at=entry.stat.modified_at)

    def _request_gone(self, request_id: RequestId) -> None:
        old = self.requests.pop(request_id, None)
        if old is not None:
            self.open_requests.pop(request_id, None)
            self.pending_requests.pop(request_id, None)
            if request_id in self._request_lock_dirs:
                self.stray_lock_dirs[request_id] = self._request_lock_dirs[request_id]
            self._notify(RequestRemoved(request_id, old.record))
            if old.record.requestor == paths.MIN_READY_REQUESTOR:
                self._count(request_id, old.record, None)

    def _count(self, request_id: RequestId, old: NodeRequest | None, new: NodeRequest | None) -> None:
        """Keep ``min_ready_asked`` up to date."""
        was, now = _min_ready_labels(old), _min_ready_labels(new)
        for label in was - now:
            asking = self.min_ready_asked[label]
            asking.discard(request_id)
            if not asking:
                del self.min_ready_asked[label]
        for label in now - was:
            self.min_ready_asked.setdefault(label, set()).add(request_id)
        self._notify(MinReadyRequestChanged(request_id))

    def request_lock_entry_changed(self, entry: Entry) -> None:
        """Handle a new entry below `paths.REQUEST_LOCKS`."""
        directory, _, name = entry.path[_BELOW_LOCKS:].partition("/")
        request_id = RequestId(directory)
        if not name:
            self._request_lock_dirs[request_id] = entry.stat.created_at
            if request_id not in self.requests:
                self.stray_lock_dirs[request_id] = entry.stat.created_at
        elif paths.contender_sequence(name) is not None:
            contenders = self._request_contenders.get(request_id)
            if contenders is None:
                self._request_contenders[request_id] = {entry.path}
            else:
                contenders.add(entry.path)

    def request_lock_entry_removed(self, path: str) -> None:
        """Handle the removal of an entry below `paths.REQUEST_LOCKS`."""
        directory, _, name = path[_BELOW_LOCKS:].partition("/")
        request_id = RequestId(directory)
        if not name:
            self._request_lock_dirs.pop(request_id, None)
            self.stray_lock_dirs.pop(request_id, None)
            return
        contenders = self._request_contenders.get(request_id)
        if contenders is not None and path in contenders:
            contenders.remove(path)
            if not contenders:
                del self._request_contenders[request_id]
                self._notify(RequestUnlocked(request_id))


def _min_ready_labels(request: NodeRequest | None) -> frozenset[str]:
    """Return the labels for which *request* is a min-ready request."""
    if request is None or request.requestor != paths.MIN_READY_REQUESTOR or request.state is RequestState.FAILED:
        return _NO_LABELS
    return frozenset(request.node_types)


_NO_LABELS: frozenset[str] = frozenset()
