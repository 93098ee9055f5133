"""The page in a real browser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from django_safe_init.serving.http import page_texts
from django_safe_init.serving.http.page import DebugContext
from tests.browser.site import STATUS, WORKING, Site
from tests.browser.support import set_hidden, text, turn, turn_until, wait_for_wanted
from tests.unit.serving.test_page import STATES, contrast

WANTED = "/orders/?page=2&sort=name"
WIDTHS = [320, 360, 1280]
#: A refresh interval in seconds that no test waits for.
STILL = 600
DEBUG = DebugContext(
    tuple(f"shop.{number:04}_{'long_' * 20}name" for number in range(40)),
    error="ValueError: " + "x" * 200,
    leader="web-3:1994",
)


def stay(page: Any, site: Site) -> None:
    """Let the page of a ready database stay: without JavaScript it opens the site by itself.

    An answer without content ends a navigation and keeps the document. An aborted request
    replaces it with an error page.
    """
    page.route(f"{site.url}/", lambda route: route.fulfill(status=204))


def heading(state: str) -> str:
    return str(page_texts.HEADINGS[state][0])


# Progress


def test_advances_and_ends_on_the_wanted_page(page: Any, site: Site) -> None:
    """The page advances without a reload, and ends on the requested page."""
    site.view = replace(WORKING, state="initializing", total=0, done=0, progress=0)
    page.goto(site.url + WANTED + "#lines")
    page.evaluate("window.stillTheSame = true")
    assert text(page, "h1") == heading("initializing")
    assert page.locator("#bar").get_attribute("value") is None

    site.view = replace(WORKING, remaining_seconds=180)
    turn_until(page, lambda: text(page, "h1") == heading("migrating"))
    assert text(page, "#counts") == "5 of 14 steps 35%"
    assert text(page, "#numbers div:last-child dd") == "about 3 minutes"
    assert page.locator("#bar").get_attribute("value") == "35"
    assert page.title() == "35% · This site is being updated"
    assert page.evaluate("window.stillTheSame") is True
    assert site.loaded == [WANTED]

    site.becomes("ready")
    turn_until(page, lambda: page.title() == WANTED)
    assert page.url == site.url + WANTED + "#lines"
    assert page.title() == WANTED


@pytest.mark.parametrize("width", [360, 1280])
def test_a_form_that_was_sent(
    open_page: Callable[..., Any], site: Site, width: int
) -> None:
    """After a form was sent, the page advances, says to send it again, and opens no URL."""
    form = f'<form method="post" action="{WANTED}"><button>Send</button></form>'
    site.pages["/form"] = f"<!doctype html><title>form</title>{form}"
    page = open_page(width)
    page.goto(site.url + "/form")
    page.click("button")
    page.wait_for_selector("h1")
    turn_until(page, lambda: text(page, "h1") == heading("migrating"))
    assert text(page, "#promise") == page_texts.form_lost()
    site.becomes("migrating", done=7, progress=50)
    turn_until(page, lambda: text(page, "#counts") == "7 of 14 steps 50%")
    assert text(page, "#promise") == page_texts.form_lost()
    site.becomes("ready")
    turn_until(page, lambda: text(page, "h1") == heading("ready"))
    assert text(page, "#explanation") == str(page_texts.SEND_AGAIN)
    assert site.loaded.count(WANTED) == 1
    page.go_back()
    assert page.title() == "form"


def test_the_status_stays_when_it_is_ready(page: Any, site: Site) -> None:
    """The status page of a ready site opens no URL."""
    site.becomes("ready", stay_on_page=True)
    page.goto(site.url + STATUS)
    page.wait_for_load_state("networkidle")
    assert text(page, "h1") == heading("ready")
    assert site.loaded == []


def test_leads_without_a_fragment(page: Any, site: Site) -> None:
    """A URL without a fragment is loaded again as well."""
    page.goto(site.url + WANTED)
    site.becomes("ready")
    turn_until(page, lambda: page.title() == WANTED)
    assert page.url == site.url + WANTED


def test_status_page_leads_on(page: Any, site: Site) -> None:
    """The status page opens the front page once ready, also if it was ready from the start."""
    site.view = replace(WORKING, state="ready", continue_url="/start")
    page.goto(site.url + STATUS)
    page.wait_for_url(site.url + "/start")
    assert page.title() == "/start"
    assert site.asked == 0


def test_leaves_no_trace(page: Any, site: Site) -> None:
    """The browser's back button skips the page."""
    site.view = replace(WORKING, continue_url="/start")
    page.goto(site.url + STATUS)
    site.becomes("ready")
    turn_until(page, lambda: page.title() == "/start")
    assert page.evaluate("history.length") == 2  # about:blank and one page


