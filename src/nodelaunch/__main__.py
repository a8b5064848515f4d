"""``python -m nodelaunch``: the same as the ``nodelaunch`` command."""

import sys

from nodelaunch.cli.main import main

sys.exit(main())
