"""A failed run is logged once, by the process that failed."""

from __future__ import annotations

import logging

import pytest
from django.core.management import CommandError, call_command

from django_safe_init import InitializationFailed, LeaderFailed, initialize
from django_safe_init.core.states import State
from tests.database.conftest import INITIAL


@pytest.fixture
def errors(caplog):
    """Return a function that returns the type and the text of each logged error."""
    caplog.set_level(logging.INFO, "django_safe_init")

    def logged() -> list[tuple[type | None, str]]:
        return [
            (record.exc_info[0] if record.exc_info else None, record.getMessage())
            for record in caplog.records
            if record.levelno >= logging.ERROR
        ]

    return logged


def fail(connection) -> None:
    raise ValueError("no price")


def test_safe_migrate(errors, small_shop, django_database) -> None:
    """`safe_migrate` logs the error that the migration raised, with its traceback."""
    small_shop.run("0003_fail", fail)
    with pytest.raises(CommandError, match="no price"):
        call_command("safe_migrate", verbosity=0)
    number = django_database.newest_run()["id"]
    text = f"default: run {number} failed: shop.0003_fail: ValueError: no price"
    assert errors() == [(ValueError, text)]


def test_initialize(errors, small_shop, django_database, caplog) -> None:
    """`initialize()` logs the error that it raises: a tracker drops the second report of it."""
    small_shop.run("0003_fail", fail)
    with pytest.raises(InitializationFailed) as caught:
        initialize()
    [record] = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert record.exc_info[1] is caught.value
    assert "ValueError: no price" in record.exc_text
    assert "in fail\n" in record.exc_text


def test_migrate(errors, small_shop, django_database) -> None:
    """`migrate` logs no error that it raises."""
    small_shop.run("0003_fail", fail)
    with pytest.raises(ValueError, match="no price"):
        call_command("migrate", verbosity=0)
    assert errors() == []


def test_a_command_error_in_migrate(errors, small_shop, django_database) -> None:
    """`migrate` logs a `CommandError` of a migration, of which Django prints only the text."""

    def refuse(connection) -> None:
        raise CommandError("not like this")

    small_shop.run("0003_fail", refuse)
    with pytest.raises(CommandError, match="not like this"):
        call_command("migrate", verbosity=0)
    [(kind, text)] = errors()
    assert kind is CommandError
    assert "shop.0003_fail: CommandError: not like this" in text


def test_an_exit_in_migrate(errors, small_shop, django_database) -> None:
    """`migrate` logs the exit of a migration, of which Python prints nothing."""

    def leave(connection) -> None:
        raise SystemExit(3)

    small_shop.run("0003_fail", leave)
    with pytest.raises(SystemExit):
        call_command("migrate", verbosity=0)
    assert [kind for kind, _ in errors()] == [SystemExit]


def test_a_target_of_migrate(errors, small_shop, django_database) -> None:
    """A failed part of the migrations is logged, although its run ends as partial."""

    def refuse(connection) -> None:
        raise CommandError("not like this")

    small_shop.run("0003_fail", refuse)
    with pytest.raises(CommandError):
        call_command("migrate", "shop", "0003", verbosity=0)
    assert django_database.newest_run()["outcome"] == "partial"
    assert [kind for kind, _ in errors()] == [CommandError]


def test_a_transient_end(errors, small_shop, django_database, caplog) -> None:
    """A transient end is an error of its process, although another process tries again."""

    def lack_memory(connection) -> None:
        raise MemoryError

    small_shop.run("0003_fail", lack_memory)
    with pytest.raises(InitializationFailed):
        initialize()
    assert django_database.newest_run()["outcome"] == "transient"
    [(_, text)] = errors()
    assert "MemoryError" in text
    assert len([each for each in caplog.records if each.exc_info]) == 1


def test_an_interruption(errors, small_shop, django_database) -> None:
    """The third interruption in a row is logged, because it fails the build."""

    def interrupt(connection) -> None:
        raise KeyboardInterrupt

    small_shop.run("0003_fail", interrupt)
    for _ in range(3):
        assert errors() == []
        with pytest.raises(KeyboardInterrupt):
            initialize()
    assert [kind for kind, _ in errors()] == [KeyboardInterrupt]


def test_a_dead_leader(errors, leader, small_shop, django_database) -> None:
    """The third death in a row is logged by the process that finds it."""
    for _ in range(2):
        leader.finish_run("interrupted", State.ERROR)
        leader.open_run("test")
    leader.session.close()
    with pytest.raises(LeaderFailed):
        initialize()
    [(kind, text)] = errors()
    assert kind is None
    assert "3 times in a row" in text


def test_a_run_that_cannot_be_closed(
    errors, small_shop, django_database, caplog
) -> None:
    """An error is logged also if the end of the run cannot be written."""

    def lose_the_table(connection) -> None:
        django_database.rows("DROP TABLE django_safe_init_run")
        raise ValueError("no price")

    small_shop.run("0003_fail", lose_the_table)
    with pytest.raises(InitializationFailed):
        initialize()
    assert "is left open" in caplog.text
    [(_, text)] = errors()
    assert "no price" in text


def test_a_failure_before_a_run(errors, shop, django_database) -> None:
    """An error before a run is open is raised, and not logged."""
    shop.write("0001_initial", INITIAL)
    django_database.rows("CREATE VIEW django_safe_init_run AS SELECT 1 AS id")
    with pytest.raises(CommandError):
        call_command("safe_migrate", verbosity=0)
    assert errors() == []
