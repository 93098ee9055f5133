"""Migrations that do what one would not expect of them."""

from __future__ import annotations

import pytest
from django.core.management import call_command

from django_safe_init import InitializationFailed, WaitTimeout, initialize
from django_safe_init.backends.postgresql.lock import HOLDERS
from django_safe_init.backends.postgresql.lock_keys import work_key

MARKED = f"SELECT pg_backend_pid() IN ({HOLDERS})"


def is_marked(connection) -> bool:
    """Whether the connection holds the work key."""
    with connection.cursor() as cursor:
        cursor.execute(MARKED, {"key": work_key()})
        return cursor.fetchone()[0]


@pytest.mark.parametrize(
    "statement", ["DISCARD ALL", "SELECT pg_advisory_unlock_all()"]
)
def test_one_that_lets_go_of_the_work_key(
    django_database, small_shop, statement
) -> None:
    """The migration after one that dropped every lock of its session is fenced again."""
    marks = []

    def let_go(connection) -> None:
        with connection.cursor() as cursor:
            cursor.execute(statement)
        marks.append(is_marked(connection))

    small_shop.run("0003_let_go", let_go, atomic=False)
    small_shop.run("0004_next", lambda connection: marks.append(is_marked(connection)))
    initialize()
    assert marks == [False, True]


def test_one_that_calls_migrate(django_database, small_shop) -> None:
    """A `migrate` that a migration calls is a part of it, and takes no lock."""

    def nested(connection) -> None:
        for target in ("0001", "0002"):
            call_command("migrate", "shop", target, verbosity=0)

    small_shop.run("0003_nested", nested)
    assert initialize().applied[-1] == "shop.0003_nested"
    assert django_database.applied_once()[-1] == "shop.0003_nested"
    assert [run["outcome"] for run in django_database.runs()] == ["ready"]


def test_a_squash_that_is_applied_by_its_parts(django_database, shop) -> None:
    """A squash that was never applied itself can be reversed, as with plain Django."""
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
    """NUL and half a surrogate pair in an error's text do not leave the run open."""

    def fail(connection) -> None:
        raise RuntimeError("bad \x00 and \ud800")

    small_shop.run("0003_fail", fail)
    with pytest.raises(Exception, match="0003_fail"):
        initialize()
    run = django_database.newest_run()
    assert run["outcome"] == "failed"
    assert "bad \\0 and \\ud800" in run["error"]


def test_one_that_waits_in_vain_elsewhere(django_database, small_shop) -> None:
    """An error of this package about something else is a failure of the migration."""

    def wait(connection) -> None:
        raise WaitTimeout("Gave up after 3 s.")

    small_shop.run("0003_wait", wait)
    with pytest.raises(InitializationFailed) as caught:
        initialize()
    assert caught.value.exit_code == 1
    assert str(caught.value) == "shop.0003_wait: Gave up after 3 s."
    assert [run["outcome"] for run in django_database.runs()] == ["failed"]
