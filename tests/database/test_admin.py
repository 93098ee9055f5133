"""Pages for runs and steps in Django's admin."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from html.parser import HTMLParser
from typing import Any

import pytest
from django.apps import apps
from django.core.checks import run_checks
from django.core.management import call_command
from django.db import connections
from django.test import Client

from django_safe_init.backends.postgresql.schema import RUN_TABLE, STEP_TABLE
from tests.support import Database, SqliteDatabase

pytestmark = pytest.mark.every_django

APPS = [
    "django_safe_init",
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django.contrib.messages",
    "django.contrib.admin",
    "django.contrib.staticfiles",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = {
    "BACKEND": "django.template.backends.django.DjangoTemplates",
    "APP_DIRS": True,
    "OPTIONS": {
        "context_processors": [
            "django.template.context_processors.request",
            "django.contrib.auth.context_processors.auth",
            "django.contrib.messages.context_processors.messages",
        ]
    },
}
RUNS = "/admin/django_safe_init/run/"
STEPS = "/admin/django_safe_init/step/"


def configure_admin(settings: Any) -> None:
    """Configure the admin, with sessions that need no table."""
    settings.INSTALLED_APPS = APPS
    settings.MIDDLEWARE = MIDDLEWARE
    settings.TEMPLATES = [TEMPLATES]
    settings.ROOT_URLCONF = "tests.database.admin_urls"
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
    settings.STATIC_URL = "static/"


initialize_admin = partial(call_command, "safe_migrate", verbosity=0)


def _logged_in(**rights: bool) -> Client:
    from django.contrib.auth.models import User

    client = Client()
    client.force_login(User.objects.create(username=f"user{rights}", **rights))
    return client


@pytest.fixture
def admin_project(initialize_as: Callable[..., Database], settings: Any) -> Database:
    """Return the database of an initialized project with the admin."""
    configure_admin(settings)
    return initialize_as("admin", initialize_admin)


@pytest.fixture
def client_of(admin_project: Database) -> Callable[..., Client]:
    """Return a factory of clients that are logged in."""
    return _logged_in


@pytest.fixture
def staff(client_of: Callable[..., Client]) -> Client:
    """Return a client that may log in to the admin and has no permission."""
    return client_of(is_staff=True)


class Page(HTMLParser):
    """Parsed page: its text, the rows of its tables, and its tags."""

    def __init__(self, client: Client, url: str, status: int = 200) -> None:
        super().__init__()
        response = client.get(url)
        assert response.status_code == status, response
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        #: Rows of the content; the tables of the admin's sidebar are left out.
        self.rows: list[list[str]] = []
        self._in_content = False
        self.html = response.content.decode()
        self.feed(self.html)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in_content |= ("id", "content-main") in attrs
        if tag == "tr" and self._in_content:
            self.rows.append([])
        elif tag in ("td", "th") and self.rows:
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] = (self.rows[-1][-1] + data).strip()

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def first_cells(self) -> list[str]:
        return [row[0] for row in self.rows[1:] if row]


def add_run(database: Database, **values: Any) -> int:
    """Copy the first run with other values, and return the id of the copy."""
    columns = [
        column["column_name"]
        for column in database.rows(
            "SELECT column_name FROM information_schema.columns"
            f" WHERE table_name = '{RUN_TABLE}' AND column_name <> 'id'"
        )
    ]
    chosen = ", ".join("%s" if name in values else name for name in columns)
    [row] = database.rows(
        f"INSERT INTO {RUN_TABLE} ({', '.join(columns)}) SELECT {chosen}"
        f" FROM {RUN_TABLE} ORDER BY id LIMIT 1 RETURNING id",
        *[values[name] for name in columns if name in values],
    )
    return int(row["id"])


# Lists


def test_runs(admin_project: Database, staff: Client) -> None:
    """The list shows the newest run first, with result, steps, command and leader."""
    add_run(admin_project, outcome="failed", done=1, total=3, leader="host:7")
    page = Page(staff, RUNS)
    newest, oldest = page.rows[1:]
    assert newest[:2] == ["2", "failed"]
    assert newest[4:] == ["1/3", "safe_migrate", "host:7"]
    assert oldest[:2] == ["1", "ready"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", newest[2])
    assert newest[3].endswith(" s")


def test_links_of_the_lists(staff: Client) -> None:
    """Both lists link to the page of the run, and their breadcrumbs name the app."""
    for url in (RUNS, STEPS):
        page = Page(staff, url)
        links = [attributes.get("href") for attributes in page.attributes("a")]
        assert f"{RUNS}1/" in links
        assert '<a href="/admin/django_safe_init/">Safe initialization</a>' in page.html


def test_steps(admin_project: Database, staff: Client) -> None:
    """The list shows the newest step first."""
    names = [step["name"] for step in reversed(admin_project.steps())]
    assert Page(staff, STEPS).first_cells() == names


def test_sorting_and_searching(admin_project: Database, staff: Client) -> None:
    """The lists can be sorted by duration, searched, and filtered by outcome."""
    add_run(admin_project, outcome="failed", leader="host:7", finished_at=None)
    ids = lambda query: sorted(Page(staff, RUNS + query).first_cells())  # noqa: E731
    assert ids("?o=4") == ids("?o=-4") == ids("?q=") == ["1", "2"]
    assert ids("?q=host:7") == ids("?outcome=failed") == ["2"]
    assert Page(staff, f"{STEPS}?o=5&q=auth.0001").first_cells() == [
        "auth.0001_initial"
    ]


def test_number_of_queries(
    admin_project: Database, staff: Client, django_assert_max_num_queries: Any
) -> None:
    """The number of queries does not depend on the length of the list of steps."""
    with django_assert_max_num_queries(18):
        Page(staff, STEPS)


def test_tracebacks(admin_project: Database, staff: Client) -> None:
    """No page shows a traceback or searches for one, also before the column exists."""
    add_run(admin_project, outcome="failed", traceback="secret rows")
    urls = [RUNS, STEPS, f"{RUNS}2/", f"{RUNS}?q=secret"]
    for url in urls:
        assert "secret rows" not in Page(staff, url).html
    for lookup in ("traceback", "traceback__contains"):
        Page(staff, f"{RUNS}?{lookup}=secret", status=400)
        Page(staff, f"{STEPS}?run__{lookup}=secret", status=400)
    admin_project.rows(f"ALTER TABLE {RUN_TABLE} DROP COLUMN traceback")
    assert Page(staff, RUNS).first_cells() == ["2", "1"]
    for url in urls[1:]:
        Page(staff, url)


# The page of a run


def test_timeline(admin_project: Database, staff: Client) -> None:
    """The page of a run has a row for each step, with a bar and its description."""
    page = Page(staff, f"{RUNS}1/")
    steps = admin_project.steps()
    assert page.first_cells() == [step["name"] for step in steps]
    bars = page.attributes("rect")
    assert len(bars) == len(steps) > 10
    ends = [float(b["x"][:-1]) + float(b["width"][:-1]) for b in bars]  # type: ignore[index]
    assert ends == sorted(ends)
    assert max(ends) <= 100.01
    words = [svg["aria-label"] for svg in page.attributes("svg") if "aria-label" in svg]
    assert all(
        re.fullmatch(r"starts after .+ s, takes .+ s", word or "") for word in words
    )
    assert len(words) == len(steps)


def test_timeline_without_script_or_style(staff: Client) -> None:
    """The content has no script and no inline style, so a strict CSP allows it."""
    page = Page(staff, f"{RUNS}1/")
    content = page.html[page.html.index('id="content-main"') :]
    content = content[: content.index("</main>")]
    assert "<script" not in content
    assert not re.search(r"\bstyle\b", content)


def test_style_sheet(staff: Client) -> None:
    """`collectstatic` finds the style sheet that the pages name."""
    from django.contrib.staticfiles import finders

    for url in (RUNS, f"{RUNS}1/"):
        assert "/static/django_safe_init/admin.css" in Page(staff, url).html
    assert finders.find("django_safe_init/admin.css")


def test_numbers_in_another_language(staff: Client, settings: Any) -> None:
    """The attributes of the drawing have no decimal comma."""
    settings.LANGUAGE_CODE = "de"
    for attributes in Page(staff, f"{RUNS}1/").attributes("rect"):
        assert re.fullmatch(r"\d+\.\d\d%", attributes["x"] or "")


def test_failed_run(admin_project: Database, staff: Client) -> None:
    """The page shows the error of a failed run as text, and says that it has no steps."""
    number = add_run(admin_project, outcome="failed", error="column <b> does not exist")
    page = Page(staff, f"{RUNS}{number}/")
    assert "column &lt;b&gt; does not exist" in page.html
    assert "This run had nothing to do, or ended before its first step." in page.html


def test_unknown_run(staff: Client) -> None:
    """The page of an unknown run answers 404."""
    assert staff.get(f"{RUNS}99/").status_code == 404


def test_step_backwards(admin_project: Database, staff: Client) -> None:
    """The page marks a step that was unapplied."""
    admin_project.rows(f"UPDATE {STEP_TABLE} SET backwards = true WHERE id = 1")
    assert Page(staff, f"{RUNS}1/").html.count("(backwards)") == 1


# Permissions


def test_strangers(client_of: Callable[..., Client]) -> None:
    """The pages redirect users who are not staff to the login page."""
    for client in (Client(), client_of(is_staff=False)):
        for url in (RUNS, STEPS, f"{RUNS}1/"):
            assert client.get(url)["Location"].startswith("/admin/login/")


def test_permission_that_was_narrowed(staff: Client, monkeypatch: Any) -> None:
    """A project can deny the view permission for lists and pages."""
    from django_safe_init.admin import ReadOnlyAdmin

    monkeypatch.setattr(ReadOnlyAdmin, "has_view_permission", lambda *args: False)
    for url in (RUNS, STEPS, f"{RUNS}1/"):
        assert staff.get(url).status_code == 403


@pytest.mark.parametrize("url", [RUNS, STEPS])
def test_nothing_can_be_changed(
    admin_project: Database, client_of: Callable[..., Client], url: str
) -> None:
    """A superuser cannot add, change or delete; the pages for it do not exist."""
    superuser = client_of(is_staff=True, is_superuser=True)
    before = admin_project.runs(), admin_project.steps()
    for page in ("add/", "1/change/", "1/delete/", "1/history/"):
        assert superuser.get(url + page).status_code == 404
        assert superuser.post(url + page).status_code == 404
    chosen = {"action": "delete_selected", "_selected_action": "1", "index": 0}
    superuser.post(url, chosen)
    superuser.post(f"{RUNS}1/", {"outcome": "failed"})
    assert (admin_project.runs(), admin_project.steps()) == before


def test_index(staff: Client) -> None:
    """The index pages of the admin and of the app link to both lists, without "Add"."""
    for url in ("/admin/", "/admin/django_safe_init/"):
        links = [a.get("href") for a in Page(staff, url).attributes("a")]
        assert {RUNS, STEPS} <= set(links)
        assert f"{RUNS}add/" not in links


def test_model_admins_are_sound(admin_project: Database) -> None:
    """Django's admin checks, which skip models of another registry, find no error."""
    from django.contrib import admin

    from django_safe_init.models import Run, Step

    for model in (Run, Step):
        assert admin.site.get_model_admin(model).check() == []
    assert [message for message in run_checks() if "admin" in str(message.id)] == []


