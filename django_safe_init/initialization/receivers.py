"""Let the project's receivers of `pre_migrate` prepare a database that lacks a schema."""

from __future__ import annotations

import io
from typing import Any

from django.core.management.sql import emit_pre_migrate_signal
from django.db.migrations.executor import MigrationExecutor

from django_safe_init.backends.base.run_session import RunSession
from django_safe_init.core.cancellation import raise_cancellation
from django_safe_init.initialization.run_context import run_context


def send_pre_migrate(session: RunSession, alias: str) -> None:
    """Send `pre_migrate` for each app, with the arguments that Django's `migrate` gives.

    The receivers work on the run's connection. Django sends the signal again in this run, as it
    does in each run, so a receiver must expect its own work to be done.
    """
    with session.connections() as connection:
        # Any: Django's `migrate` uses the same method, which has no public name.
        executor: Any = MigrationExecutor(connection)
        plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
        state = executor._create_project_state(with_applied_migrations=True)
        with run_context(alias, None), raise_cancellation():
            emit_pre_migrate_signal(
                0, False, alias, stdout=io.StringIO(), apps=state.apps, plan=plan
            )
