"""``nodelaunch`` that stops itself by SIGSTOP: ``python stopped.py create serve -c ...``.

It stops right before its first create, or delete, reaches the fake cloud, long after it looked at its lock. With
``delete`` no instance of its ever answers, so that it deletes one.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from nodelaunch.cli.main import main
from nodelaunch.drivers.fake.cloud import FakeCloud
from nodelaunch.drivers.fake.driver import FakeDriver
from nodelaunch.errors import LaunchFailedError


def stop_before(name: str) -> None:
    call, calls = getattr(FakeCloud, name), list[str]()

    def stopping(*args: Any, **more: Any) -> Any:
        calls.append(name)
        if len(calls) == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        return call(*args, **more)

    setattr(FakeCloud, name, stopping)


async def wait_in_vain(_driver: FakeDriver, external_id: str) -> None:
    raise LaunchFailedError("it does not answer", external_id=external_id)


if __name__ == "__main__":
    late = sys.argv.pop(1)
    stop_before(late)
    if late == "delete":
        FakeDriver.wait_until_active = wait_in_vain  # type: ignore[method-assign, assignment]
    sys.exit(main())
