"""`SAFE_INIT`: its defaults, live reading, and one error for each mistake."""

from __future__ import annotations

import copy
import dataclasses

import pytest
from django.test import override_settings

from django_safe_init.conf import (
    DEFAULT_PATHS,
    PLATFORM_VARIABLES,
    RELEASE_VARIABLE,
    RULES,
    LockTimeoutPolicy,
    Settings,
    effective_mode,
    effective_serve_mode,
    get_settings,
    in_test_environment,
    iter_errors,
)
from django_safe_init.core.findings import DEFAULT_LEVELS
from django_safe_init.exceptions import ConfigurationError

#: For each key, its valid and its invalid values.
VALUES = {
    "MODE": (["self", "external", "off"], ["SELF", "", None, 1]),
    "IN_TESTS": ([True, False], [1, 0, "yes", None]),
    "DATABASES": ([["default"], ("default",)], ["default", [], [1], None, {}]),
    "RELEASE": ([None, "", "v42", "3f2a"], [1, b"v42", ["v42"]]),
    "LOCK_KEY": ([None, "", "shop"], [1, b"shop", ["shop"]]),
    "LOCK": (["auto", "none"], [None, "file", True]),
    "DIRECT": (
        [{}, {"default": {}}, {"default": {"HOST": "db"}}],
        [None, [], {"default": None}, {"default": "db"}],
    ),
    "CONNECT_ATTEMPTS": ([1, 10], [0, -1, 1.5, True, "10", None]),
    "CONNECT_MAX_WAIT": ([1, 0.5], [0, -1, True, "30", None]),
    "CONNECT_TIMEOUT": ([1, 0.5], [0, -1, True, "30", None]),
    "WAIT_TIMEOUT": ([1, 0.5], [0, -1, True, "30", None]),
    "MAX_WAIT": ([None, 1, 0.5], [0, -1, True, "30"]),
    "RESTARTS": ([0, 3], [-1, 1.5, True, "3", None]),
    "STALLED_AFTER": ([None, 10, 60.5], [0, -1, 9.9, True, "30"]),
    "UNFINISHED": (["rerun", "report"], ["RERUN", None, True]),
    "DDL_LOCK_TIMEOUT": ([None, 1, 0.5], [0, -1, True, "30"]),
    "DDL_ATTEMPTS": ([1, 10], [0, -1, 1.5, True, "10", None]),
    "HISTORY": ([1, 1000], [0, -1, 1.5, True, "10", None]),
    "TENANT_READINESS": (["all", "shared"], ["ALL", None, True]),
    "TENANT_FAILURES": ([1, 10], [0, -1, 1.5, True, "5", None]),
    "TENANT_ORDER": ([None, "name", "mysite.tenants.order"], [1, b"name", ["name"]]),
    "VALIDATE": (
        [{}, {"missing_table": "warn"}, {"invalid_index": "off"}],
        [None, ["missing_table"], {"tables": "off"}, {"missing_table": True}],
    ),
    "SERVE": (["gate", "initialize", "off"], ["GATE", "", None, True]),
    "PATHS": (
        [{}, {"live": "/up"}, {"ready": None, "status": None}],
        [
            None,
            ["/up"],
            {"alive": "/up"},
            {"live": "up"},
            {"live": ""},
            {"live": 1},
            {"live": "/health/db"},
            {"live": "/same", "ready": "/same"},
        ],
    ),
    "PRIVILEGED_DATABASE": ([None, "admin", "not in DATABASES here"], [1, ["admin"]]),
    "EXEMPT_PATHS": (
        [[], ("/static/", "/legal")],
        [None, "/static/", ["static/"], [1]],
    ),
    "STATUS_TOKEN": (["", "s3cret", "schlüssel"], [None, 1, b"s3cret"]),
}
#: The conversion that the settings apply to a key's value.
READ_AS = {
    "DATABASES": tuple,
    "EXEMPT_PATHS": tuple,
    "PATHS": lambda value: {**DEFAULT_PATHS, **value},
    "RELEASE": lambda value: value or None,
    "VALIDATE": lambda value: {**DEFAULT_LEVELS, **value},
}
GOOD = [(key, value) for key, (good, _) in VALUES.items() for value in good]
BAD = [(key, value) for key, (_, bad) in VALUES.items() for value in bad]


def test_defaults() -> None:
    """Without any key, the settings have these defaults."""
    assert get_settings() == Settings(
        mode="self",
        in_tests=False,
        databases=("default",),
        lock_key=None,
        lock="auto",
        direct={},
        connect_attempts=10,
        connect_max_wait=30,
        connect_timeout=10,
        wait_timeout=600,
        max_wait=None,
        restarts=3,
        stalled_after=None,
        unfinished="rerun",
        history=1000,
        validate={
            "missing_table": "error",
            "missing_column": "error",
            "missing_unique": "warn",
            "missing_index": "warn",
            "missing_foreign_key": "warn",
            "invalid_index": "warn",
            "not_valid_constraint": "warn",
        },
        serve="gate",
        paths={
            "live": "/health/live",
            "ready": "/health/db",
            "status": "/api/db/status",
        },
        exempt_paths=(),
        status_token="",
    )


