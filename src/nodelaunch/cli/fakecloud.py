"""``nodelaunch fake-cloud FILE``: look at a fake cloud that lives in a file, change it, break it."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from nodelaunch.cli.common import say, say_json
from nodelaunch.drivers.fake.cloud import FAULT_CALLS, FAULT_KINDS, FakeCloud
from nodelaunch.errors import NodelaunchError

SETTINGS = (
    "boot-time", "delete-time", "failure-rate", "max-servers", "max-cores", "max-ram", "max-volumes", "missing-images",
)  # fmt: skip


def add_parser(commands: Any) -> None:
    family = commands.add_parser("fake-cloud", help="look at a fake cloud in a file, change it, break it")
    family.add_argument("file", metavar="FILE", help="the provider's cloud-file")
    verbs = family.add_subparsers(dest="verb", metavar="VERB", required=True)
    show = verbs.add_parser("show", help="instances, settings and faults to come")
    show.add_argument("--json", action="store_true")
    show.set_defaults(run=run_show)
    change = verbs.add_parser("set", help="override settings of the configuration: KEY=JSON, KEY= gives one back")
    change.add_argument("settings", nargs="+", metavar="KEY=VALUE", help=", ".join(SETTINGS))
    change.set_defaults(run=run_set)
    fail = verbs.add_parser("fail", help="let the next calls fail")
    fail.add_argument("call", choices=FAULT_CALLS)
    fail.add_argument("--times", type=int, default=1)
    fail.add_argument("--kind", choices=FAULT_KINDS, default="error")
    fail.add_argument("--leave-instance", action="store_true", help="a failed create leaves its instance behind")
    fail.set_defaults(run=run_fail)
    add = verbs.add_parser("add-instance", help="an instance of somebody else")
    add.add_argument("--metadata", action="append", default=[], metavar="KEY=VALUE")
    add.set_defaults(run=run_add)
    remove = verbs.add_parser("remove-instance", help="let an instance vanish")
    remove.add_argument("id", metavar="ID")
    remove.set_defaults(run=run_remove)
    verbs.add_parser("log", help="everything that happened, as JSON lines").set_defaults(run=run_log)


def _open(args: argparse.Namespace, *, must_exist: bool = True) -> FakeCloud:
    path = Path(args.file)
    if must_exist and not path.exists():
        raise NodelaunchError(f"{path}: there is no fake cloud; a launcher makes it, from its provider's cloud-file")
    return FakeCloud(path)


def run_show(args: argparse.Namespace) -> int:
    cloud = _open(args)
    instances = [{"id": s.id, "name": s.name, "state": s.state, "metadata": dict(s.metadata)} for s in cloud.servers()]
    if args.json:
        say_json({"instances": instances, "settings": cloud.settings(), "faults": cloud.faults()})
    else:
        for instance in instances:
            say(f"{instance['id']}  {instance['name']}  {instance['state']}")
        for name, value in cloud.settings().items():
            say(f"{name} = {json.dumps(value)}")
        for fault in cloud.faults():
            say(f"the next {fault['times']} calls of {fault['call']} fail ({fault['kind']})")
        say(f"{len(instances)} instances")
    cloud.close()
    return 0


def run_set(args: argparse.Namespace) -> int:
    cloud = _open(args, must_exist=False)
    for setting in args.settings:
        name, _, text = setting.partition("=")
        if name not in SETTINGS:
            raise NodelaunchError(f"no setting {name!r}; there are: {', '.join(SETTINGS)}")
        try:
            cloud.set(name, json.loads(text) if text else None)
        except ValueError:
            raise NodelaunchError(f"{name}: {text!r} is not a JSON value, such as 5 or 0.5") from None
    cloud.close()
    return 0


def run_fail(args: argparse.Namespace) -> int:
    cloud = _open(args, must_exist=False)
    cloud.fail(args.call, kind=args.kind, times=args.times, leave=args.leave_instance)
    cloud.close()
    return 0


def run_add(args: argparse.Namespace) -> int:
    cloud = _open(args, must_exist=False)
    metadata = dict(pair.partition("=")[::2] for pair in args.metadata)
    instance_id = cloud.create(
        now=time.time(), name="foreign", flavor="Fake Flavor", zone="az1", metadata=metadata,
        resources={"instances": 1, "cores": 4, "ram": 8192}, limits={}, boot_time=0, details={},
    )  # fmt: skip
    say(instance_id)
    cloud.close()
    return 0


def run_remove(args: argparse.Namespace) -> int:
    cloud = _open(args)
    is_there = cloud.server(args.id) is not None
    cloud.finish_delete(args.id, now=time.time())
    cloud.close()
    if not is_there:
        raise NodelaunchError(f"no instance {args.id}")
    return 0


def run_log(args: argparse.Namespace) -> int:
    cloud = _open(args)
    for entry in cloud.log():
        say(json.dumps(entry))
    cloud.close()
    return 0
