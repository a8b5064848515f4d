"""Quarantine of machines that exist already: which machines are withheld, and when each is checked again.

A host that fails repeatedly goes into quarantine, and leaves it at the first good check. If most hosts become
unreachable at once, the cause is probably at this launcher: then a `Guard` keeps them out of quarantine. A host that
answers with the wrong key is never guarded, because it was reached. engine/provider/hostwatch.py checks hosts and acts
on the changes.

Times are seconds of any one clock that does not run backwards.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from heapq import heapify, heappop, heappush

Host = tuple[str, str | None, int]
"""Name, user and connection port of a machine, whose slots fail and recover together."""

FAILURES = 2
"""Failures in a row after which an unreachable host is in quarantine."""
RETRY_S = 2.0
"""Seconds before a failed host is checked again, while it is not in quarantine."""
FIRST_PAUSE_S, LAST_PAUSE_S = 5.0, 300.0
"""Seconds of the pauses in quarantine: the first, which doubles with each failure, and the longest. Guarded hosts keep
the first."""
MOST_DOUBLINGS = 10
JITTER = 0.25
"""The fraction of a pause by which it may be shortened at random."""
WINDOW_S = 60.0
"""Seconds within which hosts that become unreachable count as failing at once."""
LEAST_TOGETHER = 3
"""Fewer hosts that fail at once are never blamed on this launcher."""


class Cause(Enum):
    UNREACHABLE = "unreachable"
    WRONG_KEY = "wrong key"


@dataclass(slots=True)
class Failing:
    """A host that has failed since its last good check."""

    since: float
    cause: Cause
    detail: str
    """The last failure, for people."""
    is_out: bool = False
    """True if it is in quarantine."""
    failures: int = 0
    pause_s: float = 0.0
    next_look: float = 0.0


# -- what is news ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Doubted:
    """The host failed, and is not handed out before a good check."""

    host: Host


@dataclass(frozen=True, slots=True)
class Quarantined:
    """The host has entered quarantine, or is in it for another cause now."""

    host: Host
    is_other_cause: bool = False


@dataclass(frozen=True, slots=True)
class Returned:
    """The host has recovered."""

    host: Host
    was_out: bool
    after_s: float


@dataclass(frozen=True, slots=True)
class GuardChanged:
    """Several hosts are unreachable together, and are now guarded, or not guarded any more."""

    is_on: bool
    unreachable: int
    hosts: int


Change = Doubted | Quarantined | Returned | GuardChanged


# -- whose fault it is ----------------------------------------------------------------------------------------------


class Guard:
    """Detects that so many hosts became unreachable together that the cause is probably at this launcher.

    It is on while at least `LEAST_TOGETHER` hosts, and more than half of the hosts that were not unreachable before,
    have become unreachable within `WINDOW_S`, or later while it was on. Hosts come in groups: those of a provider.

    Invariants: a host is in at most one of ``_fresh`` and ``_old``; both have only hosts of ``_groups``.
    """

    def __init__(self) -> None:
        self.is_on: bool = False
        self._groups: dict[str, frozenset[str]] = {}
        self._fresh: dict[tuple[str, str], float] = {}
        """Unreachable hosts that count, each with the time since when, in the order of these times."""
        self._old: set[tuple[str, str]] = set()
        """Hosts that were unreachable before."""

    def expect(self, group: str, names: Collection[str]) -> list[GuardChanged]:
        """Set the hosts of *group*."""
        self._groups[group] = frozenset(names)
        gone = {key for key in (*self._fresh, *self._old) if key[0] == group and key[1] not in self._groups[group]}
        self._fresh = {key: since for key, since in self._fresh.items() if key not in gone}
        self._old -= gone
        return self._decide()

    def unreachable(self, group: str, name: str, now: float) -> list[GuardChanged]:
        key = (group, name)
        if key in self._fresh or key in self._old:
            return []
        if not self.is_on:
            self._age(now)
        self._fresh[key] = now
        return self._decide()

    def reached(self, group: str, name: str) -> list[GuardChanged]:
        self._fresh.pop((group, name), None)
        self._old.discard((group, name))
        return self._decide()

    def _age(self, now: float) -> None:
        while self._fresh:
            key = next(iter(self._fresh))
            if self._fresh[key] >= now - WINDOW_S:
                break
            del self._fresh[key]
            self._old.add(key)

    @property
    def standing(self) -> GuardChanged:
        """The present state of the guard, with its figures."""
        return GuardChanged(self.is_on, len(self._fresh), sum(map(len, self._groups.values())) - len(self._old))

    def _decide(self) -> list[GuardChanged]:
        now = self.standing
        is_on = now.unreachable >= LEAST_TOGETHER and 2 * now.unreachable > now.hosts
        if is_on is self.is_on:
            return []
        self.is_on = is_on
        return [self.standing]


# -- hosts ----------------------------------------------------------------------------------------------------------


class Quarantine:
    """The failed hosts of one provider. Report the hosts that exist, and how each check ended.

    Invariants: a host in ``failing`` is checked again at its ``next_look``, for which ``_looks`` has an entry unless it
    was taken as due; an unreachable host goes into quarantine only while no guard is on.
    """

    def __init__(self, group: str, guards: Sequence[Guard] = ()) -> None:
        """*guards*: further guards, which count the hosts of other providers as well."""
        self.failing: dict[Host, Failing] = {}
        self._group = group
        self._guards = (Guard(), *guards)
        self._hosts: frozenset[Host] = frozenset()
        self._looks: list[tuple[float, Host]] = []
        """A heap; an entry whose time is not the host's ``next_look`` is void."""
        self._strikes: dict[Host, int] = {}
        """For each host, the number of failures when it was to be handed out, since it was last handed out."""

    @property
    def guarded(self) -> GuardChanged | None:
        """The guard state if the hosts that fail now are probably not the cause; None: they are."""
        return next((guard.standing for guard in self._guards if guard.is_on), None)

    def is_out(self, host: Host) -> bool:
        known = self.failing.get(host)
        return known is not None and known.is_out

    def expect(self, hosts: Collection[Host], now: float) -> list[Change]:
        """Set the hosts, as configured now: hosts that failed before are checked at once."""
        self._hosts = frozenset(hosts)
        self._strikes = {host: count for host, count in self._strikes.items() if host in self._hosts}
        self.failing = {host: known for host, known in self.failing.items() if host in self._hosts}
        for known in self.failing.values():
            known.next_look = now
        self._looks = [(now, host) for host in self.failing]
        heapify(self._looks)
        names = {name for name, _, _ in self._hosts}
        return [change for guard in self._guards for change in guard.expect(self._group, names)]

    # -- how a look ended -------------------------------------------------------------------------------------------

    def failed(self, host: Host, cause: Cause, detail: str, now: float, chance: float) -> list[Change]:
        """Note a failed check of *host*. *chance*: from 0 to 1, for the random part of the pause."""
        if host not in self._hosts:
            return []
        changes: list[Change] = [
            change for guard in self._guards for change in self._update_guard(guard, host, cause, now)
        ]
        known = self.failing.get(host)
        if known is None:
            known = self.failing[host] = Failing(now, cause, detail)
            changes.append(Doubted(host))
        is_other_cause, known.cause, known.detail = known.cause is not cause, cause, detail
        is_guarded = cause is Cause.UNREACHABLE and self.guarded is not None
        known.failures = min(known.failures + 1, FAILURES - 1) if is_guarded else known.failures + 1
        if known.is_out and is_other_cause:
            changes.append(Quarantined(host, is_other_cause=True))
        elif not known.is_out and (cause is Cause.WRONG_KEY or known.failures >= FAILURES):
            known.is_out = True
            changes.append(Quarantined(host))
        self._pause(known, now, chance, is_guarded=is_guarded)
        heappush(self._looks, (known.next_look, host))
        return changes

    def not_handed_out(self, host: Host, detail: str, now: float, chance: float) -> list[Change]:
        """Note that *host* did not answer when it was to be handed out; counted once before the next check.

        Failures that repeat with good checks in between count in a row nevertheless.
        """
        if host in self.failing or host not in self._hosts:
            return []
        strikes = self._strikes[host] = self._strikes.get(host, 0) + 1
        again = max(0, strikes - FAILURES)
        self.failing[host] = Failing(
            now,
            Cause.UNREACHABLE,
            detail,
            failures=strikes - 1,
            pause_s=FIRST_PAUSE_S / 2 * 2 ** min(again, MOST_DOUBLINGS),
        )
        return [Doubted(host), *self.failed(host, Cause.UNREACHABLE, detail, now, chance)]

    def handed_out(self, host: Host) -> None:
        """Note that *host* answered when it was to be handed out."""
        self._strikes.pop(host, None)

    def _update_guard(self, guard: Guard, host: Host, cause: Cause, now: float) -> list[GuardChanged]:
        if cause is Cause.UNREACHABLE:
            return guard.unreachable(self._group, host[0], now)
        return guard.reached(self._group, host[0])

    @staticmethod
    def _pause(known: Failing, now: float, chance: float, *, is_guarded: bool) -> None:
        if is_guarded:
            known.pause_s = FIRST_PAUSE_S
        elif not known.is_out:
            known.pause_s = RETRY_S
        else:
            known.pause_s = max(FIRST_PAUSE_S, min(LAST_PAUSE_S, known.pause_s * 2))
        known.next_look = now + known.pause_s * (1 - JITTER * chance)

    def well(self, host: Host, now: float) -> list[Change]:
        """Note a good check of *host*, which has recovered if it had failed."""
        known = self.failing.pop(host, None)
        if known is None:
            return []
        changes: list[Change] = [change for guard in self._guards for change in guard.reached(self._group, host[0])]
        return [*changes, Returned(host, known.is_out, now - known.since)]

    # -- when to look again -----------------------------------------------------------------------------------------

    @property
    def next_look(self) -> float | None:
        """The time of the next check that is due."""
        while self._looks:
            at, host = self._looks[0]
            if host in self.failing and self.failing[host].next_look == at:
                return at
            heappop(self._looks)
        return None

    def take_due(self, now: float) -> list[Host]:
        """Remove and return the hosts to be checked by *now*; each check ends with `failed` or `well`."""
        due: dict[Host, None] = {}  # a host that failed twice at one time has two entries
        while (at := self.next_look) is not None and at <= now:
            due[heappop(self._looks)[1]] = None
        return list(due)
