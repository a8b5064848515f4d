"""Prediction of the next number that a server gives."""

from __future__ import annotations

from nodelaunch.store.zookeeper.numbers import Numbers

NODES = "/n/"


def path(number: int) -> str:
    return f"{NODES}{number:010d}"


def counted(created: int = 7) -> Numbers:
    numbers = Numbers()
    numbers.listed(NODES, created)
    return numbers


def sent(numbers: Numbers) -> str | None:
    """The path of a create that is sent with a number that was foreseen."""
    taken = numbers.take(NODES)
    numbers.begins(NODES, is_foreseen=True)
    return taken


def test_nothing_is_foreseen_before_anything_is_known() -> None:
    assert Numbers().take(NODES) is None


def test_numbers_go_on_from_what_was_listed() -> None:
    numbers = counted(7)
    assert [numbers.take(NODES) for _ in range(3)] == [path(7), path(8), path(9)]


def test_own_creations_are_no_surprise() -> None:
    numbers = counted(7)
    numbers.take(NODES)
    numbers.created(path(7))
    assert numbers.take(NODES) == path(8)


def test_a_creation_by_somebody_else_ends_the_foresight() -> None:
    numbers = counted(7)
    numbers.created(path(7))
    assert numbers.take(NODES) is None


def test_creates_that_the_server_numbers_count() -> None:
    numbers = counted(7)
    numbers.begins(NODES)
    assert sent(numbers) == path(8)
    numbers.ends(NODES, path(7))
    assert numbers.take(NODES) == path(9)


def test_the_first_reply_tells_the_number_behind_all_that_was_sent() -> None:
    numbers = Numbers()
    for _ in range(3):
        numbers.begins(NODES)
    numbers.ends(NODES, path(4))
    assert sent(numbers) == path(7)
    numbers.ends(NODES, path(5))
    numbers.ends(NODES, path(6))
    assert numbers.take(NODES) == path(8)


def test_a_reply_older_than_what_somebody_else_made_tells_nothing() -> None:
    numbers = Numbers()
    numbers.begins(NODES)
    numbers.created(path(5))
    numbers.ends(NODES, path(4))
    assert numbers.take(NODES) is None


def test_a_reply_that_surprises_ends_the_foresight() -> None:
    numbers = counted(7)
    numbers.begins(NODES)
    numbers.ends(NODES, path(8))
    assert numbers.take(NODES) is None


def test_a_listing_while_a_foreseen_create_is_under_way_tells_nothing() -> None:
    numbers = counted(7)
    sent(numbers)
    numbers.listed(NODES, 7)
    numbers.ends(NODES, path(7), is_foreseen=True)
    assert numbers.take(NODES) == path(8)


def test_a_foreseen_create_that_is_done_does_not_tell_what_comes_next() -> None:
    numbers = counted(7)
    sent(numbers)
    numbers.created(path(8))
    numbers.ends(NODES, path(7), is_foreseen=True)
    assert numbers.take(NODES) is None


def test_a_listing_while_creates_are_under_way_tells_nothing() -> None:
    numbers = Numbers()
    numbers.begins(NODES)
    numbers.listed(NODES, 4)
    assert numbers.take(NODES) is None


def test_a_failed_create_a_refused_number_and_a_new_connection_end_the_foresight() -> None:
    for end in (lambda n: n.ends(NODES, None), lambda n: n.forget(NODES), lambda n: n.reset()):
        numbers = counted(7)
        numbers.begins(NODES)
        end(numbers)
        assert numbers.take(NODES) is None


def test_names_without_a_number_are_nobodys() -> None:
    numbers = counted(7)
    numbers.created("/n/no-number-here")
    assert numbers.take(NODES) == path(7)
