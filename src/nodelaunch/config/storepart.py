"""What a file that can't be read as a whole says of some of its keys.

A mistake in one part of a file need not keep a command from another part. Lines that are left out become empty, so that
positions stay. What does *not* belong here: which keys these are, and YAML.
"""

from __future__ import annotations

import re
from collections.abc import Collection

_KEY = re.compile(r"""["']?([\w-]+)["']?\s*:""")
_CONTINUES = (" ", "\t", "-", "#", "]", "}", "\r", "\n")
"""With which a line begins that belongs to the key above it."""


def part_of(text: str, keys: Collection[str]) -> str:
    """*text* with the blocks of the top-level *keys* only; nothing where it has none of them."""
    lines, is_kept, has_any = [], False, False
    for line in text.splitlines(keepends=True):
        if not line.startswith(_CONTINUES):
            found = _KEY.match(line)
            is_kept = found is not None and found[1] in keys
            has_any |= is_kept
        lines.append(line if is_kept else "\n")
    return "".join(lines) if has_any else ""


def mentions(text: str, keys: Collection[str]) -> bool:
    """Whether any of *keys* is somewhere in *text*, wherever that is."""
    return any(key in text for key in keys)
