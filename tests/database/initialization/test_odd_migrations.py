"""Migrations with surprising behavior."""

from __future__ import annotations

import pytest
from django.core.management import call_command

from django_safe_init import InitializationFailed, WaitTimeout, initialize
from django_safe_init.backends.postgresql.lock_keys import HOLDERS, work_key

HOLDS_WORK_KEY = f"SELECT pg_backend_pid() IN ({HOLDERS})"


def holds_work_key(connection) -> bool:
    """Return True if the connection holds the work key."""
    with connection.cursor() as cursor:
        cursor.execute(HOLDS_WORK_KEY, {"key": work_key()})
        return cursor.fetchone()[0]


@pytest.mark.parametrize(
    "statement", ["DISCARD ALL", "SELECT pg_advisory_unlock_all()"]
)
def test_a_migration_that_unlocks_everything(
    django_database, small_shop, statement
) -> None:
    """The migration after one that dropped every lock of its session is fenced again."""
    fenced = []

    def unlock(connection) -> None:
        with connection.cursor() as cursor:
            cursor.execute(statement)
        fenced.append(holds_work_key(connection))

    small_shop.run("0003_unlock", unlock, atomic=False)
    small_shop.run(
        "0004_next", lambda connection: fenced.append(holds_work_key(connection))
    )
    initialize()
    assert fenced == [False, True]


def test_a_migration_that_calls_migrate(django_database, small_shop) -> None:
    """A `migrate` inside a migration belongs to the same run and takes no lock."""

    def nested(connection) -> None:
        for target in ("0001", "0002"):
            call_command("migrate", "shop", target, verbosity=0)

    small_shop.run("0003_nested", nested)
    assert initialize().applied[-1] == "shop.0003_nested"
    assert django_database.applied_once()[-1] == "shop.0003_nested"
    assert [run["outcome"] for run in django_database.runs()] == ["ready"]


def test_a_squash_that_is_applied_by_its_parts(django_database, shop) -> None:
    """A squashed migration of which only the parts were applied can be reversed."""
    shop.run("0001_a", lambda connection: None)
    shop.run("0002_b", lambda connection: None)
    initialize()
    squash = shop.folder / "0001_squashed_0002_b.py"
    squash.write_text(
        "from django.db import migrations\n\n\n"
        "class Migration(migrations.Migration):\n"
        "    initial = True\n"
        '    replaces = [("shop", "0001_a"), ("shop", "0002_b")]\n'
    )
    call_command("migrate", "shop", "zero", verbosity=0)
    assert django_database.applied_counts() == {}
    assert django_database.newest_run()["outcome"] == "partial"


def test_an_error_that_cannot_be_stored(django_database, small_shop) -> None:
    """A run whose error contains NUL and a lone surrogate is closed."""

    def fail(connection) -> None:
        raise RuntimeError("bad \x00 and \ud800")

    small_shop.run("0003_fail", fail)
    with pytest.raises(Exception, match="0003_fail"):
        initialize()
    run = django_database.newest_run()
    assert run["outcome"] == "failed"
    assert "bad \\x00 and \\ud800" in run["error"]


def test_a_migration_that_raises_wait_timeout(django_database, small_shop) -> None:
    """A `WaitTimeout` raised by a migration fails the run with exit code 1."""

    def wait(connection) -> None:
        raise WaitTimeout("Gave up after 3 s.")

    small_shop.run("0003_wait", wait)
    with pytest.raises(InitializationFailed) as caught:
        initialize()
    assert caught.value.exit_code == 1
    assert str(caught.value) == "shop.0003_wait: Gave up after 3 s."
    assert [run["outcome"] for run in django_database.runs()] == ["failed"]
