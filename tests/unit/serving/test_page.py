"""The page as HTML, without a browser."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from django.http import HttpResponse
from django.utils import translation
from django.utils.translation import trans_real

import django_safe_init
from django_safe_init.serving.http import page_texts
from django_safe_init.serving.http.page import DebugContext, PageContext, render
from tests.unit.catalogs import CONTEXT, write_mo

STATES = (*page_texts.HEADINGS, "unknown")
WANTED = "/orders/?page=2&sort=name"
MIGRATING = PageContext(
    "migrating",
    continue_url=WANTED,
    status_url="/api/db/status",
    run=18,
    done=5,
    total=14,
    progress=35,
    elapsed_seconds=102.7,
    silence_seconds=1.2,
    remaining_seconds=200,
    refresh_seconds=7,
)
DEBUG = DebugContext(
    ("shop.0001_initial",),
    error="ValueError: no price",
    leader="web-3:1994",
    work="shop.0001_initial: operation 3 of 7",
)
STYLE = Path(django_safe_init.__file__).parent / "templates/django_safe_init/page.css"


class Parsed(HTMLParser):
    """The elements of a page with their attributes, and the text of each kind of element."""

    def __init__(self, response: HttpResponse) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.raw: dict[str, str] = {}
        self.lines: list[str] = []
        self._inside: list[str] = []
        self.feed(response.content.decode())

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("style", "script", "template", "noscript"):
            self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._inside:
            self._inside.remove(tag)

    def handle_data(self, data: str) -> None:
        if self._inside:
            name = self._inside[-1]
            self.raw[name] = self.raw.get(name, "") + data
        elif line := data.strip():
            self.lines.append(line)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def shown(view: PageContext) -> list[str]:
    """Return the visible texts of the page, and its title."""
    return Parsed(render(view)).lines


# The content


@pytest.mark.parametrize("state", STATES)
def test_heading(state: str) -> None:
    """Each state has its own heading, and an unknown state has a general one."""
    heading, explanation = page_texts.HEADINGS.get(state, page_texts.UNKNOWN)
    lines = shown(PageContext(state))
    assert lines[:3] == [heading, heading, explanation]
    assert "100%" not in " ".join(lines)


def test_numbers() -> None:
    """During a migration the page shows steps, per cent and times, but not the run."""
    lines = shown(MIGRATING)
    assert lines[0] == "35% · This site is being updated"
    assert lines[3:11] == [
        *("5 of 14 steps", "35%"),
        *("Time elapsed", "1:42"),
        *("Last sign of life", "just now"),
        *("Time left", "about 3 minutes"),
    ]
    assert not any("18" in line for line in lines)


def test_an_operation() -> None:
    """The running operation of a migration that is not one transaction is a number, too."""
    lines = shown(replace(MIGRATING, operation=(3, 7)))
    assert lines[lines.index("Operation") + 1] == "3 of 7"
    assert "Operation" not in shown(replace(MIGRATING, state="error", operation=(3, 7)))


def test_unknown_numbers() -> None:
    """Unknown numbers are left out, and the bar moves without a value."""
    parsed = Parsed(render(PageContext("migrating")))
    assert parsed.all("progress")[0] == {
        "id": "bar",
        "max": "100",
        "aria-labelledby": "heading",
    }
    assert not parsed.all("dt")


def test_progress_without_steps() -> None:
    """A percentage without steps moves the bar too."""
    assert Parsed(render(PageContext("migrating", progress=7))).all("progress")[0][
        "value"
    ] == ("7")


def test_checking() -> None:
    """The page says that the result is being checked once all steps are done."""
    assert page_texts.CHECKING in shown(replace(MIGRATING, done=14, progress=99))


def test_impossible_numbers() -> None:
    """Impossible numbers become the nearest possible ones."""
    odd = replace(MIGRATING, done=20, progress=140, elapsed_seconds=-3)
    assert {"14 of 14 steps", "100%", "0:00"} <= set(shown(odd))
    assert "0 of 14 steps" in shown(replace(MIGRATING, done=-1))


def test_error() -> None:
    """A failure shows the run's number and advice, but no estimate."""
    lines = shown(replace(MIGRATING, state="error"))
    assert lines[0] == lines[1]
    assert {"Run 18", page_texts.advice(), "5 of 14 steps"} <= set(lines)
    assert "1:42" in lines
    assert not {"Time left", "Last sign of life", "Time elapsed"} & set(lines)


