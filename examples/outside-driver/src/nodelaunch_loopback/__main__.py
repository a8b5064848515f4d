"""``nodelaunch-driver-loopback``: the driver as its own process."""

import sys

from nodelaunch.sdk import serve

from nodelaunch_loopback import PLUGIN


def main() -> int:
    return serve(PLUGIN)


if __name__ == "__main__":
    sys.exit(main())
