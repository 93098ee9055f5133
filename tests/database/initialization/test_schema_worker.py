"""A run in the schemas of tenants, in this process: an error of one schema stays in it."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connections, transaction
from django.db.models.signals import pre_delete

from django_safe_init.management.commands.safe_migrate import Command as SafeMigrate
from tests.database.conftest import INITIAL, CommandResult, Shop
from tests.database.management.test_squash import squash
from tests.support import Database

NAMES = ["t0", "t1", "t2"]
NOTE = "migrations.AddField('product', 'note', models.TextField(default=''))"
NOTHING = "migrations.RunSQL('SELECT 1')"
LEFT_OPEN = "(RunPython 0002_leave) has left a transaction open"
SAFE_INIT = {"IN_TESTS": True}


@pytest.fixture
def tenants(
    django_database: Database,
    shop: Shop,
    settings: Any,
    monkeypatch: Any,
    log_in_as: Callable[..., None],
) -> Iterator[Database]:
    """Yield the database of a project with three tenants, which have the app `shop`."""
    command: Any = import_module("django_pgschemas.management.commands.migrateschema")
    monkeypatch.setattr(command, "Command", command.Command)  # this package replaces it
    shared = ["django_safe_init", "django_pgschemas"]
    settings.TENANTS = {
        "public": {"APPS": shared},
        **{name: {"APPS": ["tests.database.shop"]} for name in NAMES},
    }
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
    settings.DATABASE_ROUTERS = ["django_pgschemas.routers.TenantAppsRouter"]
    settings.INSTALLED_APPS = [*shared, "tests.database.shop"]
    # It would read the settings of tenants at each deletion of other tests.
    signals: Any = import_module("django_pgschemas.signals")
    pre_delete.disconnect(signals.tenant_delete_callback)
    shop.write("0001_initial", INITIAL)
    engine = connections.settings["default"]["ENGINE"]
    log_in_as(ENGINE="django_pgschemas.postgresql")
    yield django_database
    log_in_as(ENGINE=engine)


@pytest.fixture
def run(tenants: Database, command_line: Any) -> Callable[..., CommandResult]:
    """Return a function that runs `safe_migrate`."""
    return lambda *arguments: command_line(SafeMigrate, "safe_migrate", *arguments)


def schema_of(connection: Any) -> str:
    """Return the schema that a migration changes."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_schema()")
        return str(cursor.fetchone()[0])


def records(database: Database, schema: str) -> Counter[str]:
    """Return how often each migration is recorded in the schema."""
    rows = database.rows(f"SELECT name FROM {schema}.django_migrations")
    return Counter(row["name"] for row in rows)


def assert_complete(database: Database, shop: Shop, schemas: list[str]) -> None:
    """Assert that each schema has the record of each migration, once."""
    for schema in schemas:
        assert records(database, schema) == Counter(shop.names), schema


def test_a_schema_that_cannot_be_created(
    tenants: Database, shop: Shop, run: Any, new_role: Any, log_in_as: Any
) -> None:
    """Without the right to create schemas a run names the missing one, and does the others."""
    role = new_role("without_schemas")
    tenants.rows(f"ALTER SCHEMA public OWNER TO {role}")
    for name in NAMES[:2]:
        tenants.rows(f"CREATE SCHEMA {name} AUTHORIZATION {role}")
    log_in_as(USER=role)
    failed = run()
    assert failed.code == 1
    denied = f"permission denied for database {tenants.name}"
    assert f"t2: ProgrammingError: {denied}" in failed.stderr
    assert "was dropped" not in failed.stderr
    assert_complete(tenants, shop, NAMES[:2])
    tenants.rows(f'GRANT CREATE ON DATABASE "{tenants.name}" TO {role}')
    assert run().code == 0
    assert_complete(tenants, shop, NAMES)


@pytest.mark.parametrize(
    ("end", "text"),
    [
        ("RAISE 'it gives up'", "it gives up"),
        ("PERFORM pg_terminate_backend(pg_backend_pid())", "terminating connection"),
        ("NULL", LEFT_OPEN),
    ],
)
def test_a_transaction_that_is_left_open(
    tenants: Database, shop: Shop, run: Any, end: str, text: str
) -> None:
    """The open transaction of a migration is undone, and the next schema begins without it."""
    assert run().code == 0

    def leave(connection: Any) -> None:
        if schema_of(connection) == "t1" and is_wrong:
            transaction.atomic(using="default").__enter__()
            connection.cursor().execute("INSERT INTO shop_product (name) VALUES ('x')")
            connection.cursor().execute(f"DO $$ BEGIN {end}; END $$")

    is_wrong = True
    shop.run("0002_leave", leave, atomic=False)
    failed = run()
    assert failed.code == 1
    assert "t1: shop.0002_leave: " in failed.stderr
    assert text in failed.stderr
    assert_complete(tenants, shop, ["t0", "t2"])
    assert tenants.value("SELECT count(*) FROM t1.shop_product") == 0
    is_wrong = False
    assert run().code == 0
    assert_complete(tenants, shop, NAMES)


