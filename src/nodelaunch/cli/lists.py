"""The commands that list the records in the store, with the columns of Nodepool's commands.

operations/listing.py makes the rows.
"""

from __future__ import annotations

import difflib
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from cyclopts import CycloptsError, Parameter

from nodelaunch.cli.common import client_store, say, say_json, synced_view
from nodelaunch.cli.session import AsJson, CliSession, Given
from nodelaunch.cli.tables import aligned
from nodelaunch.cli.watching import Watch, watch
from nodelaunch.operations.listing import (
    BRIEF_NODES,
    Listing,
    Row,
    Snapshot,
    dib_image_list,
    image_list,
    image_status,
    label_list,
    names_in,
    node_facts,
    node_list,
    request_facts,
    request_list,
    take_snapshot,
)
from nodelaunch.protocol.states import NodeState, RequestState


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class NodeFilter:
    """Options that select nodes; a node has to match one value of each option."""

    state: Annotated[list[str] | None, Parameter(help="Only nodes in this state; repeatable.")] = None
    provider: Annotated[
        list[str] | None, Parameter(help="Only nodes of this provider; repeatable.", metavar="NAME")
    ] = None
    pool: Annotated[list[str] | None, Parameter(help="Only nodes of this pool; repeatable.", metavar="NAME")] = None
    label: Annotated[list[str] | None, Parameter(help="Only nodes with this label; repeatable.", metavar="NAME")] = None

    def takes(self, row: Row) -> bool:
        return (
            _is_among(row["state"], self.state)
            and _is_among(row["provider"], self.provider)
            and _is_among(row["pool"], self.pool)
            and any(_is_among(label, self.label) for label in row["label"] or [""])
        )


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class RequestFilter:
    """Options that select requests; a request has to match one value of each option."""

    state: Annotated[list[str] | None, Parameter(help="Only requests in this state; repeatable.")] = None
    label: Annotated[list[str] | None, Parameter(help="Only requests for this label; repeatable.", metavar="NAME")] = (
        None
    )

    def takes(self, row: Row) -> bool:
        labels = row.get("node_types", row.get("labels")) or [""]
        return _is_among(row["state"], self.state) and any(_is_among(label, self.label) for label in labels)


def _check_states(asked: Collection[str] | None, states: type[StrEnum], what: str) -> None:
    """Raise CycloptsError if a state in *asked* is none of *states*: the list would always be empty."""
    known = [state.value for state in states]
    for state in asked or ():
        if state not in known:
            close = difflib.get_close_matches(state, known, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise CycloptsError(msg=f"--state: {what} have no state {state!r}; {hint}states are: {', '.join(known)}")


def _note_unknown(found: Snapshot, **asked: Collection[str] | None) -> None:
    """Print a note on standard error for each *asked* name that no record has; records with it may come later."""
    known = names_in(found)
    for option, names in asked.items():
        for name in names or ():
            if name not in known[option]:
                others = ", ".join(sorted(known[option])) or "none"
                print(f"note: no record has the {option} {name!r}; known: {others}", file=sys.stderr)  # noqa: T201


def _is_among(value: str, wanted: Collection[str] | None) -> bool:
    return not wanted or value in wanted


async def list_nodes(
    *,
    detail: Annotated[bool, Parameter(help="All columns.")] = False,
    filters: NodeFilter = NodeFilter(),
    requests: Annotated[bool, Parameter(help="List node requests instead, as request-list does.", show=False)] = False,
    watching: Annotated[Watch, Parameter(name="--watch")] = None,
    as_json: AsJson = False,
    session: Given,
) -> None:
    """List nodes.

    --json prints all data of each node, including the data for a login. --watch on a pipe prints the list again after
    each change; with --json, each list is one line.
    """
    _check_states(filters.state, RequestState if requests else NodeState, "requests" if requests else "nodes")
    if requests:
        chosen = RequestFilter(filters.state, filters.label)
        await list_requests(filters=chosen, watching=watching, as_json=as_json, session=session)
        return

    def facts(found: Snapshot) -> list[Row]:
        return [row for row in node_facts(found) if filters.takes(row)]

    def lines(found: Snapshot) -> str:
        listing = node_list(found)
        chosen = Listing(listing.titles, [row for row in listing.rows if filters.takes(row)])
        return _lines(chosen if detail else chosen.only(BRIEF_NODES), found.at, "nodes")

    def notes(found: Snapshot) -> None:
        _note_unknown(found, provider=filters.provider, pool=filters.pool, label=filters.label)

    await _show_or_watch(session, "nodes", facts, lines, watching, notes, as_json=as_json)


async def list_requests(
    *,
    filters: RequestFilter = RequestFilter(),
    watching: Annotated[Watch, Parameter(name="--watch")] = None,
    as_json: AsJson = False,
    session: Given,
) -> None:
    """List node requests.

    --json prints all data of each request, including job, pipeline and build set of Zuul's requests. --watch on a pipe
    prints the list again after each change; with --json, each list is one line.
    """

    _check_states(filters.state, RequestState, "requests")

    def facts(found: Snapshot) -> list[Row]:
        return [row for row in request_facts(found) if filters.takes(row)]

    def lines(found: Snapshot) -> str:
        listing = request_list(found)
        return _lines(
            Listing(listing.titles, [row for row in listing.rows if filters.takes(row)]), found.at, "requests"
        )

    def notes(found: Snapshot) -> None:
        _note_unknown(found, label=filters.label)

    await _show_or_watch(session, "requests", facts, lines, watching, notes, as_json=as_json)


async def list_labels(*, as_json: AsJson = False, session: Given) -> None:
    """List the labels that registered pools offer."""
    await _list(session, label_list, "labels", as_json=as_json)


async def list_images(*, as_json: AsJson = False, session: Given) -> None:
    """List the images that are uploaded to providers."""
    await _list(session, image_list, "images", as_json=as_json)


async def list_dib_images(*, as_json: AsJson = False, session: Given) -> None:
    """List the images that builders have built or are building."""
    await _list(session, dib_image_list, "image builds", as_json=as_json)


async def list_image_status(*, as_json: AsJson = False, session: Given) -> None:
    """Show which images are paused, and which have a build requested."""
    await _list(session, image_status, "images", as_json=as_json)


async def _show_or_watch(
    session: CliSession,
    what: str,
    facts: Callable[[Snapshot], list[Row]],
    lines: Callable[[Snapshot], str],
    watching: list[float] | None,
    notes: Callable[[Snapshot], None],
    *,
    as_json: bool,
) -> None:
    if watching is not None:
        await watch(session, what, watching, facts, lines, as_json=as_json)
        return
    found = await _snapshot(session)
    notes(found)
    if as_json:
        say_json(facts(found))
    else:
        say(lines(found))


async def _snapshot(session: CliSession) -> Snapshot:
    async with client_store(session) as store, synced_view(store) as view:
        return take_snapshot(view, time.time())


async def _list(session: CliSession, listing_of: Callable[[Snapshot], Listing], what: str, *, as_json: bool) -> None:
    found = await _snapshot(session)
    listing = listing_of(found)
    if as_json:
        say_json([dict(row) for row in listing.rows])
    else:
        say(_lines(listing, found.at, what))


def _lines(listing: Listing, now: float, what: str) -> str:
    return aligned([list(listing.titles.values()), *listing.cells(now)]) if listing.rows else f"no {what}"
