"""The documentation as a site: it is whole, it says what the pages say, and it asks for nothing from other hosts."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

pytest.importorskip("material", reason="needs the extra docs")

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))
COUNTED = ("h1", "h2", "h3", "h4", "li", "ol", "ul", "table", "tr", "td", "th", "pre", "img", "strong", "em")
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src"}
LOADED_RELATIONS = {"stylesheet", "icon", "preload", "prefetch", "modulepreload", "preconnect", "dns-prefetch"}
ELSEWHERE = re.compile(r"(?:https?:)?//")


def built(project: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder))
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = built(ROOT, folder)
    assert done.returncode == 0, done.stderr
    return folder


class Article(HTMLParser):
    """Content of a page's article, or of a whole text without one: its words, and the number of elements of each
    kind.
    """

    def __init__(self, *, is_whole: bool) -> None:
        super().__init__()
        self.elements: Counter[str] = Counter()
        self.text: list[str] = []
        self.loaded: list[str] = []
        self._is_inside = self._is_whole = is_whole
        self._is_permalink = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        facts = {name: value or "" for name, value in attrs}
        self._look_at_what_is_loaded(tag, facts)
        self._is_inside |= tag == "article"
        self._is_permalink = facts.get("class") == "headerlink"
        if self._is_inside and tag in COUNTED:
            self.elements[tag] += 1

    def handle_endtag(self, tag: str) -> None:
        self._is_inside &= self._is_whole or tag != "article"
        self._is_permalink &= tag != "a"

    def handle_data(self, data: str) -> None:
        if self._is_inside and not self._is_permalink:
            self.text += data.split()

    def _look_at_what_is_loaded(self, tag: str, facts: dict[str, str]) -> None:
        if tag == "link" and LOADED_RELATIONS & set(facts.get("rel", "").split()):
            self.loaded.append(facts.get("href", ""))
        self.loaded += [value for name, value in facts.items() if LOADED.get(tag) == name or name == "srcset"]
        self.loaded += re.findall(r"url\(['\"]?([^'\")]+)", facts.get("style", ""))


def read(html: str, *, is_whole: bool = False) -> Article:
    article = Article(is_whole=is_whole)
    article.feed(html)
    return article


@pytest.mark.parametrize("page", PAGES)
def test_page_is_shown_as_commonmark_has_it(page: str, site: Path) -> None:
    shown = read((site / page).with_suffix(".html").read_text())
    meant = read(MarkdownIt("commonmark").enable("table").render((DOCS / page).read_text()), is_whole=True)
    assert "".join(shown.text) == "".join(meant.text)
    assert shown.elements == meant.elements


def test_nothing_is_loaded_from_other_hosts(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    loaded = {target for page in pages for target in read(page.read_text()).loaded}
    assert len(pages) > len(PAGES)
    assert loaded
    assert not [target for target in loaded if ELSEWHERE.match(target)]


def test_styles_load_nothing_from_other_hosts(site: Path) -> None:
    styles = [sheet.read_text() for sheet in site.rglob("*.css")]
    assert styles
    loaded = [target for style in styles for target in re.findall(r"(?:url\(|@import )['\"]?([^'\")]+)", style)]
    assert not [target for target in loaded if ELSEWHERE.match(target)]


def test_no_page_has_what_makes_the_theme_load_a_script(site: Path) -> None:
    """The theme loads the diagrams' library, and the figures of a repository, from other hosts if a page has such
    content.
    """
    for page in site.rglob("*.html"):
        assert not re.search(r'class="mermaid"|data-md-component="source"', page.read_text()), page


def test_files_outside_of_docs_are_pages(site: Path) -> None:
    assert "../repository/examples/openstack.yaml.html" in (site / "drivers" / "openstack.html").read_text()
    assert "max-servers" in (site / "repository" / "examples" / "minimal.yaml.html").read_text()
    assert "../security.html" in (site / "repository" / "CONTRIBUTING.html").read_text()


def test_search_finds_a_reason(site: Path) -> None:
    assert "max-concurrency" in (site / "search" / "search_index.json").read_text()


def test_there_is_light_and_dark(site: Path) -> None:
    page = (site / "index.html").read_text()
    assert 'data-md-color-scheme="default"' in page
    assert 'data-md-color-scheme="slate"' in page


BROKEN = {
    "[there](nowhere.md)": "link 'nowhere.md'",
    "[there](../examples/nowhere.yaml)": "link '../examples/nowhere.yaml'",
    "[there](configuration.md#nowhere)": "link 'configuration.md#nowhere'",
    "[here](#nowhere)": "link '#nowhere'",
    "![there](images/nowhere.png)": "link 'images/nowhere.png'",
    "[there](/index.md)": "absolute link '/index.md'",
}


def test_links_that_lead_nowhere_and_pages_left_out_fail_the_build(tmp_path: Path) -> None:
    project = copied(tmp_path)
    page = project / "docs" / "deployment.md"
    page.write_text("\n\n".join((page.read_text(), *BROKEN)))
    (project / "docs" / "forgotten.md").write_text("# Forgotten\n")
    done = built(project, tmp_path / "site")
    assert done.returncode != 0
    warnings = "".join(re.findall(r"^WARNING +- .*\n(?:  - .*\n)*", done.stderr, re.MULTILINE))
    assert not [complaint for complaint in (*BROKEN.values(), "  - forgotten.md") if complaint not in warnings]


def copied(folder: Path) -> Path:
    project = folder / "project"
    for name in ("docs", "examples"):
        shutil.copytree(ROOT / name, project / name)
    for name in ("mkdocs.yml", "CHANGELOG.md", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, project / name)
    return project
