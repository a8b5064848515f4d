"""``nodelaunch fake-cloud``: shows and changes a fake cloud in a file, and injects faults into it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from nodelaunch.cli.common import say, say_json
from nodelaunch.cli.session import OPTIONS, AsJson
from nodelaunch.drivers.fake.cloud import FLAVORS, IMAGES, ZONES, FakeCloud
from nodelaunch.drivers.fake.controls import FAULT_KINDS, FAULTS, SETTINGS, CloudRefusedError
from nodelaunch.drivers.fake.ledger import FakeServer
from nodelaunch.errors import NodelaunchError
from nodelaunch.protocol.quota import INSTANCES

PATIENCE_S = 10.0
"""The time to wait for a launcher that is writing the file."""
app: App = App(
    name="fake-cloud", group_parameters=OPTIONS, help="Show and change a fake cloud in a file, inject faults."
)
CloudFile = Annotated[Path, Parameter(help="The provider's cloud-file.", metavar="FILE")]
Create = Annotated[bool, Parameter(help="Create the file if it does not exist.")]
InstanceId = Annotated[str, Parameter(metavar="ID")]
_SETTINGS_HELP = "; ".join(f"{name}: {meaning}" for name, (_, meaning) in SETTINGS.items())
_FAULTS_HELP = "; ".join(f"{call}: {', '.join(kinds)}" for call, kinds in FAULTS.items())


def _one_of(names: Collection[str]) -> Callable[[object, str | None], None]:
    def check(_type: object, name: str | None) -> None:
        if name is not None and name not in names:
            raise ValueError(f"{name!r} is none of {', '.join(sorted(names))}")

    return check


def _pairs(_type: object, texts: Sequence[str] | None) -> None:
    for text in texts or ():
        key, equals, _ = text.partition("=")
        if not (key and equals):
            raise ValueError(f"{text!r} is not KEY=VALUE")


def _split(texts: Sequence[str]) -> dict[str, str]:
    return {key: value for key, _, value in (text.partition("=") for text in texts)}


@contextmanager
def _cloud(path: Path, *, create: bool) -> Iterator[FakeCloud]:
    """Open the cloud in the file; its errors and invalid values become errors with a readable message."""
    if not create and not path.exists():
        raise NodelaunchError(
            f"{path}: there is no fake cloud; a launcher creates it at its provider's cloud-file, and so does --create"
        )
    cloud = FakeCloud(path, patience_s=PATIENCE_S)
    try:
        yield cloud
    except (CloudRefusedError, ValueError) as error:
        raise NodelaunchError(str(error)) from None
    finally:
        cloud.close()


@app.command
def show(file: CloudFile, /, *, as_json: AsJson = False, create: Create = False) -> None:
    """Show instances, the quota they use, settings, and pending faults."""
    with _cloud(file, create=create) as cloud:
        servers, used, settings, faults = cloud.servers(), cloud.used(), cloud.settings(), cloud.faults()
    if as_json:
        flavors = {name: dict(flavor) for name, flavor in FLAVORS.items()}
        say_json({
            "instances": [_as_json(server) for server in servers], "used": used, "settings": settings,
            "faults": faults, "flavors": flavors, "zones": list(ZONES), "images": IMAGES,
        })  # fmt: skip
        return
    for server in servers:
        say(f"{server.id}  {server.name}  {server.state}  {server.zone}  {_age(server)}")
    say(f"{len(servers)} instances" + _rest(used))
    for name, value in settings.items():
        say(f"set: {name}={','.join(value) if isinstance(value, list) else json.dumps(value)}")
    for fault in faults:
        say(f"pending: {_fault_text(fault)}")


def _as_json(server: FakeServer) -> dict[str, Any]:
    return {
        "id": server.id, "name": server.name, "state": server.state, "flavor": server.flavor, "image": server.image,
        "zone": server.zone, "created_at": server.created_at, "metadata": dict(server.metadata),
        "resources": dict(server.resources), "addresses": dict(server.addresses), "details": dict(server.details),
    }  # fmt: skip


def _age(server: FakeServer) -> str:
    return f"{max(0.0, time.time() - server.created_at):.0f} s old"


def _rest(used: dict[str, float]) -> str:
    return "".join(f", {amount:.15g} {name}" for name, amount in used.items() if name != INSTANCES)


def _fault_text(fault: dict[str, Any]) -> str:
    left = (
        ""
        if not fault["leaves"]
        else " and leaves its instance"
        if fault["names"]
        else " and leaves its instance without its id"
    )
    times = "once" if fault["times"] == 1 else f"{fault['times']} times"
    return f"{fault['call']} fails ({fault['kind']}){left}, {times}"


@app.command(name="set", help=f"Override the configuration; KEY= removes an override. Keys: {_SETTINGS_HELP}.")
def set_(
    file: CloudFile,
    settings: Annotated[list[str], Parameter(metavar="KEY=VALUE", validator=_pairs)],
    /,
    *,
    create: Create = False,
) -> None:
    with _cloud(file, create=create) as cloud:
        cloud.update({name: value or None for name, value in _split(settings).items()})


@app.command(help=f"Make the next calls fail. Calls and their kinds of failure: {_FAULTS_HELP}.")
def fail(
    file: CloudFile,
    call: Annotated[str, Parameter(metavar="CALL", validator=_one_of(FAULTS))],
    /,
    *,
    times: Annotated[int, Parameter(help="Number of calls.", metavar="N")] = 1,
    kind: Annotated[
        str | None, Parameter(help="Kind of failure; default: the call's first kind.", validator=_one_of(FAULT_KINDS))
    ] = None,
    leave_instance: Annotated[bool, Parameter(help="A failed create leaves its instance.")] = False,
    without_id: Annotated[bool, Parameter(help="With --leave-instance: the error has no instance id.")] = False,
    create: Create = False,
) -> None:
    if without_id and not leave_instance:
        raise NodelaunchError("--without-id needs --leave-instance")
    with _cloud(file, create=create) as cloud:
        cloud.fail(call, kind=kind, times=times, leave=leave_instance, with_id=not without_id)


@app.command
def heal(file: CloudFile, /, *, create: Create = False) -> None:
    """Remove all pending faults."""
    with _cloud(file, create=create) as cloud:
        cloud.clear_faults()


@app.command
def add_instance(
    file: CloudFile,
    /,
    *,
    metadata: Annotated[list[str] | None, Parameter(metavar="KEY=VALUE", validator=_pairs)] = None,
    flavor: Annotated[str, Parameter(validator=_one_of(FLAVORS))] = min(FLAVORS),
    create: Create = False,
) -> None:
    """Create an instance that belongs to no launcher, and print its id."""
    with _cloud(file, create=create) as cloud:
        say(cloud.add(metadata=_split(metadata or ()), flavor=flavor))


@app.command
def remove_instance(file: CloudFile, instance_id: InstanceId, /, *, create: Create = False) -> None:
    """Remove an instance."""
    with _cloud(file, create=create) as cloud:
        found = cloud.remove(instance_id)
    _check_found(instance_id, found=found)


@app.command
def set_state(
    file: CloudFile, instance_id: InstanceId, state: Literal["active", "error"], /, *, create: Create = False
) -> None:
    """Set an instance's state: active or error."""
    with _cloud(file, create=create) as cloud:
        found = cloud.set_state(instance_id, state)
    _check_found(instance_id, found=found)


def _check_found(instance_id: str, *, found: bool) -> None:
    if not found:
        raise NodelaunchError(f"no instance {instance_id}")


@app.command(name="log")
def log_(file: CloudFile, /, *, create: Create = False) -> None:
    """Print all events, one JSON object per line."""
    with _cloud(file, create=create) as cloud:
        entries = cloud.log()
    for entry in entries:
        say(json.dumps(entry))
