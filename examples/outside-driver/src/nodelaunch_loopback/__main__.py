"""``nodelaunch-driver-loopback``: the driver as a process of its own."""

import sys

from nodelaunch.sdk import serve

from nodelaunch_loopback import PLUGIN


def main() -> int:
    return serve(PLUGIN)


if __name__ == "__main__":
    sys.exit(main())