def test_goes_nowhere_else(page: Any, site: Site) -> None:
    """The page never leaves its origin, whatever URL it contains."""

    def tamper(route: Any) -> None:
        response = route.fetch()
        body = response.text().replace(
            f'data-continue-url="{WANTED.replace("&", "&amp;")}"',
            'data-continue-url="https://evil.example/"',
        )
        assert "evil" in body
        route.fulfill(response=response, body=body)

    page.route("**/orders/**", tamper)
    page.goto(site.url + WANTED)
    site.becomes("ready")
    turn_until(page, lambda: text(page, "h1") == heading("ready"))
    turn(page, 60)
    assert page.url == site.url + WANTED


def test_error_and_recovery(page: Any, site: Site) -> None:
    """A failure shows its run, slows the polling down, and a new run is shown again."""
    page.goto(site.url + WANTED)
    site.becomes("error", run=18)
    turn_until(page, lambda: text(page, "h1") == heading("error"))
    assert text(page, ".run strong") == "Run 18"
    assert text(page, "#live").startswith(heading("error"))
    asked = site.asked
    turn(page, 10)
    assert site.asked == asked
    site.becomes("migrating", run=19, done=6)
    assert turn_until(page, lambda: text(page, "h1") == heading("migrating")) < 20
    assert page.locator(".run").count() == 0
    site.becomes("ready")
    turn_until(page, lambda: page.title() == WANTED)


def test_clock_runs(page: Any, site: Site) -> None:
    """The elapsed time grows between two answers, and never goes back."""
    page.goto(site.url + WANTED)
    set_hidden(page, True)
    assert text(page, "#elapsed") == "1:42"
    turn(page, 20)
    assert text(page, "#elapsed") in ("2:02", "2:03")
    page.clock.run_for(3_600_000)
    assert text(page, "#elapsed") in ("1:02:02", "1:02:03")
    site.becomes("migrating", elapsed_seconds=3721)
    set_hidden(page, False)
    assert text(page, "#elapsed") in ("1:02:02", "1:02:03")
    site.becomes("migrating", elapsed_seconds=2)
    turn_until(page, lambda: text(page, "#elapsed").startswith("0:0"))


def test_sends_no_request_at_once(page: Any, site: Site) -> None:
    """A new page sends no request at once."""
    page.goto(site.url + WANTED)
    turn(page, 0.7)
    assert site.asked == 0
    turn(page, 0.6)
    assert site.asked == 1


def test_polls_less_and_less(page: Any, site: Site) -> None:
    """While the status stays the same the page polls less often; a change resets that."""
    page.goto(site.url + WANTED)
    turn_until(page, lambda: site.asked >= 10, seconds=90)
    asked = site.asked
    turned = turn_until(page, lambda: site.asked == asked + 1, step=0.25)
    assert 1.5 <= turned <= 7
    site.becomes("migrating", progress=50)
    asked = site.asked
    turn_until(page, lambda: site.asked == asked + 1, step=0.25)
    assert turn_until(page, lambda: site.asked == asked + 2, step=0.25) <= 1.5


def test_sends_no_request_while_hidden(page: Any, site: Site) -> None:
    """A hidden tab sends no request; when shown, it sends one at once."""
    page.goto(site.url + WANTED)
    turn_until(page, lambda: site.asked > 0)
    set_hidden(page, True)
    asked = site.asked
    page.clock.run_for(600_000)
    assert site.asked == asked
    site.becomes("ready")
    set_hidden(page, False)
    wait_for_wanted(page)
    assert site.asked == asked + 1


# Errors


def test_lost_connection(page: Any, site: Site) -> None:
    """A lost connection is reported, and the report goes away with the next answer."""
    page.goto(site.url + WANTED)
    page.context.set_offline(True)
    turn_until(page, lambda: text(page, "#unanswered") == page_texts.unanswered())
    turn(page, 120)
    assert text(page, "h1") == heading("migrating")
    page.context.set_offline(False)
    site.becomes("migrating", done=9)
    turn_until(page, lambda: text(page, "#counts").startswith("9 of 14"))
    assert page.locator("#unanswered").is_hidden()


