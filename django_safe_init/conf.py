"""The `SAFE_INIT` setting: its keys, their defaults and their validation."""

from __future__ import annotations

import dataclasses
import os
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from django.conf import settings as django_settings

from django_safe_init.core.findings import DEFAULT_LEVELS, LEVELS
from django_safe_init.exceptions import ConfigurationError

MODES = ("self", "external", "off")
MODE_VARIABLE = "DB_INIT_MODE"
SERVE_MODES = ("gate", "initialize", "off")
TOKEN_VARIABLE = "SAFE_INIT_STATUS_TOKEN"
RELEASE_VARIABLE = "SAFE_INIT_RELEASE"
#: The environment variables by which platforms identify a release. Each value is the same on all
#: machines and processes of one release, and new with the next one:
#: - Heroku: https://devcenter.heroku.com/articles/dyno-metadata
#: - Render: https://render.com/docs/environment-variables
#: - Fly: https://fly.io/docs/machines/runtime-environment/ (not `FLY_MACHINE_VERSION`, which
#:   identifies the configuration of one machine)
#: - Cloud Run: https://cloud.google.com/run/docs/container-contract
#: - Railway: https://docs.railway.com/variables/reference (a deployment belongs to one service,
#:   and several services may share a commit)
PLATFORM_VARIABLES = (
    "HEROKU_RELEASE_VERSION",
    "HEROKU_BUILD_COMMIT",
    "HEROKU_SLUG_COMMIT",
    "RENDER_GIT_COMMIT",
    "FLY_IMAGE_REF",
    "K_REVISION",
    "RAILWAY_GIT_COMMIT_SHA",
    "RAILWAY_DEPLOYMENT_ID",
)
_RELEASE_VARIABLES = (RELEASE_VARIABLE, *PLATFORM_VARIABLES)
_MAX_RELEASE_LENGTH = 200
_DIGEST_LENGTH = 16
#: The key of an entry of DATABASES that marks it as a slow pool of another entry.
POOL_KEY = "SAFE_INIT_POOL"
#: The URL paths of the endpoints. `PATHS` overrides them.
DEFAULT_PATHS: Mapping[str, str | None] = {
    "live": "/health/live",
    "ready": "/health/db",
    "status": "/api/db/status",
}
#: The interval of a leader's heartbeats.
HEARTBEAT_SECONDS = 2.0
#: The shortest interval at which a leader publishes progress. Readers poll once a second.
PROGRESS_SECONDS = 0.5
#: A shorter time would declare a leader on a busy machine stalled. (A broken network connection
#: is noticed within 5 seconds without it.)
MIN_STALLED_AFTER = 5 * HEARTBEAT_SECONDS


