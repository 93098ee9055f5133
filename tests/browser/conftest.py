"""One headless Chromium, Debian's, with a separate context for each test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.browser.site import Site, serve
from tests.browser.support import Traffic

#: These options keep the browser's own requests from leaving this machine.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TIMEOUT = 15_000  # milliseconds
_NOTE_VIOLATIONS = """
    document.addEventListener("securitypolicyviolation", (event) =>
        noteViolation(`${event.violatedDirective} ${event.blockedURI}`));
"""


def missing(what: str) -> None:
    """Skip the test, unless this run must test in a browser."""
    if os.environ.get("REQUIRE_BROWSER"):
        pytest.fail(what)
    pytest.skip(what)


# Not for the session: asyncio takes an open Playwright for a running event loop.
@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("playwright is not installed: pip install -e '.[browser]'")
    executable = shutil.which("chromium")
    if executable is None:
        missing("there is no chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        yield running
        running.close()


@pytest.fixture
def violations() -> list[str]:
    """The browser's violations of the policy; at the end of a test it must be empty."""
    return []


@pytest.fixture
def open_page(browser: Any, violations: list[str]) -> Iterator[Callable[..., Any]]:
    """Open tabs, each in a separate context; a script error fails the test."""
    contexts: list[Any] = []
    errors: list[str] = []

    def note_violation(_source: Any, violation: str) -> None:
        violations.append(violation)

    def open_(width: int = 1280, clock: bool = False, **options: Any) -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": 740}, **options
        )
        contexts.append(context)
        context.set_default_timeout(TIMEOUT)
        context.expose_binding("noteViolation", note_violation)
        context.add_init_script(_NOTE_VIOLATIONS)
        if clock:
            context.clock.install(time=0)
            context.clock.pause_at(1)
        page = context.new_page()
        page.traffic = Traffic(page)
        page.on("pageerror", lambda error: errors.append(str(error)))
        return page

    yield open_
    for context in contexts:
        context.close()
    assert errors == []
    assert violations == []


@pytest.fixture
def page(open_page: Callable[..., Any]) -> Any:
    """A tab whose clock stands still until the test turns it."""
    return open_page(clock=True)


@pytest.fixture
def site() -> Iterator[Site]:
    with serve(Site()) as running:
        yield running


@pytest.fixture
def other_site() -> Iterator[Site]:
    """A site of another origin."""
    with serve(Site()) as running:
        yield running
