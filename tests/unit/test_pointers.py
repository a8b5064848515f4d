"""Source files that documentation, docstrings and comments point at exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
POINTER = re.compile(r"(?<![\w/.<>*{}-])(?:[a-z_]\w*/)*[a-z_]\w*\.py\b(?!\.in\b)")
TOPS = ("src", "tests", "bench", "examples", "docs")
EXAMPLES = {"kept.py", "openstack/exceptions.py", "openstack/cloud/meta.py"}
"""Files of examples and of other projects."""


def test_every_pointer_names_a_file() -> None:
    sources = [f"/{path.relative_to(ROOT)}" for top in TOPS for path in (ROOT / top).rglob("*.py")]
    sources += [f"/{path.name}" for path in ROOT.glob("*.py")]
    texts = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "src").rglob("*.py")]
    dangling = [
        f"{text.relative_to(ROOT)}: {pointer}"
        for text in texts
        for pointer in POINTER.findall(text.read_text())
        if pointer not in EXAMPLES
        and not pointer.startswith("webpage/")
        and not any(source.endswith(f"/{pointer}") for source in sources)
    ]
    assert not dangling
