"""Command lines, as pages show them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from nodelaunch.cli.main import make_app


def parsed(words: Sequence[str]) -> tuple[Callable[..., Any], inspect.BoundArguments]:
    """The function that ``nodelaunch`` *words* calls, and its arguments. Raises: CycloptsError where they are wrong."""
    app = make_app()
    _, outer, _ = app.meta.parse_args(list(words), exit_on_error=False)
    command, bound, _ = app.parse_args(outer.args, exit_on_error=False)
    return command, bound
