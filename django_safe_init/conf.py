"""The settings of this package: `SAFE_INIT` in the project's settings, every key with a default."""

from __future__ import annotations

import dataclasses
import os
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.conf import settings as django_settings

from django_safe_init.core.findings import DEFAULT_LEVELS, LEVELS
from django_safe_init.exceptions import ConfigurationError

if TYPE_CHECKING:
    pass

MODES = ("self", "external", "off")
MODE_VARIABLE = "DB_INIT_MODE"
SERVE_MODES = ("gate", "initialize", "off")
TOKEN_VARIABLE = "SAFE_INIT_STATUS_TOKEN"
#: What an entry of DATABASES has that `pools()` made as a slow pool of another one.
POOL_KEY = "SAFE_INIT_POOL"
#: What is answered where, unless `PATHS` says otherwise.
DEFAULT_PATHS: Mapping[str, str | None] = {
    "live": "/health/live",
    "ready": "/health/db",
    "status": "/api/db/status",
}
#: How often a leader gives a sign of life.
HEARTBEAT_SECONDS = 2.0
#: How often a leader may tell how far a step is. It is read at most once a second.
NEWS_SECONDS = 0.5
#: Less would take a leader on a busy machine for a stalled one; a dead network is noticed in 5.
MIN_STALLED_AFTER = 5 * HEARTBEAT_SECONDS


@dataclasses.dataclass(frozen=True)
class Settings:
    """`SAFE_INIT` as it is now. Durations are in seconds."""

    #: Who initializes: "self", "external" (somebody else) or "off". The environment
    #: variable `DB_INIT_MODE` wins.
    mode: str = "self"
    #: Whether to work inside Django's test environment too.
    in_tests: bool = False
    #: The aliases that `safe_migrate` initializes.
    databases: tuple[str, ...] = ("default",)
    #: Tells projects apart that share one database.
    lock_key: str | None = None
    #: "auto", or "none" to accept an engine without a lock.
    lock: str = "auto"
    #: Per alias, settings that reach the server without a transaction pooler.
    direct: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    #: The alias with an administrator's credentials, present only where the privileged phase runs.
    privileged_database: str | None = None
    #: How often to try to reach the server.
    connect_attempts: int = 10
    #: The longest pause between two attempts.
    connect_max_wait: float = 30
    #: How long one attempt may take.
    connect_timeout: float = 10
    #: How long to wait for a leader that makes no progress.
    wait_timeout: float = 600
    #: How long to wait in all; `None` for no limit.
    max_wait: float | None = None
    #: How often a leader that lost its lock or its connection starts over.
    restarts: int = 3
    #: After how long without a sign of life followers end a leader; `None` for never.
    stalled_after: float | None = None
    #: What to do with a non-atomic migration that was interrupted: "rerun" or "report".
    unfinished: str = "rerun"
    #: How long a statement of a migration waits for a lock; `None` for as long as it takes.
    ddl_lock_timeout: float | None = None
    #: How often a migration is tried that did not get a lock in that time.
    ddl_attempts: int = 10
    #: How many runs to keep.
    history: int = 1000
    #: What becomes of what validation finds, by its kind: "error", "warn" or "off".
    validate: Mapping[str, str] = dataclasses.field(
        default_factory=lambda: dict(DEFAULT_LEVELS)
    )
    #: What a server process does: "gate", "initialize" or "off".
    serve: str = "gate"
    #: Where health and status are answered; None for nowhere.
    paths: Mapping[str, str | None] = dataclasses.field(
        default_factory=lambda: dict(DEFAULT_PATHS)
    )
    #: What the paths start with that are let through before this build is ready.
    exempt_paths: tuple[str, ...] = ()
    #: Whoever sends it is told everything; empty for nobody. By default that of the
    #: environment variable `SAFE_INIT_STATUS_TOKEN`.
    status_token: str = dataclasses.field(default="", repr=False)


@dataclasses.dataclass(frozen=True)
class SettingsError:
    """Something wrong in `SAFE_INIT`: what it is, and what to do."""

    kind: str
    message: str
    hint: str


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_names(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and bool(value)
        and all(isinstance(item, str) for item in value)
    )


def _is_direct(value: Any) -> bool:
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


def _is_prefixes(value: Any) -> bool:
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
_POSITIVE_COUNT: tuple[Callable[[Any], bool], str] = (
    lambda value: _is_count(value) and value > 0,
    "a positive integer",
)

