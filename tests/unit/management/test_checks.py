"""System checks: each has an id and a hint, and does not open the database."""

from __future__ import annotations

from contextlib import suppress
from types import SimpleNamespace

import pytest
from django.apps import apps
from django.core.checks import ERROR, WARNING, run_checks
from django.core.management import get_commands
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.signals import post_migrate

from django_safe_init import UnsupportedEngine, get_status, init_step
from django_safe_init.conf import POOL_KEY
from django_safe_init.core.step_registry import registry
from django_safe_init.management import checks
from tests.mariadb import install_driver
from tests.settings import DATABASES

OTHER = {"ENGINE": "tests.other_engine", "NAME": ":memory:"}


@pytest.fixture
def other_alias(settings, monkeypatch):
    """Add a second database, whose engine has no lock."""
    configured = connections.configure_settings({"default": {}, "other": dict(OTHER)})
    monkeypatch.setitem(connections.settings, "other", configured["other"])
    settings.SAFE_INIT = {"DATABASES": ["default", "other"]}
    connections["other"].close()
    yield
    with suppress(AttributeError):  # it was not opened
        del connections["other"]


def ours() -> list:
    return run_checks(tags=["safe_init"])


def test_a_sound_project_has_no_message() -> None:
    """The checks report nothing with the default settings."""
    assert ours() == []


@pytest.mark.parametrize(
    ("value", "id_"),
    [
        ({"MODUS": "self"}, "safe_init.E001"),
        ({"MODE": "selfish"}, "safe_init.E002"),
        ({"DATABASES": ["nowhere"]}, "safe_init.E002"),
        ([], "safe_init.E002"),
    ],
)
def test_settings(settings, value, id_) -> None:
    """E001 reports an unknown key and E002 an invalid value, each with a hint."""
    settings.SAFE_INIT = value
    [message] = ours()
    assert (message.id, message.level) == (id_, ERROR)
    assert message.hint


@pytest.mark.usefixtures("other_alias")
def test_engine_without_a_lock() -> None:
    """W001 names a database whose engine has no lock, and the alternatives."""
    [message] = ours()
    assert (message.id, message.level) == ("safe_init.W001", WARNING)
    assert (
        message.msg == "The database 'other' (tests.other_engine) has no leader lock."
    )
    assert '"LOCK": "none"' in message.hint


SECOND = {"ENGINE": "django.db.backends.postgresql", "NAME": "second"}


class OnlyDefault:
    """A router that allows migrations only on the first database."""

    def allow_migrate(self, db, app_label, **hints) -> bool:
        return db == "default"


class OnlyAuth:
    """A router that allows the migrations of one app on the second database."""

    def allow_migrate(self, db, app_label, **hints) -> bool | None:
        return app_label == "auth" if db == "second" else None


@pytest.fixture
def add_database(monkeypatch):
    """Return a function that adds a database of this alias to the project."""
    added = []

    def add(alias: str, **entry) -> None:
        configured = connections.configure_settings({"default": {}, alias: entry})
        monkeypatch.setitem(connections.settings, alias, configured[alias])
        added.append(alias)

    yield add
    for alias in added:
        with suppress(AttributeError):  # it was not opened
            del connections[alias]


def test_a_second_database(settings, add_database) -> None:
    """W011 names each database that could be initialized, until the project decides on it."""
    add_database("second", **SECOND)
    add_database("file", ENGINE="django.db.backends.sqlite3", NAME="file.sqlite3")
    messages = ours()
    assert [message.id for message in messages] == ["safe_init.W011"] * 2
    assert "'second' is not initialized" in messages[0].msg
    assert '"DATABASES": ["default", "second", "file"]' in messages[0].hint
    for chosen in (["default"], ["default", "second"]):
        settings.SAFE_INIT = {"DATABASES": chosen}
        assert ours() == []


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"options": "-c search_path=other"}, 1),
        ({"options": "-c statement_timeout=5s"}, 0),
    ],
)
def test_a_second_schema(add_database, options, count) -> None:
    """W011 reports an alias of the same database whose tables are in another schema."""
    same = {key: DATABASES["default"][key] for key in ("NAME", "HOST", "PORT")}
    add_database("second", **{**SECOND, **same, "OPTIONS": options})
    assert [message.id for message in ours()] == ["safe_init.W011"] * count


def test_an_empty_default_beside_databases(add_database, monkeypatch) -> None:
    """The hint of W011 proposes no empty entry."""
    add_database("second", **SECOND)
    empty = {**connections.settings["default"], "ENGINE": "django.db.backends.dummy"}
    monkeypatch.setitem(connections.settings, "default", empty)
    [message] = [each for each in ours() if each.id == "safe_init.W011"]
    assert message.msg.endswith("cover no database.")
    assert message.hint == 'Set SAFE_INIT = {"DATABASES": ["second"]}.'