def test_error_of_no_run() -> None:
    """A failure without a run shows no number."""
    assert page_texts.advice() not in shown(PageContext("error"))


@pytest.mark.parametrize("state", ["not_initialized", "unknown"])
def test_no_bar_without_a_leader(state: str) -> None:
    """Without a leader the bar is hidden."""
    [bar, *_] = Parsed(render(replace(MIGRATING, state=state))).all("progress")
    assert "hidden" in bar


def test_debug() -> None:
    """With DEBUG the page shows pending and running work, the command, error and leader."""
    lines = shown(replace(MIGRATING, state="error", debug=DEBUG))
    assert {
        "ValueError: no price",
        "1 step is pending:",
        "shop.0001_initial",
        "Now: shop.0001_initial: operation 3 of 7",
        "python manage.py safe_migrate",
        "The leader is web-3:1994.",
    } <= set(lines)


def test_debug_with_little_to_say() -> None:
    """Without an error, a leader or pending steps, the debug section leaves them out."""
    lines = shown(PageContext("initializing", debug=DebugContext()))
    assert page_texts.debug_heading() in lines
    assert not any("pending" in line or "leader" in line for line in lines)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (9.9, "0:09"),
        (65, "1:05"),
        (3599, "59:59"),
        (3600, "1:00:00"),
        (90061, "25:01:01"),
    ],
)
def test_clock(seconds: float, text: str) -> None:
    """The elapsed time reads as on a clock, in any language."""
    assert page_texts.clock(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "just now"),
        (4.9, "just now"),
        (5, "5 seconds ago"),
        (59.9, "59 seconds ago"),
        (60, "1 minute ago"),
        (7260, "121 minutes ago"),
    ],
)
def test_time_ago(seconds: float, text: str) -> None:
    """The time since the last heartbeat is as exact as the heartbeat."""
    assert page_texts.time_ago(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "less than a minute"),
        (59, "less than a minute"),
        (60, "about 1 minute"),
        (89, "about 1 minute"),
        (5340, "about 89 minutes"),
        (5400, "about 2 hours"),
    ],
)
def test_approximate_duration(seconds: float, text: str) -> None:
    """An estimate is rounded."""
    assert page_texts.approximate_duration(seconds) == text


# The response


