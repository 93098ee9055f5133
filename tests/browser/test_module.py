"""The ES module in a real browser, on a page of one origin that watches another."""

from __future__ import annotations

from typing import Any

import pytest

from django_safe_init.serving.http import page_texts
from tests.browser.site import BLANK, SCRIPT, STATUS, Site
from tests.browser.support import set_hidden, turn, turn_until

_WATCH = """async ([module, url, options]) => {
    const { watchStatus } = await import(module);
    window.seen = [];
    const note = (status) => { window.seen.push({ ...status, error: String(status.error) }); };
    window.stop = watchStatus(url, note, options);
}"""


def watch(page: Any, site: Site, watched: Site, **options: int) -> None:
    """Watch the status of `watched` from a blank page of `site`."""
    page.goto(site.url + BLANK)
    page.evaluate(_WATCH, [site.url + SCRIPT, watched.url + STATUS, options])
    turn(page, 0.1)


def seen(page: Any) -> list[dict[str, Any]]:
    """Return the statuses that the callback received."""
    found: list[dict[str, Any]] = page.evaluate("window.seen")
    return found


def states(page: Any) -> list[str]:
    return [status["state"] for status in seen(page)]


def test_states(page: Any, site: Site) -> None:
    """The module has the five states of the page, and one for no answer."""
    page.goto(site.url + BLANK)
    exported = page.evaluate(
        "import('/static/django_safe_init/status.js').then(({ State, UNREACHABLE, ...others }) =>"
        " [Object.values(State), Object.isFrozen(State), UNREACHABLE, Object.keys(others)])"
    )
    names = list(page_texts.HEADINGS)
    assert sorted(exported[0]) == sorted(names)
    assert exported[1:] == [True, "unreachable", ["watchStatus"]]


def test_watches_another_origin(page: Any, site: Site, other_site: Site) -> None:
    """The callback receives each status from another origin, up to "ready"."""
    other_site.becomes("not_initialized", progress=0)
    watch(page, site, other_site)
    for state, progress in (("initializing", 0), ("migrating", 35), ("ready", 100)):
        other_site.becomes(state, progress=progress)
        turn_until(page, lambda state=state: states(page)[-1] == state)
    turn(page, 60)
    assert list(dict.fromkeys(states(page))) == [
        "not_initialized",
        "initializing",
        "migrating",
        "ready",
    ]
    assert states(page).count("ready") == 1
    assert seen(page)[-1]["progress"] == 100
    assert seen(page)[-1]["message"] == other_site.message


def test_origin_that_does_not_share(page: Any, site: Site, other_site: Site) -> None:
    """A response that the browser may not read is no answer."""
    other_site.shared = False
    watch(page, site, other_site)
    [status] = seen(page)
    assert (status["state"], status["failures"]) == ("unreachable", 1)
    assert status["httpStatus"] is None
    assert status["error"].startswith("TypeError")


@pytest.mark.parametrize(
    ("instead", "http_status"),
    [
        (("200 OK", '{"state": "confused", "progress": 1, "message": ""}'), 200),
        (("200 OK", "no JSON"), 200),
        (("200 OK", "null"), 200),
        (("503 Service Unavailable", '{"state": "ready"}'), 503),
        (("404 Not Found", "nothing"), 404),
    ],
)
def test_other_answers(
    page: Any, site: Site, instead: tuple[str, str], http_status: int
) -> None:
    """A response that is no status is no answer; the callback gets its HTTP status."""
    site.instead = instead
    watch(page, site, site)
    [status] = seen(page)
    assert (status["state"], status["httpStatus"]) == ("unreachable", http_status)


def test_survives_and_counts(page: Any, site: Site) -> None:
    """Failures in a row are counted, slow the polling down, and end with an answer."""
    site.instead = ("502 Bad Gateway", "")
    watch(page, site, site)
    turn_until(page, lambda: len(seen(page)) == 3, seconds=9)
    assert [status["failures"] for status in seen(page)] == [1, 2, 3]
    assert turn_until(page, lambda: len(seen(page)) == 4, seconds=11) >= 6
    site.instead = None
    turn_until(page, lambda: states(page)[-1] == "migrating", seconds=20)
    site.instead = ("502 Bad Gateway", "")
    turn_until(page, lambda: states(page)[-1] == "unreachable")
    assert seen(page)[-1]["failures"] == 1


