"""Run a statement that repairs the schema, and explain the rows that refuse it."""

from __future__ import annotations

import re
from contextlib import nullcontext

from django.db import IntegrityError
from django.db.backends.base.base import BaseDatabaseWrapper

from django_safe_init.backends.postgresql.lock_timeout import PostgresLockTimeout
from django_safe_init.backends.postgresql.project_connection import (
    pinned_rows,
    plain_rows,
)
from django_safe_init.core.text import message_of, with_commands

_VALIDATE = re.compile(r"ALTER TABLE (.+) VALIDATE CONSTRAINT (.+);", re.DOTALL)
_CONSTRAINT = """
    SELECT c.oid::pg_catalog.int8 FROM pg_catalog.pg_constraint c
    WHERE c.conrelid OPERATOR(pg_catalog.=) pg_catalog.to_regclass(%s)
      AND pg_catalog.quote_ident(c.conname) OPERATOR(pg_catalog.=) ANY(%s)
"""
#: The FROM clause of the rows that a check or a foreign key refuses, with the table as `c`.
_REFUSED = """
    SELECT CASE k.contype WHEN 'c' THEN
      format('%%s AS c WHERE NOT (%%s)', k.conrelid::regclass,
        pg_get_expr(k.conbin, k.conrelid))
      ELSE (SELECT format(
          '%%s AS c WHERE %%s AND NOT EXISTS (SELECT FROM %%s AS t WHERE %%s)',
          k.conrelid::regclass,
          string_agg(format('c.%%I IS NOT NULL', a.attname), ' AND '),
          k.confrelid::regclass,
          string_agg(format('t.%%I = c.%%I', b.attname, a.attname), ' AND '))
        FROM unnest(k.conkey, k.confkey) AS p(source, target)
        JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = p.source
        JOIN pg_attribute b ON b.attrelid = k.confrelid AND b.attnum = p.target)
      END
    FROM pg_constraint k WHERE k.oid = %(constraint)s
"""


def run_repair(
    connection: BaseDatabaseWrapper, statement: str, lock_timeout: PostgresLockTimeout
) -> None:
    """Run the statement on a connection without a transaction.

    A statement that blocks other sessions while it waits for a lock has the limit of migrations.
    Raise Django's errors; an `IntegrityError` of a check of older rows counts these rows, and has a
    query for them.
    """
    # A concurrent one blocks no other session, and would leave an invalid index behind.
    blocks = lock_timeout.policy is not None and " CONCURRENTLY " not in statement
    limit = lock_timeout.limited(connection) if blocks else nullcontext()
    try:
        with limit, connection.cursor() as cursor:
            cursor.execute(statement)
    except IntegrityError as exc:
        found = _VALIDATE.fullmatch(statement)
        if found is None:
            raise
        raise _violated(connection, found[1], found[2], exc) from exc


def _violated(
    connection: BaseDatabaseWrapper, table: str, name: str, error: IntegrityError
) -> IntegrityError:
    # PostgreSQL quotes a name only where it must.
    names = [name, name[1:-1]]
    [(constraint,)] = plain_rows(connection, _CONSTRAINT, [table, names])
    [(refused,)] = pinned_rows(
        connection.connection, _REFUSED, {"constraint": constraint}
    )
    [(count,)] = plain_rows(connection, f"SELECT pg_catalog.count(*) FROM {refused}")
    rows = "1 row violates" if count == 1 else f"{count} rows violate"
    text = (
        f"{message_of(error).rstrip('.')}. {rows} the constraint, which stays NOT VALID. "
        "Correct or delete the rows. To see them:"
    )
    return IntegrityError(with_commands(text, [f"SELECT * FROM {refused};"]))
