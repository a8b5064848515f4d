"""Launches that an open breaker holds back, the choice of the probe, and the breaker's events."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
import structlog
from structlog.testing import capture_logs

from nodelaunch.decisions.breaker import FailureCause
from nodelaunch.engine.provider.breakers import (
    CALLS_IN_A_ROW,
    FIRST_AVOIDED_S,
    FIRST_BACKOFF_S,
    LAST_BACKOFF_S,
    LAUNCHES_IN_A_ROW,
    MOST_SPREAD,
    ZONES_DOUBTED_S,
    LaunchGate,
    ProviderBreakers,
    cause_of,
)
from nodelaunch.errors import (
    DriverError,
    ErrorKind,
    InsufficientCapacityError,
    KeyScanError,
    LabelUnusableError,
    LaunchFailedError,
    ProviderUnavailableError,
    QuotaExceededError,
    Scope,
)

pytestmark = pytest.mark.looptime

AWAY = FailureCause("away", "HTTP 503")
FULL = InsufficientCapacityError("no host is left")
BROKEN = LaunchFailedError("it went to ERROR")


class Told:
    """Counts calls."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> None:
        self.times += 1


@pytest.fixture
def changes() -> Told:
    return Told()


@pytest.fixture
def asked() -> Told:
    return Told()


@pytest.fixture
async def breakers(changes: Told, asked: Told) -> Iterator[ProviderBreakers]:  # type: ignore[misc]
    made = ProviderBreakers("cloud", on_change=changes, ask=asked)
    yield made
    made.close()


@pytest.fixture
def gate(breakers: ProviderBreakers) -> LaunchGate:
    return breakers.launches


@pytest.fixture(autouse=True)
def _everything_is_logged() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(0))


def now() -> float:
    return asyncio.get_running_loop().time()


class Launches:
    """Launches that enter a gate, and when each was let in."""

    def __init__(self, gate: LaunchGate, count: int, *, has_instance: bool = False) -> None:
        self.entered: list[float] = []
        self._gate = gate
        self.tasks = [asyncio.ensure_future(self._enter(has_instance)) for _ in range(count)]

    async def _enter(self, has_instance: bool) -> None:
        await self._gate.enter(has_instance=has_instance)
        self.entered.append(now())

    def stop(self) -> None:
        for task in self.tasks:
            task.cancel()


def away(gate: LaunchGate) -> None:
    for _ in range(CALLS_IN_A_ROW):
        gate.failed(AWAY)


# -- launches -------------------------------------------------------------------------------------------------------


async def test_launches_enter_freely_while_the_provider_answers(gate: LaunchGate) -> None:
    gate.failed(AWAY)
    launches = Launches(gate, 50)
    await asyncio.sleep(0)
    assert len(launches.entered) == 50


async def test_one_launch_enters_in_each_pause_whatever_becomes_of_the_one_before(
    gate: LaunchGate, changes: Told
) -> None:
    """No launch reports how its call ended, as if it were stuck."""
    away(gate)
    launches = Launches(gate, 50)
    await asyncio.sleep(20 * MOST_SPREAD * FIRST_BACKOFF_S)
    assert 15 <= len(launches.entered) <= 25
    assert (gate.is_open, changes.times) == (True, 1)
    launches.stop()


async def test_pauses_grow_while_probes_fail(gate: LaunchGate) -> None:
    away(gate)
    launches = Launches(gate, 50)
    for _ in range(12):
        seen = len(launches.entered)
        while len(launches.entered) == seen:
            await asyncio.sleep(0.25)
        gate.failed(AWAY)
    pauses = [after - before for before, after in zip(launches.entered[:-1], launches.entered[1:], strict=True)]
    assert pauses[0] <= 2 * MOST_SPREAD * FIRST_BACKOFF_S + 0.3
    assert pauses[:6] == sorted(pauses[:6])
    assert all(LAST_BACKOFF_S <= pause <= MOST_SPREAD * LAST_BACKOFF_S + 0.3 for pause in pauses[-4:])
    launches.stop()


async def test_each_answer_lets_two_more_launches_go(gate: LaunchGate) -> None:
    away(gate)
    launches = Launches(gate, 50)
    while not launches.entered:
        await asyncio.sleep(0.25)
    answered, counts = 0, []
    while len(launches.entered) < 50:
        counts.append(len(launches.entered))
        for _ in range(len(launches.entered) - answered):
            gate.answered(now())
            answered += 1
        await asyncio.sleep(0.001)
    assert counts == [1, 3, 7, 15, 31]
    assert not gate.is_open