@dataclasses.dataclass(frozen=True)
class Settings:
    """A snapshot of `SAFE_INIT`. Durations are in seconds."""

    #: "self", "external" (another process initializes) or "off". The environment variable
    #: `DB_INIT_MODE` wins.
    mode: str = "self"
    #: True to work inside Django's test environment, too.
    in_tests: bool = False
    #: The aliases that `safe_migrate` initializes.
    databases: tuple[str, ...] = ("default",)
    #: Identifies the release of the project's code, which each new deployment changes. None for
    #: the environment variable `SAFE_INIT_RELEASE`, or the variable of a known platform.
    release: str | None = None
    #: Distinguishes projects that share one database.
    lock_key: str | None = None
    #: "auto", or "none" to accept a database engine without a lock.
    lock: str = "auto"
    #: Per alias, connection settings that bypass a transaction pooler.
    direct: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    #: The alias with an administrator's credentials. Defined only where privileged steps run.
    privileged_database: str | None = None
    #: The number of attempts to connect to the database server.
    connect_attempts: int = 10
    #: The longest pause between two attempts to connect.
    connect_max_wait: float = 30
    #: The timeout of one attempt to connect.
    connect_timeout: float = 10
    #: How long a follower waits for a leader that makes no progress.
    wait_timeout: float = 600
    #: The limit of the total waiting time; None for no limit.
    max_wait: float | None = None
    #: How many times a leader that lost its lock or its connection starts over.
    restarts: int = 3
    #: Followers terminate a leader without a heartbeat for this long; None for never.
    stalled_after: float | None = None
    #: The policy for a non-atomic migration that was interrupted: "rerun" or "report".
    unfinished: str = "rerun"
    #: The lock timeout of a migration's statements; None for no timeout.
    ddl_lock_timeout: float | None = 5
    #: How many times a migration is tried whose statements reach the lock timeout.
    ddl_attempts: int = 30
    #: The number of runs to keep.
    history: int = 1000
    #: What readiness demands of tenants' schemas: "all" of them, or only the "shared" schema.
    tenant_readiness: str = "all"
    #: This many failures in a row with the same error end a run: the migration is at fault.
    tenant_failures: int = 5
    #: The order of the tenants' schemas: a field of the tenant model, or the dotted path of a
    #: function that takes the names of schemas and returns them in order. None for any order.
    tenant_order: str | None = None
    #: The level of each kind of validation finding: "error", "warn" or "off".
    validate: Mapping[str, str] = dataclasses.field(
        default_factory=lambda: dict(DEFAULT_LEVELS)
    )
    #: The behavior of a web process: "gate", "initialize" or "off".
    serve: str = "gate"
    #: The URL paths of the health and status endpoints; None disables one.
    paths: Mapping[str, str | None] = dataclasses.field(
        default_factory=lambda: dict(DEFAULT_PATHS)
    )
    #: Prefixes of the paths that are served before this build is ready.
    exempt_paths: tuple[str, ...] = ()
    #: The bearer token that unlocks the full status; empty for no access. Defaults to the
    #: environment variable `SAFE_INIT_STATUS_TOKEN`.
    status_token: str = dataclasses.field(default="", repr=False)


@dataclasses.dataclass(frozen=True)
class SettingsError:
    """An error in `SAFE_INIT`, with a hint how to fix it."""

    kind: str
    message: str
    hint: str


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_alias_list(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and bool(value)
        and all(isinstance(item, str) for item in value)
    )


def _is_direct_settings(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(alias, str) and isinstance(entry, Mapping)
        for alias, entry in value.items()
    )


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("/")


def _is_paths(value: Any) -> bool:
    if not isinstance(value, Mapping) or not set(value) <= set(DEFAULT_PATHS):
        return False
    given = [path for path in {**DEFAULT_PATHS, **value}.values() if path is not None]
    return all(map(_is_path, given)) and len(set(given)) == len(given)


