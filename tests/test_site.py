"""The site as it is built: strictly, with every page in the navigation, no broken link, a complete reference, and quiet browsers."""

from __future__ import annotations

import ast
import functools
import http.server
import inspect
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urlparse

import pytest

import diagnostics as dx
from tests.support.browser import NEEDS_CHROMIUM, open_browser

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / "mkdocs.yml").is_file(), reason="tests run without the docs beside them"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site: as `nox -s docs` has just built it, or built in a folder of its own, since zensical writes beside its configuration."""
    if built := os.environ.get("BUILT_SITE"):
        return Path(built)
    for package in ("zensical", "mkdocstrings"):
        pytest.importorskip(package, reason="the group `docs` is not installed; CI builds the docs with it")
    folder = tmp_path_factory.mktemp("docs")
    shutil.copy(ROOT / "mkdocs.yml", folder)
    shutil.copytree(DOCS, folder / "docs")  # it refuses pages that lie elsewhere
    for name in ("diagnostics", "plugins", "CHANGELOG.md"):
        (folder / name).symlink_to(ROOT / name)
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "site" / "index.html").is_file()
    return folder / "site"


class _Links(HTMLParser):
    """What a page refers to, and what can be referred to in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        self.targets += [given[name] for name in ("href", "src") if name in given]


def test_every_link_and_picture_leads_somewhere(site: Path) -> None:
    """Also what `--strict` lets pass: pictures, pages that the navigation names, and links in signatures."""
    pages = {page: _Links(page.read_text(encoding="utf-8")) for page in site.rglob("*.html") if page.name != "404.html"}
    broken: list[str] = []
    for page, links in pages.items():
        for link in links.targets:
            path, anchor = urldefrag(link)
            if urlparse(link).scheme or link.startswith("//"):
                continue
            target = (page.parent / unquote(path)).resolve() if path else page
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file() or (anchor and target in pages and unquote(anchor) not in pages[target].anchors):
                broken.append(f"{page.relative_to(site)}: {link}")
    assert not broken


def test_every_page_is_in_the_navigation() -> None:
    """But those that are read in the repository: what is for contributors, and the long text of studies."""
    every = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md") if page.name != "full.md"}
    named = re.findall(r"[\w/.-]+\.md\b", (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:")[1])
    assert set(named) == {page for page in every if not page.startswith("dev/")}


def test_every_page_begins_with_its_title_in_the_navigation(site: Path) -> None:
    named = re.findall(r"^ +- (.+): (\S+)\.md$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.M)
    for title, page in named:
        built = (site / page.removesuffix("/index") / "index.html").read_text(encoding="utf-8")
        titles = [text_of(found).removesuffix("¶") for found in re.findall(r"<h1.*?</h1>", built, re.S)]
        assert titles == [title], page


def test_the_site_names_the_version() -> None:
    assert f"copyright: diagnostics {dx.__version__} " in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")


def test_the_reference_shows_every_public_name_and_what_its_constructor_takes(site: Path) -> None:
    """Against the signatures that Python itself gives: names, types and defaults of all parameters, in the built pages."""
    # Each public object's part of its page: its heading of level 2 up to the next.
    parts: dict[str, str] = {}
    for page in (site / "reference").rglob("index.html"):
        for part in re.split(r"(?=<h2 )", page.read_text(encoding="utf-8"))[1:]:
            heading, _, body = part.partition("</h2>")
            if name := text_of(heading).removesuffix("¶").split():
                parts.setdefault(name[0], body)
    # `hookimpl` is a marker of pluggy's, the version a text.
    for name in set(dx.__all__) - {"__version__", "hookimpl"}:
        found = getattr(dx, name)
        assert name in parts, f"{name} is not in the reference"
        if isinstance(found, type) and "__init__" not in vars(found):
            continue  # errors, and what is only inherited from
        wanted = inspect.signature(found).parameters
        shown = re.search(r'<div class="[^"]*doc-signature[^"]*">(.*?)</div>', parts[name], re.S)
        assert shown, f"{name} has no signature in the reference"
        (function,) = ast.parse(f"def {text_of(shown[1])}: ...").body
        assert isinstance(function, ast.FunctionDef)
        assert function.name == name
        arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        assert [argument.arg for argument in arguments] == list(wanted), name
        assert all(argument.annotation is not None for argument in arguments), name
        count = len(function.args.defaults) + sum(default is not None for default in function.args.kw_defaults)
        assert count == sum(one.default is not one.empty for one in wanted.values()), name
    index = text_of((site / "reference" / "index.html").read_text(encoding="utf-8"))
    assert set(dx.__all__) <= set(re.findall(r"\w+", index))


def text_of(html: str) -> str:
    return unescape(re.sub(r"<[^>]+>", "", html)).strip()


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


CUT = """blocks => [...document.querySelectorAll(blocks)]
    .filter(code => code.scrollWidth > code.clientWidth + 1).map(code => code.innerText.slice(0, 60))"""
"""Blocks of which a part is only seen by scrolling."""


@pytest.mark.browser
@NEEDS_CHROMIUM
def test_browsers_show_every_page_without_error_scrolling_sideways_or_asking_elsewhere(
    site: Path, address: str
) -> None:
    """As wide as a narrow phone and as a laptop; every other page in light colours and in dark ones, which one script chooses for all."""
    schemes: tuple[tuple[Any, str], ...] = (("light", "default"), ("dark", "slate"))
    wrong: list[str] = []
    with open_browser() as browser:
        files = sorted(site.rglob("index.html"))
        for start, (scheme, named) in enumerate(schemes):
            page = browser.new_page(color_scheme=scheme)
            page.on("console", lambda message, page=page: wrong.append(f"{page.url}: {message.text}"))
            page.on("pageerror", lambda error, page=page: wrong.append(f"{page.url}: {error}"))
            page.on("request", lambda one: None if one.url.startswith((address, "data:")) else wrong.append(one.url))
            for i, file in enumerate(files[start :: len(schemes)]):
                # Loaded at one width, and then given the other.
                widths = (390, 1300) if i % 2 else (1300, 390)
                page.set_viewport_size({"width": widths[0], "height": 900})
                page.goto(f"{address}/{file.parent.relative_to(site)}/")
                for width in widths:
                    page.set_viewport_size({"width": width, "height": 900})
                    shown = page.evaluate("[document.documentElement.scrollWidth, document.body.dataset.mdColorScheme]")
                    if shown[0] > width or shown[1] != named:
                        wrong.append(f"{page.url}: {shown}")
                    # A phone wraps commands, and scrolls output and Python in boxes of their own.
                    if cut := page.evaluate(CUT, "pre code" if width == 1300 else ".language-console code"):
                        wrong.append(f"{page.url}: cut at {width}: {cut}")
    assert not wrong
