"""docs/cli.md, made from the command line itself: ``cd tests; python -m support.cli_page`` writes it again."""

from __future__ import annotations

import re
from pathlib import Path

from nodelaunch.cli.main import COMMANDS, make_app

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
HEAD = """# Commands

What `nodelaunch COMMAND --help` says, of all commands. Options of every command stand before or behind it.
"""
COMMON = re.compile(r"^\*\*Options of every command\*\*:\n\n(?:\* .*\n)+\n?", re.MULTILINE)
CONTENTS = re.compile(r"^## Table of Contents\n\n(?:- .*\n| +- .*\n)+\n", re.MULTILINE)
HOME = re.compile(r"(?<=default: )\S+(?=/nodelaunch/drivers)")
"""Default folder as the user who makes the page sees it."""
MODULE = re.compile(r"^(nodelaunch [a-z -]*?) -m \S+", re.MULTILINE)
"""Rest of ``python -m MODULE`` that cyclopts leaves in the usage of a command of a family."""


def page() -> str:
    app = make_app()
    for name, command in COMMANDS.items():
        if command.target.endswith(":app"):
            app[name].default_parameter = app.default_parameter  # which it inherits only where it is run
        else:
            app[name].help = None  # instead of the one line for lists: all that the command says of itself
    text = app.generate_docs(output_format="markdown", usage_name="nodelaunch")
    overview, first, details = CONTENTS.sub("", text).partition("\n## ")
    overview = overview.removeprefix("# nodelaunch\n").replace("* [", "- [").replace("* `", "- `")
    details = COMMON.sub("", first + details).replace("\n* ", "\n- ").replace(" *[default: False]*", "")
    details = MODULE.sub(r"\1", HOME.sub("~/.local/share", details))
    return HEAD + overview + details.rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