@pytest.mark.parametrize(
    "changes",
    [
        {"TEST": {"MIRROR": "default"}},
        {POOL_KEY: SimpleNamespace(name="slow", database="default")},
        {"ENGINE": "tests.other_engine"},
        {"ENGINE": "django.db.backends.dummy"},
        {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"},
        {"ENGINE": "no.such.engine"},
        {key: DATABASES["default"][key] for key in ("NAME", "HOST", "PORT")},
    ],
    ids=["mirror", "pool", "no lock", "dummy", "memory", "not loaded", "same"],
)
def test_a_second_entry_that_is_no_database_of_its_own(add_database, changes) -> None:
    """W011 does not report an entry that no leader could, or need, initialize."""
    add_database("second", **{**SECOND, **changes})
    assert "safe_init.W011" not in {message.id for message in ours()}


@pytest.mark.parametrize(
    "safe_init", [{"MODE": "off"}, {"PRIVILEGED_DATABASE": "second"}]
)
def test_a_second_database_without_a_run(settings, add_database, safe_init) -> None:
    """W011 reports nothing in the mode "off", and no administrator's alias."""
    settings.SAFE_INIT = safe_init
    add_database("second", **SECOND)
    assert ours() == []


@pytest.mark.parametrize(("name", "count"), [("OnlyDefault", 0), ("OnlyAuth", 1)])
def test_routers_of_a_second_database(settings, add_database, name, count) -> None:
    """W011 does not report a database on which the routers allow no migration."""
    settings.DATABASE_ROUTERS = [f"{__name__}.{name}"]
    add_database("second", **SECOND)
    assert [message.id for message in ours()] == ["safe_init.W011"] * count


def test_a_second_database_for_migrations_without_models(
    settings, add_database, monkeypatch
) -> None:
    """W011 reports a database on which only an app without models has migrations."""
    settings.DATABASE_ROUTERS = [f"{__name__}.OnlyAuth"]
    add_database("second", **SECOND)
    auth = apps.get_app_config("auth")
    monkeypatch.setattr(auth, "get_models", lambda *args: [])
    assert [message.id for message in ours()] == ["safe_init.W011"]


def install_views(**kwargs) -> None:
    """Stand for a receiver of a package that installs views."""


@pytest.fixture
def receiver():
    post_migrate.connect(install_views)
    yield f"{__name__}.install_views"
    post_migrate.disconnect(install_views)


def test_receivers_without_a_release(settings, monkeypatch, receiver) -> None:
    """W010 names the project's receivers, and how to get the fast path back."""
    [message] = ours()
    assert (message.id, message.level) == ("safe_init.W010", WARNING)
    assert receiver in message.msg
    assert "django.contrib" not in message.msg
    assert "Set SAFE_INIT_RELEASE" in message.hint
    monkeypatch.setenv("SAFE_INIT_RELEASE", "v42")
    assert ours() == []


@pytest.mark.parametrize("mode", ["external", "off"])
def test_receivers_of_a_process_that_never_leads(settings, receiver, mode) -> None:
    """W010 reports nothing in a mode in which no fast path exists."""
    settings.SAFE_INIT = {"MODE": mode}
    assert ours() == []


@pytest.mark.usefixtures("other_alias")
def test_the_risk_is_accepted(settings) -> None:
    """LOCK = "none" silences W001."""
    settings.SAFE_INIT = {**settings.SAFE_INIT, "LOCK": "none"}
    assert ours() == []


ENGINES = {
    "mariadb": {"ENGINE": "django.db.backends.mysql", "HOST": "127.0.0.1", "PORT": "1"},
    "other": {"ENGINE": "tests.other_engine", "NAME": ":memory:"},
    "postgresql": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": "x",
        "HOST": "127.0.0.1",
        "PORT": "1",
    },
    "sqlite": {"ENGINE": "django.db.backends.sqlite3", "NAME": "/nowhere/db.sqlite3"},
}


@pytest.mark.usefixtures("other_alias")
@pytest.mark.parametrize("engine", ENGINES)
def test_no_check_opens_a_connection(monkeypatch, settings, engine) -> None:
    """No check opens a database, on any engine, unless Django is told to check that one."""
    if engine == "mariadb":
        install_driver()
    connections.settings["other"].update({"NAME": "", **ENGINES[engine]})
    del connections["other"]
    opened: list[str] = []
    monkeypatch.setattr(
        BaseDatabaseWrapper, "connect", lambda wrapper: opened.append(wrapper.alias)
    )
    settings.MIDDLEWARE = ["django.middleware.common.CommonMiddleware", MIDDLEWARE]
    settings.SAFE_INIT = {**settings.SAFE_INIT, "SERVE": "initialize"}
    monkeypatch.setattr(registry, "_steps", [])
    monkeypatch.setattr(registry, "_is_complete", True)
    monkeypatch.setattr(registry, "_app", SimpleNamespace(label="shop"))
    init_step(lambda context: None, name="role", phase="privileged", done=bool)
    ids = {message.id for message in ours()}
    assert "safe_init.W003" in ids
    assert opened == []


