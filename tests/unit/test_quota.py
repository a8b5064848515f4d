"""Quota arithmetic: a missing limit is endless, a missing usage is none."""

from __future__ import annotations

from math import inf

from nodelaunch.protocol.quota import NO_LIMITS, NOTHING, Limits, Usage


def test_usages_add_up_and_never_fall_below_zero() -> None:
    both = Usage(cores=4, instances=1) + Usage({"cores": 2, "volume-gb": 50})
    assert both == Usage({"cores": 6, "instances": 1, "volume-gb": 50})
    assert both - Usage(cores=1, ram=1) == Usage({"cores": 5, "instances": 1, "volume-gb": 50})
    assert Usage.total([both, both]) == both + both
    assert both - Usage(cores=10) == Usage({"instances": 1, "volume-gb": 50})
    assert (both["ram"], sorted(both)) == (0, ["cores", "instances", "volume-gb"])
    assert Usage.total([]) == Usage(cores=0)
    assert hash(Usage(cores=1)) == hash(Usage({"cores": 1}))
    assert repr(Usage(cores=1)) == "Usage({'cores': 1})"
    assert Usage(cores=1) != 1


def test_resources_always_name_the_usual_three() -> None:
    assert Usage({"volumes": 1}).to_resources() == {"cores": 0, "instances": 0, "ram": 0, "volumes": 1}


def test_limits_without_a_figure_are_endless() -> None:
    limits = Limits(cores=8, ram=None, instances=inf)
    assert (limits["cores"], limits["ram"], limits["instances"]) == (8, inf, inf)
    assert list(limits) == ["cores"]
    assert limits == Limits({"cores": 8})
    assert hash(limits) == hash(Limits(cores=8))
    assert repr(limits) == "Limits({'cores': 8})"
    assert limits != 8


def test_what_is_short_is_named() -> None:
    left = Limits(cores=8, instances=2).minus(Usage(cores=10, ram=5))
    assert left == Limits(cores=-2, instances=2)
    assert left.shortages(Usage(cores=1, instances=3)) == ("cores", "instances")
    assert left.shortages(Usage(instances=2)) == ()
    assert left.allows(Usage(instances=2))
    assert not left.allows(Usage(cores=1))


def test_tightest_takes_the_smaller_of_each() -> None:
    assert Limits(cores=8, ram=10).tightest(Limits(cores=9, instances=1)) == Limits(cores=8, ram=10, instances=1)


def test_nothing_to_add_is_no_new_object() -> None:
    usage, limits = Usage(cores=1), Limits(cores=2)
    assert usage + NOTHING is usage
    assert NOTHING + usage is usage
    assert usage - NOTHING is usage
    assert limits.minus(NOTHING) is limits
    assert limits.tightest(NO_LIMITS) is limits
    assert NO_LIMITS.tightest(limits) is limits
    assert NO_LIMITS.minus(usage) is NO_LIMITS


def test_amounts_are_a_copy_of_what_was_given() -> None:
    given = {"cores": 1.0}
    usage, limits = Usage(given), Limits(given)
    given["cores"] = 5
    assert (usage["cores"], limits["cores"]) == (1, 1)