def _is_path_prefixes(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(map(_is_path, value))


def _is_levels(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and set(value) <= set(DEFAULT_LEVELS)
        and all(level in LEVELS for level in value.values())
    )


def _one_of(*choices: str) -> tuple[Callable[[Any], bool], str]:
    return lambda value: value in choices, "one of " + ", ".join(
        f'"{c}"' for c in choices
    )


_DURATION: tuple[Callable[[Any], bool], str] = (
    lambda value: _is_number(value) and value > 0,
    "a positive number of seconds",
)
_OPTIONAL_DURATION: tuple[Callable[[Any], bool], str] = (
    lambda value: value is None or (_is_number(value) and value > 0),
    "a positive number of seconds or None",
)
_OPTIONAL_TEXT: tuple[Callable[[Any], bool], str] = (
    lambda value: value is None or isinstance(value, str),
    "a string or None",
)
_POSITIVE_COUNT: tuple[Callable[[Any], bool], str] = (
    lambda value: _is_count(value) and value > 0,
    "a positive integer",
)

#: For each key, a predicate for valid values and its description.
RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "MODE": _one_of(*MODES),
    "IN_TESTS": (lambda value: isinstance(value, bool), "True or False"),
    "DATABASES": (_is_alias_list, "a list of database aliases"),
    "RELEASE": _OPTIONAL_TEXT,
    "LOCK_KEY": _OPTIONAL_TEXT,
    "LOCK": _one_of("auto", "none"),
    "PRIVILEGED_DATABASE": (
        lambda value: value is None or isinstance(value, str),
        "an alias of DATABASES, or None",
    ),
    "DIRECT": (_is_direct_settings, "a dictionary of alias to connection settings"),
    "CONNECT_ATTEMPTS": _POSITIVE_COUNT,
    "CONNECT_MAX_WAIT": _DURATION,
    "CONNECT_TIMEOUT": _DURATION,
    "WAIT_TIMEOUT": _DURATION,
    "MAX_WAIT": _OPTIONAL_DURATION,
    "RESTARTS": (_is_count, "an integer, 0 or more"),
    "STALLED_AFTER": (
        lambda value: (
            value is None or (_is_number(value) and value >= MIN_STALLED_AFTER)
        ),
        f"{MIN_STALLED_AFTER:g} seconds or more (a leader gives a sign of life every "
        f"{HEARTBEAT_SECONDS:g} seconds), or None",
    ),
    "UNFINISHED": _one_of("rerun", "report"),
    "DDL_LOCK_TIMEOUT": _OPTIONAL_DURATION,
    "DDL_ATTEMPTS": _POSITIVE_COUNT,
    "HISTORY": _POSITIVE_COUNT,
    "TENANT_READINESS": _one_of("all", "shared"),
    "TENANT_FAILURES": _POSITIVE_COUNT,
    "TENANT_ORDER": _OPTIONAL_TEXT,
    "VALIDATE": (
        _is_levels,
        "a dictionary of "
        + ", ".join(f'"{kind}"' for kind in DEFAULT_LEVELS)
        + " to "
        + _one_of(*LEVELS)[1],
    ),
    "SERVE": _one_of(*SERVE_MODES),
    "PATHS": (
        _is_paths,
        'a dictionary of "live", "ready" or "status" to a path that starts with "/", '
        "or None; no path twice",
    ),
    "EXEMPT_PATHS": (
        _is_path_prefixes,
        'a list of beginnings of paths, each with "/" first',
    ),
    "STATUS_TOKEN": (lambda value: isinstance(value, str), "a string"),
}
#: Keys whose values must not appear in the output of a check.
_SECRET_KEYS = {"STATUS_TOKEN"}


def iter_errors() -> Iterator[SettingsError]:
    """Yield the errors in `SAFE_INIT` and in the environment variable `DB_INIT_MODE`."""
    raw = getattr(django_settings, "SAFE_INIT", {})
    if not isinstance(raw, Mapping):
        yield SettingsError(
            "type", "SAFE_INIT is not a dictionary.", "Write SAFE_INIT = {}."
        )
        return
    for key, value in raw.items():
        if key not in RULES:
            yield SettingsError(
                "unknown",
                f"SAFE_INIT has an unknown key {key!r}.",
                "Known keys: " + ", ".join(sorted(RULES)) + ".",
            )
        elif not RULES[key][0](value):
            yield SettingsError(
                "type",
                f"SAFE_INIT[{key!r}] is {_format_value(key, value)}.",
                f"It must be {RULES[key][1]}.",
            )
        else:
            yield from _unknown_aliases(key, value)
    mode = os.environ.get(MODE_VARIABLE)
    if mode and mode not in MODES:
        yield SettingsError(
            "type",
            f"The environment variable {MODE_VARIABLE} is {mode!r}.",
            f"It must be {RULES['MODE'][1]}.",
        )


def _format_value(key: str, value: Any) -> str:
    return f"of the type {type(value).__name__}" if key in _SECRET_KEYS else repr(value)


def _unknown_aliases(key: str, value: Any) -> Iterator[SettingsError]:
    if key in ("DATABASES", "DIRECT"):
        for alias in value:
            if alias not in django_settings.DATABASES:
                yield SettingsError(
                    "type",
                    f"SAFE_INIT[{key!r}] names {alias!r}, which is no database of this project.",
                    "Use an alias of DATABASES: "
                    + ", ".join(django_settings.DATABASES)
                    + ".",
                )
            elif pool := _pool_config(alias):
                yield SettingsError(
                    "type",
                    f"SAFE_INIT[{key!r}] names {alias!r}, which is a pool of the database "
                    f"{pool.database!r}.",
                    f"Use {pool.database!r}: it is what is initialized.",
                )


def _pool_config(alias: str) -> Any:
    return django_settings.DATABASES[alias].get(POOL_KEY)