# The rest of Django


def test_django_does_not_know_the_models(
    admin_project: Database, staff: Client
) -> None:
    """Reading every page creates no content type, permission, migration or log entry."""
    for url in ("/admin/", RUNS, STEPS, f"{RUNS}1/"):
        Page(staff, url)
    call_command("migrate", verbosity=0)
    call_command("makemigrations", "--check", "--dry-run", verbosity=0)
    for table, column in (
        ("django_content_type", "app_label"),
        ("django_migrations", "app"),
    ):
        labels = {
            row["label"]
            for row in admin_project.rows(f"SELECT {column} AS label FROM {table}")
        }
        assert "django_safe_init" not in labels
    assert admin_project.value("SELECT count(*) FROM django_admin_log") == 0
    names = {row["codename"] for row in admin_project.rows("TABLE auth_permission")}
    assert not {"view_run", "view_step"} & names
    assert list(apps.get_app_config("django_safe_init").get_models()) == []


def test_dumpdata(admin_project: Database, staff: Client, capsys: Any) -> None:
    """`dumpdata` omits the tables."""
    Page(staff, RUNS)
    capsys.readouterr()
    call_command("dumpdata")
    assert "django_safe_init" not in capsys.readouterr().out


# Several databases, several projects


@pytest.fixture
def second(
    admin_project: Database, make_database: Callable[..., Database], settings: Any
) -> Iterator[Database]:
    """Yield the initialized database of a second alias, "other"."""
    database = make_database()
    settings.SAFE_INIT = {"IN_TESTS": True, "DATABASES": ["default", "other"]}
    connections.settings["other"] = {
        **connections.settings["default"],
        **database.settings(),
    }
    try:
        call_command("safe_migrate", database=["other"], verbosity=0)
        yield database
    finally:
        connections["other"].close()
        del connections["other"], connections.settings["other"]


