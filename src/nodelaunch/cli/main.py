"""The ``nodelaunch`` command: combines the subcommands.

A command's module is imported only when that command runs, so that ``nodelaunch serve`` holds no module in memory that
only other commands need.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, Final, NamedTuple

from cyclopts import App, CycloptsError, Group, Parameter
from cyclopts.config import Env

from nodelaunch import __version__, log
from nodelaunch.cli.init import is_first_process, run_as_child
from nodelaunch.cli.session import OPTIONS, CliSession, CommonOptions, LogLevel
from nodelaunch.errors import ConfigError, NodelaunchError

OK, FAILED, USAGE, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143


class Subcommand(NamedTuple):
    """A command: its place as ``module:attribute`` below this package, its help and its default log level."""

    target: str
    about: str
    log_level: LogLevel = "warning"
    runs_drivers: bool = False
    """True if the command runs drivers, whose code may log."""


COMMANDS: Final = {
    "serve": Subcommand("serve:serve", "Answer node requests, in the foreground.", "info", runs_drivers=True),
    "request": Subcommand("request:request", "Request nodes, print them, return them."),
    "list": Subcommand("lists:list_nodes", "List nodes."),
    "request-list": Subcommand("lists:list_requests", "List node requests."),
    "label-list": Subcommand("lists:list_labels", "List the labels that registered pools offer."),
    "image-list": Subcommand("lists:list_images", "List the images that are uploaded to providers."),
    "dib-image-list": Subcommand("lists:list_dib_images", "List the images that builders have built or are building."),
    "image-status": Subcommand(
        "lists:list_image_status", "Show which images are paused, and which have a build requested."
    ),
    "hold": Subcommand("operate:hold", "Keep a node from being used or deleted."),
    "unhold": Subcommand("operate:unhold", "End a hold."),
    "delete": Subcommand("operate:delete", "Delete a node."),
    "info": Subcommand("operate:info", "Show the images and nodes of a provider."),
    "erase": Subcommand("operate:erase", "Remove the records of a provider that no longer exists."),
    "status": Subcommand("status:status", "Show launchers, pools, waiting requests and pauses."),
    "top": Subcommand("top:top", "Show pools, waiting requests, launches and failures, live."),
    "pause": Subcommand("pausing:pause", "Stop a provider, a pool or a launcher from taking requests."),
    "drain": Subcommand("pausing:drain", "Pause, and delete ready nodes that are not in use."),
    "resume": Subcommand("pausing:resume", "End a pause or a drain."),
    "leaks": Subcommand(
        "leaks:leaks", "List leaked resources: resources in the clouds that belong to no node.", runs_drivers=True
    ),
    "explain": Subcommand(
        "explain:explain", "Say why a request waits, what a node is used for, or which pools offer a label."
    ),
    "config": Subcommand("config:app", "Check, compare and migrate configurations.", runs_drivers=True),
    "driver": Subcommand("driver:app", "List, check, install, remove and create drivers.", "error", runs_drivers=True),
    "demo": Subcommand(
        "demo:demo", "Serve node requests with a fake cloud on this machine.", "error", runs_drivers=True
    ),
    "fake-cloud": Subcommand("fakecloud:app", "Show and change a fake cloud in a file, inject faults."),
}

FAKE_CLOUD_VERBS: Final = ("show", "set", "fail", "heal", "add-instance", "remove-instance", "set-state", "log")


def make_app(asked: str | None = None) -> App:
    """Return the complete command line; its ``meta`` parses the options of every command first.

    *asked*: the command whose full help is shown, instead of its line in the list of commands.
    """
    app = App(
        name="nodelaunch",
        help="Answers node requests with machines of any provider.",
        help_format="plaintext" if asked is None else "markdown",  # which breaks lines anew, and takes longer
        version=f"nodelaunch {__version__}",
        config=Env("NODELAUNCH_", show=False),
        default_parameter=Parameter(negative=()),
        group_parameters=OPTIONS,
        help_epilogue="Environment variables can set options too: NODELAUNCH_CONFIG for --config, "
        "NODELAUNCH_SERVE_DRAIN_TIMEOUT for --drain-timeout of serve.",
        print_error=False,
        exit_on_error=False,
        suppress_keyboard_interrupt=False,
        result_action="return_value",
    )
    for name, command in COMMANDS.items():
        is_family = command.target.endswith(":app")
        settings: dict[str, Any] = {} if is_family else {"group_parameters": OPTIONS}
        app.command(
            f"nodelaunch.cli.{command.target}", name=name, help=None if name == asked else command.about, **settings
        )
    app.meta.config = (lambda *_arguments: None,)  # its options name their variables themselves
    app.meta.group_parameters = Group("Options of every command", sort_key=1)

    @app.meta.default
    def dispatch(
        *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
        options: CommonOptions | None = None,
    ) -> int:
        command, bound, unparsed = app.parse_args(_verb_first(tokens))
        session = CliSession(options or CommonOptions())
        _configure_log(session.options, tokens)
        try:
            result: Any = command(*bound.args, **bound.kwargs, **dict.fromkeys(unparsed, session))
            if inspect.iscoroutine(result):
                result = asyncio.run(result)
        except ConfigError as error:
            session.complain(*map(session.hinted, error.problems))
            return USAGE
        except NodelaunchError as error:
            session.complain(f"nodelaunch: {error}")
            return FAILED
        return result if isinstance(result, int) else OK

    return app


def _verb_first(tokens: Sequence[str]) -> Sequence[str]:
    """Turn ``fake-cloud FILE VERB``, the former order, into ``fake-cloud VERB FILE``."""
    if tokens[:1] != ("fake-cloud",):
        return tokens
    rest = list(tokens[1:])
    verb = next((token for token in rest if token in FAKE_CLOUD_VERBS), None)
    if verb is not None:
        rest.remove(verb)
        rest.insert(0, verb)
    return [tokens[0], *rest]


def _command_in(tokens: Sequence[str]) -> str | None:
    """Return the first token that names a command; values of options before it don't count."""
    return next((token for token in tokens if token in COMMANDS), None)


def _configure_log(options: CommonOptions, tokens: Sequence[str]) -> None:
    name = _command_in(tokens)
    command = COMMANDS[name] if name else Subcommand("", "")
    level = options.log_level or command.log_level
    log.configure(level=level, as_json=options.log_json, is_late=not command.runs_drivers)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; as process 1, also do the duties of an init process."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    return run_as_child(partial(_main, given)) if is_first_process() else _main(given)


def _main(given: Sequence[str]) -> int:
    run: Callable[..., Any] = make_app(_command_in(given)).meta
    try:
        code: Any = run(given)
    except CycloptsError as error:
        print(f"nodelaunch: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201
        return USAGE
    except KeyboardInterrupt:
        return INTERRUPTED
    except asyncio.CancelledError:
        return TERMINATED
    return code if isinstance(code, int) else OK