#: What each key may hold, and the words for it.
RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "MODE": _one_of(*MODES),
    "IN_TESTS": (lambda value: isinstance(value, bool), "True or False"),
    "DATABASES": (_is_names, "a list of database aliases"),
    "LOCK_KEY": (
        lambda value: value is None or isinstance(value, str),
        "a string or None",
    ),
    "LOCK": _one_of("auto", "none"),
    "PRIVILEGED_DATABASE": (
        lambda value: value is None or isinstance(value, str),
        "an alias of DATABASES, or None",
    ),
    "DIRECT": (_is_direct, "a dictionary of alias to connection settings"),
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
        _is_prefixes,
        'a list of beginnings of paths, each with "/" first',
    ),
    "STATUS_TOKEN": (lambda value: isinstance(value, str), "a string"),
}
#: Nobody may read their values in the output of a check.
_SECRET = {"STATUS_TOKEN"}


def iter_errors() -> Iterator[SettingsError]:
    """What is wrong in `SAFE_INIT` and in `DB_INIT_MODE`; nothing when all is well."""
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
                f"SAFE_INIT[{key!r}] is {_shown(key, value)}.",
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


def _shown(key: str, value: Any) -> str:
    return f"of the type {type(value).__name__}" if key in _SECRET else repr(value)


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
            elif pool := _pool(alias):
                yield SettingsError(
                    "type",
                    f"SAFE_INIT[{key!r}] names {alias!r}, which is a pool of the database "
                    f"{pool.database!r}.",
                    f"Use {pool.database!r}: it is what is initialized.",
                )


def _pool(alias: str) -> Any:
    return django_settings.DATABASES[alias].get(POOL_KEY)


def in_test_environment() -> bool:
    """Whether Django's test environment is set up in this process."""
    utils = sys.modules.get("django.test.utils")  # importing it would cost every start
    return utils is not None and hasattr(utils._TestState, "saved_data")


def in_project_tests(settings: Settings) -> bool:
    """Whether these are a project's own tests, which never notice this package."""
    return in_test_environment() and not settings.in_tests


def effective_mode(settings: Settings, requested: str | None = None) -> str:
    """The mode to work in; "off" in a project's own tests."""
    if in_project_tests(settings):
        return "off"
    if requested is not None and requested not in MODES:
        raise ConfigurationError(
            f"There is no mode {requested!r}. Use {RULES['MODE'][1]}."
        )
    return requested or settings.mode


def effective_serve_mode(settings: Settings) -> str:
    """What a server process does; nothing ("off") where there is nothing to wait for."""
    return "off" if effective_mode(settings) == "off" else settings.serve


def should_initialize(settings: Settings) -> bool:
    """Whether a server process initializes in the background, and nobody else does it."""
    return effective_mode(settings) == "self" and settings.serve == "initialize"


def get_settings() -> Settings:
    """The settings as they are now, so that `override_settings` works.

    Raises `ConfigurationError` with the first problem and its remedy.
    """
    for problem in iter_errors():
        raise ConfigurationError(f"{problem.message} {problem.hint}")
    raw = getattr(django_settings, "SAFE_INIT", {})
    values = {key.lower(): value for key, value in raw.items()}
    if mode := os.environ.get(MODE_VARIABLE):
        values["mode"] = mode
    values.setdefault("status_token", os.environ.get(TOKEN_VARIABLE, ""))
    values["paths"] = {**DEFAULT_PATHS, **values.get("paths", {})}
    values["validate"] = {**DEFAULT_LEVELS, **values.get("validate", {})}
    for key in {"databases", "exempt_paths"} & values.keys():
        values[key] = tuple(values[key])
    return Settings(**values)


_MOST_SECONDS_OF_PAUSE = 30.0


#: Looks at who stands in the way, for each wait: one of them comes before the wait is over.
_LOOKS = 3


@dataclass(frozen=True)
class LockTimeoutPolicy:
    """How long a statement of a migration waits for a lock, and how often it is tried."""

    seconds: float
    attempts: int

    def pause(self, attempt: int) -> float:
        """The seconds after that attempt: as long as it waited, doubled each time, with jitter."""
        doubled = self.seconds * 2.0 ** min(attempt - 1, 10)
        return min(doubled, _MOST_SECONDS_OF_PAUSE) * random.uniform(0.75, 1.25)

    @property
    def seconds_between_looks(self) -> float:
        """How often to look who stands in the way, to have seen it when the wait is over."""
        return min(max(self.seconds / _LOOKS, 0.02), 1.0)
