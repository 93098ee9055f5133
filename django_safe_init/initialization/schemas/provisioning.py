"""Migrate the schema of a new tenant: under the key of its schema, without a run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from django.db import connections, transaction
from django.db.migrations import Migration

from django_safe_init.backends import schema_guard
from django_safe_init.backends.base.context import Context
from django_safe_init.backends.tenants import Tenancy, Tenant
from django_safe_init.conf import get_settings
from django_safe_init.core.build import current_build
from django_safe_init.core.deadline import Deadline
from django_safe_init.initialization.run_context import run_context


class _OneTransaction:
    """A `MigrationListener` that keeps each atomic migration and its record in one transaction."""

    def __init__(self, alias: str) -> None:
        self.current: str | None = None
        self._alias = alias
        self._open = ExitStack()

    def on_apply_start(
        self, migration: Migration, *, backwards: bool, fake: bool
    ) -> None:
        self.current = f"{migration.app_label}.{migration.name}"
        if migration.atomic or fake:
            self._open.enter_context(transaction.atomic(using=self._alias))

    def on_apply_success(self, *, fake: bool) -> None:
        self.current = None
        self._open.close()

    def __enter__(self) -> _OneTransaction:
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._open.__exit__(*exc_info)


def provision(
    tenancy: Tenancy,
    schema: str,
    migrate: Callable[[], None],
    report: Callable[[str], None],
) -> None:
    """Run `migrate` in the schema of a tenant that is being created.

    It takes one advisory key, of the schema, which a run takes too. It opens no run and does not
    wait for one, and works inside `transaction.atomic()`: the key is held until the transaction
    ends. Raises `WaitTimeout`.
    """
    alias, settings = tenancy.alias, get_settings()
    deadline = Deadline(settings.max_wait)
    context = Context(alias, current_build(), settings, deadline, report)
    with (
        schema_guard(schema, context),
        tenancy.active(connections[alias], Tenant(schema, tenancy.kind_of(schema))),
        _OneTransaction(alias) as listener,
        run_context(alias, listener),
    ):
        tenancy.before_migrate(schema)
        migrate()
        tenancy.after_migrate(schema)
