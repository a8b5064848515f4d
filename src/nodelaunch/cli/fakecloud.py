"""``nodelaunch fake-cloud FILE``: look at a fake cloud that lives in a file, change it, break it."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nodelaunch.cli.common import say, say_json
from nodelaunch.drivers.fake.cloud import FLAVORS, IMAGES, ZONES, FakeCloud
from nodelaunch.drivers.fake.controls import FAULT_KINDS, FAULTS, SETTINGS, CloudRefusedError
from nodelaunch.drivers.fake.ledger import Server
from nodelaunch.errors import NodelaunchError
from nodelaunch.protocol.quota import INSTANCES

PATIENCE_S = 10.0
"""How long a launcher that is just writing is waited for."""
_SETTINGS_HELP = "\n".join(f"  {name:<15} {meaning}" for name, (_, meaning) in SETTINGS.items())
_FAULTS_HELP = "\n".join(f"  {call:<8} {', '.join(kinds)}" for call, kinds in FAULTS.items())
Run = Callable[[argparse.Namespace], int]


def add_arguments(family: argparse.ArgumentParser) -> None:
    family.add_argument("file", metavar="FILE", help="the provider's cloud-file")
    family.add_argument("--create", action="store_true", help="make the file if it isn't there, before any launcher")
    verbs = family.add_subparsers(dest="verb", metavar="VERB", required=True)

    def verb(name: str, run: Run, text: str, epilog: str | None = None) -> argparse.ArgumentParser:
        formatter = argparse.RawDescriptionHelpFormatter
        parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, epilog=epilog, formatter_class=formatter)
        parser.set_defaults(run=run, default_log_level="warning")
        return parser

    show = verb("show", run_show, "instances, what they take, settings, faults to come")
    show.add_argument("--json", action="store_true")
    change = verb("set", run_set, "override the configuration; KEY= gives a setting back to it", _SETTINGS_HELP)
    change.add_argument("settings", nargs="+", metavar="KEY=VALUE", type=_pair)
    _add_fail(verb("fail", run_fail, "let the next calls fail", f"calls and how they can fail:\n{_FAULTS_HELP}"))
    verb("heal", run_heal, "forget the faults still to come")
    add = verb("add-instance", run_add, "make an instance as somebody else would; prints its id")
    add.add_argument("--metadata", action="append", default=[], metavar="KEY=VALUE", type=_pair)
    add.add_argument("--flavor", choices=sorted(FLAVORS), default=min(FLAVORS))
    remove = verb("remove-instance", run_remove, "let an instance vanish")
    remove.add_argument("id", metavar="ID")
    state = verb("set-state", run_set_state, "let an instance be active, or in error")
    state.add_argument("id", metavar="ID")
    state.add_argument("state", choices=("active", "error"))
    verb("log", run_log, "everything that happened, one JSON object a line")


def _add_fail(fail: argparse.ArgumentParser) -> None:
    fail.add_argument("call", choices=sorted(FAULTS))
    fail.add_argument("--times", type=int, default=1, metavar="N", help="how many calls (default: 1)")
    fail.add_argument("--kind", choices=FAULT_KINDS, help="how; default: the first of the call's kinds below")
    fail.add_argument("--leave-instance", action="store_true", help="a failed create leaves its instance")
    fail.add_argument("--without-id", action="store_true", help="... and its error doesn't tell which")


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value


@contextmanager
def _cloud(args: argparse.Namespace) -> Iterator[FakeCloud]:
    """The cloud in the file; its refusals, and values it can't take, as errors for people."""
    path = Path(args.file)
    if not args.create and not path.exists():
        raise NodelaunchError(
            f"{path}: there is no fake cloud; a launcher makes it, at its provider's cloud-file, or --create does"
        )
    cloud = FakeCloud(path, patience_s=PATIENCE_S)
    try:
        yield cloud
    except (CloudRefusedError, ValueError) as error:
        raise NodelaunchError(str(error)) from None
    finally:
        cloud.close()


def run_show(args: argparse.Namespace) -> int:
    with _cloud(args) as cloud:
        servers, used, settings, faults = cloud.servers(), cloud.used(), cloud.settings(), cloud.faults()
    if args.json:
        flavors = {name: dict(flavor) for name, flavor in FLAVORS.items()}
        say_json({
            "instances": [_as_json(server) for server in servers], "used": used, "settings": settings,
            "faults": faults, "flavors": flavors, "zones": list(ZONES), "images": IMAGES,
        })  # fmt: skip
        return 0
    for server in servers:
        say(f"{server.id}  {server.name}  {server.state}  {server.zone}  {_age(server)}")
    say(f"{len(servers)} instances" + _rest(used))
    for name, value in settings.items():
        say(f"set: {name}={','.join(value) if isinstance(value, list) else json.dumps(value)}")
    for fault in faults:
        say(f"to come: {_fault_text(fault)}")
    return 0


def _as_json(server: Server) -> dict[str, Any]:
    return {
        "id": server.id, "name": server.name, "state": server.state, "flavor": server.flavor, "image": server.image,
        "zone": server.zone, "created_at": server.created_at, "metadata": dict(server.metadata),
        "resources": dict(server.resources), "addresses": dict(server.addresses), "details": dict(server.details),
    }  # fmt: skip


def _age(server: Server) -> str:
    return f"{max(0.0, time.time() - server.created_at):.0f} s old"


def _rest(used: dict[str, float]) -> str:
    return "".join(f", {amount:g} {name}" for name, amount in used.items() if name != INSTANCES)


def _fault_text(fault: dict[str, Any]) -> str:
    left = "" if not fault["leaves"] else " and leaves its instance" if fault["names"] else " and leaves it, unnamed"
    times = "once" if fault["times"] == 1 else f"{fault['times']} times"
    return f"{fault['call']} fails ({fault['kind']}){left}, {times}"


def run_set(args: argparse.Namespace) -> int:
    settings: Sequence[tuple[str, str]] = args.settings
    with _cloud(args) as cloud:
        cloud.update({name: value or None for name, value in settings})
    return 0


def run_fail(args: argparse.Namespace) -> int:
    if args.without_id and not args.leave_instance:
        raise NodelaunchError("--without-id goes with --leave-instance")
    with _cloud(args) as cloud:
        cloud.fail(
            args.call, kind=args.kind, times=args.times, leave=args.leave_instance, with_id=not args.without_id
        )  # fmt: skip
    return 0


def run_heal(args: argparse.Namespace) -> int:
    with _cloud(args) as cloud:
        cloud.clear_faults()
    return 0


def run_add(args: argparse.Namespace) -> int:
    with _cloud(args) as cloud:
        say(cloud.add(metadata=dict(args.metadata), flavor=args.flavor))
    return 0


def run_remove(args: argparse.Namespace) -> int:
    with _cloud(args) as cloud:
        found = cloud.remove(args.id)
    return _say_found(args.id, found=found)


def run_set_state(args: argparse.Namespace) -> int:
    with _cloud(args) as cloud:
        found = cloud.set_state(args.id, args.state)
    return _say_found(args.id, found=found)


def _say_found(instance_id: str, *, found: bool) -> int:
    if not found:
        raise NodelaunchError(f"no instance {instance_id}")
    return 0


def run_log(args: argparse.Namespace) -> int:
    with _cloud(args) as cloud:
        entries = cloud.log()
    for entry in entries:
        say(json.dumps(entry))
    return 0
