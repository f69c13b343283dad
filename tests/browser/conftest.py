"""A real browser, Chromium, for the pages: launch/test.sh --browser installs what drives it.

CHROMIUM names its program where it is none of those on PATH. Each page that a test opens must ask
no other machine for anything, and write nothing to its console.
"""

import os
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
SIZES = {"wide": (1280, 900), "phone": (390, 844)}
LOOPBACK = ("127.0.0.1", "localhost", "")  # "": a file, or data within the page


def found() -> str | None:
    asked = os.environ.get("CHROMIUM")
    return asked or next(filter(None, map(shutil.which, NAMES)), None)


# Of a module: while the driver lives, an event loop runs in this thread, and no other test has one.
@pytest.fixture(scope="module")
def chromium():
    sync_api = pytest.importorskip(
        "playwright.sync_api",
        reason="playwright is not there: launch/test.sh --browser installs it",
    )
    program = found()
    if program is None:
        pytest.skip(f"no browser (none of {', '.join(NAMES)} on PATH): apt install chromium")
    with sync_api.sync_playwright() as driver:
        # A container has no room of its own for a sandbox.
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium):
    """A function of a file's path or an URL: its page, watched; "wide" or "phone", dark or not."""
    opened, complaints = [], []

    def open_(where: Path | str, size: str = "wide", dark: bool = False):
        url = where.resolve().as_uri() if isinstance(where, Path) else where
        width, height = SIZES[size]
        context = chromium.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            has_touch=size == "phone",
            reduced_motion="reduce",
        )
        page = context.new_page()
        page.on("console", lambda said: complaints.append(f"console {said.type}: {said.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))

        def watch(request):
            if urlsplit(request.url).hostname not in (*LOOPBACK, None):
                complaints.append(f"asks {request.url}")

        page.on("request", watch)
        opened.append(context)
        page.goto(url)
        return page

    yield open_
    for context in opened:
        context.close()
    assert complaints == []


@pytest.fixture(scope="session")
def values():
    """A function of a page: data-what -> data-value of all figures on it, as text."""

    def read(page) -> dict[str, str]:
        script = "all => all.map(e => [e.dataset.what, e.dataset.value])"
        return dict(page.locator("[data-what][data-value]").evaluate_all(script))

    return read


@pytest.fixture(scope="session")
def axe():
    """A function of a page: what axe finds wrong with it, one line each."""
    runner = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="axe is not there: launch/test.sh --browser"
    )

    def check(page) -> list[str]:
        violations = runner.Axe().run(page).response["violations"]
        return [
            f"{found['id']}: {found['help']}: {node['target']}"
            for found in violations
            for node in found["nodes"]
        ]

    return check