def test_bad_gateway(page: Any, site: Site) -> None:
    """The page stays when a proxy finds no replica."""
    page.goto(site.url + WANTED)
    site.instead = ("502 Bad Gateway", "nobody is there")
    turn_until(page, lambda: site.asked > 5, seconds=120)
    assert text(page, "#unanswered") == page_texts.unanswered()
    assert site.loaded == [WANTED]


def test_no_status_any_more(page: Any, site: Site) -> None:
    """If the status URL no longer has a status, the page opens the requested URL."""
    page.goto(site.url + WANTED)
    site.instead = ("404 Not Found", "what status?")
    site.becomes("ready")
    turn_until(page, lambda: page.title() == WANTED)
    assert site.asked == 3


def test_status_without_a_page(page: Any, site: Site) -> None:
    """With a status that is only JSON, the page shows its message and the bar."""
    site.view = replace(WORKING, total=0, done=0, progress=0)
    site.has_page = False
    page.goto(site.url + WANTED)
    turn_until(page, lambda: text(page, "#explanation") == site.message)
    assert page.locator("#bar").get_attribute("value") is None
    site.becomes("migrating", progress=61)
    turn_until(page, lambda: page.locator("#bar").get_attribute("value") == "61")
    site.becomes("ready")
    turn_until(page, lambda: page.title() == WANTED)


def test_another_version_of_the_page(page: Any, site: Site) -> None:
    """The page does not mix in the content of another release, which has another style."""

    def restyle(route: Any) -> None:
        response = route.fetch()
        body = response.text().replace("<style>", "<style>h1 { color: red }")
        body = body.replace('id="explanation">', 'id="explanation">from another one')
        route.fulfill(response=response, body=body)

    page.goto(site.url + WANTED)
    page.route(
        f"**{STATUS}",
        lambda route: (
            restyle(route)
            if "text/html" in route.request.headers["accept"]
            else route.continue_()
        ),
    )
    turn_until(page, lambda: text(page, "#explanation") == site.message)


def test_policy_is_in_force(page: Any, site: Site, violations: list[str]) -> None:
    """A foreign script does not run on the page."""
    page.goto(site.url + WANTED)
    page.evaluate("""() => {
        const script = document.createElement("script");
        script.textContent = "window.intruded = true";
        document.body.append(script);
    }""")
    page.wait_for_function("true")
    assert page.evaluate("window.intruded") is None
    assert [violation.split()[0] for violation in violations] == ["script-src-elem"]
    violations.clear()


# Without JavaScript


@pytest.mark.parametrize("width", WIDTHS)
def test_without_script(open_page: Callable[..., Any], site: Site, width: int) -> None:
    """Without JavaScript the page reloads itself, and ends on the requested page."""
    page = open_page(width, java_script_enabled=False)
    page.goto(site.url + WANTED)
    assert text(page, "h1") == heading("migrating")
    site.becomes("error", run=18)
    page.locator(".run").wait_for()
    site.becomes("ready")
    wait_for_wanted(page)


def test_status_page_without_script(open_page: Callable[..., Any], site: Site) -> None:
    """Without JavaScript the status page opens the front page once ready."""
    site.view = replace(WORKING, continue_url=WANTED)
    page = open_page(java_script_enabled=False)
    page.goto(site.url + STATUS)
    site.becomes("ready")
    page.wait_for_url(site.url + WANTED)


# Accessibility


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("width", WIDTHS)
def test_fits(
    open_page: Callable[..., Any], site: Site, width: int, state: str
) -> None:
    """No content is wider than the window."""
    site.language = "de"
    site.becomes(
        state,
        run=123456,
        remaining_seconds=3600,
        debug=DEBUG,
        refresh_seconds=STILL,
    )
    page = open_page(width, java_script_enabled=False)
    stay(page, site)
    page.goto(site.url + STATUS)
    wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
    assert page.evaluate(wide) is False


