"""``nodelaunch driver``: which drivers there are, and what is known of each.

What does *not* belong here: finding that out (nodelaunch.driverhost.catalogue).
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from cyclopts import App, Parameter

from nodelaunch.cli import drivercheck, driverinstall, drivernew
from nodelaunch.cli.common import say, say_json
from nodelaunch.cli.session import OPTIONS, AsJson
from nodelaunch.cli.tables import aligned
from nodelaunch.config.optionlist import options_in
from nodelaunch.driverhost.catalogue import DriverCatalog, DriverFacts
from nodelaunch.driverhost.install.layout import using
from nodelaunch.driverhost.schemas import schemas_of

DIGEST_SHOWN = 12
"""Characters of a digest in the list."""
NOT_KNOWN = "-"
MAPPINGS = {"provider": "a provider", "pool": "a pool", "label": "a label"}


app: App = App(name="driver", group_parameters=OPTIONS, help="Look at drivers, check, install, remove and begin them.")
app.command(drivercheck.check)
app.command(driverinstall.install)
app.command(driverinstall.remove)
app.command(drivernew.new)


@app.command(name="list")
def list_drivers(*, home: driverinstall.Home = None, as_json: AsJson = False) -> None:
    """Show all drivers that can be used here; executables are started to be asked.

    LEVEL is what the last check of just this digest found, for each way in which the driver was run.
    """
    with using(home):
        every = DriverCatalog().facts()
    if as_json:
        say_json([summary_of(facts) for facts in every])
        return
    head = ("NAME", "ORIGIN", "VERSION", "CONTRACT", "LEVEL", "DIGEST")
    say(aligned([head, *map(_row, every)]))
    for facts in every:
        if facts.problem:
            say(f"\n{facts.found.name} can't be used: {facts.problem}")


@app.command
def info(
    name: Annotated[str, Parameter(help="Of a driver, or the path of its executable.", metavar="NAME")],
    /,
    *,
    home: driverinstall.Home = None,
    as_json: AsJson = False,
) -> int:
    """Show all that is known of one driver, its options included.

    Exit code: 1 it can't be used.
    """
    with using(home):
        catalogue = DriverCatalog()
        facts = catalogue.facts_of(catalogue.find(name))
    if as_json:
        say_json({**summary_of(facts), **_details(facts)})
    else:
        say(_page(facts))
    return 0 if facts.plugin is not None else 1


# -- for programs ---------------------------------------------------------------------------------------------------


def summary_of(facts: DriverFacts) -> dict[str, Any]:
    """What the list has of a driver; None: not known."""
    return {
        "name": facts.found.name,
        "origin": facts.found.origin.value,
        "place": facts.found.place,
        "version": facts.version or None,
        "contract": facts.contract and {"min": facts.contract.min, "max": facts.contract.max},
        "levels": {isolation: level.value for isolation, level in sorted(facts.levels.items())},
        "digest": facts.digest or None,
        "problem": facts.problem or None,
    }


def _details(facts: DriverFacts) -> dict[str, Any]:
    plugin = facts.plugin
    if plugin is None:
        return {}
    return {
        "summary": plugin.summary,
        "maintainer": facts.maintainer or None,
        "licence": facts.licence or None,
        "capabilities": list(facts.capabilities),
        "isolation": facts.isolation,
        "options": schemas_of(plugin.config_model).model_dump(),
    }


# -- for people -----------------------------------------------------------------------------------------------------


def _row(facts: DriverFacts) -> tuple[str, ...]:
    cells = (facts.found.name, facts.origin, facts.version, facts.spoken, facts.leveled, facts.digest[:DIGEST_SHOWN])
    return tuple(cell or NOT_KNOWN for cell in cells)


def _page(facts: DriverFacts) -> str:
    plugin = facts.plugin
    known = [("name", facts.found.name), ("origin", facts.origin), ("version", facts.version)]
    if plugin is not None:
        known += [
            ("summary", plugin.summary),
            ("maintainer", facts.maintainer),
            ("licence", facts.licence),
            ("contract", facts.spoken),
            ("capabilities", ", ".join(facts.capabilities) or "none"),
            ("runs", facts.isolation),
        ]
    known += [("digest", facts.digest), ("level", _level(facts))]
    text = aligned([(name, value or NOT_KNOWN) for name, value in known])
    if plugin is None:
        return f"{text}\n\nIt can't be used: {facts.problem}"
    return "\n".join([text, *_option_tables(facts)])


def _level(facts: DriverFacts) -> str:
    if not facts.levels:
        return f"not checked as it is now; try: nodelaunch driver check {facts.found.name}"
    return f"{facts.leveled}; when it was checked last"


def _option_tables(facts: DriverFacts) -> list[str]:
    """The driver's own options, by where they stand."""
    assert facts.plugin is not None  # noqa: S101  asked for by the caller
    tables = []
    for which, schema in schemas_of(facts.plugin.config_model).model_dump().items():
        rows = [tuple(asdict(option).values()) for option in options_in(schema)]
        if rows:
            cells = [("OPTION", "VALUE", "DEFAULT", "MEANING"), *rows]
            tables.append(f"\nOwn options of {MAPPINGS[which]}:\n{aligned(cells)}")
    return tables