def source(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


@pytest.mark.parametrize("state", STATES)
def test_content_security_policy(state: str) -> None:
    """The policy allows exactly the page's own style and script."""
    response = render(replace(MIGRATING, state=state, debug=DEBUG))
    parsed = Parsed(response)
    assert response["Content-Security-Policy"] == (
        f"default-src 'none'; style-src {source(parsed.raw['style'])};"
        f" script-src {source(parsed.raw['script'])}; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    assert len(parsed.all("style")) == len(parsed.all("script")) == 1


def test_content_security_policy_without_script() -> None:
    """Without a status URL the page has no script, and the policy allows none."""
    response = render(replace(MIGRATING, status_url=None))
    parsed = Parsed(response)
    assert response["Content-Security-Policy"] == (
        f"default-src 'none'; style-src {source(parsed.raw['style'])};"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    assert not parsed.all("script")


@pytest.mark.parametrize("state", STATES)
def test_nothing_that_hashes_do_not_cover(state: str) -> None:
    """The page has no style attributes, no inline handlers, and loads no files."""
    for tag, attributes in Parsed(
        render(replace(MIGRATING, state=state, debug=DEBUG))
    ).elements:
        assert not [name for name in attributes if name.startswith("on")]
        assert not {"style", "src", "srcset"} & set(attributes)
        assert tag not in ("link", "img", "iframe", "form", "base")


def test_headers() -> None:
    """The page is never stored, indexed or sniffed, and has the given HTTP status."""
    response = render(MIGRATING, status=503)
    assert response.status_code == 503
    assert response["Content-Type"] == "text/html; charset=utf-8"
    assert response["Cache-Control"] == "no-store"
    assert response["X-Robots-Tag"] == "noindex"
    assert response["X-Content-Type-Options"] == "nosniff"
    assert response["Referrer-Policy"] == "same-origin"
    assert "Retry-After" not in response


def test_refresh_is_for_those_without_script() -> None:
    """A page with a script has its refresh in <noscript>."""
    content = render(MIGRATING).content.decode()
    assert '<noscript><meta http-equiv="refresh" content="7"></noscript>' in content


def test_refresh_without_script() -> None:
    """A page without a script refreshes itself, after at least one second."""
    content = render(PageContext("migrating", refresh_seconds=0)).content.decode()
    assert '<meta http-equiv="refresh" content="1">' in content
    assert "<noscript>" not in content


def test_ready_goes_on() -> None:
    """A ready page leads to the requested URL."""
    parsed = Parsed(render(replace(MIGRATING, state="ready")))
    [refresh] = [m for m in parsed.all("meta") if m.get("http-equiv") == "refresh"]
    assert refresh["content"] == f"1;url={WANTED}"
    assert parsed.all("a")[0]["href"] == WANTED


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/",
        "//evil.example/",
        "///evil.example",
        "/\\evil.example",
        "\\/evil.example",
        "/\t/evil.example",
        "/\n/evil.example",
        "javascript:alert(1)",
        "evil",
        " /evil",
        "",
    ],
)
def test_no_open_redirect(url: str) -> None:
    """A URL that is no path of this site becomes the site's front page."""
    parsed = Parsed(render(replace(MIGRATING, state="ready", continue_url=url)))
    assert parsed.all("main")[0]["data-continue-url"] == "/"
    assert {link["href"] for link in parsed.all("a")} == {"/"}
    assert "evil" not in render(replace(MIGRATING, continue_url=url)).content.decode()


@pytest.mark.parametrize("url", ["https://evil.example/", "//evil.example/status"])
def test_asks_no_other_site(url: str) -> None:
    """A status URL on another site (a strange `SCRIPT_NAME`) is not used."""
    content = render(replace(MIGRATING, status_url=url)).content.decode()
    assert "evil" not in content
    assert "<script" not in content


@pytest.mark.parametrize("state", STATES)
def test_a_form_is_lost(state: str) -> None:
    """After a form was sent, the page says so and opens no URL."""
    view = replace(MIGRATING, state=state, form_was_sent=True)
    parsed = Parsed(render(view))
    assert page_texts.form_lost() in parsed.lines
    assert "data-stays" in parsed.all("main")[0]
    assert not [m for m in parsed.all("meta") if m.get("http-equiv") == "refresh"]
    assert (page_texts.SEND_AGAIN in parsed.lines) == (state == "ready")


def test_stay_on_page() -> None:
    """A status page that is loaded as ready opens no URL."""
    assert "data-stays" not in Parsed(render(MIGRATING)).all("main")[0]
    ready = Parsed(render(replace(MIGRATING, state="ready", stay_on_page=True)))
    assert "data-stays" in ready.all("main")[0]
    assert page_texts.IN_USE in ready.lines
    assert page_texts.outlook("ready") not in ready.lines


def test_everything_is_escaped() -> None:
    """No value can end an attribute or begin an element."""
    hostile = "\"'><script>alert(1)</script>"
    debug = DebugContext((hostile,), hostile, hostile, hostile)
    url = f"/{hostile}"
    view = PageContext(
        "error", url, status_url=url, run=1, done=1, total=1, debug=debug
    )
    content = render(view).content.decode()
    assert "<script>" not in content
    assert content.count("<script") == 1
    assert Parsed(render(view)).all("main")[0]["data-status-url"] == url


def test_script_cannot_end_early() -> None:
    """The style and the script cannot end their elements early."""
    raw = Parsed(render(MIGRATING)).raw
    for text in (raw["style"], raw["script"]):
        assert not re.search(r"</(style|script)|<!--", text)


def test_independent_of_the_projects_templates(settings: Any) -> None:
    """The page needs no TEMPLATES, no request and no installed app."""
    settings.TEMPLATES = []
    settings.INSTALLED_APPS = []
    assert render(MIGRATING).content


# Languages


def test_german() -> None:
    """The page is in the active language, with its plural forms and its `lang`."""
    with translation.override("de"):
        parsed = Parsed(render(replace(MIGRATING, total=1, done=0)))
    assert parsed.all("html")[0] == {"lang": "de", "dir": "ltr"}
    assert "Diese Website wird aktualisiert" in parsed.lines
    assert "0 von 1 Schritt" in parsed.lines


def test_language_without_a_catalog() -> None:
    """Without a catalog for the language, the page is in English and says so."""
    with translation.override("fr"):
        parsed = Parsed(render(MIGRATING))
    assert parsed.all("html")[0] == {"lang": "en", "dir": "ltr"}


def test_without_translations(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With USE_I18N off the page is in English, whatever the project's language."""
    monkeypatch.setattr(translation, "_trans", type(translation._trans)())
    settings.USE_I18N = False
    settings.LANGUAGE_CODE = "de"
    assert Parsed(render(MIGRATING)).all("html")[0]["lang"] == "en"


@pytest.fixture
def clean_translations() -> Any:
    """Clear Django's catalogs before and after the test: it reads them once per process."""
    trans_real._translations.clear()
    yield
    trans_real._translations.clear()


@pytest.mark.usefixtures("clean_translations")
def test_catalog_of_the_project(settings: Any, tmp_path: Path) -> None:
    """A project's own catalog changes texts, and adds a language with its direction."""
    texts = {
        "": "Content-Type: text/plain; charset=UTF-8\n",
        f"the code of the language of this catalogue{CONTEXT}en": "ar",
        "This site is being updated": "يجري تحديث هذا الموقع",
    }
    folder = tmp_path / "ar/LC_MESSAGES"
    folder.mkdir(parents=True)
    (folder / "django.mo").write_bytes(write_mo(texts))
    settings.LOCALE_PATHS = [tmp_path]
    with translation.override("ar"):
        parsed = Parsed(render(MIGRATING))
    assert parsed.all("html")[0] == {"lang": "ar", "dir": "rtl"}
    assert texts["This site is being updated"] in parsed.lines


# Contrast, by the formula of WCAG 2


def palette(scheme: str) -> dict[str, str]:
    """Return the colors of the light or the dark scheme."""
    found = re.findall(r":root \{(.*?)\}", STYLE.read_text(), re.DOTALL)
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", found[scheme == "dark"]))


def luminance(color: str) -> float:
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels
    ]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    ("ink", "ground", "least"),
    [
        ("ink", "card", 4.5),
        ("ink", "inset", 4.5),
        ("ink", "bad-ground", 4.5),
        ("soft-ink", "card", 4.5),
        ("work", "card", 4.5),
        ("bad", "bad-ground", 4.5),
        # The bar and the mark are not text.
        *(
            (name, ground, 3)
            for name in ("work", "good", "bad")
            for ground in ("track", f"{name}-ground")
        ),
    ],
)
def test_contrast(scheme: str, ink: str, ground: str, least: float) -> None:
    """The contrast of text and of meaningful graphics meets WCAG level AA."""
    colors = palette(scheme)
    assert contrast(colors[ink], colors[ground]) >= least


def test_formula_of_contrast() -> None:
    """The formula gives the known contrasts."""
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "412 of 1,000 sites updated"),
        ("de", "412 von 1.000 Websites aktualisiert"),
    ],
)
def test_sites(language, text) -> None:
    """While a run is in the tenants' schemas, the page counts them instead of the steps."""
    view = replace(MIGRATING, done=14, sites=(412, 1000))
    with translation.override(language):
        lines = shown(view)
    assert text in lines
    assert not [line for line in lines if "14" in line]
    assert str(page_texts.CHECKING) not in lines


def test_one_site() -> None:
    """A single tenant is one site."""
    assert "0 of 1 site updated" in shown(replace(MIGRATING, sites=(0, 1)))
