"""Promises of the breaker for any order of tries, results that come late or never, and pauses of any length."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nodelaunch.decisions.breaker import Breaker, BreakerChange, BreakerRule, FailureCause

rules = st.builds(
    lambda threshold, first, times: BreakerRule(threshold, first, first * times),
    st.integers(1, 5),
    st.floats(0.1, 60.0),
    st.floats(1.0, 100.0),
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.floats(0.0, 200.0)),
        st.tuples(st.just("try"), st.floats(1.0, 1.25)),
        st.tuples(st.just("fails"), st.tuples(st.sampled_from("ab"), st.floats(0.0, 1e9))),
        st.tuples(st.just("succeeds"), st.none()),
        st.tuples(st.just("late success"), st.floats(0.1, 100.0)),
    ),
    max_size=80,
)
MOST_SPREAD = 1.25


@given(rules, steps)
def test_it_opens_and_closes_as_promised(rule: BreakerRule, script: list[tuple[str, object]]) -> None:
    """The breaker opens exactly with the failure that reaches the threshold; it closes exactly with a success that
    started since; it reports each change and nothing else; no pause is longer than the limit; a pause always ends;
    and between two probes there is at least the first pause, or the requested one, with any failures in between.
    """
    breaker, now, in_a_row, probed_at, least = Breaker(rule), 0.0, 0, None, rule.first_s
    for what, value in script:
        was_open, cause = breaker.is_open, breaker.cause
        change: BreakerChange | None = None
        match what:
            case "wait":
                now += value  # type: ignore[operator]
            case "try" if breaker.may_try(now):
                if was_open:
                    assert probed_at is None or now - probed_at >= least - 1e-6
                    probed_at, least = now, rule.first_s
                breaker.probe(now, spread=value)  # type: ignore[arg-type]
            case "fails":
                kind, after_s = value  # type: ignore[misc]
                in_a_row += 1
                least = min(least, after_s or rule.first_s)
                change = breaker.failed(now, FailureCause(kind, ""), after_s=after_s, spread=MOST_SPREAD)
                assert breaker.is_open == (was_open or in_a_row >= rule.threshold)
            case "succeeds":
                in_a_row, probed_at = 0, None
                change = breaker.succeeded(now)
                assert not breaker.is_open
            case "late success" if was_open and breaker.since is not None:
                change = breaker.succeeded(breaker.since - value)  # type: ignore[operator]
                assert breaker.is_open
        assert (change is BreakerChange.OPENED) == (breaker.is_open and not was_open)
        assert (change is BreakerChange.CLOSED) == (was_open and not breaker.is_open)
        if change is BreakerChange.OTHER_REASON:
            assert cause is not None
            assert breaker.cause is not None
            assert cause.kind != breaker.cause.kind
        assert breaker.failures == in_a_row
        assert breaker.next_at - now <= rule.last_s * MOST_SPREAD + 1e-6
        assert breaker.may_try(max(now, breaker.next_at))
        assert breaker.is_open or breaker.may_try(now)
