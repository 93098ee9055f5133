"""The limit on a migration's lock waits on PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection

from django_safe_init import initialize
from django_safe_init.backends.postgresql.lock_timeout import PostgresLockTimeout
from django_safe_init.conf import Settings
from django_safe_init.core.deadline import Deadline
from django_safe_init.exceptions import LockLost
from django_safe_init.initialization.initializer import Initializer
from django_safe_init.initialization.types import InitializationOptions, MigrateTask


def show_lock_timeout(seen: list[str]) -> Callable[[Any], None]:
    def show(schema_connection) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SHOW lock_timeout")
            seen.extend(cursor.fetchone())

    return show


@pytest.mark.parametrize(
    ("atomic", "expected"), [(True, ["1500ms", "0"]), (False, ["0", "0"])]
)
def test_the_limit_of_a_migration(
    django_database, small_shop, settings, atomic, expected
) -> None:
    """The `lock_timeout` applies during a migration, not before or after it.

    A function without a transaction cannot be undone, so it waits without a limit.
    """
    seen: list[str] = []
    small_shop.run("0003_show", show_lock_timeout(seen), atomic=atomic)

    def migrate() -> None:
        call_command("migrate", verbosity=0)
        show_lock_timeout(seen)(None)

    settings.SAFE_INIT = {**settings.SAFE_INIT, "DDL_LOCK_TIMEOUT": 1.5}
    Initializer(InitializationOptions(MigrateTask(migrate, "test"))).run()
    assert seen == expected


def test_without_a_limit(django_database, small_shop, log_in_as, settings) -> None:
    """With DDL_LOCK_TIMEOUT = None the role's own `lock_timeout` stays."""
    settings.SAFE_INIT = {**settings.SAFE_INIT, "DDL_LOCK_TIMEOUT": None}
    seen: list[str] = []
    small_shop.run("0003_show", show_lock_timeout(seen))
    log_in_as(OPTIONS={"options": "-c lock_timeout=7s"})
    initialize()
    assert seen == ["7s"]


@pytest.mark.parametrize(("own", "expected"), [("1s", "1s"), ("0", "5s"), ("7s", "5s")])
def test_a_limit_of_the_connection(
    django_database, small_shop, log_in_as, own, expected
) -> None:
    """A shorter `lock_timeout` of the connection is the limit, and is restored."""
    seen: list[str] = []
    small_shop.run("0003_show", show_lock_timeout(seen))
    log_in_as(OPTIONS={"options": f"-c lock_timeout={own}"})

    def migrate() -> None:
        call_command("migrate", verbosity=0)
        show_lock_timeout(seen)(None)

    Initializer(InitializationOptions(MigrateTask(migrate, "test"))).run()
    assert seen == [expected, own]


def test_blockers_of_a_lost_session(session) -> None:
    """`blockers` raises `LockLost` if the leader session is lost."""

    class NoConnections:
        backend_pid = 1

    lock_timeout = PostgresLockTimeout(
        Settings(), session, NoConnections(), Deadline(None)
    )
    assert lock_timeout.blockers() == ()
    session.close()
    with pytest.raises(LockLost):
        lock_timeout.blockers()
