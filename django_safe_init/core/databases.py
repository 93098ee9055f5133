"""Check that an alias of `DATABASES` can be initialized."""

from __future__ import annotations

from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.recorder import MigrationRecorder

from django_safe_init.conf import POOL_KEY, Settings
from django_safe_init.core.text import name_some
from django_safe_init.exceptions import ConfigurationError

#: The engine that Django gives to an empty entry of DATABASES.
_NO_ENGINE = "django.db.backends.dummy"


def chosen_aliases(named: str | None, settings: Settings) -> tuple[str, ...]:
    """Return the databases of a command: the named one, or the project's.

    Without an option, `DATABASES` of `SAFE_INIT` decides. If it has several databases and
    `default` among them, the command is about `default` only.
    """
    if named is not None:
        return (named,)
    if DEFAULT_DB_ALIAS in settings.databases:
        return (DEFAULT_DB_ALIAS,)
    return settings.databases


def check_alias(alias: str) -> None:
    """Raise `ConfigurationError` unless the alias is a database of this project."""
    check_not_pool(alias)
    if alias not in connections.settings:
        raise ConfigurationError(
            f"There is no database {alias!r} in DATABASES. "
            f"Use one of: {', '.join(connections.settings)}."
        )
    check_not_empty(alias)


def is_empty(alias: str) -> bool:
    """Return True if the entry of the alias in `DATABASES` is empty."""
    entry = connections.settings.get(alias)
    return entry is not None and entry["ENGINE"] == _NO_ENGINE


def check_not_empty(alias: str) -> None:
    """Raise `ConfigurationError` if the entry of the alias in `DATABASES` is empty."""
    if is_empty(alias):
        others = [other for other in connections.settings if not is_empty(other)]
        raise ConfigurationError(
            f"The database {alias!r} has no engine: its entry in DATABASES is empty. Name "
            'others in SAFE_INIT["DATABASES"], or one with --database. '
            f"DATABASES has: {name_some(others) or 'no other'}."
        )


def check_not_pool(alias: str) -> None:
    """Raise `ConfigurationError` if the alias is a slow pool of another database."""
    pool = connections.settings.get(alias, {}).get(POOL_KEY)
    if pool is not None:
        raise ConfigurationError(
            f"{alias!r} is a pool of the database {pool.database!r}. Use "
            f"{pool.database!r}: it is what is initialized."
        )


def existing_wrapper(alias: str) -> BaseDatabaseWrapper | None:
    """Return this thread's wrapper of the alias, if it has one; create none."""
    present = connections._connections  # type: ignore[attr-defined]  # Django has no public way
    wrapper: BaseDatabaseWrapper | None = getattr(present, alias, None)
    return wrapper


def migration_table() -> str:
    """Return the name of Django's table of applied migrations; a project may have changed it."""
    return str(MigrationRecorder.Migration._meta.db_table)


def migration_table_name() -> str:
    """Return the name of Django's table of applied migrations, without a schema or quotes."""
    return migration_table().rpartition('"."')[2].strip('"')


def quoted_migration_table(connection: BaseDatabaseWrapper) -> str:
    """Return the name of Django's table of applied migrations as Django writes it in SQL."""
    return connection.ops.quote_name(migration_table())


def check_outside_transaction(alias: str) -> None:
    """Raise `ConfigurationError` inside `transaction.atomic()`, whose work a run cannot see."""
    wrapper = existing_wrapper(alias)
    if wrapper is not None and wrapper.in_atomic_block:
        raise ConfigurationError(
            f"The database {alias!r} cannot be initialized inside transaction.atomic(): "
            "the work happens on a connection of its own. Call it outside. A test that calls it "
            "must be a TransactionTestCase, because TestCase begins a transaction."
        )
