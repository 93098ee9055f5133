"""A migration that is not one transaction goes on at the operation where it stopped."""

from __future__ import annotations

import io
import json
import sqlite3
import sys
from collections.abc import Callable
from typing import Any

import pytest
from django.apps.registry import Apps
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connection, models, transaction
from django.db.backends.signals import connection_created
from django.db.migrations.exceptions import IrreversibleError

from django_safe_init import (
    ConfigurationError,
    InitializationFailed,
    State,
    UnfinishedMigration,
    for_each_batch,
    get_status,
    initialize,
)
from django_safe_init.backends.postgresql.run_session import PostgresRunSession
from django_safe_init.core.records import OPERATION_TABLE
from django_safe_init.initialization.initializer import Initializer
from django_safe_init.initialization.migrate_command import run_migrate
from django_safe_init.initialization.types import InitializationOptions, MigrateTask
from tests.database.conftest import INITIAL, Shop
from tests.support import wait_until

JOURNAL = f"SELECT kind, position, part, state FROM {OPERATION_TABLE} ORDER BY id"
ADD_NOTE = "migrations.AddField('product', 'note', models.TextField(default='x'))"
ADD_SALE = (
    "migrations.CreateModel('Sale', [('id', models.BigAutoField(primary_key=True)),"
    " ('product', models.ForeignKey('shop.Product', models.CASCADE))])"
)
LIST = (
    "migrations.RunSQL(['CREATE TABLE a (x integer)', ('INSERT INTO a VALUES (%s)', [1]),"
    " 'INSERT INTO b VALUES (2)', 'INSERT INTO a VALUES (3)'], 'DROP TABLE a')"
)
#: True while a session has waited for a lock longer than the limit of the tests.
WAITS_LONG = (
    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    " AND clock_timestamp() - query_start > interval '0.5 s'"
)
UNUSUAL = (
    "from tests.database.initialization import unusual_operations as unusual\n\n\n"
)


class Stop(Exception):
    """Ends a migration at an operation, as a crash does."""


class HalfShop:
    """The initialized shop, with functions for a second migration that stops half-way."""

    def __init__(self, shop: Shop, database: Any, settings: Any) -> None:
        self.shop = shop
        self.database = database
        self.settings = settings
        #: The functions that ran, in order.
        self.ran: list[str] = []
        #: The functions that stop the migration.
        self.stops: set[str] = set()

    def python(
        self,
        name: str,
        work: Callable[[Any], object] = lambda connection: None,
        **options: Any,
    ) -> str:
        """Return a `RunPython` that notes that it ran, and may stop."""

        def note(what: str) -> Callable[[Any], None]:
            def run(connection: Any) -> None:
                self.ran.append(what)
                if what == name:
                    work(connection)
                if what in self.stops:
                    raise Stop(what)

            return run

        back = f"{name} back"
        self.shop.callbacks[name], self.shop.callbacks[back] = note(name), note(back)
        options = {"reverse_code": f"callback({back!r})", "atomic": "True", **options}
        text = ", ".join(f"{key}={value}" for key, value in options.items())
        return f"migrations.RunPython(callback({name!r}), {text})"

    def call(self, name: str, work: Callable[[Any], object], **options: Any) -> str:
        """Return an operation of a package that does the work."""
        self.python(name, work)
        text = ", ".join(f", {key}={value}" for key, value in options.items())
        return f"unusual.Call(callback({name!r}){text})"

    def write(self, *operations: str, before: str = "") -> None:
        """Write or replace the second migration; `before` stands before its operations."""
        if "0002_half" in self.shop.names:
            self.shop.remove("0002_half")
        self.shop.write("0002_half", *operations, atomic=False)
        file = self.shop.folder / "0002_half.py"
        text = file.read_text().replace("    operations =", f"{before}    operations =")
        file.write_text(UNUSUAL + text)
        sys.modules.pop(f"{self.shop.package}.0002_half", None)

    def stop(self, *names: str) -> None:
        """Let the next start stop in one of the functions."""
        self.stops = set(names)
        with pytest.raises(InitializationFailed):
            initialize()
        self.stops = set()

    def stop_reversal(self, *names: str) -> None:
        """Let a reversal stop in one of the functions."""
        self.stops = set(names)
        with pytest.raises(Stop):
            reverse()
        self.stops = set()

    def start(self, **task: Any) -> None:
        """Start as `safe_migrate` does, with options of the task."""
        work = MigrateTask(lambda: run_migrate("default"), "test", **task)
        outcome = Initializer(InitializationOptions(work, force=True)).run()
        assert outcome.result == "ready"

    def use(self, **safe_init: Any) -> None:
        self.settings.SAFE_INIT = {**self.settings.SAFE_INIT, **safe_init}

    def journal(self) -> list[tuple[Any, ...]]:
        return [
            (row["kind"], row["position"], row["part"], row["state"])
            for row in self.database.rows(JOURNAL)
            if row["kind"] in ("operation", "statement")
        ]

    def columns(self, table: str = "shop_product") -> set[str]:
        with connection.cursor() as cursor:
            found = connection.introspection.get_table_description(cursor, table)
        return {each.name for each in found}

    def constraints(self, table: str) -> dict[str, Any]:
        with connection.cursor() as cursor:
            return connection.introspection.get_constraints(cursor, table)


def reverse() -> None:
    call_command("migrate", "shop", "0001", verbosity=0)


@pytest.fixture(params=["django_database", "lite"])
def half(request, settings) -> HalfShop:
    """Return the initialized shop on each engine."""
    database = request.getfixturevalue(request.param)
    shop = request.getfixturevalue("shop")
    settings.SAFE_INIT = {"IN_TESTS": True}
    shop.write("0001_initial", INITIAL)
    initialize()
    return HalfShop(shop, database, settings)


def test_a_failure(half, caplog) -> None:
    """The operations before a failed one stay, and the next start goes on with it."""
    half.write(ADD_NOTE, half.python("one"), half.python("two"), half.python("three"))
    half.stops = {"two"}
    with pytest.raises(InitializationFailed) as caught:
        initialize()
    text = "operation 3 of 4 (RunPython two) failed; 2 are committed: Stop: two"
    assert str(caught.value) == f"shop.0002_half: {text}"
    half.stops = set()
    assert "note" in half.columns()
    assert half.journal() == [("operation", 1, 0, "done"), ("operation", 2, 0, "done")]
    assert initialize().result == "ready"
    assert half.ran == ["one", "two", "two", "three"]
    assert half.database.rows(JOURNAL) == []


def test_migrate(half, capsys) -> None:
    """`migrate` raises the error, says how far it came, and goes on, too."""
    half.write(ADD_NOTE, half.python("one"))
    half.stops = {"one"}
    with pytest.raises(Stop):
        call_command("migrate", verbosity=0)
    line = "shop.0002_half: operation 2 of 2 (RunPython one) failed; 1 is committed."
    assert line in capsys.readouterr().err
    half.stops = set()
    call_command("migrate", verbosity=0)
    assert half.ran == ["one", "one"]


def test_the_status(half) -> None:
    """`safe_init_status` tells what is half done, and what the next start will do."""
    half.write(ADD_NOTE, half.python("one"))
    half.stop("one")
    output = io.StringIO()
    with pytest.raises(SystemExit):
        call_command("safe_init_status", stdout=output)
    assert (
        "  half done: shop.0002_half: 1 of 2 operations are done; the next start continues with "
        "operation 2 (RunPython one)\n"
    ) in output.getvalue()


def test_deferred_sql(half) -> None:
    """Foreign keys and indexes exist afterwards, under the names that plain Django gives."""
    half.write(
        ADD_SALE,
        half.python("one"),
        "migrations.RenameField('sale', 'product', 'item')",
        "migrations.RenameModel('Sale', 'Order')",
    )
    half.stop("one")
    initialize()
    found = half.constraints("shop_order").values()
    keys = [each["columns"] for each in found if each["foreign_key"]]
    indexes = [each["columns"] for each in found if each["index"]]
    assert (keys, indexes) == ([["item_id"]], [["item_id"]])


def test_deferred_sql_that_fails(half) -> None:
    """A failure after the last operation leaves only the deferred SQL to do."""
    half.write(ADD_SALE, half.python("one"))
    half.database.rows("CREATE TABLE other (x integer)")
    editor: Any = connection.schema_editor()
    name = editor._create_index_name("shop_sale", ["product_id"])
    half.database.rows(f"CREATE INDEX {name} ON other (x)")
    with pytest.raises(InitializationFailed, match="deferred SQL failed; 2 are commit"):
        initialize()
    half.database.rows("DROP TABLE other")
    assert initialize().result == "ready"
    assert half.ran == ["one"]
    found = half.constraints("shop_sale").values()
    assert ["product_id"] in [each["columns"] for each in found if each["index"]]