def test_several_databases(second: Database, staff: Client) -> None:
    """The filter selects the database of the runs, and the links keep it."""
    number = add_run(second, leader="other:1")
    page = Page(staff, f"{RUNS}?database=other")
    links = [attributes.get("href") or "" for attributes in page.attributes("a")]
    assert f"{RUNS}{number}/?database=other" in links
    assert {"?database=default", "?database=other"} <= set(links)
    assert "By database" in page.html
    assert "other:1" in Page(staff, f"{RUNS}{number}/?database=other").html
    assert "other:1" not in Page(staff, RUNS).html
    assert staff.get(f"{RUNS}{number}/").status_code == 404


def test_one_database(staff: Client) -> None:
    """One database needs no filter, and an unknown alias selects the first database."""
    page = Page(staff, f"{RUNS}?database=nowhere")
    assert "By database" not in page.html
    assert page.first_cells() == ["1"]


def test_other_projects(admin_project: Database, staff: Client, settings: Any) -> None:
    """The lists omit runs and steps of another project in the same database."""
    settings.SAFE_INIT = {"IN_TESTS": True, "LOCK_KEY": "another"}
    assert Page(staff, RUNS).first_cells() == []
    assert Page(staff, STEPS).first_cells() == []
    assert staff.get(f"{RUNS}1/").status_code == 404


