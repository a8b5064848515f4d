"""``nodelaunch`` that is killed at a given call to the cloud: ``python mortal.py before|after CALL ARGUMENTS...``

CALL is a method of the driver's client. *before*: the call is not made; *after*: it has had its effect, but its reply
is lost. Either way the process ends as by ``kill -9``.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from nodelaunch.cli.main import main
from nodelaunch.drivers.openstack.client import Client


def deadly(call: Callable[..., Any], when: str) -> Callable[..., Any]:
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        if when == "after":
            await call(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)

    return wrapper


if __name__ == "__main__":
    when, name = sys.argv[1:3]
    setattr(Client, name, deadly(getattr(Client, name), when))
    sys.exit(main(sys.argv[3:]))
