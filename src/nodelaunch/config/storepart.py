"""Reads some top-level keys of a file that can't be read as a whole.

An error in one part of a file does not stop a command that needs another part. Lines that are left out become empty, so
that positions stay the same.
"""

from __future__ import annotations

import re
from collections.abc import Collection

_KEY = re.compile(r"""["']?([\w-]+)["']?\s*:""")
_CONTINUES = (" ", "\t", "-", "#", "]", "}", "\r", "\n")
"""The first characters of a line that belongs to the key above it."""


def part_of(text: str, keys: Collection[str]) -> str:
    """Return *text* with only the blocks of the top-level *keys*; empty if it has none of them."""
    lines, is_kept, has_any = [], False, False
    for line in text.splitlines(keepends=True):
        if not line.startswith(_CONTINUES):
            found = _KEY.match(line)
            is_kept = found is not None and found[1] in keys
            has_any |= is_kept
        lines.append(line if is_kept else "\n")
    return "".join(lines) if has_any else ""


def mentions(text: str, keys: Collection[str]) -> bool:
    """Return True if any of *keys* occurs in *text*, in any place."""
    return any(key in text for key in keys)
