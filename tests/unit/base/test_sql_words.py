"""Statements are told apart by their words, not by texts with words of SQL in them."""

from __future__ import annotations

import pytest

from django_safe_init.backends.base.sql_effects import SQLEffect
from django_safe_init.backends.base.sql_words import statements
from django_safe_init.backends.postgresql import sql_effects as postgresql
from django_safe_init.backends.sqlite3 import sql_effects as sqlite3


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("", []),
        (" ; -- COMMIT\n;", []),
        ("/* BEGIN; /* nested */ COMMIT; */ select 1", [("SELECT",)]),
        ("/* never closed; COMMIT", []),
        ("SELECT 'it''s; COMMIT'; END", [("SELECT", "''"), ("END",)]),
        (r"SELECT E'a\'; COMMIT;' , 'x'", [("SELECT", "''", ",", "''")]),
        ('DROP INDEX "a;""b"', [("DROP", "INDEX", '"a;""b"')]),
        ("DROP TABLE `a;b`", [("DROP", "TABLE", "`a;b`")]),
        ("DO $$ BEGIN COMMIT; END $$", [("DO", "''")]),
        ("DO $x$ $$ ; COMMIT $x$; SELECT a$$b", [("DO", "''"), ("SELECT", "A$$B")]),
        ("DO $$ never closed; COMMIT", [("DO", "''")]),
    ],
)
def test_words(script, words) -> None:
    """Comments and texts hide their words, and identifiers keep theirs."""
    assert [each.words for each in statements(script)] == words


@pytest.mark.parametrize(
    ("script", "texts"),
    [
        ("SET a = 1;\n RESET b ; ", ["SET a = 1", "RESET b"]),
        (
            "CREATE FUNCTION f() BEGIN ATOMIC SELECT CASE WHEN a THEN 1 END; END; SELECT 2",
            [
                "CREATE FUNCTION f() BEGIN ATOMIC SELECT CASE WHEN a THEN 1 END; END",
                "SELECT 2",
            ],
        ),
        (
            "CREATE TRIGGER t AFTER INSERT ON a BEGIN DELETE FROM b; END; DELETE FROM c",
            [
                "CREATE TRIGGER t AFTER INSERT ON a BEGIN DELETE FROM b; END",
                "DELETE FROM c",
            ],
        ),
    ],
)
def test_texts(script, texts) -> None:
    """The body of a trigger or function belongs to its statement."""
    assert [each.text for each in statements(script)] == texts


def index(action: str, name: str | None, **more: bool) -> SQLEffect:
    return SQLEffect(
        refuses_transaction=True,
        may_commit=True,
        concurrent_index=name,
        action=action if name else "",
        **more,
    )


CONTROL = SQLEffect(controls_transaction=True, refuses_transaction=True)
MAINTENANCE = SQLEffect(refuses_transaction=True, is_repeatable=True)


@pytest.mark.parametrize(
    ("sql", "effect"),
    [
        ("UPDATE a SET b = 1", SQLEffect()),
        ("CREATE PROCEDURE p() AS $$ BEGIN COMMIT; END $$", SQLEffect()),
        ("BEGIN", CONTROL),
        ("start transaction", CONTROL),
        ("END", CONTROL),
        ("ABORT", CONTROL),
        ("ROLLBACK", CONTROL),
        ("ROLLBACK TO SAVEPOINT a", SQLEffect()),
        ("PREPARE TRANSACTION 'a'", CONTROL),
        ("PREPARE a AS SELECT 1", SQLEffect()),
        ("CALL a()", SQLEffect(may_commit=True)),
        ("VACUUM a", MAINTENANCE),
        ("ANALYZE a", SQLEffect(is_repeatable=True)),
        ("SET a = 1", SQLEffect(is_repeatable=True, session=("SET a = 1",))),
        ("RESET a", SQLEffect(is_repeatable=True, session=("RESET a",))),
        ("SET LOCAL a = 1", SQLEffect()),
        ("CREATE INDEX CONCURRENTLY a ON b (c)", index("CREATE", '"a"')),
        (
            'CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS "A" ON b (c)',
            index("CREATE", '"A"'),
        ),
        ("CREATE INDEX CONCURRENTLY ON b (c)", index("CREATE", None)),
        ("CREATE INDEX CONCURRENTLY a ON ONLY s.b (c)", index("CREATE", '"s"."a"')),
        ("CREATE INDEX CONCURRENTLY", index("CREATE", None)),
        ("DROP INDEX CONCURRENTLY IF EXISTS s.a", index("DROP", '"s"."a"')),
        ("DROP INDEX CONCURRENTLY a, b", index("DROP", None)),
        (
            "REINDEX (VERBOSE) INDEX CONCURRENTLY a",
            index("REINDEX", '"a"', is_repeatable=True),
        ),
        (
            "REINDEX (CONCURRENTLY) INDEX a",
            index("REINDEX", '"a"', is_repeatable=True),
        ),
        (
            "REINDEX TABLE CONCURRENTLY a",
            index("REINDEX", None, is_repeatable=True),
        ),
        ("SELECT 1; COMMIT", CONTROL),
        (
            "SET a = 1; UPDATE b SET c = 1; CALL d()",
            SQLEffect(session=("SET a = 1",), may_commit=True),
        ),
    ],
)
def test_effects_on_postgresql(sql, effect) -> None:
    """Each statement is known by its words; of a script, the strictest one counts."""
    assert postgresql.effect_of(sql) == effect


@pytest.mark.parametrize(
    ("sql", "effect"),
    [
        ("UPDATE a SET b = 1", SQLEffect()),
        ("BEGIN", CONTROL),
        ("VACUUM", MAINTENANCE),
        ("VACUUM INTO 'copy'", SQLEffect(refuses_transaction=True)),
        ("REINDEX a", SQLEffect(is_repeatable=True)),
        (
            "PRAGMA cache_size = 1",
            SQLEffect(
                refuses_transaction=True,
                is_repeatable=True,
                session=("PRAGMA cache_size = 1",),
            ),
        ),
    ],
)
def test_effects_on_sqlite(sql, effect) -> None:
    """SQLite refuses VACUUM in a transaction, and ignores some PRAGMA there."""
    assert sqlite3.effect_of(sql) == effect
