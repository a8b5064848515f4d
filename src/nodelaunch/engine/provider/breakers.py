"""The circuit breakers of one provider: for its questions, its launches, its zones, and the labels of its pools.

Each opens, is probed and closes by the same rules (decisions/breaker.py). They differ in what an open one prevents.
engine/launch/node.py and engine/launch/slots.py decide which error counts for which breaker.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Generic, TypeVar

from nodelaunch.decisions.breaker import Breaker, BreakerRule, FailureCause, OpenBreaker
from nodelaunch.engine.events import EventHub
from nodelaunch.engine.provider.hostwatch import HostWatch
from nodelaunch.engine.provider.refusals import BoundedCall
from nodelaunch.errors import DriverError, InsufficientCapacityError, LaunchFailedError, ProviderUnavailableError, Scope
from nodelaunch.log import Logger, get_logger
from nodelaunch.protocol.events import BreakerChanged

log: Logger = get_logger(__name__)

K = TypeVar("K", bound=Hashable)

FIRST_BACKOFF_S, LAST_BACKOFF_S = 1.0, 60.0
"""Seconds of the pauses of a provider's breakers: a call costs little, and every launch waits for it."""
SHORTEST_BACKOFF_S = 0.1
"""Least pause in seconds, even if a driver asks for less."""
CALLS_IN_A_ROW = 3
"""Failed calls of launches, in a row, after which only probes are made. A cloud of many servers loses one or two calls
while one server restarts; if one in a hundred is lost at random, three in a row are one in a million."""
FIRST_AVOIDED_S, LAST_AVOIDED_S = 30.0, 600.0
"""Seconds of the pauses of breakers of zones and labels: a probe is the launch of a requested node, and may take
minutes to fail."""
LAUNCHES_IN_A_ROW = 3
"""Failed launches in a zone, or of a label, in a row, after which others are preferred. With the same, usual number of
attempts for each node, a full zone costs one or two nodes an attempt or two."""
MOST_SPREAD = 1.25
"""Pauses are up to a quarter longer, at random, so that launchers do not probe together."""
ZONES_DOUBTED_S = 30.0
"""Least seconds between two questions about the cloud's zones that follow failed launches."""
LET_GO_AT_ONCE = 2
"""Number of launches that each successful call releases: so all launches together don't overload a cloud that recovers,
and hundreds run after a few answers."""


def cause_of(error: BaseException) -> FailureCause:
    """Return *error* as a cause. Its text may differ each time, for example by the id of the call; the cause is the
    same."""
    kind = type(error).__name__
    if isinstance(error, DriverError):
        kind = f"{kind}: {error.kind.value}"
    return FailureCause(kind, str(error))