def test_a_list_of_sql(half) -> None:
    """The statements of a list are done once each."""
    half.write(LIST, "migrations.RunSQL(migrations.RunSQL.noop, '')")
    half.stop()
    assert [each[:3] for each in half.journal()] == [
        ("statement", 1, 1),
        ("statement", 1, 2),
    ]
    half.database.rows("CREATE TABLE b (x integer)")
    initialize()
    assert half.database.value("SELECT sum(x) FROM a") == 4
    assert half.database.value("SELECT sum(x) FROM b") == 2
    assert half.database.rows(JOURNAL) == []


def test_a_list_that_was_changed(half) -> None:
    """A finished statement that is not the same any more is named."""
    half.write(LIST)
    half.stop()
    half.write(LIST.replace("[1]", "[5]"))
    with pytest.raises(UnfinishedMigration, match="statement 2 of operation 1"):
        initialize()
    half.database.rows("CREATE TABLE b (x integer)")
    half.start(resume=("shop.0002_half:1.3",))
    assert half.database.value("SELECT sum(x) FROM a") == 4


def test_a_list_that_is_turned_round(half) -> None:
    """A list of which some statements are done is completed, and then undone as a whole."""
    half.write(LIST)
    half.stop()
    for _ in range(2):
        with pytest.raises(DatabaseError):
            reverse()  # the third statement still fails
        assert [each[:3] for each in half.journal()] == [
            ("statement", 1, 1),
            ("statement", 1, 2),
        ]
    half.database.rows("CREATE TABLE b (x integer)")
    reverse()
    assert not half.database.has_table("a")
    assert half.database.rows(JOURNAL) == []


def test_a_list_that_is_turned_round_twice(half) -> None:
    """The statements of a reversal are completed before the other direction begins again."""
    back = "['DELETE FROM a WHERE x = 1', 'DROP TABLE c', 'DROP TABLE a']"
    half.write(
        f"migrations.RunSQL(['CREATE TABLE a (x integer)', 'INSERT INTO a VALUES (1)'], {back})",
        half.python("one"),
    )
    half.stop("one")
    with pytest.raises(DatabaseError):
        reverse()
    assert [each[:3] for each in half.journal()] == [
        ("operation", 1, 0),
        ("statement", 1, 1),
    ]
    half.stop()
    assert half.database.value("SELECT count(*) FROM a") == 0
    half.database.rows("CREATE TABLE c (x integer)")
    half.stop("one")
    assert half.database.value("SELECT sum(x) FROM a") == 1
    assert half.journal() == [("operation", 1, 0, "done")]
    half.database.rows("CREATE TABLE c (x integer)")
    reverse()
    assert not half.database.has_table("a")
    assert half.journal() == []


BARE = {"atomic": "False"}


def test_code_without_a_transaction(half, caplog) -> None:
    """Code that runs without a transaction is in doubt after a failure, and runs again."""
    half.write(half.python("one"), half.python("two", **BARE), half.python("three"))
    half.stop("two")
    assert half.journal()[-1] == ("operation", 2, 0, "started")
    initialize()
    assert half.ran == ["one", "two", "two", "three"]
    assert (
        "Operation 2 of 3 (RunPython two) of shop.0002_half was interrupted: it runs again."
        in caplog.text
    )


@pytest.mark.parametrize("by", ["setting", "class"])
def test_a_person_decides(half, by) -> None:
    """With "report" the operation is named, with the commands to choose from."""
    before = ""
    if by == "setting":
        half.use(UNFINISHED="report")
    else:
        before = "    safe_init_unfinished = 'report'\n"
    half.write(half.python("one"), half.python("two", **BARE), before=before)
    half.stop("two")
    with pytest.raises(UnfinishedMigration) as caught:
        initialize()
    assert str(caught.value).splitlines()[1:] == [
        "    python manage.py safe_migrate --resume shop.0002_half:2",
        "    python manage.py safe_migrate --resume shop.0002_half:3",
        "    python manage.py safe_migrate --rerun shop.0002_half",
        "    python manage.py migrate --fake shop 0002_half",
    ]


@pytest.mark.parametrize(
    ("choice", "ran"),
    [
        ({"resume": ("shop.0002_half:2",)}, ["two", "three"]),
        ({"resume": ("shop.0002_half:3",)}, ["three"]),
        ({"rerun": ("shop.0002_half",)}, ["one", "two", "three"]),
    ],
)
def test_a_choice(half, choice, ran) -> None:
    """Each choice goes on as it says."""
    half.use(UNFINISHED="report")
    half.write(half.python("one"), half.python("two", **BARE), half.python("three"))
    half.stop("two")
    half.ran.clear()
    half.start(**choice)
    assert half.ran == ran
    assert half.database.rows(JOURNAL) == []


def test_a_resumption_further_back(half) -> None:
    """Deferred SQL of the operations that are done again is forgotten."""
    half.write(ADD_NOTE, ADD_SALE, half.python("one"))
    half.stop("one")
    half.database.rows("DROP TABLE shop_sale")
    half.start(resume=("shop.0002_half:2",))
    found = half.constraints("shop_sale").values()
    assert [each["columns"] for each in found if each["foreign_key"]] == [
        ["product_id"]
    ]


def test_fake(half) -> None:
    """`migrate --fake` records the migration, and deletes its journal."""
    half.write(half.python("one"), half.python("two", **BARE))
    half.stop("two")
    call_command("migrate", "shop", "0002", fake=True, verbosity=0)
    assert half.journal() == []
    assert initialize().result == "ready"
    assert half.ran == ["one", "two"]


def test_a_class_with_another_policy(half) -> None:
    """A migration that says "rerun" runs again under the setting "report"."""
    half.use(UNFINISHED="report")
    before = "    safe_init_unfinished = 'rerun'\n"
    half.write(half.python("two", **BARE), before=before)
    half.stop("two")
    assert initialize().result == "ready"


def test_an_unknown_policy(half) -> None:
    """An unknown value in a class is an error that names it, before the first operation."""
    before = "    safe_init_unfinished = 'ask'\n"
    half.write(half.python("one"), before=before)
    with pytest.raises(ConfigurationError, match="safe_init_unfinished = 'ask'"):
        initialize()
    assert half.ran == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("shop.0002_half", "names no operation"),
        ("shop.0002_half:0", "names no operation"),
        ("shop.0009_other:1", "is not half done. Half done: shop.0002_half"),
        ("shop.0002_half:9", "it has 2 operations"),
        ("shop.0002_half:3.2", "it has 2 operations"),
    ],
)
def test_a_wrong_resumption(half, text, message) -> None:
    """A resumption that cannot be is an error, and changes nothing."""
    half.write(half.python("one"), half.python("two", **BARE))
    half.stop("two")
    with pytest.raises(ConfigurationError, match=message):
        half.start(resume=(text,))
    assert len(half.journal()) == 2


def test_a_changed_file(half) -> None:
    """A change before the point of resumption is named, and a change after it is used."""
    half.write(half.python("one"), ADD_NOTE, half.python("two"))
    half.stop("two")
    half.write(half.python("one"), ADD_NOTE.replace("'x'", "'y'"), half.python("two"))
    with pytest.raises(UnfinishedMigration) as caught:
        initialize()
    assert "operation 2 (AddField product.note) is finished" in str(caught.value)
    assert str(caught.value).splitlines()[1:] == [
        "    python manage.py safe_migrate --rerun shop.0002_half",
        "    python manage.py safe_migrate --resume shop.0002_half:3",
        "    python manage.py migrate --fake shop 0002_half",
    ]
    half.write(half.python("one"))
    with pytest.raises(UnfinishedMigration, match="operation 2 is finished"):
        initialize()
    half.write(half.python("one"), ADD_NOTE, half.python("mended"))
    assert initialize().result == "ready"
    assert half.ran == ["one", "two", "mended"]


def test_a_wrong_list(half) -> None:
    """A list with something else than a statement and its parameters is Django's error."""
    half.write(half.python("one"), "migrations.RunSQL([('SELECT 1', [], 2)])")
    with pytest.raises(InitializationFailed, match="Expected a 2-tuple but got 3"):
        initialize()
    assert half.journal() == [("operation", 1, 0, "done")]


@pytest.mark.parametrize(
    "operation",
    [
        "migrations.RunSQL([('INSERT INTO shop_product (name) VALUES (%s)', [uuid4().hex])])",
        "migrations.AddField('product', 'note', models.TextField(default=uuid4().hex))",
    ],
)
def test_values_of_each_load(half, operation) -> None:
    """An operation with a value that each load of its module computes has not changed."""
    before = "    from uuid import uuid4\n"
    half.write(operation, half.python("two"), before=before)
    half.stop("two")
    half.write(operation, half.python("two"), before=before)
    assert initialize().result == "ready"


