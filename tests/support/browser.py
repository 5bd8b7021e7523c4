"""Chromium, to which reports and pages of the site are shown."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = Path("/usr/bin/chromium")
OPTIONS = ("--no-sandbox", "--disable-gpu")
NEEDS_CHROMIUM = pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Debian's chromium at /usr/bin/chromium")
PATIENCE = 300_000
"""Milliseconds that a page may take: on a busy machine playwright's 30 seconds have run out."""


class Browser:
    """What opens pages."""

    def __init__(self, chromium: Any):
        self._chromium = chromium

    def new_page(self, **options: Any) -> Any:
        page = self._chromium.new_page(**options)
        page.set_default_timeout(PATIENCE)
        return page


@contextmanager
def open_browser() -> Generator[Browser]:
    """A browser of its own, closed afterwards; the test is skipped without playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with playwright.sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=str(CHROMIUM), args=OPTIONS, timeout=PATIENCE)
        yield Browser(chromium)
        chromium.close()
