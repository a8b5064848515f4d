"""Promises of the quarantine, checked after each event of hosts."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from nodelaunch.decisions.quarantine import (
    JITTER,
    LAST_PAUSE_S,
    LEAST_TOGETHER,
    RETRY_S,
    Cause,
    Change,
    Doubted,
    Guard,
    GuardChanged,
    Host,
    Quarantine,
    Quarantined,
    Returned,
)

GROUPS = ("one", "two")
HOSTS: list[Host] = [(name, user, 22) for name in "abcdef" for user in ("zuul", "ci")]
hosts, chances = st.sampled_from(HOSTS), st.floats(0, 1)


class Machine(RuleBasedStateMachine):
    """Two providers that share a guard, in front of a plain account of what is known of each host."""

    @initialize()
    def begin(self) -> None:
        self.now = 0.0
        self.shared = Guard()
        self.parts = {group: Quarantine(group, [self.shared]) for group in GROUPS}
        self.out: set[tuple[str, Host]] = set()
        self.doubted: set[tuple[str, Host]] = set()
        for group in GROUPS:
            self._note(group, self.parts[group].expect(HOSTS, self.now))

    def _note(self, group: str, changes: list[Change], cause: Cause | None = None) -> None:
        for change in changes:
            match change:
                case Doubted(host):
                    assert (group, host) not in self.doubted
                    self.doubted.add((group, host))
                case Quarantined(host, is_other_cause):
                    assert ((group, host) in self.out) is is_other_cause
                    assert cause is Cause.WRONG_KEY or self.parts[group].guarded is None or is_other_cause
                    self.out.add((group, host))
                case Returned(host, was_out, after_s):
                    assert was_out is ((group, host) in self.out)
                    assert after_s >= 0
                    self.doubted.remove((group, host))
                    self.out.discard((group, host))
                case GuardChanged(is_on, unreachable, count):
                    assert is_on is (unreachable >= LEAST_TOGETHER and 2 * unreachable > count)

    @rule(group=st.sampled_from(GROUPS), host=hosts, cause=st.sampled_from(Cause), chance=chances)
    def look_fails(self, group: str, host: Host, cause: Cause, chance: float) -> None:
        self._note(group, self.parts[group].failed(host, cause, "no", self.now, chance), cause)

    @rule(group=st.sampled_from(GROUPS), chance=chances)
    def all_fail(self, group: str, chance: float) -> None:
        """Check that no host entered quarantine through our own fault after most had failed."""
        for host in HOSTS:
            self._note(group, self.parts[group].failed(host, Cause.UNREACHABLE, "no", self.now, chance))

    @rule(group=st.sampled_from(GROUPS), host=hosts)
    def look_is_good(self, group: str, host: Host) -> None:
        self._note(group, self.parts[group].well(host, self.now))
        assert host not in self.parts[group].failing

    @rule(group=st.sampled_from(GROUPS), host=hosts, chance=chances)
    def is_not_handed_out(self, group: str, host: Host, chance: float) -> None:
        self._note(group, self.parts[group].not_handed_out(host, "no", self.now, chance), Cause.UNREACHABLE)

    @rule(group=st.sampled_from(GROUPS), host=hosts)
    def is_handed_out(self, group: str, host: Host) -> None:
        self.parts[group].handed_out(host)

    @rule(group=st.sampled_from(GROUPS), some=st.sets(hosts))
    def another_configuration(self, group: str, some: set[Host]) -> None:
        self._note(group, self.parts[group].expect(some, self.now))
        gone = {(group, host) for host in HOSTS if host not in some}
        self.out -= gone
        self.doubted -= gone
        self._note(group, self.parts[group].expect(HOSTS, self.now))

    @rule(seconds=st.sampled_from([0.1, 3.0, 70.0, 1000.0]), group=st.sampled_from(GROUPS), chance=chances)
    def time_passes(self, seconds: float, group: str, chance: float) -> None:
        """Each host that is due is named once, and every one that fails is due at some time."""
        self.now += seconds
        due = self.parts[group].take_due(self.now)
        assert len(due) == len(set(due))
        assert set(due) == {h for h, known in self.parts[group].failing.items() if known.next_look <= self.now}
        for host in due:
            self._note(group, self.parts[group].failed(host, Cause.UNREACHABLE, "no", self.now, chance))

    @invariant()
    def failing_hosts_are_as_was_told(self) -> None:
        for group, part in getattr(self, "parts", {}).items():
            assert {(group, host) for host in part.failing} == {each for each in self.doubted if each[0] == group}
            assert {host for host in HOSTS if part.is_out(host)} == {host for at, host in self.out if at == group}

    @invariant()
    def every_failing_host_has_a_look_before_it(self) -> None:
        for part in getattr(self, "parts", {}).values():
            nexts = [known.next_look for known in part.failing.values()]
            assert part.next_look == min(nexts, default=None)
            for known in part.failing.values():
                assert RETRY_S * (1 - JITTER) <= known.pause_s <= LAST_PAUSE_S
                assert known.next_look <= self.now + LAST_PAUSE_S


TestQuarantine = Machine.TestCase
TestQuarantine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