def test_statements_with_values_of_each_load(half) -> None:
    """A statement with a value that each load of its module computes has not changed."""
    inserted = "('INSERT INTO shop_product (name) VALUES (%s)', [uuid4().hex])"
    before = "    from uuid import uuid4\n"
    operation = f"migrations.RunSQL([{inserted}, 'INSERT INTO later VALUES (1)'])"
    half.write(operation, before=before)
    half.stop()
    half.database.rows("CREATE TABLE later (x integer)")
    half.write(operation, before=before)
    assert initialize().result == "ready"
    assert half.database.rows("SELECT count(*) AS n FROM shop_product") == [{"n": 1}]


def test_a_change_that_is_accepted(half) -> None:
    """`--resume` accepts a changed operation before the point of resumption."""
    half.write(half.python("one"), ADD_NOTE, half.python("two"))
    half.stop("two")
    half.write(half.python("other"), ADD_NOTE, half.python("two"))
    half.start(resume=("shop.0002_half:3",))
    assert half.ran == ["one", "two", "two"]


def test_a_build_without_the_migration(half) -> None:
    """A build that lacks the migration is refused at the start, until its work is given up."""
    half.write(half.python("one"), half.python("two"))
    half.stop("two")
    half.shop.remove("0002_half")
    half.shop.write("0002_other", ADD_NOTE)
    with pytest.raises(UnfinishedMigration, match="this build does not have it"):
        initialize()
    assert "note" not in half.columns()
    half.start(rerun=("shop.0002_half",))
    assert "note" in half.columns()


def test_a_squash(half) -> None:
    """A squashed migration does not begin anew what one of its members has done."""
    half.write(half.python("one"), half.python("two"))
    half.stop("two")
    half.shop.write("0003_squashed", ADD_NOTE, atomic=False)
    file = half.shop.folder / "0003_squashed.py"
    replaces = "    replaces = [('shop', '0002_half')]\n    operations ="
    text = file.read_text().replace("    operations =", replaces)
    file.write_text(
        text.replace("('shop', '0002_half')]", "('shop', '0001_initial')]", 1)
    )
    with pytest.raises(
        UnfinishedMigration, match="replaces it by a squashed migration"
    ):
        initialize()


def test_a_reversal(half) -> None:
    """A reversal goes on in its direction."""
    half.write(ADD_NOTE, half.python("one"), half.python("two"), ADD_SALE)
    initialize()
    half.stop_reversal("one back")
    assert half.columns() == {"id", "name", "note"}
    assert not half.database.has_table("shop_sale")
    assert [each[1] for each in half.journal()] == [4, 3]
    reverse()
    assert half.ran == ["one", "two", "two back", "one back", "one back"]
    assert half.columns() == {"id", "name"}
    assert half.database.rows(JOURNAL) == []


def test_a_reversal_that_a_signal_ends(half) -> None:
    """A database that is half undone is not ready, however the reversal ended."""
    half.write(ADD_NOTE, half.python("one"), half.python("two"))
    initialize()

    def interrupt(connection: Any) -> None:
        raise KeyboardInterrupt

    half.shop.callbacks["one back"] = interrupt
    with pytest.raises(KeyboardInterrupt):
        reverse()
    assert half.database.newest_run()["outcome"] == "failed"
    assert get_status().state is State.ERROR
    assert initialize().result == "ready"
    assert half.ran == ["one", "two", "two back", "two"]


def test_a_reversal_that_is_turned_round(half) -> None:
    """A start applies what a reversal has undone, and the record stays as it was."""
    half.write(ADD_NOTE, half.python("one"), half.python("two"), ADD_SALE)
    initialize()
    half.stop_reversal("one back")
    half.ran.clear()
    assert initialize().result == "ready"
    assert half.ran == ["two"]
    assert half.database.has_table("shop_sale")
    assert half.database.rows(JOURNAL) == []
    assert half.database.applied_counts()["shop.0002_half"] == 1


@pytest.mark.parametrize("target", ["0001", "zero"])
def test_turning_round(half, target) -> None:
    """`migrate` to an earlier migration undoes the finished operations."""
    half.write(ADD_NOTE, ADD_SALE, half.python("one"), half.python("two"), ADD_NOTE)
    half.stop("two")
    call_command("migrate", "shop", target, verbosity=0)
    assert half.ran == ["one", "two", "one back"]
    assert not half.database.has_table("shop_sale")
    assert half.database.rows(JOURNAL) == []
    if target == "0001":
        assert half.columns() == {"id", "name"}


def test_turning_round_with_deferred_sql_that_fails(half) -> None:
    """Deferred SQL that fails does not prevent that its operation is undone."""
    half.write(ADD_SALE, half.python("one"))
    half.database.rows("CREATE TABLE other (x integer)")
    editor: Any = connection.schema_editor()
    name = editor._create_index_name("shop_sale", ["product_id"])
    half.database.rows(f"CREATE INDEX {name} ON other (x)")
    half.stop()
    if connection.vendor == "sqlite":
        with pytest.raises(DatabaseError):
            reverse()
        half.database.rows("DROP TABLE other")
    reverse()
    assert not half.database.has_table("shop_sale")
    assert half.journal() == []


def test_turning_round_twice(half) -> None:
    """Deferred SQL is executed at the end, whatever was begun and given up in between."""
    unique = "models.UniqueConstraint(fields=['n'], condition=models.Q(n=1), name='un')"
    half.write(
        "migrations.CreateModel('Shelf', [('id', models.BigAutoField(primary_key=True)),"
        " ('n', models.IntegerField()), ('s', models.SlugField()),"
        " ('product', models.ForeignKey('shop.Product', models.CASCADE))],"
        f" options={{'constraints': [{unique}]}})",
        half.python("one"),
        half.python("two"),
        "migrations.RenameModel('Shelf', 'Board')",
    )
    initialize()
    expected = half.constraints("shop_board").keys()
    reverse()
    for stops in ("two", "one back", "two", "one back"):
        half.stops = {stops}
        with pytest.raises((Stop, InitializationFailed)):
            initialize() if stops == "two" else reverse()
    half.stops = set()
    initialize()
    assert half.constraints("shop_board").keys() == expected
    assert half.database.rows(JOURNAL) == []


def test_deferred_sql_that_fails_and_is_given_up(half) -> None:
    """SQL that fails is left out only together with the operation that it belongs to."""
    unique = "models.UniqueConstraint(fields=['n'], condition=models.Q(n=1), name='un')"
    rows = "INSERT INTO shop_shelf (n) VALUES (1), (1)"
    half.write(
        "migrations.CreateModel('Shelf', [('id', models.BigAutoField(primary_key=True)),"
        f" ('n', models.IntegerField())], options={{'constraints': [{unique}]}})",
        f"migrations.RunSQL({rows!r}, '')",
        half.python("one"),
        half.python("two"),
    )
    half.stop("two")
    half.stop_reversal("one back")
    with pytest.raises(InitializationFailed, match="deferred SQL failed"):
        initialize()
    half.database.rows("DELETE FROM shop_shelf WHERE id = 1")
    initialize()
    assert "un" in half.constraints("shop_shelf")


def test_a_list_that_was_replaced(half) -> None:
    """Finished statements of a list are noticed in an operation that runs as a whole."""
    half.write(LIST, half.python("two"))
    half.stop()
    replaced = (
        [half.python("one"), half.python("two")],
        ["migrations.RunSQL(['CREATE TABLE a (x integer)'])"],
        ["migrations.RunSQL([])"],
    )
    for operations in replaced:
        half.write(*operations)
        with pytest.raises(UnfinishedMigration, match="statement 1 of operation 1 is"):
            initialize()
    assert half.ran == []
    half.write(half.python("one"), half.python("two"))
    for part in ("1.2", "2.1", "1.9"):
        with pytest.raises(ConfigurationError, match="It has 0"):
            half.start(resume=(f"shop.0002_half:{part}",))
    half.stops = {"two"}
    with pytest.raises(InitializationFailed):
        half.start(resume=("shop.0002_half:1",))
    half.stops = set()
    initialize()
    assert half.ran == ["one", "two", "two"]


def test_a_function_that_was_repaired(half) -> None:
    """An operation that failed and was repaired is compared in its new form afterwards."""
    half.write(half.python("one", **BARE), half.python("two"))
    half.stop("one")
    half.write(half.python("mended", **BARE), half.python("two"))
    half.stop("two")
    assert initialize().result == "ready"
    assert half.ran == ["one", "mended", "two", "two"]