@pytest.mark.usefixtures("other_alias")
def test_engine_that_cannot_be_loaded() -> None:
    """W008 names an engine that Django cannot load, whatever the reason is."""
    connections.settings["other"]["ENGINE"] = "nowhere"
    del connections["other"]
    [message] = ours()
    assert (message.id, message.level) == ("safe_init.W008", WARNING)
    assert "'nowhere' isn't an available database backend" in message.msg
    assert "Correct its ENGINE" in message.hint
    with pytest.raises(UnsupportedEngine, match="database 'other': 'nowhere' isn't"):
        get_status("other")


def test_pgmigrate(monkeypatch, settings) -> None:
    """W009 says that django-pgmigrate has no effect, unless the project has switched it off."""
    monkeypatch.setattr(apps, "is_installed", lambda name: name == "pgmigrate")
    [message] = checks.check_pgmigrate(None)
    assert (message.id, message.level) == ("safe_init.W009", WARNING)
    assert "django_safe_init" in message.msg
    settings.PGMIGRATE_PATCH_MIGRATE = False
    assert checks.check_pgmigrate(None) == []


def test_shadowed_migrate(settings) -> None:
    """W002 names the app whose `migrate` is used, and the order that composes both."""
    settings.INSTALLED_APPS = ["syzygy", *settings.INSTALLED_APPS]
    assert get_commands()["migrate"] == "syzygy"
    [message] = [each for each in ours() if each.id.startswith("safe_init")]
    assert (message.id, message.level) == ("safe_init.W002", WARNING)
    assert "The `migrate` of syzygy is used" in message.msg
    assert message.hint == (
        "Put 'django_safe_init' before 'syzygy' in INSTALLED_APPS; ours then extends theirs."
    )


def test_migrate_that_ours_extends(settings) -> None:
    """W002 does not report a later app's `migrate`, which this package's extends."""
    settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, "syzygy"]
    assert [each for each in ours() if each.id == "safe_init.W002"] == []


MIDDLEWARE = "django_safe_init.middleware.InitializationMiddleware"
SECURITY = "django.middleware.security.SecurityMiddleware"


@pytest.mark.parametrize(
    "middleware", [[], [SECURITY], [MIDDLEWARE], [MIDDLEWARE, SECURITY]]
)
def test_first_middleware(settings, middleware) -> None:
    """W003 reports nothing if the middleware comes first or is not used."""
    settings.MIDDLEWARE = middleware
    assert ours() == []


def test_a_middleware_before_ours(settings) -> None:
    """W003 reports that another middleware answers the probes."""
    settings.MIDDLEWARE = [SECURITY, MIDDLEWARE]
    [message] = ours()
    assert (message.id, message.level) == ("safe_init.W003", WARNING)
    assert message.msg.startswith(f"{MIDDLEWARE} is not the first in MIDDLEWARE")
    assert message.hint == "Move it to the first place."


def test_a_server_that_would_not_begin(settings) -> None:
    """W005 reports that "initialize" needs the middleware."""
    settings.SAFE_INIT = {"SERVE": "initialize"}
    settings.MIDDLEWARE = [SECURITY]
    [message] = ours()
    assert (message.id, message.level) == ("safe_init.W005", WARNING)
    assert message.hint == f"Put {MIDDLEWARE!r} first in MIDDLEWARE."
    settings.MIDDLEWARE = [MIDDLEWARE, SECURITY]
    assert ours() == []


@pytest.mark.parametrize(
    ("paths", "route"),
    [
        pytest.param({}, "", id="our own views"),
        pytest.param({"live": "/nowhere"}, "", id="a route for whatever is left over"),
        pytest.param({"live": "/up"}, "up", id="a route"),
        pytest.param({"live": None, "ready": "/up"}, "up", id="one of two"),
        pytest.param({"live": "/health/up"}, "health/<slug:name>", id="a converter"),
    ],
)
def test_shadowed_routes(settings, paths, route) -> None:
    """W004 names the project's route that the middleware hides."""
    settings.MIDDLEWARE, settings.ROOT_URLCONF = [MIDDLEWARE], "tests.unit.urls"
    settings.SAFE_INIT = {"PATHS": paths}
    found = [(message.id, message.level) for message in ours()]
    assert found == ([("safe_init.W004", WARNING)] if route else [])
    for message in ours():
        assert f"so the route {route!r} is not reached there" in message.msg
        assert "or None for none" in message.hint


def test_no_route_at_all(settings) -> None:
    """W004 reports nothing if no route matches the path."""
    settings.MIDDLEWARE, settings.ROOT_URLCONF = [MIDDLEWARE], "django_safe_init.urls"
    settings.SAFE_INIT = {"PATHS": {"live": "/up"}}
    assert ours() == []


def test_shadowed_routes_without_the_middleware(settings) -> None:
    """W004 reports nothing without the middleware, or with invalid settings."""
    settings.ROOT_URLCONF, settings.SAFE_INIT = "tests.unit.urls", {"PATHS": 1}
    assert checks.check_paths(None) == []
    settings.MIDDLEWARE = [MIDDLEWARE]
    assert checks.check_paths(None) == []