def in_test_environment() -> bool:
    """Return True if Django's test environment is set up in this process."""
    utils = sys.modules.get("django.test.utils")  # an import would slow every start
    return utils is not None and hasattr(utils._TestState, "saved_data")


def in_project_tests(settings: Settings) -> bool:
    """Return True in the tests of a project, where this package is inactive by default."""
    return in_test_environment() and not settings.in_tests


def effective_mode(settings: Settings, requested: str | None = None) -> str:
    """Return the requested or configured mode; "off" in a project's own tests.

    Raise `ConfigurationError` if the requested mode does not exist.
    """
    if in_project_tests(settings):
        return "off"
    if requested is not None and requested not in MODES:
        raise ConfigurationError(
            f"There is no mode {requested!r}. Use {RULES['MODE'][1]}."
        )
    return requested or settings.mode


def effective_serve_mode(settings: Settings) -> str:
    """Return the behavior of a web process: `SERVE`, or "off" if the mode is "off"."""
    return "off" if effective_mode(settings) == "off" else settings.serve


def should_initialize(settings: Settings) -> bool:
    """Return True if web processes initialize the database in the background."""
    return effective_mode(settings) == "self" and settings.serve == "initialize"


def get_settings() -> Settings:
    """Return the current settings. Nothing is cached, so `override_settings` works.

    Raise `ConfigurationError` with the first error and its hint.
    """
    for error in iter_errors():
        raise ConfigurationError(f"{error.message} {error.hint}")
    raw = getattr(django_settings, "SAFE_INIT", {})
    values = {key.lower(): value for key, value in raw.items()}
    if mode := os.environ.get(MODE_VARIABLE):
        values["mode"] = mode
    values.setdefault("status_token", os.environ.get(TOKEN_VARIABLE, ""))
    values["release"] = _release(values.get("release"))
    values["paths"] = {**DEFAULT_PATHS, **values.get("paths", {})}
    values["validate"] = {**DEFAULT_LEVELS, **values.get("validate", {})}
    for key in {"databases", "exempt_paths"} & values.keys():
        values[key] = tuple(values[key])
    return Settings(**values)


def _release(configured: str | None) -> str | None:
    """Return the release as ASCII, which every database can store; None without one."""
    values = [configured]
    if configured is None:
        values = [os.environ.get(name) for name in _RELEASE_VARIABLES]
    found = next((value.strip() for value in values if value and value.strip()), "")
    text = ascii(found)[1:-1]
    if len(text) <= _MAX_RELEASE_LENGTH:
        return text or None
    # Two long names may differ only in the end that is cut off.
    digest = sha256(text.encode()).hexdigest()[:_DIGEST_LENGTH]
    return f"{text[: _MAX_RELEASE_LENGTH - _DIGEST_LENGTH - 1]}-{digest}"


def strict_kinds() -> frozenset[str]:
    """Return the kinds of findings with the explicit level "error" in `VALIDATE`."""
    raw: Mapping[str, Any] = getattr(django_settings, "SAFE_INIT", {})
    levels: Mapping[str, str] = raw.get("VALIDATE", {})
    return frozenset(kind for kind, level in levels.items() if level == "error")


_MAX_BACKOFF_SECONDS = 30.0

#: Polls of the blocking sessions during each lock timeout, so that one precedes its end.
_POLLS_PER_TIMEOUT = 3


@dataclass(frozen=True)
class LockTimeoutPolicy:
    """The lock timeout of a migration's statements, and the number of attempts."""

    seconds: float
    attempts: int

    def backoff(self, attempt: int) -> float:
        """Return the pause after an attempt, in seconds.

        The first pause is as long as the lock timeout. Each later one doubles, with jitter.
        """
        doubled = self.seconds * 2.0 ** min(attempt - 1, 10)
        return min(doubled, _MAX_BACKOFF_SECONDS) * random.uniform(0.75, 1.25)

    @property
    def poll_interval(self) -> float:
        """Return the seconds between two polls of the sessions that block a migration."""
        return min(max(self.seconds / _POLLS_PER_TIMEOUT, 0.02), 1.0)