def test_sqlite(lite: SqliteDatabase, settings: Any) -> None:
    """All pages work on SQLite, also when sorted by duration."""
    configure_admin(settings)
    initialize_admin()
    staff = _logged_in(is_staff=True)
    names = [step["name"] for step in lite.steps()]
    assert Page(staff, f"{RUNS}1/").first_cells() == names
    assert Page(staff, f"{RUNS}?o=4").rows[1][:2] == ["1", "ready"]
    assert set(Page(staff, f"{STEPS}?o=-5").first_cells()) == set(names)
    lite.rows(f"DROP TABLE {STEP_TABLE}")
    assert "missing, or cannot be read" in Page(staff, RUNS).html


# Missing and unreadable tables


@pytest.mark.parametrize("url", [RUNS, STEPS, f"{RUNS}1/"])
@pytest.mark.parametrize("atomic", [False, True])
@pytest.mark.parametrize(
    "harm",
    [
        f"DROP TABLE {STEP_TABLE}; DROP TABLE {RUN_TABLE}",
        f"ALTER TABLE {STEP_TABLE} DROP COLUMN detail",  # as an older version created it
    ],
)
def test_missing_tables(
    admin_project: Database, staff: Client, harm: str, url: str, atomic: bool
) -> None:
    """The pages explain missing tables, also when each request is a transaction."""
    admin_project.rows(harm)
    connections["default"].settings_dict["ATOMIC_REQUESTS"] = atomic
    try:
        page = Page(staff, url)
    finally:
        connections["default"].settings_dict["ATOMIC_REQUESTS"] = False
    assert "missing, or cannot be read" in page.html
    assert "safe_migrate --force" in page.html


def test_an_engine_without_a_driver(
    admin_project: Database, staff: Client, settings: Any, monkeypatch: Any
) -> None:
    """A database that Django cannot load gets the same page."""
    entry = connections.configure_settings({"default": {}, "x": {"ENGINE": "nowhere"}})
    monkeypatch.setitem(connections.settings, "x", entry["x"])
    monkeypatch.setitem(settings.DATABASES, "x", entry["x"])
    settings.SAFE_INIT = {**settings.SAFE_INIT, "DATABASES": ["default", "x"]}
    page = Page(staff, f"{RUNS}?database=x")
    assert "missing, or cannot be read" in page.html


def test_unreadable_tables(
    admin_project: Database, staff: Client, new_role: Any, log_in_as: Any
) -> None:
    """A role without access gets a page that names the GRANT."""
    role = new_role(f"{admin_project.name}_web")
    admin_project.rows(f'GRANT SELECT ON ALL TABLES IN SCHEMA public TO "{role}"')
    admin_project.rows(f'REVOKE ALL ON {RUN_TABLE}, {STEP_TABLE} FROM "{role}"')
    log_in_as(USER=role)
    assert "GRANT SELECT ON" in Page(staff, RUNS).html
