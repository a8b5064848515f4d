"""Adapts docs/ to MkDocs, so that the pages are the same in the repository and on the site.

Files outside of docs/ to which a page links are pages of the site, too. Python-Markdown, which makes the pages, sees
lists and headings in fewer places than CommonMark does: they are brought into a form that both read alike. The tests of
the site compare.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).parents[1]
IN_NAVIGATION = ("CHANGELOG.md", "CONTRIBUTING.md")
LINK = re.compile(r"\]\((?P<path>[^)\s#:]+)(?P<rest>(?:#[^)\s]*)?)\)")
FENCE = re.compile(r"\s*```")
ITEM = re.compile(r"(?:[-*]|\d+\.) +(?=\S)")
INDENT = 4
LANGUAGES = {".py": "python", ".yaml": "yaml", ".json": "json", ".sh": "sh"}


def on_files(files: Files, config: Any) -> Files:
    for outer in sorted({*IN_NAVIGATION, *linked_from_pages()}):
        text = (ROOT / outer).read_text()
        if not outer.endswith(".md"):
            text = f"# {outer}\n\n```{LANGUAGES.get(Path(outer).suffix, '')}\n{text}```\n"
        level = InclusionLevel.INCLUDED if outer in IN_NAVIGATION else InclusionLevel.NOT_IN_NAV
        files.append(File.generated(config, page_of(outer), content=text, inclusion=level))
    return files


def on_page_markdown(markdown: str, page: Any, **_unused: Any) -> str:
    here = page.file.src_uri
    origin = here.removeprefix("repository/") if here.startswith("repository/") else f"docs/{here}"
    return spread(with_links(markdown, origin, here))


def linked_from_pages() -> set[str]:
    """Files of the repository outside of docs/, as paths from its root."""
    targets = {
        target_of(found["path"], page.relative_to(ROOT).as_posix())
        for page in (ROOT / "docs").rglob("*.md")
        for found in LINK.finditer(page.read_text())
    }
    return {target for target in targets if not target.startswith("docs/") and (ROOT / target).is_file()}


def target_of(link: str, origin: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(origin), link))


def page_of(outer: str) -> str:
    return f"repository/{outer}" if outer.endswith(".md") else f"repository/{outer}.md"


def with_links(markdown: str, origin: str, here: str) -> str:
    """*markdown* of the file *origin* in the repository, for the page *here* of the site."""

    def moved(found: re.Match[str]) -> str:
        target = target_of(found["path"], origin)
        if target.startswith("docs/"):
            on_site = target.removeprefix("docs/")
        elif (ROOT / target).is_file():
            on_site = page_of(target)
        else:
            return found[0]  # MkDocs reports it
        return f"]({posixpath.relpath(on_site, posixpath.dirname(here) or '.')}{found['rest']})"

    is_code, lines = False, []
    for line in markdown.split("\n"):
        is_code ^= bool(FENCE.match(line))
        lines.append(line if is_code else LINK.sub(moved, line))
    return "\n".join(lines)


def spread(markdown: str) -> str:
    """*markdown* with what belongs to an item of a list four spaces in, and blank lines before headings and items."""
    is_code, is_loose, width = False, False, 0
    lines: list[str] = []
    for line in markdown.split("\n"):
        item = None if is_code else ITEM.match(line)
        if not is_code and ((item and width and is_loose) or line.startswith("#")):
            lines.append("")
        if item:
            is_loose, width = bool(width) and is_loose, len(item[0])
        elif not line.strip():
            is_loose = bool(width)
        elif not line.startswith(" " * width):
            width = 0
        is_code ^= bool(FENCE.match(line))
        lines.append(" " * (INDENT - width) + line if width and line.strip() and not item else line)
    return "\n".join(lines)