def test_a_reversal_of_a_changed_file(half) -> None:
    """A half-undone migration is applied again from the operation that a person names."""
    half.write(half.python("one"), ADD_NOTE, half.python("three"))
    initialize()
    half.stop_reversal("one back")
    assert "note" not in half.columns()
    half.write(half.python("one"), ADD_NOTE.replace("'x'", "'y'"), half.python("three"))
    with pytest.raises(UnfinishedMigration) as caught:
        initialize()
    assert "is half undone" in str(caught.value)
    assert str(caught.value).splitlines()[1:] == [
        "    python manage.py safe_migrate --resume shop.0002_half:2",
        "    python manage.py safe_migrate --resume shop.0002_half:4",
    ]
    with pytest.raises(ConfigurationError, match="some of its operations are undone"):
        half.start(rerun=("shop.0002_half",))
    half.ran.clear()
    half.start(resume=("shop.0002_half:2",))
    assert half.ran == ["three"]
    assert "note" in half.columns()
    assert half.journal() == []


def test_a_half_undone_database_is_not_ready(half) -> None:
    """A run of another app leaves it half undone, and fails; `--fake` declares it applied."""
    half.write(half.python("one"), half.python("two"))
    initialize()
    half.stop_reversal("one back")
    half.settings.INSTALLED_APPS = [
        *half.settings.INSTALLED_APPS,
        "django.contrib.contenttypes",
    ]
    for command in (["contenttypes"], ["--fake", "contenttypes"]):
        with pytest.raises(CommandError, match=r"undone: shop\.0002_half\. To apply"):
            call_command("migrate", *command, verbosity=0)
        assert get_status().state is State.ERROR
    assert len(half.journal()) == 1
    call_command("migrate", "--fake", "shop", "0002", verbosity=0)
    assert half.journal() == []
    assert initialize().result == "ready"
    assert half.ran == ["one", "two", "two back", "one back"]


def test_a_migration_that_was_made_atomic(half) -> None:
    """A half-done migration does not begin anew as one transaction."""
    half.write(half.python("one"), half.python("two"))
    half.stop("two")
    half.write(half.python("one"), half.python("two"), before="    atomic = True\n")
    for start in (initialize, reverse):
        with pytest.raises(
            (UnfinishedMigration, CommandError), match="one transaction now"
        ):
            start()
    assert half.ran == ["one", "two"]
    half.start(rerun=("shop.0002_half",))
    assert half.ran == ["one", "two", "one", "two"]


def test_another_target(half) -> None:
    """A target that wants the migration goes on with it, and one of another app leaves it."""
    half.write(half.python("one"), half.python("two"))
    half.stop("two")
    half.settings.INSTALLED_APPS = [
        *half.settings.INSTALLED_APPS,
        "django.contrib.contenttypes",
    ]
    call_command("migrate", "contenttypes", verbosity=0)
    assert len(half.journal()) == 1
    call_command("migrate", "shop", verbosity=0)
    assert half.ran == ["one", "two", "two"]


def test_a_resumption_of_a_reversal(half) -> None:
    """`--resume` names the first operation that is not applied, also of a reversal."""
    half.use(UNFINISHED="report")
    half.write(*[half.python(name, **BARE) for name in ("one", "two", "three")])
    initialize()
    half.stop_reversal("two back")
    with pytest.raises(UnfinishedMigration) as caught:
        initialize()
    assert str(caught.value).splitlines()[1:] == [
        "    python manage.py safe_migrate --resume shop.0002_half:3",
        "    python manage.py safe_migrate --resume shop.0002_half:2",
    ]
    with pytest.raises(CommandError):
        reverse()
    assert get_status().state is State.ERROR
    half.ran.clear()
    half.start(resume=("shop.0002_half:3",))
    assert half.ran == ["three"]
    assert half.journal() == []
    assert half.database.applied_counts()["shop.0002_half"] == 1


def test_fake_initial(settings, half) -> None:
    """`migrate --fake-initial` does not take a half-done migration for an applied one."""
    call_command("migrate", "shop", "zero", verbosity=0)
    half.write()
    half.shop.remove("0002_half")
    half.shop.remove("0001_initial")
    half.shop.write("0001_first", INITIAL, half.python("one"), atomic=False)
    half.stop("one")
    call_command("migrate", fake_initial=True, verbosity=0)
    assert half.ran == ["one", "one"]
    call_command("migrate", "shop", "zero", fake=True, verbosity=0)
    call_command("migrate", fake_initial=True, verbosity=0)
    assert half.ran == ["one", "one"]
    assert half.database.rows(JOURNAL) == []


def test_what_cannot_be_undone(half) -> None:
    """A finished operation that is irreversible is named, and nothing is undone."""
    last = half.python("three", reverse_code="None")
    first = half.python("one", reverse_code="None")
    half.write(ADD_NOTE, first, half.python("two"), last)
    half.stop("two")
    with pytest.raises(IrreversibleError, match=r"Operation 2 of .* \(RunPython one\)"):
        reverse()
    assert "note" in half.columns()


def test_an_operation_that_is_irreversible_and_not_done(half) -> None:
    """An operation that was never done need not be reversible."""
    last = half.python("three", reverse_code="None")
    half.write(ADD_NOTE, half.python("two"), last)
    half.stop("two")
    reverse()
    assert half.columns() == {"id", "name"}


@pytest.mark.parametrize(("policy", "ran"), [("rerun", ["two back", "one back"])])
def test_turning_round_in_doubt(half, policy, ran) -> None:
    """With the policy to run again, the operation in doubt is undone, too."""
    half.write(half.python("one"), half.python("two", **BARE))
    half.stop("two")
    half.ran.clear()
    reverse()
    assert half.ran == ran


def test_doubt_that_outlives_turning_round(half) -> None:
    """An operation in doubt stays in doubt until it is undone, or done."""
    half.write(half.python("one"), half.python("two", **BARE), half.python("three"))
    half.stop("two")
    half.stop_reversal("two back")
    assert half.journal()[-1] == ("operation", 2, 0, "started")
    half.ran.clear()
    assert initialize().result == "ready"
    assert half.ran == ["two", "three"]


def test_finished_by_plain_django(half) -> None:
    """A journal that the record contradicts is deleted."""
    half.write(half.python("one"), half.python("two"))
    half.stop("two")
    initialize(mode="off")
    assert half.ran == ["one", "two", "one", "two"]
    half.shop.write("0003_more", ADD_NOTE)
    assert initialize().result == "ready"
    assert half.database.rows(JOURNAL) == []


def test_a_pragma_is_repeated(lite, shop, settings) -> None:
    """A PRAGMA of a finished operation is repeated, like SET."""
    settings.SAFE_INIT = {"IN_TESTS": True}
    shop.write("0001_initial", INITIAL)
    initialize()
    half = HalfShop(shop, lite, settings)
    seen: list[int] = []

    def look(connection: Any) -> None:
        with connection.cursor() as cursor:
            seen.extend(cursor.execute("PRAGMA cache_size").fetchone())

    half.write("migrations.RunSQL('PRAGMA cache_size = 77')", half.python("one", look))
    half.stop("one")
    initialize()
    assert seen == [77, 77]


@pytest.mark.parametrize(
    ("operation", "rows"),
    [
        ("unusual.SQLAndMore('CREATE TABLE made (x integer)', 'DROP TABLE made')", 1),
        ("unusual.Remembering()", 1),
        ("unusual.CodeOfItsOwn()", 1),
        ("unusual.Computed()", 1),
    ],
)
def test_operations_of_packages(half, operation, rows) -> None:
    """Operations that override Django's methods do the same as without this package, once."""
    half.database.rows("CREATE TABLE before (x integer)")
    half.write(operation, half.python("one"))
    half.stop("one")
    initialize()
    assert half.database.value("SELECT count(*) FROM before") == rows
    assert half.ran == ["one", "one"]


def test_an_operation_that_reverses_by_its_forward_method(half) -> None:
    """Such a reversal is one entry, as with Django's own operations."""
    half.database.rows("CREATE TABLE before (x integer)")
    half.write(
        "unusual.Remembering()", "migrations.AlterModelTable('product', 'goods')"
    )
    initialize()
    reverse()
    assert half.database.value("SELECT count(*) FROM before") == 2
    assert half.database.has_table("shop_product")


