"""Quota arithmetic agrees with its definition."""

from __future__ import annotations

from math import inf

from hypothesis import given
from hypothesis import strategies as st

from nodelaunch.protocol.quota import Limits, Usage

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
