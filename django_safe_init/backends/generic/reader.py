"""Read the recorded migrations of any engine, through a private connection of Django."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import Error, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.utils import load_backend

from django_safe_init.backends.base.record_reader import RecordReader
from django_safe_init.core.build import Build
from django_safe_init.core.records import Snapshot
from django_safe_init.core.text import one_line
from django_safe_init.exceptions import DatabaseUnreachable

#: The options of each driver that limit a connection attempt and a read, in whole seconds.
#: Without them a driver may wait for hours.
TIMEOUT_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "MySQLdb": ("connect_timeout", "read_timeout"),
    "oracledb": ("tcp_connect_timeout",),
    "psycopg": ("connect_timeout",),
    "psycopg2": ("connect_timeout",),
    "pymysql": ("connect_timeout", "read_timeout"),
}
#: libpq waits for two seconds at least.
_MIN_SECONDS = 2


class GenericReader(RecordReader):
    """A reader on a connection that the project's backend class opens, and no pool shares.

    Every method raises `DatabaseUnreachable` if the database does not answer.
    """

    def __init__(self, alias: str, build: Build, seconds: float) -> None:
        super().__init__(alias, build)
        self._seconds = max(math.ceil(seconds), _MIN_SECONDS)
        self._wrapper: BaseDatabaseWrapper | None = None

    def read(self) -> Snapshot:
        try:
            return super().read()
        except (Error, ImproperlyConfigured) as exc:
            raise DatabaseUnreachable(
                f"The database {self.alias!r} cannot be read: {one_line(exc)}"
            ) from exc

    def _connection(self) -> BaseDatabaseWrapper:
        if self._wrapper is None:
            configured = connections.settings[self.alias]
            backend = load_backend(configured["ENGINE"]).DatabaseWrapper
            options = self._options(configured["OPTIONS"], backend.Database)
            self._wrapper = backend({**configured, "OPTIONS": options}, self.alias)
        wrapper: BaseDatabaseWrapper = self._wrapper
        return wrapper

    def _options(self, configured: Mapping[str, Any], driver: Any) -> dict[str, Any]:
        """Return the project's options, without a pool, and with limits that it does not set."""
        limits = dict.fromkeys(
            TIMEOUT_OPTIONS.get(getattr(driver, "__name__", ""), ()), self._seconds
        )
        own = {name: value for name, value in configured.items() if name != "pool"}
        return {**limits, **own}

    def close(self) -> None:
        if self._wrapper is not None:
            self._wrapper.close()