def test_nested_operations(half) -> None:
    """The operations inside `SeparateDatabaseAndState` count one by one."""
    nested = f"migrations.SeparateDatabaseAndState([{ADD_NOTE}, {half.python('one')}])"
    outer = f"migrations.SeparateDatabaseAndState([{nested}, {half.python('two')}])"
    half.write(outer, half.python("three"))
    half.stop("two")
    assert [each[1] for each in half.journal()] == [1, 2]
    initialize()
    assert half.ran == ["one", "two", "two", "three"]


def test_the_same_object_twice(half) -> None:
    """An operation that stands twice in the list is done twice."""
    half.write(half.python("one"), half.python("two"))
    file = half.shop.folder / "0002_half.py"
    file.write_text(f"{file.read_text()}    operations = [*operations, *operations]\n")
    half.stop("two")
    initialize()
    assert half.ran == ["one", "two", "two", "one", "two"]


def test_work_that_refuses_a_transaction(half, caplog) -> None:
    """Code that needs to be outside of a transaction runs without one."""

    def durable(connection: Any) -> None:
        with transaction.atomic(durable=True):
            half.ran.append("durable")

    half.write(half.call("one", durable), half.python("two"))
    assert initialize().result == "ready"
    assert half.ran == ["one", "one", "durable", "two"]


