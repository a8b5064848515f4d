"""The ``nodelaunch`` command: puts the subcommands together.

A command's module is imported only where that command is asked for, so that ``nodelaunch serve`` holds nothing in
memory that only others need.
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
    """Where a command is, as ``module:attribute`` below this package; its help; what is logged by default."""

    target: str
    about: str
    log_level: LogLevel = "warning"
    runs_drivers: bool = False
    """They may log by themselves."""


COMMANDS: Final = {
    "serve": Subcommand("serve:serve", "Answer node requests, in the foreground.", "info", runs_drivers=True),
    "request": Subcommand("request:request", "Ask for nodes, print them, give them back."),
    "list": Subcommand("lists:list_nodes", "Show nodes."),
    "request-list": Subcommand("lists:list_requests", "Show node requests."),
    "label-list": Subcommand("lists:list_labels", "Show the labels that registered pools offer."),
    "image-list": Subcommand("lists:list_images", "Show which images are uploaded to which providers."),
    "dib-image-list": Subcommand("lists:list_dib_images", "Show images that builders have built, or are building."),
    "image-status": Subcommand("lists:list_image_status", "Show which images are paused, or are to be built."),
    "hold": Subcommand("operate:hold", "Keep a node from being used or deleted."),
    "unhold": Subcommand("operate:unhold", "End a hold."),
    "delete": Subcommand("operate:delete", "Have a node deleted."),
    "info": Subcommand("operate:info", "Show the images and nodes of a provider."),
    "erase": Subcommand("operate:erase", "Remove the records of a provider that is no more."),
    "status": Subcommand("status:status", "Show launchers, pools, what waits and what is paused."),
    "top": Subcommand("top:top", "Show pools, what waits, launches and failures, live."),
    "pause": Subcommand("pausing:pause", "Keep a provider, a pool or a launcher from taking requests."),
    "drain": Subcommand("pausing:drain", "Pause, and delete ready nodes that nobody has."),
    "resume": Subcommand("pausing:resume", "End a pause or a drain."),
    "leaks": Subcommand(
        "leaks:leaks", "Show what is in the clouds but belongs to no node; deletes nothing.", runs_drivers=True
    ),
    "explain": Subcommand("explain:explain", "Say why a node request is where it is."),
    "config": Subcommand("config:app", "Look at a configuration.", runs_drivers=True),
    "driver": Subcommand("driver:app", "Look at drivers, check, install and remove them.", "error", runs_drivers=True),
    "demo": Subcommand(
        "demo:demo", "Show the main job on this machine; needs nothing else.", "error", runs_drivers=True
    ),
    "fake-cloud": Subcommand("fakecloud:app", "Look at a fake cloud in a file, change it, break it."),
}

FAKE_CLOUD_VERBS: Final = ("show", "set", "fail", "heal", "add-instance", "remove-instance", "set-state", "log")


def make_app(asked: str | None = None) -> App:
    """The command line as a whole; its ``meta`` takes the options of every command out first.

    *asked*: the command whose own help is shown in full, not the line that the list of commands has.
    """
    app = App(
        name="nodelaunch",
        help="Answers node requests with machines of any provider.",
        help_format="plaintext" if asked is None else "markdown",  # which breaks lines anew, and takes longer
        version=f"nodelaunch {__version__}",
        config=Env("NODELAUNCH_", show=False),
        default_parameter=Parameter(negative=()),
        group_parameters=OPTIONS,
        help_epilogue="Options can also be set in the environment: NODELAUNCH_CONFIG for --config, "
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
    """``fake-cloud FILE VERB``, as it used to be, is taken like ``fake-cloud VERB FILE``."""
    if tokens[:1] != ("fake-cloud",):
        return tokens
    rest = list(tokens[1:])
    verb = next((token for token in rest if token in FAKE_CLOUD_VERBS), None)
    if verb is not None:
        rest.remove(verb)
        rest.insert(0, verb)
    return [tokens[0], *rest]


def _command_in(tokens: Sequence[str]) -> str | None:
    """The first that is the name of a command; no value of an option before it is one."""
    return next((token for token in tokens if token in COMMANDS), None)


def _configure_log(options: CommonOptions, tokens: Sequence[str]) -> None:
    name = _command_in(tokens)
    command = COMMANDS[name] if name else Subcommand("", "")
    level = options.log_level or command.log_level
    log.configure(level=level, as_json=options.log_json, is_late=not command.runs_drivers)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code. As process 1 it does what is asked of one besides."""
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
