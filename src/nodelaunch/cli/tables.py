"""Tables on a terminal: columns as wide as their content, each row on one line, so that ``grep`` finds rows.

All tables of commands are made here. web/lists.py prints Nodepool's format with PrettyTable, as Nodepool does.
"""

from __future__ import annotations

from collections.abc import Sequence

from nodelaunch.errors import legible


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return *rows*, the first of them the heading, in aligned columns; control characters are made visible."""
    rows = [[legible(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def counted(count: int, thing: str) -> str:
    """Return a count with its noun, such as ``1 label`` or ``2 labels``."""
    return f"{count} {thing}{'' if count == 1 else 's'}"