class Breakers(Generic[K]):
    """Breakers of one kind, by key. A closed breaker takes no memory unless its last try failed.

    Invariant: if *on_due* is given, a timer runs for each open breaker.
    """

    def __init__(
        self,
        title: str,
        rule: BreakerRule,
        names: Callable[[K], Mapping[str, str]],
        *,
        on_change: Callable[[], None] | None = None,
        on_due: Callable[[K], None] | None = None,
        events: EventHub | None = None,
    ) -> None:
        """*title*: the purpose of one breaker, in words that start with the kind of thing; its blanks are filled in
        with *names*, which the log uses as well. *on_change* is called when a breaker opens, closes, or is open for
        another reason, *on_due* when the next probe of one is due."""
        self._title = title
        kind = title.partition(" ")[0]
        self._opened_event, self._closed_event = f"{kind}_unavailable", f"{kind}_available"
        self._rule = rule
        self._names = names
        self._on_change = on_change
        self._on_due = on_due
        self._events = events
        self.known: dict[K, Breaker] = {}
        """The breakers of the keys that have failed since they last succeeded. Empty: every key may be tried."""
        self._timers: dict[K, asyncio.TimerHandle] = {}

    def failed(self, key: K, cause: FailureCause, *, after_s: float = 0.0) -> None:
        """Note a failed try. The next one may be made *after_s* if the cloud said so, else after a pause of our own."""
        breaker = self.known.get(key)
        if breaker is None:
            breaker = self.known[key] = Breaker(self._rule)
        spread = random.uniform(1.0, MOST_SPREAD)  # noqa: S311
        change = breaker.failed(_now(), cause, after_s=after_s, spread=spread)
        self._set_timer(key, breaker)
        if change is not None:
            log.warning(
                self._opened_event, **self._names(key), detail=str(cause), failures=breaker.failures,
                next_try_in_s=round(breaker.next_at - _now(), 3),
            )  # fmt: skip
            self._report(key, cause)
            if self._on_change is not None:
                self._on_change()

    def succeeded(self, key: K, began: float) -> bool:
        """Note the success of a try that *began* then, by the loop's clock. Return True if that closed the breaker."""
        breaker = self.known.get(key)
        if breaker is None:
            return False
        change = breaker.succeeded(began)
        if not breaker.is_open:
            self._drop(key)
        if change is not None:
            log.info(self._closed_event, **self._names(key))
            self._report(key, None)
            if self._on_change is not None:
                self._on_change()
        return change is not None

    def probe(self, key: K) -> None:
        """Note a try: for an open breaker, the probe."""
        breaker = self.known.get(key)
        if breaker is not None and breaker.is_open:
            breaker.probe(_now(), spread=random.uniform(1.0, MOST_SPREAD))  # noqa: S311
            self._set_timer(key, breaker)

    def is_open(self, key: K) -> bool:
        return (breaker := self.known.get(key)) is not None and breaker.is_open

    def may_try(self, key: K) -> bool:
        return (breaker := self.known.get(key)) is None or breaker.may_try(_now())

    def next_in_s(self, key: K) -> float:
        """Return the seconds until the next try may be made."""
        breaker = self.known.get(key)
        return 0.0 if breaker is None else max(0.0, breaker.next_at - _now())

    def why(self, key: K) -> str | None:
        """Return the reason why the breaker is open; None: it is closed."""
        breaker = self.known.get(key)
        return str(breaker.cause) if breaker is not None and breaker.is_open else None

    def list_open(self, keys: Iterable[K] | None = None) -> list[OpenBreaker]:
        """Return the open breakers, of *keys* or of all."""
        now = _now()
        found = []
        for key in self.known if keys is None else keys:
            breaker = self.known.get(key)
            if breaker is not None and breaker.since is not None:
                title, due_s = self._title.format(**self._names(key)), max(0.0, breaker.next_at - now)
                found.append(OpenBreaker(title, str(breaker.cause), breaker.failures, now - breaker.since, due_s))
        return found

    def forget(self, is_gone: Callable[[K], bool] = lambda _key: True) -> None:
        """Close the breakers whose key *is_gone*, all by default, and forget their failures."""
        for key in [key for key in self.known if is_gone(key)]:
            was_open = self.known[key].is_open
            self._drop(key)
            if was_open:
                detail = "the configuration, or the cloud, changed"
                log.info(self._closed_event, **self._names(key), detail=detail)
                self._report(key, None)

    def close(self) -> None:
        """Stop all timers."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _report(self, key: K, cause: FailureCause | None) -> None:
        if self._events is not None:
            names, detail = self._names(key), None if cause is None else str(cause)
            what = self._title.format(**names)
            self._events.emit(BreakerChanged(self._events.now(), names["provider"], what, cause is not None, detail))

    def _drop(self, key: K) -> None:
        del self.known[key]
        if (timer := self._timers.pop(key, None)) is not None:
            timer.cancel()

    def _set_timer(self, key: K, breaker: Breaker) -> None:
        if self._on_due is None or not breaker.is_open:
            return
        if (timer := self._timers.get(key)) is not None:
            if timer.when() == breaker.next_at:
                return
            timer.cancel()
        self._timers[key] = asyncio.get_running_loop().call_at(breaker.next_at, self._due, key)

    def _due(self, key: K) -> None:
        del self._timers[key]
        assert self._on_due is not None  # noqa: S101
        self._on_due(key)


class LaunchGate:
    """Lets launches call their provider: all while the provider answers, one in each pause while it does not.

    A launch `enter`s before its calls and reports their results. When the provider answers again, waiting launches
    continue in the order in which they came, first those without an instance: `LET_GO_AT_ONCE` with each answer.
    Invariant: while a launch waits, a timer runs that releases the next one, regardless of the previous launch's
    result.
    """

    def __init__(
        self,
        provider: str,
        *,
        on_change: Callable[[], None],
        on_idle: Callable[[], None],
        events: EventHub | None = None,
    ) -> None:
        """*on_idle* is called if a probe is due and no launch can make it."""
        self._provider = provider
        self._on_idle = on_idle
        rule = BreakerRule(CALLS_IN_A_ROW, FIRST_BACKOFF_S, LAST_BACKOFF_S)
        names = {"provider": provider, "calls": "launches"}
        self._breakers: Breakers[str] = Breakers(
            "provider {provider}, {calls}",
            rule,
            lambda _key: names,
            on_change=on_change,
            on_due=lambda _key: self._let_one_go(),
            events=events,
        )
        self._waiting: tuple[dict[asyncio.Future[None], None], dict[asyncio.Future[None], None]] = ({}, {})
        """Launches without an instance, and launches with one."""
        self._timer: asyncio.TimerHandle | None = None
        """The timer while the breaker is closed."""
        self._is_asking = False
        """True if a question is the probe."""

    @property
    def why(self) -> str | None:
        """The reason why launches have to wait; None: they need not."""
        return self._breakers.why(self._provider)

    @property
    def is_open(self) -> bool:
        """True if the breaker is open: launches have to wait."""
        return bool(self._breakers.known) and self._breakers.is_open(self._provider)

    @property
    def has_waiting(self) -> bool:
        return bool(self._waiting[0] or self._waiting[1])

    async def enter(self, *, has_instance: bool) -> None:
        """Wait until the provider may be called."""
        if not self.is_open:
            return
        waiter = asyncio.get_running_loop().create_future()
        line = self._waiting[has_instance]
        line[waiter] = None
        try:
            await waiter
        finally:
            line.pop(waiter, None)

    def failed(self, cause: FailureCause, after_s: float | None = None) -> None:
        """Note a call without an answer, or with the answer that the provider is unavailable. *after_s*: the time until
        the next call, if the answer gave one."""
        self._breakers.failed(self._provider, cause, after_s=max(after_s, SHORTEST_BACKOFF_S) if after_s else 0.0)

    def answered(self, began: float) -> None:
        """Note an answer to a call that *began* then."""
        if self._breakers.known:
            self._breakers.succeeded(self._provider, began)
        if self.has_waiting and not self.is_open:
            for _ in range(LET_GO_AT_ONCE):
                self._let_go()
            self._go_on()

    def question_answered(self, began: float) -> None:
        """Note that the provider answered a question about itself. That counts if no launch could make the probe."""
        if self._is_asking:
            self._is_asking = False
            self.answered(began)

    def question_failed(self, cause: FailureCause) -> None:
        if self._is_asking:
            self._is_asking = False
            self.failed(cause)

    def forget(self) -> None:
        """Close the breaker: the provider has changed."""
        self._is_asking = False
        self._breakers.forget()
        self._let_go()
        self._go_on()

    def list_open(self) -> list[OpenBreaker]:
        return self._breakers.list_open()

    def close(self) -> None:
        self._breakers.close()
        if self._timer is not None:
            self._timer.cancel()

    def _let_one_go(self) -> None:
        self._breakers.probe(self._provider)
        if self.has_waiting:
            self._let_go()
        else:
            self._is_asking = True
            self._on_idle()

    def _let_go(self) -> None:
        """Release the first waiting launch, if there is one."""
        for line in self._waiting:
            while line:
                waiter = next(iter(line))
                del line[waiter]
                if not waiter.done():
                    waiter.set_result(None)
                    return

    def _go_on(self) -> None:
        """Release another launch after a pause, unless an answer does it before."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.has_waiting and not self.is_open:
            self._timer = asyncio.get_running_loop().call_later(FIRST_BACKOFF_S, self._pause_over)

    def _pause_over(self) -> None:
        self._timer = None
        if not self.is_open:
            self._let_go()
            self._go_on()


