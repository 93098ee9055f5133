"""Helpers that turn a page's clock, and hide the page."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

_HIDE = """hidden => {
    Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
}"""


class Traffic:
    """The open requests of a page."""

    def __init__(self, page: Any) -> None:
        self._page = page
        self._open: set[Any] = set()
        page.on("request", self._begin)
        page.on("requestfinished", self._end)
        page.on("requestfailed", self._end)

    def _begin(self, request: Any) -> None:
        self._open.add(request)

    def _end(self, request: Any) -> None:
        self._open.discard(request)

    def settle(self) -> None:
        """Wait until each request is answered and the page has handled the response."""
        quiet = 0
        deadline = time.monotonic() + 15
        while quiet < 3:
            self._page.wait_for_timeout(10)
            quiet = 0 if self._open else quiet + 1
            assert time.monotonic() < deadline, "requests are not answered"


def turn(page: Any, seconds: float) -> None:
    """Let the page's clock run, but no faster than requests are answered."""
    while seconds > 0:
        page.clock.run_for(int(min(seconds, 5) * 1000))
        page.traffic.settle()
        seconds -= 5


def turn_until(
    page: Any, condition: Callable[[], object], seconds: float = 60, step: float = 1
) -> float:
    """Let the page's clock run until the condition holds; return the seconds."""
    turned = 0.0
    while not condition():
        assert turned < seconds, f"not within {seconds} s of the page's clock"
        turn(page, step)
        turned += step
    return turned


def wait_for_wanted(page: Any) -> None:
    """Wait until the requested page is loaded, also without JavaScript."""
    page.locator("main:text-is('wanted')").wait_for()


def text(page: Any, selector: str) -> str:
    """Return the text of an element on one line."""
    return " ".join(page.locator(selector).inner_text().split())


def set_hidden(page: Any, hidden: bool) -> None:
    """Hide the tab, or show it again."""
    page.evaluate(_HIDE, hidden)
    page.traffic.settle()
