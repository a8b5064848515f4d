"""Quota arithmetic agrees with its definition, and a running sum never drifts."""

from __future__ import annotations

from fractions import Fraction
from math import inf

from hypothesis import example, given, settings
from hypothesis import strategies as st

from nodelaunch.protocol.quota import NOTHING, Limits, Usage, UsageSum

NAMES = ("cores", "instances", "ram", "volumes")
names = st.sampled_from(NAMES)
whole = st.integers(0, 2**70)
figures = whole | st.floats(0, 1e300) | st.sampled_from([0.1, 0.2, 0.3, 1.5, 4.0, 1e-300])
usages = st.dictionaries(names, figures, max_size=4).map(Usage)
small = st.dictionaries(names, st.integers(0, 9) | st.sampled_from([0.5, 4.0]), max_size=4)
limits = st.dictionaries(names, st.integers(-9, 9) | st.sampled_from([0.5, inf, None]), max_size=4).map(Limits)


@given(small.map(Usage), small.map(Usage), limits, limits)
def test_arithmetic_is_that_of_each_resource(one: Usage, other: Usage, limit: Limits, second: Limits) -> None:
    assert one + other == Usage({name: one[name] + other[name] for name in NAMES}) == Usage.total([one, other])
    assert one - other == Usage({name: max(0, one[name] - other[name]) for name in NAMES})
    assert limit.minus(one) == Limits({name: limit[name] - one[name] for name in NAMES})
    assert limit.tightest(second) == Limits({name: min(limit[name], second[name]) for name in NAMES})
    short = tuple(name for name in NAMES if one[name] and one[name] > limit[name])
    assert limit.shortages(one) == short
    assert limit.allows(one) == (not short)


@given(small, small, limits)
def test_operands_stay_as_they_are(one: dict[str, float], other: dict[str, float], limit: Limits) -> None:
    first, second, given_limits = Usage(one), Usage(other), Limits(limit.amounts)
    _ = (first + second, first - second, limit.minus(first), limit.tightest(Limits(other)))
    assert (first, second, limit) == (Usage(one), Usage(other), given_limits)


@settings(deadline=None)
@given(st.lists(usages, max_size=8), st.randoms())
def test_nothing_is_left_when_all_is_given_back(added: list[Usage], random: object) -> None:
    running = UsageSum()
    for usage in added:
        running.add(usage)
    for usage in random.sample(added, len(added)):  # type: ignore[attr-defined]
        running.subtract(usage)
    assert running.total() == NOTHING
    assert list(running.total()) == []


@settings(deadline=None)
@given(st.lists(usages, max_size=8), st.integers(0, 8))
@example([Usage(ram=1.5), Usage(ram=9007199254740990.0), Usage(ram=1.5)], 3)
def test_running_sum_is_the_exact_sum_rounded_once(added: list[Usage], kept: int) -> None:
    running = UsageSum()
    for usage in added:
        running.add(usage)
    for usage in added[kept:]:
        running.subtract(usage)
    total = running.total()
    for name in NAMES:
        exact = sum((Fraction(usage[name]) for usage in added[:kept]), Fraction(0))
        if exact.denominator == 1:
            assert total[name] == exact
        else:
            assert abs(Fraction(total[name]) - exact) <= exact * Fraction(2) ** -52 + Fraction(8, 2**64)


@given(st.lists(st.tuples(st.booleans(), small.map(Usage)), max_size=10))
def test_order_of_additions_and_subtractions_does_not_matter(steps: list[tuple[bool, Usage]]) -> None:
    sums = UsageSum(), UsageSum()
    for running, order in zip(sums, (steps, list(reversed(steps))), strict=True):
        for is_added, usage in order:
            (running.add if is_added else running.subtract)(usage)
    assert sums[0].total() == sums[1].total()
    assert all(value > 0 for value in sums[0].total().amounts.values())