def test_a_squash(tenants: Database, shop: Shop, run: Any) -> None:
    """A squash of recorded migrations is recorded in each schema, and runs in none."""
    shop.write("0002_sale", NOTE)
    assert run().code == 0
    squash(shop, keep_files=True)
    assert run().code == 0
    names = ["0001_initial", "0002_sale", *shop.names]
    for schema in NAMES:
        assert records(tenants, schema) == Counter(names)
    assert run("--check").code == 0


def test_a_record_that_code_deletes(tenants: Database, shop: Shop, run: Any) -> None:
    """A migration that deletes the record of another one of its run fails its schema."""
    assert run().code == 0

    def forget(connection: Any) -> None:
        if schema_of(connection) == "t1":
            connection.cursor().execute(
                "DELETE FROM django_migrations WHERE name = '0002_nothing'"
            )

    shop.write("0002_nothing", NOTHING)
    shop.run("0003_forget", forget)
    failed = run()
    assert failed.code == 1
    text = "t1: Not recorded after its migrations: shop.0002_nothing."
    assert text in failed.stderr
    assert_complete(tenants, shop, ["t0", "t2"])
    assert records(tenants, "t1") == Counter(["0001_initial", "0003_forget"])
    assert run("--check").code == 1


# The table of migrations


@pytest.mark.parametrize("limit", [5, None])
def test_an_unreadable_table_of_migrations(
    tenants: Database, shop: Shop, run: Any, settings: Any, limit: int | None
) -> None:
    """An error that is no limit of a lock wait fails its schema at once."""
    assert run().code == 0
    settings.SAFE_INIT = {**SAFE_INIT, "DDL_LOCK_TIMEOUT": limit}
    tenants.rows("ALTER TABLE t1.django_migrations RENAME app TO application")
    shop.write("0002_nothing", NOTHING)
    failed = run()
    assert failed.code == 1
    assert 't1: ProgrammingError: column "app" does not exist' in failed.stderr
    assert "attempt" not in failed.stderr
    assert_complete(tenants, shop, ["t0", "t2"])


class Output(io.StringIO):
    """An output that calls a function once a text is in it."""

    def __init__(self, text: str, call: Callable[[], object]) -> None:
        super().__init__()
        self.text, self.call = text, call

    def write(self, text: str) -> int:
        """Write the text."""
        if self.text in text:
            self.call()
        return super().write(text)


def test_a_table_of_migrations_that_is_locked_for_a_while(
    tenants: Database, shop: Shop, run: Any, settings: Any, raw_session: Any
) -> None:
    """The run names the session that locks the table, and reads it once it is free."""
    assert run().code == 0
    settings.SAFE_INIT = {**SAFE_INIT, "DDL_LOCK_TIMEOUT": 0.1, "DDL_ATTEMPTS": 50}

    def lock(connection: Any) -> None:
        if schema_of(connection) == "t0":
            raw_session.execute("BEGIN; SET application_name = 'restoring'")
            raw_session.execute("LOCK TABLE t1.django_migrations")

    shop.run("0002_lock", lock)
    output = Output("restoring", lambda: raw_session.execute("ROLLBACK"))
    call_command("safe_migrate", stderr=output, verbosity=0)
    assert "Reading the migrations of 't1' " in output.getvalue()
    assert_complete(tenants, shop, NAMES)


# SQL that is replayed in one message


#: SQL that fails in one schema: in dynamic SQL like a message that cannot be parsed.
FAILING_SQL = {
    "syntax error": (
        "SELECT ts_stat(CASE current_schema() WHEN 't1' THEN 'SELECT FROM FROM'"
        " ELSE 'SELECT to_tsvector(''x'')' END)"
    ),
    "invalid input syntax": (
        "SELECT (CASE current_schema() WHEN 't1' THEN 'x' ELSE '1' END)::int"
    ),
}


@pytest.mark.parametrize(("error", "statement"), FAILING_SQL.items(), ids=FAILING_SQL)
def test_sql_that_fails_after_other_migrations(
    tenants: Database, shop: Shop, run: Any, error: str, statement: str
) -> None:
    """The failed migration is named, and those before it are recorded once."""
    assert run().code == 0
    shop.write("0002_note", NOTE)
    shop.write("0003_wrong", f'migrations.RunSQL("{statement}")')
    shop.write("0004_nothing", NOTHING)
    failed = run()
    assert failed.code == 1
    assert "t1: shop.0003_wrong: " in failed.stderr
    assert error in failed.stderr
    assert records(tenants, "t1") == Counter(["0001_initial", "0002_note"])
    assert_complete(tenants, shop, ["t0", "t2"])


def test_sql_that_needs_a_migration_before_it(
    tenants: Database, shop: Shop, run: Any
) -> None:
    """SQL that the server can read only after an earlier migration runs after it, as by Django."""
    assert run().code == 0
    old = "UPDATE pg_settings SET setting = 'off' WHERE name = 'standard_conforming_strings'"
    shop.write("0002_old", f'migrations.RunSQL("{old}")')
    text = r"INSERT INTO shop_product (name) VALUES ('it\\'s')"
    shop.write("0003_text", f'migrations.RunSQL("{text}")')
    assert run().code == 0
    assert_complete(tenants, shop, NAMES)
    for name in NAMES:
        assert tenants.value(f"SELECT name FROM {name}.shop_product") == "it's"
