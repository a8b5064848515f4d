"""``nodelaunch driver``: lists drivers, and shows the details of one."""

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
"""The number of characters of a digest that the list shows."""
NOT_KNOWN = "-"
MAPPINGS = {"provider": "a provider", "pool": "a pool", "label": "a label"}


app: App = App(name="driver", group_parameters=OPTIONS, help="List, check, install, remove and create drivers.")
app.command(drivercheck.check)
app.command(driverinstall.install)
app.command(driverinstall.remove)
app.command(drivernew.new)


@app.command(name="list")
def list_drivers(*, home: driverinstall.Home = None, as_json: AsJson = False) -> None:
    """List all drivers on this machine; executables are started to get their details.

    LEVEL is the result of the last check of this digest, for each isolation in which the driver was checked.
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
    name: Annotated[str, Parameter(help="Name of a driver, or path of its executable.", metavar="NAME")],
    /,
    *,
    home: driverinstall.Home = None,
    as_json: AsJson = False,
) -> int:
    """Show the details of one driver and its options.

    Exit code: 1 the driver can't be used.
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
    """Return a driver's row of the list; None: not known."""
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
        return f"{text}\n\nThe driver can't be used: {facts.problem}"
    return "\n".join([text, *_option_tables(facts)])


def _level(facts: DriverFacts) -> str:
    if not facts.levels:
        return f"this version is not checked; run: nodelaunch driver check {facts.found.name}"
    return f"{facts.leveled}, at the last check"


def _option_tables(facts: DriverFacts) -> list[str]:
    """Return a table of the driver's own options for each mapping: provider, pool and label."""
    assert facts.plugin is not None  # noqa: S101  asked for by the caller
    tables = []
    for which, schema in schemas_of(facts.plugin.config_model).model_dump().items():
        rows = [tuple(asdict(option).values()) for option in options_in(schema)]
        if rows:
            cells = [("OPTION", "VALUE", "DEFAULT", "MEANING"), *rows]
            tables.append(f"\nOptions of the driver in {MAPPINGS[which]}:\n{aligned(cells)}")
    return tables