class ProviderBreakers:
    """All breakers of one provider."""

    def __init__(
        self, provider: str, *, on_change: Callable[[], None], ask: Callable[[], None], events: EventHub | None = None
    ) -> None:
        """*on_change* is called when launches, or a label, have to be decided on again; *ask* makes the provider's
        facts be requested soon."""
        names = {"provider": provider, "calls": "questions"}
        asking = BreakerRule(1, FIRST_BACKOFF_S, LAST_BACKOFF_S)
        avoided = BreakerRule(LAUNCHES_IN_A_ROW, FIRST_AVOIDED_S, LAST_AVOIDED_S)
        self._provider = provider
        self.questions: Breakers[str] = Breakers(
            "provider {provider}, {calls}", asking, lambda _key: names, events=events
        )
        """Breaker for questions to the provider about itself, by its name. One failure opens it: without answers
        nothing can be decided."""
        self.launches: LaunchGate = LaunchGate(provider, on_change=on_change, on_idle=ask, events=events)
        self.zones: Breakers[str] = Breakers(
            "zone {zone}", avoided, lambda zone: {"provider": provider, "zone": zone}, events=events
        )
        self.labels: Breakers[tuple[str, str]] = Breakers(
            "label {label}",
            avoided,
            lambda key: {"provider": provider, "pool": key[0], "label": key[1]},
            on_change=on_change,
            on_due=lambda _key: on_change(),
            events=events,
        )
        """Breakers for labels, by pool and label."""
        self.hosts: HostWatch | None = None
        """The watch of the provider's machines, if they exist already: failing ones are in quarantine."""
        self.doubt_zones: BoundedCall = BoundedCall(ask, ZONES_DOUBTED_S)
        """Called after a launch failed in a zone of the cloud: its zones may have changed."""

    def launched(self, pool: str, label: str, zone: str | None, began: float) -> None:
        """Note that a launch of *label* in *zone* that *began* then made a node ready."""
        if self.labels.known:
            self.labels.succeeded((pool, label), began)
        if zone is not None and self.zones.known:
            self.zones.succeeded(zone, began)

    def launch_failed(self, pool: str, label: str, zone: str | None, error: DriverError) -> None:
        """Note a failed launch. The error's scope says if it counts for the label or the zone. Without a scope it
        counts for both, unless a breaker is open already: then that breaker's cause is taken for the only one."""
        is_away = isinstance(error, ProviderUnavailableError) and error.scope in (Scope.ZONE, Scope.LABEL)
        if not is_away and not isinstance(error, LaunchFailedError | InsufficientCapacityError):
            return  # it is reported in other ways
        key, cause = (pool, label), cause_of(error)
        is_of_zone = zone is not None and error.scope in (Scope.ZONE, Scope.REQUEST)
        is_of_label = error.scope in (Scope.LABEL, Scope.REQUEST) or (error.scope is Scope.ZONE and zone is None)
        if is_of_label and not (is_of_zone and zone is not None and self.zones.is_open(zone)):
            self.labels.failed(key, cause)
        if is_of_zone and zone is not None and not (is_of_label and self.labels.is_open(key)):
            self.zones.failed(zone, cause)

    def is_doubtful(self, pool: str, labels: Iterable[str]) -> bool:
        """Return True if launches of one of *labels* fail in *pool*, and no probe is due."""
        return bool(self.labels.known) and any(not self.labels.may_try((pool, label)) for label in labels)

    def chosen(self, pool: str, labels: Iterable[str]) -> None:
        """Note that nodes with these *labels* are about to be launched in *pool*: the probe, if one is due."""
        for label in labels if self.labels.known else ():
            if self.labels.may_try((pool, label)):
                self.labels.probe((pool, label))

    def list_open(self, pool: str, labels: Iterable[str]) -> list[OpenBreaker]:
        """Return the open breakers that concern a request for *labels* in *pool*."""
        wanted = sorted({(pool, label) for label in labels})
        return [
            *self.questions.list_open(),
            *self.launches.list_open(),
            *self.zones.list_open(),
            *self.labels.list_open(wanted),
        ]

    def forget(self) -> None:
        """Close all: the provider has another configuration."""
        self.launches.forget()
        self.zones.forget()
        self.labels.forget()

    def close(self) -> None:
        self.launches.close()
        self.labels.close()
        self.doubt_zones.close()


def _now() -> float:
    return asyncio.get_running_loop().time()