async def test_launches_go_on_one_by_one_where_those_let_go_say_nothing(gate: LaunchGate) -> None:
    away(gate)
    launches = Launches(gate, 20)
    await asyncio.sleep(0)
    gate.answered(now())
    await asyncio.sleep(20 * FIRST_BACKOFF_S)
    assert len(launches.entered) == 20


async def test_launches_without_an_instance_enter_first_and_in_their_order(gate: LaunchGate) -> None:
    away(gate)
    waiting = Launches(gate, 1, has_instance=True)
    await asyncio.sleep(0)
    making = Launches(gate, 2)
    await asyncio.sleep(0)
    making.tasks[0].cancel()
    gate.answered(now())
    await asyncio.sleep(0.01)
    assert (len(making.entered), len(waiting.entered), making.tasks[0].cancelled()) == (1, 1, True)


async def test_provider_is_asked_where_a_probe_is_due_and_nobody_launches(gate: LaunchGate, asked: Told) -> None:
    away(gate)
    await asyncio.sleep(MOST_SPREAD * FIRST_BACKOFF_S)
    assert asked.times == 1
    gate.question_failed(AWAY)
    await asyncio.sleep(2 * MOST_SPREAD * FIRST_BACKOFF_S)
    assert (asked.times, gate.is_open) == (2, True)
    gate.question_answered(now())
    await asyncio.sleep(100)
    assert (asked.times, gate.is_open) == (2, False)


async def test_question_that_was_asked_for_other_reasons_says_nothing_of_launches(gate: LaunchGate) -> None:
    gate.question_failed(AWAY)
    away(gate)
    gate.question_answered(now())
    assert gate.is_open


async def test_other_configuration_lets_everybody_go(gate: LaunchGate, breakers: ProviderBreakers) -> None:
    away(gate)
    launches = Launches(gate, 3)
    await asyncio.sleep(0)
    with capture_logs() as lines:
        breakers.forget()
    assert not gate.is_open
    await asyncio.sleep(0)
    assert len(launches.entered) == 1
    await asyncio.sleep(4 * FIRST_BACKOFF_S)
    assert len(launches.entered) == 3
    assert [line["event"] for line in lines] == ["provider_available"]


# -- zones and labels -----------------------------------------------------------------------------------------------


def failed(breakers: ProviderBreakers, zone: str | None, *errors: DriverError, label: str = "small") -> None:
    for error in errors:
        breakers.launch_failed("main", label, zone, error)


def open_ones(breakers: ProviderBreakers) -> list[str]:
    return [breaker.what for breaker in breakers.list_open("main", ("small", "big"))]


async def test_launches_that_fail_in_a_row_open_what_their_scope_tells(breakers: ProviderBreakers) -> None:
    many = LAUNCHES_IN_A_ROW
    failed(breakers, "az1", *[FULL] * many)
    assert open_ones(breakers) == ["zone az1"]
    failed(breakers, None, *[FULL] * many)
    assert open_ones(breakers) == ["zone az1", "label small"]
    failed(breakers, "az2", *[InsufficientCapacityError("none", scope=Scope.LABEL)] * many, label="big")
    assert open_ones(breakers) == ["zone az1", "label big", "label small"]
    failed(breakers, "az3", *[ProviderUnavailableError("its hosts are away", scope=Scope.ZONE)] * many)
    assert open_ones(breakers) == ["zone az1", "zone az3", "label big", "label small"]


@pytest.mark.parametrize(
    "error",
    [
        QuotaExceededError("full"),
        ProviderUnavailableError("away"),
        ProviderUnavailableError("its pool is away", scope=Scope.POOL),
        LabelUnusableError("no flavor"),
        InsufficientCapacityError("nowhere", scope=Scope.PROVIDER),
    ],
)
async def test_what_is_neither_a_zones_nor_a_labels_fault_opens_nothing(
    breakers: ProviderBreakers, error: DriverError
) -> None:
    failed(breakers, "az1", *[error] * 20)
    assert open_ones(breakers) == []


async def test_label_that_fails_everywhere_is_not_the_fault_of_a_zone(breakers: ProviderBreakers) -> None:
    for zone in ("az1", "az2", "az3", "az1", "az2", "az3", "az1", "az2", "az3"):
        failed(breakers, zone, BROKEN)
    assert open_ones(breakers) == ["label small"]


