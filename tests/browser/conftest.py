"""One headless Chromium, Debian's; a context of its own for each test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.browser.site import Site, serve
from tests.browser.support import Traffic

#: Nothing of the browser's own leaves this machine.
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
    """Skip, unless this run is there to test in a browser."""
    if os.environ.get("REQUIRE_BROWSER"):
        pytest.fail(what)
    pytest.skip(what)


# Not for the session: while it is open, this thread seems to run an event loop.
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
    """What the browser held against the policy; at the end of a test there is none."""
    return []


@pytest.fixture
def open_page(browser: Any, violations: list[str]) -> Iterator[Callable[..., Any]]:
    """Opens tabs, each in a context of its own; no script may fail in one."""
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