def test_work_that_needs_its_transaction(half) -> None:
    """Code that Django itself runs in a transaction never runs without one."""

    def careless(connection: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO shop_product (name) VALUES ('a')")
            with pytest.raises(DatabaseError):
                cursor.execute("SELECT * FROM nowhere")
            with transaction.atomic(durable=True):
                pass

    for operation in (
        half.python("one", careless),
        half.call("one", careless, atomic=True),
    ):
        half.write(operation)
        with pytest.raises(InitializationFailed):
            initialize()
        assert half.database.value("SELECT count(*) FROM shop_product") == 0
        assert half.journal() == []


def test_an_error_after_the_commit(half) -> None:
    """An error of a function of `on_commit` undoes nothing, and nothing runs again."""

    def work(connection: Any) -> None:
        def fail() -> None:
            with transaction.atomic(durable=True), transaction.atomic(durable=True):
                pass

        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO shop_product (name) VALUES ('a')")
        transaction.on_commit(fail)

    half.write(half.call("one", work), half.python("two"))
    with pytest.raises(InitializationFailed, match="durable"):
        initialize()
    assert half.journal() == [("operation", 1, 0, "done")]
    assert initialize().result == "ready"
    assert half.database.value("SELECT count(*) FROM shop_product") == 1


def test_a_script_with_its_own_transaction(half) -> None:
    """A script that begins and ends transactions runs as a whole, and is then in doubt."""
    script = [
        "BEGIN",
        "CREATE TABLE a (x integer)",
        "COMMIT",
        "INSERT INTO b VALUES (1)",
    ]
    half.write(ADD_NOTE, f"migrations.RunSQL({script})")
    half.use(UNFINISHED="report")
    half.stop()
    assert half.journal()[-1] == ("operation", 2, 0, "started")
    with pytest.raises(UnfinishedMigration, match=r"Operation 2 of 2 \(RunSQL\)"):
        initialize()


def test_an_open_transaction(half) -> None:
    """Code that leaves a transaction open fails, and what it did is undone."""
    half.write(ADD_NOTE, "migrations.RunSQL('BEGIN; CREATE TABLE a (x integer)')")
    with pytest.raises(InitializationFailed, match="has left a transaction open"):
        initialize()
    assert not half.database.has_table("a")


def test_a_failed_statement_leaves_no_doubt(half) -> None:
    """One statement that fails outside of a transaction has done nothing."""
    statement = "VACUUM nowhere"
    half.write(ADD_NOTE, f"migrations.RunSQL({statement!r})")
    half.stop()
    assert half.journal() == [("operation", 1, 0, "done")]


def test_progress(half) -> None:
    """The run names the operation, also for the JSON, and its share counts."""
    seen: list[Any] = []

    def look(connection: Any) -> None:
        def is_written() -> Any:
            run = get_status().run
            seen.append(run)
            return run is not None and run.operation and run.operation.number == 2

        wait_until(is_written)

    half.write(ADD_NOTE, half.python("one", look, **BARE))
    initialize()
    run = seen[-1]
    assert run.message == "shop.0002_half: operation 2 of 2, RunPython one"
    assert run.as_json()["operation"] == {
        "number": 2,
        "total": 2,
        "name": "RunPython one",
    }
    assert run.progress >= 50
    ended = get_status().run
    assert ended is not None
    assert ended.as_json()["operation"] is None


def die(half: HalfShop, name: str) -> None:
    """Let the next start end by a signal in this function."""

    def interrupted(connection: Any) -> None:
        half.shop.callbacks[name] = work
        raise KeyboardInterrupt

    work, half.shop.callbacks[name] = half.shop.callbacks[name], interrupted
    with pytest.raises(KeyboardInterrupt):
        initialize()


def outcomes(half: HalfShop) -> list[str]:
    return [run["outcome"] for run in half.database.runs()]


def test_a_run_with_progress_is_no_failure(half) -> None:
    """A run that finished an operation does not count among three failures in a row."""
    half.write(*map(half.python, ["one", "two", "three", "four"]))
    for name in ("two", "three", "four"):
        die(half, name)
    assert outcomes(half) == ["ready", *["interrupted"] * 3]
    assert initialize().result == "ready"
    assert half.ran == ["one", "two", "three", "four"]
    assert half.database.rows(f"SELECT * FROM {OPERATION_TABLE}") == []


def test_runs_without_progress_are_failures(half) -> None:
    """Three runs in a row that end in the same operation fail the build."""
    half.write(*map(half.python, ["one", "two"]))
    for _ in range(4):
        die(half, "two")
    assert outcomes(half) == ["ready", *["interrupted"] * 3, "failed"]


def test_a_run_with_a_batch_is_no_failure(half) -> None:
    """A run that finished a batch does not count among three failures in a row."""
    numbers = ", ".join(f"('{number}')" for number in range(6))
    half.database.rows(f"INSERT INTO shop_product (name) VALUES {numbers}")
    seen: list[str] = []

    def fill(connection: Any) -> None:
        rows = product(connection).objects.all()
        begun = len(seen)

        def work(objects: list[Any]) -> None:
            if len(seen) > begun:
                raise KeyboardInterrupt
            seen.append(objects[0].name)

        for_each_batch(rows, work, batch=1)

    half.write(half.python("fill", fill, **BARE))
    for _ in range(5):
        with pytest.raises(KeyboardInterrupt):
            initialize()
    assert initialize().result == "ready"
    assert seen == ["0", "1", "2", "3", "4", "5"]


def test_progress_ends_the_row(half) -> None:
    """A run with progress ends the row of failures before it."""
    half.write(*map(half.python, ["one", "two"]))
    for name in ("one", "one", "two", "two", "two"):
        die(half, name)
    assert outcomes(half) == ["ready", *["interrupted"] * 5]


@pytest.mark.parametrize("half", ["django_database"], indirect=True)
class TestPostgreSQL:
    """Statements that only PostgreSQL has."""

    @pytest.mark.parametrize(
        "statement", ["VACUUM shop_product", "SELECT refuse(); VACUUM shop_product"]
    )
    def test_maintenance(self, half, statement) -> None:
        """VACUUM runs without a transaction, and again after a crash."""
        half.use(UNFINISHED="report")
        half.write(f"migrations.RunSQL({statement.split('; ')!r})", half.python("one"))
        if "refuse" in statement:
            half.stop()
            half.database.rows(
                "CREATE FUNCTION refuse() RETURNS int LANGUAGE sql AS 'SELECT 1'"
            )
        assert initialize().result == "ready"

    def test_errors_of_a_transaction(self, half) -> None:
        """Work that only a transaction prevents runs without one."""
        half.database.rows("CREATE TYPE kind AS ENUM ('a')")
        half.database.rows("CREATE TABLE kinds (kind kind)")
        half.database.rows(
            "CREATE PROCEDURE commits() LANGUAGE plpgsql AS"
            " $$ BEGIN INSERT INTO kinds VALUES ('a'); COMMIT; END $$"
        )

        def swallow(connection: Any) -> None:
            with connection.cursor() as cursor:
                try:
                    cursor.execute("SELECT 1 / 0")
                except Exception:  # noqa: BLE001  (as careless code does)
                    half.ran.append("swallowed")
                cursor.execute("INSERT INTO kinds VALUES ('a')")

        half.write(
            "migrations.RunSQL(\"ALTER TYPE kind ADD VALUE 'b'; INSERT INTO kinds VALUES ('b')\")",
            "migrations.RunSQL('CALL commits()')",
            half.call("swallow", swallow),
        )
        with pytest.raises(InitializationFailed, match="unsafe use of new value"):
            initialize()  # one message is one transaction, also for PostgreSQL itself
        half.write(
            "migrations.RunSQL(['CALL commits()', 'SELECT 1'])",
            half.call("swallow", swallow),
        )
        assert initialize().result == "ready"
        assert half.database.value("SELECT count(*) FROM kinds") == 2
        assert half.ran == ["swallow", "swallowed", "swallow", "swallowed"]

    @pytest.mark.parametrize("choice", [{}, {"resume": ("shop.0002_half:2",)}])
    def test_settings_of_the_session(self, half, choice) -> None:
        """SET of a finished operation is repeated: its session has ended."""
        seen: list[str] = []

        def look(connection: Any) -> None:
            with connection.cursor() as cursor:
                cursor.execute("SHOW work_mem")
                seen.append(cursor.fetchone()[0])

        half.write(
            "migrations.RunSQL(['SELECT 1', \"SET work_mem = '5MB'\"])",
            half.python("one", look),
        )
        half.stop("one")
        half.start(**choice)
        assert seen == ["5MB", "5MB"]

    def test_a_lock_time_out_of_its_own(self, half) -> None:
        """A migration that sets its lock time-out keeps it, also when it goes on."""
        seen: list[str] = []

        def look(connection: Any) -> None:
            with connection.cursor() as cursor:
                cursor.execute("SHOW lock_timeout")
                seen.append(cursor.fetchone()[0])

        half.write(
            half.python("before", look),
            "migrations.RunSQL(\"SET lock_timeout = '7min'\")",
            half.python("one", look),
        )
        half.shop.write("0003_next", half.python("after", look), atomic=False)
        half.stop("one")
        initialize()
        assert seen == ["5s", "7min", "7min", "5s"]

    def test_settings_that_were_reset(self, half) -> None:
        """A parameter that a finished operation has reset is not set again."""
        half.write(
            'migrations.RunSQL("SET search_path = public, gone")',
            "migrations.RunSQL(\"SET work_mem = '5MB'\")",
            "migrations.RunSQL('RESET ALL')",
            "migrations.RunSQL(\"SET SESSION work_mem = '6MB'\")",
            "migrations.RunSQL('RESET work_mem')",
            half.python("one"),
        )
        half.stop("one")
        executed: list[str] = []

        def note(execute, sql, *args):
            executed.append(str(sql))
            return execute(sql, *args)

        def add_wrapper(connection, **kwargs) -> None:
            connection.execute_wrappers.append(note)

        connection_created.connect(add_wrapper)
        try:
            initialize()
        finally:
            connection_created.disconnect(add_wrapper)
        assert not [each for each in executed if each.startswith("SET ")]

    def test_another_role(self, half) -> None:
        """A migration may take a role that cannot write the journal."""
        name = half.database.value("SELECT current_database()")
        role = f"owner_{name}"
        half.database.rows(f"CREATE ROLE {role}")
        try:
            half.database.rows(f"GRANT CREATE, USAGE ON SCHEMA public TO {role}")
            half.write(
                f"migrations.RunSQL(['SET ROLE {role}', 'CREATE TABLE owned (x integer)'])",
                half.python("one", **BARE),
                "migrations.RunSQL('VACUUM owned')",
                "migrations.RunSQL('RESET ROLE')",
            )
            half.stop("one")
            assert initialize().result == "ready"
            owner = "SELECT tableowner FROM pg_tables WHERE tablename = 'owned'"
            assert half.database.value(owner) == role
        finally:
            half.database.rows(f"DROP OWNED BY {role}")
            half.database.rows(f"DROP ROLE {role}")

    def test_an_index_in_another_schema(self, half, monkeypatch) -> None:
        """A new index is found in the schema of its table, on the migration's path."""
        half.database.rows("CREATE SCHEMA other; CREATE TABLE other.goods (name text)")
        half.write(
            "migrations.RunSQL('SET search_path = other, public')",
            "migrations.RunSQL('CREATE INDEX CONCURRENTLY by_path ON goods (name)')",
            "migrations.RunSQL('RESET search_path')",
            "migrations.RunSQL('CREATE INDEX CONCURRENTLY IF NOT EXISTS product_name'"
            " ' ON other.goods (name)')",
        )
        interrupt_index(half, monkeypatch, "valid")
        interrupt_index(half, monkeypatch, "invalid", schema="other.")
        assert initialize().result == "ready"
        valid = VALID.replace("'product_name'", "'other.product_name'")
        assert half.database.value(valid) is True
        assert half.database.value("SELECT to_regclass('other.by_path')") is not None

    def test_an_index_of_a_model_in_another_schema(self, half, monkeypatch) -> None:
        """Django's own operation finds its index in the schema that the table's name has."""
        half.database.rows("CREATE SCHEMA other")
        half.write(
            "migrations.CreateModel('Good', [('id', models.BigAutoField(primary_key=True)),"
            " ('name', models.TextField())], options={'db_table': 'other\".\"good'})",
            INDEX.replace("'product',", "'good',"),
        )
        interrupt_index(half, monkeypatch, "valid")
        assert initialize().result == "ready"
        valid = VALID.replace("'product_name'", "'other.product_name'")
        assert half.database.value(valid) is True

    def test_a_lazy_text(self, half) -> None:
        """SQL may be a lazy text, as with Django."""
        half.database.rows("CREATE TABLE before (x integer)")
        half.write("migrations.RunSQL(unusual.LAZY, '')")
        initialize()
        assert half.database.value("SELECT count(*) FROM before") == 1

    def test_a_procedure_that_waits(self, half, connect_raw, in_background) -> None:
        """A procedure that may commit is not tried again: it waits for its locks."""
        half.use(DDL_LOCK_TIMEOUT=0.1)
        half.database.rows("CREATE TABLE calls (x integer)")
        half.database.rows(
            "CREATE PROCEDURE works() LANGUAGE plpgsql AS $$ BEGIN"
            " INSERT INTO calls VALUES (1); COMMIT; LOCK TABLE shop_product; END $$"
        )
        half.write("migrations.RunSQL('CALL works()')")
        raw = connect_raw()
        raw.execute("BEGIN; LOCK TABLE shop_product")
        migration = in_background(initialize)
        wait_until(lambda: half.database.value(WAITS_LONG))
        raw.execute("COMMIT")
        assert migration.result().result == "ready"
        assert half.database.value("SELECT count(*) FROM calls") == 1

    def test_a_locked_record(self, half, connect_raw, in_background) -> None:
        """Work without a transaction runs once, and its entry waits for the lock."""
        half.use(DDL_LOCK_TIMEOUT=0.1)
        raw = connect_raw()

        def lock(connection: Any) -> None:
            raw.execute("BEGIN; LOCK TABLE django_migrations")

        half.write(half.python("one", lock, **BARE))
        migration = in_background(initialize)
        wait_until(lambda: half.database.value(WAITS_LONG))
        raw.execute("COMMIT")
        assert migration.result().result == "ready"
        assert half.ran == ["one"]

    @pytest.mark.parametrize(
        ("statement", "expected"),
        [
            ("CREATE INDEX CONCURRENTLY ON things (x)", ["things_x_idx"]),
            ("CREATE INDEX CONCURRENTLY IF NOT EXISTS named ON things (x)", ["named"]),
            ("REINDEX TABLE CONCURRENTLY things", []),
            ("REINDEX INDEX CONCURRENTLY listed", []),
            ("DROP INDEX CONCURRENTLY listed", []),
            ("ALTER TABLE things DETACH PARTITION things_1 CONCURRENTLY", []),
        ],
    )
    def test_concurrent_statements_that_wait(
        self, half, connect_raw, in_background, statement, expected
    ) -> None:
        """A statement that leaves a part behind if it is ended waits, and runs once."""
        half.use(DDL_LOCK_TIMEOUT=0.1, UNFINISHED="report")
        parted = "DETACH" in statement
        half.database.rows(
            "CREATE TABLE things (x integer)" + " PARTITION BY LIST (x)" * parted
        )
        if parted:
            half.database.rows(
                "CREATE TABLE things_1 PARTITION OF things FOR VALUES IN (1)"
            )
        else:
            half.database.rows("CREATE INDEX listed ON things (x)")
        half.write(f"migrations.RunSQL({statement!r})")
        raw = connect_raw()
        raw.execute("BEGIN; LOCK TABLE things IN ROW EXCLUSIVE MODE")
        migration = in_background(initialize)
        wait_until(lambda: half.database.value(WAITS_LONG))
        raw.execute("COMMIT")
        assert migration.result().result == "ready"
        indexes = half.database.rows(
            "SELECT relname, indisvalid FROM pg_index JOIN pg_class ON oid = indexrelid"
            " WHERE indrelid = 'things'::regclass"
        )
        kept = [] if parted or "DROP" in statement else ["listed"]
        assert all(row["indisvalid"] for row in indexes)
        assert sorted(row["relname"] for row in indexes) == sorted(kept + expected)
        assert half.database.value("SELECT count(*) FROM pg_inherits") == 0

    @pytest.mark.parametrize("operation", ["Django's", "SQL"])
    @pytest.mark.parametrize("left", ["valid", "invalid", "nothing"])
    def test_an_index_in_doubt(self, half, monkeypatch, operation, left) -> None:
        """An interrupted build is finished, or cleaned up and repeated, whatever the policy."""
        half.use(UNFINISHED="report")
        text = (
            INDEX
            if operation == "Django's"
            else "migrations.RunSQL('CREATE INDEX CONCURRENTLY product_name ON"
            " shop_product (name)', 'DROP INDEX product_name')"
        )
        half.write(half.python("one"), text)
        half.database.rows("INSERT INTO shop_product (name) VALUES ('a'), ('a')")
        interrupt_index(half, monkeypatch, left)
        assert half.journal()[-1] == ("operation", 2, 0, "started")
        oid = half.database.value("SELECT to_regclass('product_name')::oid")
        assert initialize().result == "ready"
        assert half.database.value(VALID) is True
        again = half.database.value("SELECT to_regclass('product_name')::oid")
        assert (again == oid) is (left == "valid")

    @pytest.mark.parametrize("left", ["valid", "invalid", "nothing"])
    def test_a_dropped_index_in_doubt(self, half, left) -> None:
        """An interrupted DROP INDEX CONCURRENTLY is finished."""
        half.database.rows("CREATE INDEX product_name ON shop_product (name)")
        drop = "migrations.RunSQL('DROP INDEX CONCURRENTLY product_name')"
        half.write(half.python("one"), drop, half.python("two"))
        half.stop("one")
        insert_started(half, 2, "DROP", [""])
        if left == "invalid":
            half.database.rows(INVALIDATE)
        elif left == "nothing":
            half.database.rows("DROP INDEX product_name")
        half.use(UNFINISHED="report")
        half.start(resume=())
        assert half.database.value("SELECT to_regclass('product_name')") is None
        assert half.ran == ["one", "one", "two"]

    def test_a_rebuilt_index_in_doubt(self, half) -> None:
        """The copies that an interrupted REINDEX CONCURRENTLY leaves are dropped."""
        half.database.rows("CREATE INDEX product_name ON shop_product (name)")
        for suffix in ("ccnew", "ccnew1"):
            half.database.rows(
                f"CREATE INDEX product_name_{suffix} ON shop_product (name)"
            )
            half.database.rows(
                INVALIDATE.replace("'product_name'", f"'product_name_{suffix}'")
            )
        reindex = "migrations.RunSQL('REINDEX INDEX CONCURRENTLY product_name', '')"
        half.write(half.python("one"), reindex)
        half.stop("one")
        insert_started(half, 2, "REINDEX", ["", "public.product_name_ccnew"])
        half.start()
        names = half.database.rows(
            "SELECT relname FROM pg_class WHERE relname LIKE 'product_name%%' ORDER BY 1"
        )
        assert [each["relname"] for each in names] == [
            "product_name",
            "product_name_ccnew",
        ]

    def test_leftovers_of_a_long_name(self, half) -> None:
        """A copy has a shortened name; a copy of another index, or of another table, stays."""
        name = "product_" + "n" * 55
        copy, other = f"{name[:57]}_ccnew", "product_other_ccold"
        half.database.rows("CREATE TABLE goods (name text)")
        for index, table in ((name, "shop_product"), (copy, "shop_product")):
            half.database.rows(f"CREATE INDEX {index} ON {table} (name)")
        half.database.rows(f"CREATE INDEX {other} ON shop_product (name)")
        half.database.rows(
            f"CREATE INDEX {name}_ccold ON goods (name)".replace("nn_", "_")
        )
        for index in (copy, other):
            half.database.rows(INVALIDATE.replace("product_name", index))
        reindex = f"migrations.RunSQL('REINDEX INDEX CONCURRENTLY {name}', '')"
        half.write(half.python("one"), reindex)
        half.stop("one")
        insert_started(half, 2, "REINDEX", [""], name)
        half.start()
        names = half.database.rows(
            "SELECT relname FROM pg_class WHERE relname LIKE 'product%%' AND relkind = 'i'"
        )
        left = {each["relname"] for each in names}
        assert {name, other} <= left
        assert copy not in left
        assert len(left) == 3

    def test_maintenance_in_doubt(self, half) -> None:
        """VACUUM that was interrupted runs again, whatever the policy, also in a list."""
        half.use(UNFINISHED="report")
        listed = ["INSERT INTO shop_product (name) VALUES ('a')", "VACUUM shop_product"]
        half.write(f"migrations.RunSQL({[*listed, 'SELECT refuse()']!r})")
        half.stop()
        half.database.rows(
            f"UPDATE {OPERATION_TABLE} SET state = 'started', detail = %s WHERE part = 2",
            json.dumps({"name": "x", "repeatable": True}),
        )
        half.database.rows(
            "CREATE FUNCTION refuse() RETURNS int LANGUAGE sql AS 'SELECT 1'"
        )
        assert initialize().result == "ready"
        assert half.database.value("SELECT count(*) FROM shop_product") == 1

    def test_an_engine_without_a_journal(self, half, monkeypatch) -> None:
        """Its interrupted migration is in doubt as a whole, and only an index is cleaned up."""
        monkeypatch.setattr(PostgresRunSession, "ensure_journal", lambda session: False)
        half.use(UNFINISHED="report")
        half.write(half.python("one"), half.python("two"))
        die(half, "two")
        with pytest.raises(UnfinishedMigration, match=r"shop\.0002_half"):
            initialize()
        half.start(rerun=("shop.0002_half",))
        assert half.ran == ["one", "one", "two"]
        half.shop.write("0003_index", INDEX, atomic=False)
        half.shop.write(
            "0004_both",
            INDEX.replace("name')", "more')"),
            half.python("last"),
            atomic=False,
        )
        assert initialize().result == "ready"
        assert half.database.value(VALID) is True

    def test_unknown_deferred_sql(self, half) -> None:
        """An object that cannot be stored is stored as its text."""
        half.write(
            "unusual.Deferring('CREATE INDEX deferred ON shop_product (name)')",
            half.python("two"),
        )
        half.stop("two")
        assert initialize().result == "ready"
        assert half.database.value("SELECT to_regclass('deferred') IS NOT NULL")


INDEX = "AddIndexConcurrently('product', models.Index(fields=['name'], name='product_name'))"
VALID = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('product_name')"
INVALIDATE = "UPDATE pg_index SET indisvalid = false WHERE indexrelid = to_regclass('product_name')"


def insert_started(
    half: HalfShop,
    number: int,
    action: str,
    before: list[str],
    index: str = "product_name",
) -> None:
    """Insert the mark of an operation that a leader has started, and move past the others."""
    detail = {
        "name": "x",
        "index": f'"{index}"',
        "action": action,
        "before": before,
    }
    half.database.rows(
        f"INSERT INTO {OPERATION_TABLE} (lock_key, migration, recorded, kind, position, part,"
        " state, fingerprint, detail, run_id, written_at) VALUES"
        " ('', 'shop.0002_half', false, 'operation', %s, 0, 'started', '', %s, 1, now())",
        number,
        json.dumps(detail),
    )


def interrupt_index(half: HalfShop, monkeypatch, left: str, schema: str = "") -> None:
    """Interrupt the build of the index: after it, in it, or before it."""

    def interrupt(execute, sql, params, many, context):
        if "CREATE INDEX CONCURRENTLY" not in str(sql):
            return execute(sql, params, many, context)
        if left != "nothing":
            execute(sql, params, many, context)
        if left == "invalid":
            half.database.rows(INVALIDATE.replace("'product", f"'{schema}product"))
        raise KeyboardInterrupt

    def add_wrapper(connection, **kwargs) -> None:
        connection.execute_wrappers.append(interrupt)

    connection_created.connect(add_wrapper)
    try:
        with pytest.raises(KeyboardInterrupt):
            initialize()
    finally:
        connection_created.disconnect(add_wrapper)


def test_batches(half) -> None:
    """Each batch is committed with its position, and the next start goes on behind it."""
    half.database.rows(
        "INSERT INTO shop_product (name) VALUES ('a'), ('b'), ('c'), ('d'), ('e')"
    )
    seen: list[str] = []

    def fill(connection: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT max(id) FROM shop_product")
        model = product(connection)

        def work(rows: list[Any]) -> None:
            if "c" in {each.name for each in rows} and half.stops:
                raise Stop
            seen.extend(each.name for each in rows)
            for each in rows:
                each.name *= 2
                each.save()

        assert for_each_batch(model.objects.all(), work, batch=2) >= 3

    half.write(ADD_NOTE, half.python("fill", fill, **BARE))
    half.stop("other")
    assert seen == ["a", "b"]
    initialize()
    assert seen == ["a", "b", "c", "d", "e"]
    names = {row["name"] for row in half.database.rows("SELECT name FROM shop_product")}
    assert names == {"aa", "bb", "cc", "dd", "ee"}
    assert half.database.rows(f"SELECT * FROM {OPERATION_TABLE}") == []


def test_loops_over_groups(half) -> None:
    """A loop is known by its query, also if an earlier one has no rows left after a crash."""
    half.database.rows(
        "INSERT INTO shop_product (name) VALUES ('b1'), ('b2'), ('a1'), ('a2')"
    )
    seen: list[str] = []

    def work(rows: list[Any]) -> None:
        if rows[0].name == "b2" and half.stops:
            raise Stop
        seen.extend(each.name for each in rows)
        for each in rows:
            each.delete()

    def fill(connection: Any) -> None:
        rows = product(connection).objects
        for group in ("a", "b"):
            if rows.filter(name__startswith=group).exists():
                for_each_batch(rows.filter(name__startswith=group), work, batch=1)
        for_each_batch(rows.none(), work)

    half.write(half.python("fill", fill, **BARE))
    half.stop("b2")
    initialize()
    assert seen == ["a1", "a2", "b1", "b2"]


@pytest.mark.parametrize("half", ["lite"], indirect=True)
def test_a_locked_file(half, settings) -> None:
    """An operation that cannot begin, because of another writer of SQLite, stops there."""
    raw = sqlite3.connect(
        half.database.file, isolation_level=None, check_same_thread=False
    )

    def lock(connection: Any) -> None:
        if half.stops:
            raw.execute("BEGIN IMMEDIATE")

    half.write(half.python("lock", lock, **BARE), half.python("two"))
    half.stop("other")
    raw.close()
    assert initialize().result == "ready"
    assert half.ran == ["lock", "lock", "two"]


def test_batches_inside_a_transaction(half) -> None:
    """In a transaction of the function a loop has no position: it is undone as a whole."""
    half.database.rows("INSERT INTO shop_product (name) VALUES ('a'), ('b')")
    seen: list[str] = []

    def fill(connection: Any) -> None:
        def work(rows: list[Any]) -> None:
            if rows[0].name == "b" and half.stops:
                raise Stop
            seen.append(rows[0].name)

        with transaction.atomic():
            for_each_batch(product(connection).objects.all(), work, batch=1)

    half.write(half.python("fill", fill, **BARE))
    half.stop("other")
    initialize()
    assert seen == ["a", "a", "b"]


def test_batches_that_are_turned_round_twice(half) -> None:
    """A loop begins with its first object after work in the other direction."""
    rows = "INSERT INTO shop_product (name) VALUES ('a'), ('b'), ('c')"
    half.database.rows(rows)
    done: set[str] = set()

    def fill(connection: Any) -> None:
        def work(rows: list[Any]) -> None:
            if rows[0].name == "c" and half.stops:
                raise Stop
            done.add(rows[0].name)

        for_each_batch(product(connection).objects.all(), work, batch=1)

    def undo(connection: Any) -> None:
        done.clear()
        if half.stops:
            raise Stop

    half.write(half.python("fill", fill, **BARE))
    half.shop.callbacks["fill back"] = undo
    half.stop("other")
    assert done == {"a", "b"}
    half.stop_reversal("other")
    initialize()
    assert done == {"a", "b", "c"}


@pytest.mark.parametrize("name", ["", "rows"])
def test_a_loop_with_other_values(half, name) -> None:
    """A loop over a set is known again; one over a value of each start needs a name."""
    half.database.rows("INSERT INTO shop_product (name) VALUES ('a'), ('b'), ('c')")
    seen: list[str] = []
    values = [["a", "b", "c"], ["c", "b", "a"]]
    kept = iter([0, 7])

    def fill(connection: Any) -> None:
        rows = product(connection).objects.filter(name__in=values.pop())
        rows = rows.filter(id__gt=-next(kept)) if name else rows

        def work(rows: list[Any]) -> None:
            if rows[0].name == "c" and half.stops:
                raise Stop
            seen.append(rows[0].name)

        for_each_batch(rows, work, batch=1, name=name)

    half.write(half.python("fill", fill, **BARE))
    half.stop("other")
    initialize()
    assert seen == ["a", "b", "c"]


def test_a_loop_of_a_repaired_function(half) -> None:
    """An operation that was changed after it failed goes on behind its last batch."""
    half.database.rows("INSERT INTO shop_product (name) VALUES ('a'), ('b')")
    seen: list[str] = []

    def work(rows: list[Any]) -> None:
        if rows[0].name == "b" and half.stops:
            raise Stop
        seen.append(rows[0].name)

    def fill(connection: Any) -> None:
        for_each_batch(product(connection).objects.all(), work, batch=1)

    half.write(half.python("fill", fill, **BARE))
    half.stop("other")
    half.write(half.python("fill", fill, elidable="True", **BARE))
    initialize()
    assert seen == ["a", "b"]


def test_a_loop_that_was_inserted(half) -> None:
    """A loop with another function, or in another operation, has a position of its own."""
    half.database.rows("INSERT INTO shop_product (name) VALUES ('a'), ('b')")
    seen: list[str] = []

    def loop(work: Callable[[list[Any]], object]) -> Callable[[Any], object]:
        return lambda connection: for_each_batch(
            product(connection).objects.all(), work, batch=1
        )

    def work(rows: list[Any]) -> None:
        if rows[0].name == "b" and half.stops:
            raise Stop
        seen.append(rows[0].name)

    def prepare(rows: list[Any]) -> None:
        seen.append(f"prepared {rows[0].name}")

    half.write(half.python("fill", loop(work), **BARE))
    half.stop("other")
    both = [loop(prepare), loop(work)]
    half.shop.callbacks["fill"] = lambda connection: [run(connection) for run in both]
    initialize()
    assert seen == ["a", "prepared a", "prepared b", "b"]
    seen.clear()
    reverse()
    half.shop.callbacks["fill"] = loop(work)
    half.stop("other")
    half.write(
        half.python("before", loop(work), **BARE),
        half.python("fill", loop(work), **BARE),
    )
    initialize()
    assert seen == ["a", "a", "b", "a", "b"]


def test_batches_that_are_turned_round(half) -> None:
    """The loop of a reverse function has a position of its own."""
    half.database.rows("INSERT INTO shop_product (name) VALUES ('a'), ('b'), ('c')")
    seen: list[str] = []

    def rename(connection: Any) -> None:
        def work(rows: list[Any]) -> None:
            if rows[0].name == "c" and half.stops:
                raise Stop
            seen.extend(each.name for each in rows)

        for_each_batch(product(connection).objects.all(), work, batch=1)

    half.write(half.python("fill", rename, **BARE))
    half.shop.callbacks["fill back"] = rename
    half.stop("c")
    assert seen == ["a", "b"]
    reverse()
    assert seen == ["a", "b", "a", "b", "c"]
    assert half.journal() == []


def product(connection: Any) -> Any:
    """Return a model of the table of products."""
    meta = type("Meta", (), {"app_label": "shop", "apps": Apps()})
    fields = {"name": models.TextField(), "Meta": meta, "__module__": __name__}
    return type("Product", (models.Model,), fields)


def test_batches_elsewhere(half) -> None:
    """Outside of such a migration the loop begins with the first object."""
    half.database.rows("INSERT INTO shop_product (name) VALUES ('a'), ('b'), ('c')")
    sizes: list[int] = []
    rows = product(connection).objects.order_by("-name")
    for _ in range(2):
        count = for_each_batch(rows, lambda found: sizes.append(len(found)), batch=2)
        assert count == 3
    assert sizes == [2, 1, 2, 1]
    with pytest.raises(ValueError, match="1 or more"):
        for_each_batch(rows, sizes.append, batch=0)
    names: list[str] = []
    for_each_batch(
        rows.reverse().select_for_update(),
        lambda found: names.extend(each.name for each in found),
        batch=1,
    )
    assert names == ["a", "b", "c"]
    for wrong in (rows[:2], rows.values(), rows.union(rows)):
        with pytest.raises(ValueError, match="objects of one query"):
            for_each_batch(wrong, sizes.append)