async def test_zone_that_fails_everybody_is_not_the_fault_of_a_label(breakers: ProviderBreakers) -> None:
    for _ in range(4 * LAUNCHES_IN_A_ROW):
        failed(breakers, "az1", KeyScanError("no answer"))
        breakers.launched("main", "small", "az2", now())
    assert open_ones(breakers) == ["zone az1"]
    failed(breakers, "az1", *[BROKEN] * LAUNCHES_IN_A_ROW)
    assert open_ones(breakers) == ["zone az1"]


async def test_label_is_tried_once_in_each_pause_and_whoever_decides_is_told_when(
    breakers: ProviderBreakers, changes: Told
) -> None:
    failed(breakers, None, *[BROKEN] * LAUNCHES_IN_A_ROW)
    assert (breakers.is_doubtful("main", ["big"]), breakers.is_doubtful("main", ["big", "small"])) == (False, True)
    assert changes.times == 1
    await asyncio.sleep(MOST_SPREAD * FIRST_AVOIDED_S)
    assert (breakers.is_doubtful("main", ["small"]), changes.times) == (False, 2)
    breakers.chosen("main", ["small", "big"])
    assert breakers.is_doubtful("main", ["small"])
    breakers.launched("main", "small", None, now())
    assert (open_ones(breakers), breakers.is_doubtful("main", ["small"]), changes.times) == ([], False, 3)


async def test_zones_that_are_gone_are_forgotten(breakers: ProviderBreakers) -> None:
    failed(breakers, "az1", *[FULL] * LAUNCHES_IN_A_ROW)
    failed(breakers, "az2", *[FULL] * LAUNCHES_IN_A_ROW)
    breakers.zones.forget(lambda zone: zone == "az1")
    assert open_ones(breakers) == ["zone az2"]


async def test_zones_are_asked_for_at_once_and_then_at_most_once_in_each_pause(
    breakers: ProviderBreakers, asked: Told
) -> None:
    for _ in range(100):
        breakers.doubt_zones()
    assert asked.times == 1
    await asyncio.sleep(ZONES_DOUBTED_S)
    assert asked.times == 2
    await asyncio.sleep(10 * ZONES_DOUBTED_S)
    assert asked.times == 2
    breakers.doubt_zones()
    assert asked.times == 3


# -- telling --------------------------------------------------------------------------------------------------------


async def test_each_change_is_logged_once_with_its_reason(breakers: ProviderBreakers) -> None:
    with capture_logs() as lines:
        for number in range(20):
            breakers.zones.probe("az1")
            failed(breakers, "az1", InsufficientCapacityError(f"no host (req-{number})"))
        for _ in range(5):
            breakers.zones.probe("az1")
            failed(breakers, "az1", InsufficientCapacityError("denied", kind=ErrorKind.CONFLICT))
        breakers.launched("main", "small", "az1", now())
        breakers.launched("main", "small", "az1", now())
    told = [(line["event"], line.get("detail"), line["provider"], line["zone"]) for line in lines]
    assert told == [
        ("zone_unavailable", "no host (req-2)", "cloud", "az1"),
        ("zone_unavailable", "denied", "cloud", "az1"),
        ("zone_available", None, "cloud", "az1"),
    ]
    assert lines[0]["failures"] == 3
    assert FIRST_AVOIDED_S <= lines[0]["next_try_in_s"] <= MOST_SPREAD * FIRST_AVOIDED_S


async def test_open_ones_are_told_with_times(breakers: ProviderBreakers, gate: LaunchGate) -> None:
    breakers.questions.failed("cloud", AWAY)
    away(gate)
    await asyncio.sleep(0.5)
    questions, launches = breakers.list_open("main", ())
    assert (questions.what, questions.failures) == ("provider cloud, questions", 1)
    assert (launches.what, launches.failures, launches.reason) == ("provider cloud, launches", 3, "HTTP 503")
    assert launches.open_for_s == pytest.approx(0.5)
    assert 0.5 <= launches.next_try_in_s <= MOST_SPREAD - 0.5


def test_cause_is_the_class_and_the_kind_of_an_error() -> None:
    assert cause_of(FULL) == FailureCause("InsufficientCapacityError: capacity", "no host is left")
    assert cause_of(TimeoutError()) == FailureCause("TimeoutError", "")
