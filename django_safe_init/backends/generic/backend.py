"""Provide the backend for an engine without a leader lock."""

from __future__ import annotations

from typing import NoReturn

from django_safe_init.backends.base.backend import BaseBackend
from django_safe_init.backends.generic.reader import GenericReader
from django_safe_init.exceptions import UnsupportedEngine


class GenericBackend(BaseBackend):
    """The backend for any engine of Django. It only reads which migrations are recorded."""

    def reader(self) -> GenericReader:
        context = self.context
        return GenericReader(
            context.alias, context.build, context.settings.connect_timeout
        )

    def introspection(self) -> NoReturn:
        raise UnsupportedEngine(
            f"No comparison for database {self.context.alias!r}: the catalog of its engine is "
            "not known here. Compare a database on PostgreSQL or SQLite."
        )