def test_no_setting_at_all(settings) -> None:
    """A project that does not define SAFE_INIT has the defaults."""
    del settings.SAFE_INIT
    assert get_settings() == Settings()
    assert list(iter_errors()) == []


def test_every_key_has_a_rule_and_a_test() -> None:
    """Settings, rules and these tests have the same keys."""
    fields = {field.name.upper() for field in dataclasses.fields(Settings)}
    assert fields == set(RULES) == set(VALUES)


@pytest.mark.parametrize(("key", "value"), GOOD)
def test_good_values(key, value) -> None:
    """The settings hold each valid value."""
    with override_settings(SAFE_INIT={key: value}):
        expected = READ_AS.get(key, lambda value: value)(value)
        assert getattr(get_settings(), key.lower()) == expected


@pytest.mark.parametrize(("key", "value"), BAD)
def test_wrong_values(key, value) -> None:
    """An invalid value yields an error that names the value and the rule."""
    with override_settings(SAFE_INIT={key: value}):
        [error] = iter_errors()
        assert error.kind == "type"
        secret = f"of the type {type(value).__name__}"
        shown = secret if key == "STATUS_TOKEN" else repr(value)
        assert error.message == f"SAFE_INIT[{key!r}] is {shown}."
        assert error.hint.startswith("It must be ")
        with pytest.raises(ConfigurationError) as caught:
            get_settings()
    assert str(caught.value) == f"{error.message} {error.hint}"


def test_stalled_too_soon() -> None:
    """The error for a short STALLED_AFTER explains the minimum."""
    with override_settings(SAFE_INIT={"STALLED_AFTER": 5}):
        [error] = iter_errors()
    assert error.hint == (
        "It must be 10 seconds or more (a leader gives a sign of life every 2 seconds), "
        "or None."
    )


def test_unknown_key() -> None:
    """The error for an unknown key lists all known keys."""
    with override_settings(SAFE_INIT={"MODUS": "self"}):
        [error] = iter_errors()
    assert (error.kind, error.message) == (
        "unknown",
        "SAFE_INIT has an unknown key 'MODUS'.",
    )
    assert error.hint == "Known keys: " + ", ".join(sorted(RULES)) + "."


def test_not_a_dictionary() -> None:
    """A SAFE_INIT of another type than a dictionary is an error."""
    with override_settings(SAFE_INIT=["MODE"]):
        assert [error.message for error in iter_errors()] == [
            "SAFE_INIT is not a dictionary."
        ]


def test_all_problems_are_found_at_once() -> None:
    """`iter_errors` yields every error, not only the first."""
    with override_settings(SAFE_INIT={"MODUS": 1, "LOCK": 1, "RESTARTS": -1}):
        assert len(list(iter_errors())) == 3


@pytest.mark.parametrize("key", ["DATABASES", "DIRECT"])
def test_unknown_alias(key) -> None:
    """The error for an unknown alias lists the aliases of the project."""
    value = ["default", "nowhere"] if key == "DATABASES" else {"nowhere": {}}
    with override_settings(SAFE_INIT={key: value}):
        [error] = iter_errors()
    assert "'nowhere'" in error.message
    assert error.hint == "Use an alias of DATABASES: default."


def test_settings_are_read_live() -> None:
    """Nothing is cached: `override_settings` works."""
    with override_settings(SAFE_INIT={"RESTARTS": 7}):
        assert get_settings().restarts == 7
    assert get_settings().restarts == 3


def test_the_users_dictionary_is_never_changed() -> None:
    """Reading the settings does not change the project's dictionary."""
    given = {"DATABASES": ["default"], "DIRECT": {"default": {"HOST": "db"}}}
    before = copy.deepcopy(given)
    with override_settings(SAFE_INIT=given):
        get_settings()
        list(iter_errors())
    assert given == before


def test_the_environments_mode_wins(monkeypatch) -> None:
    """DB_INIT_MODE wins over SAFE_INIT."""
    monkeypatch.setenv("DB_INIT_MODE", "external")
    with override_settings(SAFE_INIT={"MODE": "off"}):
        assert get_settings().mode == "external"


@pytest.mark.parametrize("variable", [RELEASE_VARIABLE, *PLATFORM_VARIABLES])
def test_the_release_of_the_environment(monkeypatch, variable) -> None:
    """Each variable identifies the release, unless RELEASE is given, even as empty."""
    monkeypatch.setenv(variable, " v42\n")
    assert get_settings().release == "v42"
    for given, release in {"v43": "v43", "": None}.items():
        with override_settings(SAFE_INIT={"RELEASE": given}):
            assert get_settings().release == release


