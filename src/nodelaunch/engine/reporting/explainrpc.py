"""Questions to all launchers about the standing of a request, or about the launchers themselves: a question is a znode,
and each process adds its answer below it.

This needs only the store, costs nothing without questions, and reaches every launcher on every machine.
serve/explaining.py and report.py make the answers.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from nodelaunch.engine.reporting.report import LauncherReport
from nodelaunch.engine.serve.history import RequestStanding
from nodelaunch.errors import RecordExistsError, RecordGoneError, RecordInvalidError, StoreError
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol import paths
from nodelaunch.protocol.paths import RequestId
from nodelaunch.protocol.records import Presence
from nodelaunch.protocol.registrations import process_names
from nodelaunch.protocol.store import Changed, Entry, Store, TreeEvent

log: Logger = get_logger(__name__)

ANSWER_TIMEOUT_S = 5.0
"""Seconds that an asker waits for processes that are present."""

REPORT = json.dumps({"report": True}).encode()
"""The question for a launcher's report."""

LATEST_S = 1e11
"""Seconds since 1970 beyond which a time can't be shown."""

Explain = Callable[[RequestId], list[RequestStanding]]
"""Returns a request's standing with each pool of this process."""


class ExplainResponder:
    """Answers questions for one process. `run` it."""

    def __init__(self, store: Store, own_id: str, explain: Explain, report: Callable[[], LauncherReport]) -> None:
        self._store = store
        self._own_id = own_id
        self._explain = explain
        self._report = report
        self._asked: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()

    async def run(self) -> None:
        """Answer until cancelled."""
        async with self._store.tree(paths.QUESTIONS, wants_data=_is_question) as tree:
            unsubscribe = tree.subscribe(self._on_event)
            try:
                while True:
                    await self._answer(*await self._asked.get())
            finally:
                unsubscribe()

    def _on_event(self, event: TreeEvent) -> None:
        if isinstance(event, Changed) and event.old is None and _is_question(event.entry.path):
            self._asked.put_nowait((event.entry.path, event.entry.data))

    async def _answer(self, path: str, data: bytes) -> None:
        answer = self._answer_to(data)
        if answer is None:
            return
        try:
            await self._store.create(f"{path}/{self._own_id}", answer)
        except (RecordGoneError, RecordExistsError):
            pass  # the asker has left, or the question came twice, after a reconnect
        except StoreError as error:
            log.info("not_answered", question=data.decode(errors="replace"), detail=str(error))

    def _answer_to(self, data: bytes) -> bytes | None:
        """Return the answer; None: the question is of an unknown kind."""
        if data == REPORT:
            return self._report().to_bytes()
        try:
            request_id = RequestId(str(json.loads(data)["request"]))
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        return json.dumps({"pools": [standing.to_json() for standing in self._explain(request_id)]}).encode()


def _is_question(path: str) -> bool:
    return paths.is_child(path, paths.QUESTIONS)


@dataclass(frozen=True, slots=True)
class Answers:
    """The launchers' answers. ``pools``: as from `RequestStanding.to_json`, with the id of the process as
    ``launcher``."""

    pools: list[dict[str, Any]] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    """Ids of processes that are present but did not answer in time."""


async def ask(store: Store, request_id: RequestId, processes: list[str]) -> Answers:
    """Ask the *processes* with these ids; waits `ANSWER_TIMEOUT_S` at most. Raises: StoreError."""
    answers = await _ask(store, json.dumps({"request": request_id}).encode(), processes)
    said = {process: pools for process, data in answers.items() if (pools := _pools_in(data)) is not None}
    pools = [{**pool, "launcher": process} for process, each in said.items() for pool in each]
    return Answers(pools, [process for process in processes if process not in said])


async def ask_reports(store: Store, processes: list[str]) -> list[LauncherReport]:
    """Return the reports of the *processes* with these ids that answer; waits `ANSWER_TIMEOUT_S` at most.

    Raises: StoreError.
    """
    answers = await _ask(store, REPORT, processes)
    reports = (LauncherReport.from_bytes(data) for data in answers.values())
    return [report for report in reports if report is not None]