@pytest.mark.parametrize("state", STATES)
def test_structure(open_page: Callable[..., Any], site: Site, state: str) -> None:
    """The page has one main heading and one main part, and everything with a value has a name."""
    site.becomes(state, run=18, debug=DEBUG, refresh_seconds=STILL)
    page = open_page(java_script_enabled=False)
    stay(page, site)
    page.goto(site.url + STATUS)
    name, _ = page_texts.HEADINGS.get(state, page_texts.UNKNOWN)
    assert page.get_by_role("heading", level=1).all_inner_texts() == [str(name)]
    assert page.get_by_role("main").count() == 1
    assert page.locator("html").get_attribute("lang") == "en"
    bars = page.get_by_role("progressbar")
    assert bars.count() == page.get_by_role("progressbar", name=str(name)).count()
    assert bars.count() == (state not in ("not_initialized", "unknown"))
    assert all(page.get_by_role("link").all_inner_texts())
    duplicates = """[...document.querySelectorAll("[id]")].map(e => e.id)
        .filter((id, n, all) => all.indexOf(id) !== n)"""
    assert page.evaluate(duplicates) == []


def test_keyboard(page: Any, site: Site) -> None:
    """The keyboard reaches the link, shows its focus, and follows it."""
    page.goto(site.url + WANTED)
    page.keyboard.press("Tab")
    focused = page.locator(":focus")
    assert focused.inner_text() == page_texts.link("migrating")
    assert focused.evaluate("e => getComputedStyle(e).outlineStyle") == "solid"
    site.becomes("ready")
    page.keyboard.press("Enter")
    wait_for_wanted(page)


def test_focus_stays(page: Any, site: Site) -> None:
    """The focused element is not replaced when the page advances."""
    site.view = replace(WORKING, debug=DEBUG)
    page.goto(site.url + WANTED)
    for tag in ("PRE", "UL", "PRE", "A"):
        page.keyboard.press("Tab")
        done = site.view.done + 1
        site.becomes("migrating", done=done)
        turn_until(page, lambda d=done: text(page, "#counts").startswith(f"{d} of"))
        assert page.locator(":focus").evaluate("e => e.tagName") == tag
    assert page.locator(":focus").get_attribute("href") == WANTED


def test_announcements(page: Any, site: Site) -> None:
    """Changes are announced politely, and not for every step."""
    page.goto(site.url + WANTED)
    live = page.locator("#live")
    assert live.get_attribute("aria-live") == "polite"
    turn_until(page, lambda: "5 of 14 steps" in text(page, "#live"))
    site.becomes("migrating", done=6)
    turn_until(page, lambda: text(page, "#counts").startswith("6 of 14"))
    assert "5 of 14 steps" in text(page, "#live")
    site.becomes("migrating", done=7)
    turn_until(page, lambda: "7 of 14 steps" in text(page, "#live"))
    site.becomes("error", run=18)
    turn_until(page, lambda: text(page, "#live").startswith(heading("error")))


def test_language(page: Any, site: Site) -> None:
    """The page stays in its language while it advances."""
    site.language = "de"
    page.goto(site.url + WANTED)
    site.becomes("migrating", done=9)
    turn_until(page, lambda: text(page, "#counts").startswith("9 von 14 Schritten"))
    assert page.locator("html").get_attribute("lang") == "de"


COLORS = """() => {
    const hex = (color) => "#" + color.match(/\\d+/g).slice(0, 3)
        .map((part) => Number(part).toString(16).padStart(2, "0")).join("");
    const style = (selector) => getComputedStyle(document.querySelector(selector));
    const ink = ["h1", "#explanation", "#counts", "dt", "dd", "a", ".note"];
    return [hex(style("main").backgroundColor), ink.map((s) => hex(style(s).color))];
}"""


def test_colors(open_page: Callable[..., Any], site: Site) -> None:
    """The page follows the visitor's color scheme, and is readable in both."""
    grounds = []
    for scheme in ("light", "dark"):
        page = open_page(color_scheme=scheme)
        page.goto(site.url + WANTED)
        ground, inks = page.evaluate(COLORS)
        grounds.append(ground)
        assert all(contrast(ground, ink) >= 4.5 for ink in inks), inks
    assert contrast(grounds[0], "#ffffff") < 1.2
    assert contrast(grounds[1], "#000000") < 1.4


@pytest.mark.parametrize("motion", ["reduce", "no-preference"])
def test_motion(open_page: Callable[..., Any], site: Site, motion: str) -> None:
    """The page has no motion for a visitor who prefers reduced motion."""
    site.becomes("initializing", total=0, progress=0)
    page = open_page(reduced_motion=motion)
    page.goto(site.url + WANTED)
    animation = page.locator("#bar").evaluate("e => getComputedStyle(e).animationName")
    assert (animation == "none") is (motion == "reduce")