def test_the_most_specific_release_wins(monkeypatch) -> None:
    """The first variable that is not empty wins, and the package's own is the first."""
    monkeypatch.setenv("RENDER_GIT_COMMIT", "render")
    monkeypatch.setenv("HEROKU_RELEASE_VERSION", "heroku")
    monkeypatch.setenv(RELEASE_VARIABLE, " ")
    assert get_settings().release == "heroku"
    monkeypatch.setenv(RELEASE_VARIABLE, "own")
    assert get_settings().release == "own"


def test_every_database_can_store_the_release() -> None:
    """A release is printable ASCII of limited length, however it is written."""
    for given in ("Größe\x00\n", "x" * 5000):
        with override_settings(SAFE_INIT={"RELEASE": given}):
            release = get_settings().release
        assert release is not None
        assert release.isascii()
        assert release.isprintable()
        assert len(release) <= 200


def test_long_releases_differ() -> None:
    """Two long releases with the same beginning are two releases."""
    found = set()
    for number in range(2):
        with override_settings(SAFE_INIT={"RELEASE": f"{'x' * 300}-{number}"}):
            found.add(get_settings().release)
    assert len(found) == 2


def test_an_empty_environment_variable_is_none(monkeypatch) -> None:
    """An empty DB_INIT_MODE is ignored."""
    monkeypatch.setenv("DB_INIT_MODE", "")
    with override_settings(SAFE_INIT={"MODE": "off"}):
        assert get_settings().mode == "off"


def test_an_unknown_mode_in_the_environment(monkeypatch) -> None:
    """An unknown DB_INIT_MODE is an error that names the variable and the modes."""
    monkeypatch.setenv("DB_INIT_MODE", "maybe")
    with pytest.raises(ConfigurationError) as caught:
        get_settings()
    assert str(caught.value) == (
        "The environment variable DB_INIT_MODE is 'maybe'. "
        'It must be one of "self", "external", "off".'
    )


def test_the_token_of_the_environment(monkeypatch) -> None:
    """The token defaults to the environment variable; the setting wins."""
    monkeypatch.setenv("SAFE_INIT_STATUS_TOKEN", "from the environment")
    assert get_settings().status_token == "from the environment"
    with override_settings(SAFE_INIT={"STATUS_TOKEN": ""}):
        assert get_settings().status_token == ""


def test_the_token_is_not_shown() -> None:
    """The representation of the settings does not contain the token."""
    assert "s3cret" not in repr(Settings(status_token="s3cret"))


@pytest.mark.parametrize(
    ("settings", "serve"),
    [
        (Settings(in_tests=True), "gate"),
        (Settings(in_tests=True, serve="initialize"), "initialize"),
        (Settings(in_tests=True, mode="external"), "gate"),
        (Settings(in_tests=True, serve="off"), "off"),
        (Settings(in_tests=True, mode="off"), "off"),
        (Settings(serve="initialize"), "off"),
    ],
)
def test_effective_serve_mode(settings, serve) -> None:
    """A web process follows SERVE, and does nothing if the mode is "off"."""
    assert effective_serve_mode(settings) == serve


def test_off_in_the_test_environment() -> None:
    """In Django's test environment the mode is "off", even if another one is requested."""
    assert in_test_environment()
    assert effective_mode(Settings(mode="self")) == "off"
    assert effective_mode(Settings(mode="self"), "external") == "off"


def test_in_tests_switches_it_on() -> None:
    """With IN_TESTS the requested mode applies, or the configured one without a request."""
    settings = Settings(mode="external", in_tests=True)
    assert effective_mode(settings) == "external"
    assert effective_mode(settings, "self") == "self"


def test_outside_of_tests(monkeypatch) -> None:
    """Without a test environment, IN_TESTS has no effect."""
    monkeypatch.delitem(__import__("sys").modules, "django.test.utils")
    assert not in_test_environment()
    assert effective_mode(Settings()) == "self"


def test_an_unknown_mode_is_refused() -> None:
    """The error for an unknown mode lists the modes."""
    with pytest.raises(ConfigurationError, match="There is no mode 'both'"):
        effective_mode(Settings(in_tests=True), "both")


def test_backoff_between_attempts() -> None:
    """A pause starts at the timeout, doubles with each attempt, and is about 30 s at most."""
    policy = LockTimeoutPolicy(2.0, 10)
    pauses = [policy.backoff(attempt) for attempt in (1, 2, 3, 50, 10**9)]
    for pause, middle in zip(pauses, (2, 4, 8, 30, 30), strict=True):
        assert middle * 0.75 <= pause <= middle * 1.25