async def _ask(store: Store, question: bytes, processes: list[str]) -> dict[str, bytes]:
    """Return the answers by process."""
    asked = await store.create(f"{paths.QUESTIONS}/", question, sequence=True, parents=True)
    changed = asyncio.Event()
    try:
        async with store.tree(asked.path) as tree:
            unsubscribe = tree.subscribe(lambda _event: changed.set())
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    while not set(processes) <= set(tree.children(asked.path)):
                        await changed.wait()
                        changed.clear()
            except TimeoutError:
                pass
            finally:
                unsubscribe()
            return {entry.path.rpartition("/")[2]: entry.data for entry in tree.entries()}
    finally:
        await store.delete_tree(asked.path)


async def why(store: Store, request_id: RequestId) -> tuple[str, ...]:
    """Return the reasons for a request's present state: a line for each pool with an answer, with its launcher if
    several serve it. Empty if no launcher answers, or the store does not."""
    try:
        names = await store.children(paths.PRESENCES)
        entries = await store.get_many([f"{paths.PRESENCES}/{name}" for name in names])
        called = process_names(found for entry in entries if (found := _presence(entry)) is not None)
        answers = await ask(store, request_id, list(called))
    except StoreError:
        return ()
    shared = shared_pools(answers.pools)
    lines = (
        in_a_line(pool, of=called[pool["launcher"]] if (pool["provider"], pool["pool"]) in shared else "")
        for pool in answers.pools
    )
    return tuple(line for line in lines if line)


def _presence(entry: Entry | None) -> Presence | None:
    """Return the presence in *entry*, if it is one."""
    try:
        return Presence.from_bytes(entry.path, entry.data) if entry is not None else None
    except RecordInvalidError:
        return None


def shared_pools(pools: Iterable[dict[str, Any]]) -> set[tuple[str, str]]:
    """Return provider and pool of the *pools* that several launchers serve."""
    counts = Counter((pool["provider"], pool["pool"]) for pool in pools)
    return {key for key, count in counts.items() if count > 1}


def in_a_line(pool: dict[str, Any], *, of: str = "") -> str:
    """Return a pool's present answer, or else the request's last event there, with its reasons. *of*: its launcher."""
    all_reasons: list[list[dict[str, Any]]] = [
        pool["reasons"],
        *(event["reasons"] for event in reversed(pool["history"])),
    ]
    reasons: list[dict[str, Any]] = next((each for each in all_reasons if each), [])
    because = "; ".join(dict.fromkeys(reason["text"] for reason in reasons))
    if not because and pool["status"] in ("", "not known"):
        return ""
    name = f"{pool['provider']}/{pool['pool']}{f' of {of}' if of else ''}"
    return f"{name}: {pool['status']}" + (f": {because}" if because else "")


def _pools_in(data: bytes) -> list[dict[str, Any]] | None:
    """Return the pools in an answer, with defaults for fields that another version leaves out; None if it is no
    answer."""
    try:
        pools = json.loads(data)["pools"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    is_right = isinstance(pools, list) and all(isinstance(pool, dict) for pool in pools)
    return [_whole(pool) for pool in pools] if is_right else None


def _whole(pool: dict[str, Any]) -> dict[str, Any]:
    """Return *pool* with every key of `RequestStanding.to_json`, each value with the right type; unknown keys are
    kept."""
    texts = {key: _text(pool.get(key)) for key in ("pool_id", "provider", "pool", "status")}
    return {
        **pool,
        **texts,
        "reasons": [_reason(each) for each in _dicts(pool.get("reasons"))],
        "nodes": [each for each in _list(pool.get("nodes")) if isinstance(each, str)],
        "history": [_event(each) for each in _dicts(pool.get("history"))],
        "asked": pool.get("asked") if isinstance(pool.get("asked"), dict) else None,
    }


def _reason(said: dict[str, Any]) -> dict[str, Any]:
    return {**said, "text": _text(said.get("text")), "remedy": _text(said.get("remedy"))}


def _event(said: dict[str, Any]) -> dict[str, Any]:
    at = said.get("at")
    is_time = isinstance(at, int | float) and 0 <= at < LATEST_S
    reasons = [_reason(each) for each in _dicts(said.get("reasons"))]
    return {**said, "at": at if is_time else 0, "what": _text(said.get("what")), "reasons": reasons}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _dicts(value: object) -> list[dict[str, Any]]:
    return [each for each in _list(value) if isinstance(each, dict)]
