"""A prepared transaction keeps its locks after its session: waits are limited and name it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from django_safe_init import get_status, initialize
from django_safe_init.backends.base.lock import LockWaitTimeout
from django_safe_init.backends.postgresql.lock_keys import (
    leader_key,
    privileged_key,
    work_key,
)
from django_safe_init.backends.postgresql.remedies import literal
from django_safe_init.core.records import RUN_TABLE, STEP_TABLE
from django_safe_init.exceptions import WaitTimeout
from django_safe_init.management.commands import (
    migrate,
    safe_init_status,
    safe_init_unlock,
    safe_migrate,
)
from example_project.embedded import EmbeddedServer

GID = "o'brien \\ \n[safe_init] FORGED"
ROLLBACK = r"ROLLBACK PREPARED E'o''brien \\ \u000a[safe_init] FORGED';"
SHOWN = (
    r"the prepared transaction E'o''brien \\ \u000a[safe_init] FORGED' (role stranger, "
)
SETTINGS = {"max_prepared_transactions": "5"}


@pytest.fixture(scope="module", params=[18, 16])
def preparing_server(request) -> Iterator[EmbeddedServer]:
    """Yield a server that allows prepared transactions."""
    with EmbeddedServer(request.param, settings=SETTINGS) as running:
        with running.connect() as raw:
            raw.execute("CREATE ROLE stranger LOGIN")
        yield running


@pytest.fixture
def chosen_server(preparing_server) -> EmbeddedServer:
    return preparing_server


@pytest.fixture
def prepare(
    django_database, small_shop, connect_raw, chosen_server
) -> Iterator[Callable[..., None]]:
    """Yield a function that prepares a transaction, whose session then ends.

    The role may only connect, unless the statements need more.
    """
    prepared: list[Any] = []

    def run(statement: str, *params: Any, restart: bool = False, **user: Any) -> None:
        with connect_raw(**{"user": "stranger", **user}) as raw:
            raw.autocommit = False
            raw.execute(statement, params)
            raw.execute("PREPARE TRANSACTION " + literal(GID))
        prepared.append(None)
        if restart:
            django_database.close()
            chosen_server.restart()

    yield run
    for _ in prepared:
        django_database.rows("ROLLBACK PREPARED " + literal(GID))


LOCK = "SELECT pg_advisory_xact_lock(%s)"
SHARED = "SELECT pg_advisory_xact_lock_shared(%s)"


def names_it(text: str) -> None:
    assert SHOWN in text
    assert ROLLBACK in text
    assert "pg_terminate_backend" not in text


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("lock", [LOCK, SHARED])
def test_the_leader_lock(prepare, lock, restart) -> None:
    """A start follows the prepared transaction until the time-out."""
    prepare(lock, leader_key(), restart=restart)
    with pytest.raises(WaitTimeout) as caught:
        initialize(timeout=0.5)
    names_it(str(caught.value))
    assert "(role stranger, database test_" in str(caught.value)
    names_it(get_status().message)


@pytest.mark.parametrize(
    "command", [safe_migrate.Command, migrate.Command, safe_init_status.Command]
)
def test_commands(prepare, command_line, settings, command) -> None:
    """Each command that waits ends with its limit, and prints no forged line."""
    settings.SAFE_INIT = {**settings.SAFE_INIT, "MAX_WAIT": 0.5}
    prepare(LOCK, leader_key())
    name = command.__module__.rpartition(".")[2]
    arguments = ["--wait", "--timeout", "0.5"] if "status" in name else []
    ended = command_line(command, name, *arguments)
    assert ended.code == 3
    assert ROLLBACK in ended.stdout + ended.stderr
    assert "\n[safe_init] FORGED" not in ended.stdout + ended.stderr


@pytest.mark.parametrize("external", [False, True])
def test_wait_timeout(prepare, settings, external) -> None:
    """The transaction counts as a leader without progress."""
    settings.SAFE_INIT = {**settings.SAFE_INIT, "WAIT_TIMEOUT": 0.5}
    prepare(LOCK, leader_key())
    with pytest.raises(WaitTimeout, match=r"no progress for 0\.5 s") as caught:
        initialize(mode="external" if external else None)
    names_it(str(caught.value))


@pytest.mark.parametrize("key", [leader_key(), work_key()])
@pytest.mark.parametrize("arguments", [[], ["--noinput"]])
def test_unlock(prepare, command_line, key, arguments) -> None:
    """The command shows the transaction, and refuses with the statement that ends it."""
    prepare(LOCK, key)
    ended = command_line(safe_init_unlock.Command, "safe_init_unlock", *arguments)
    assert ended.code == 1
    assert "nobody" not in ended.stdout
    names_it(ended.stdout)
    assert "Nothing was ended: a prepared transaction outlives its session." in (
        ended.stderr
    )
    assert ended.stderr.endswith(f"{ROLLBACK}\n")


def test_unlock_with_a_leader(prepare, leader, command_line) -> None:
    """A leader behind the work key of a prepared transaction is shown with it."""
    prepare(SHARED, work_key())
    ended = command_line(safe_init_unlock.Command, "safe_init_unlock", "--noinput")
    assert ended.code == 1
    assert "run 1 (test)" in ended.stdout
    names_it(ended.stdout)
    leader.session.lock.verify()


@pytest.mark.parametrize("lock", [LOCK, SHARED])
def test_the_work_key(prepare, lock) -> None:
    """A new leader waits for the work key until the time-out."""
    prepare(lock, work_key())
    with pytest.raises(WaitTimeout) as caught:
        initialize(timeout=0.5)
    names_it(str(caught.value))


def test_the_open_run_of_another_leader(prepare, leader) -> None:
    """The transaction is not taken for the leader of an open run."""
    leader.session.lock.release()
    prepare(LOCK, leader_key())
    with pytest.raises(WaitTimeout) as caught:
        initialize(timeout=0.5)
    names_it(str(caught.value))


@pytest.mark.parametrize("table", [RUN_TABLE, STEP_TABLE, "django_migrations"])
@pytest.mark.parametrize("external", [False, True])
def test_a_locked_table(prepare, small_shop, table, external) -> None:
    """The error names the table and the prepared transaction that locks it."""
    initialize()
    small_shop.write("0003_new")
    prepare(f"LOCK TABLE {table}", user="postgres")
    with pytest.raises(WaitTimeout) as caught:
        initialize(timeout=0.5, mode="external" if external else None)
    if table != STEP_TABLE or not external:
        text = str(caught.value).replace("role postgres", "role stranger")
        names_it(text)
        assert f"{table} stayed locked by" in text


@pytest.mark.parametrize(
    "statement",
    ["LOCK TABLE shop_product", "INSERT INTO shop_product VALUES (1, '')"],
)
def test_a_lock_that_a_migration_needs(
    prepare, small_shop, django_database, settings, statement
) -> None:
    """The error of DDL_LOCK_TIMEOUT names the transaction and its remedy."""
    initialize()
    settings.SAFE_INIT = {
        **settings.SAFE_INIT,
        "DDL_LOCK_TIMEOUT": 0.1,
        "DDL_ATTEMPTS": 10_000,
    }
    field = "models.IntegerField(default=0)"
    small_shop.write("0003_stock", f"migrations.AddField('product', 'stock', {field})")
    prepare(statement, user="postgres")
    with pytest.raises(LockWaitTimeout) as caught:
        initialize(timeout=1)
    text = str(caught.value)
    assert "blocked by a prepared transaction (role postgres, prepared for" in text
    assert ROLLBACK in text
    assert "pg_terminate_backend" not in text


def test_privileged_work(prepare) -> None:
    """The lock of the privileged phase is named, too."""
    from django.db import connections

    from django_safe_init.privileged.runner import _holders

    prepare(LOCK, privileged_key())
    connections["default"].ensure_connection()
    names_it(_holders(connections["default"], privileged_key()))


@pytest.mark.parametrize(
    "text", [GID, "plain", "two  spaces", "\u202e\x85\U000e0001", "\\'"]
)
def test_literal(django_database, text) -> None:
    """A literal is printable, keeps its white space, and PostgreSQL reads the text from it."""
    written = literal(text)
    assert " ".join(written.split()) == written
    [row] = django_database.rows(f"SELECT {written} AS text")
    assert row["text"] == text