def test_error_is_polled_slowly(page: Any, site: Site) -> None:
    """After an error the module polls slowly, as the options say."""
    site.becomes("error")
    watch(page, site, site, slowInterval=100_000)
    turn(page, 74)
    assert states(page) == ["error"]
    turn(page, 52)
    assert states(page) == ["error", "error"]


def test_options(page: Any, site: Site) -> None:
    """The intervals are the options', with a quarter of jitter."""
    watch(page, site, site, delay=10_000, interval=4000, maxInterval=4000)
    turn(page, 7)
    assert site.asked == 0
    turn(page, 6)
    assert site.asked == 1
    for asked in (2, 3, 4):
        assert 3 <= turn_until(page, lambda n=asked: site.asked == n) <= 6


def test_slow_answer(page: Any, site: Site) -> None:
    """An answer after the timeout is no answer."""
    page.route(f"**{STATUS}", lambda route: None)  # never answered
    page.goto(site.url + BLANK)
    page.evaluate(_WATCH, [SCRIPT, STATUS, {"timeout": 3000}])
    page.clock.run_for(2900)
    assert seen(page) == []
    page.clock.run_for(200)
    page.wait_for_function("window.seen.length === 1")
    assert states(page) == ["unreachable"]
    assert seen(page)[0]["error"].startswith("AbortError")


def test_stop(page: Any, site: Site) -> None:
    """After `stop` the module sends no request and calls no callback."""
    watch(page, site, site)
    page.evaluate("window.stop()")
    turn(page, 60)
    assert (site.asked, len(seen(page))) == (1, 1)


def test_stop_during_a_request(page: Any, site: Site) -> None:
    """`stop` aborts an open request without a call."""
    page.goto(site.url + BLANK)
    page.route(f"**{STATUS}", lambda route: None)  # never answered
    page.evaluate(_WATCH, [SCRIPT, STATUS, {}])
    with page.expect_request(f"**{STATUS}"):
        page.clock.run_for(100)
    with page.expect_event("requestfailed") as aborted:
        page.evaluate("window.stop()")
    assert aborted.value.url == site.url + STATUS
    turn(page, 60)
    assert seen(page) == []


def test_hidden(page: Any, site: Site) -> None:
    """A hidden page sends no request; when shown, it sends one at once."""
    page.goto(site.url + BLANK)
    set_hidden(page, True)
    page.evaluate(_WATCH, [SCRIPT, STATUS, {}])
    turn(page, 60)
    assert site.asked == 0
    set_hidden(page, False)
    assert site.asked == 1
    set_hidden(page, True)
    turn(page, 60)
    assert site.asked == 1
    set_hidden(page, False)
    assert site.asked == 2


def test_callback_that_fails(page: Any, site: Site) -> None:
    """A failing callback is reported as an error of the page, and called again."""
    page.goto(site.url + BLANK)
    page.evaluate("""async () => {
        const { watchStatus } = await import("/static/django_safe_init/status.js");
        window.errors = [];
        window.addEventListener("error", (event) => {
            event.preventDefault();
            window.errors.push(event.message);
        });
        window.stop = watchStatus("/api/db/status", () => { throw new Error("oh"); });
    }""")
    turn_until(page, lambda: site.asked == 3)
    page.evaluate("window.stop()")
    assert set(page.evaluate("window.errors")) == {"Uncaught Error: oh"}


def test_slow_callback(page: Any, site: Site) -> None:
    """The next request waits for the callback's promise."""
    page.goto(site.url + BLANK)
    page.evaluate("""async () => {
        const { watchStatus } = await import("/static/django_safe_init/status.js");
        const wait = () => new Promise((resolve) => { window.goOn = resolve; });
        window.stop = watchStatus("/api/db/status", wait);
    }""")
    turn(page, 60)
    assert site.asked == 1
    page.evaluate("window.goOn()")
    turn_until(page, lambda: site.asked == 2)
