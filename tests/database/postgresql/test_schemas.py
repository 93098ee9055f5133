"""The rows of the tenants' schemas of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from django_safe_init.backends.base.schema_session import SchemaResult
from django_safe_init.backends.postgresql.lock import AdvisoryLock
from django_safe_init.backends.postgresql.schema import ensure_schemas
from django_safe_init.backends.postgresql.schemas import PostgresSchemas
from django_safe_init.backends.postgresql.session import Session
from django_safe_init.core.schemas import SCHEMA_TABLE
from django_safe_init.exceptions import LockLost, MissingPrivilege
from tests.database.conftest import Shop
from tests.support import Database, make_context


def test_no_right_to_write(
    session: Session,
    small_shop: Shop,
    tenants: Any,
    open_session: Callable[..., Session],
    django_database: Database,
    new_role: Callable[..., str],
    log_in_as: Callable[..., None],
) -> None:
    """A role without rights on the rows gets an error with the GRANT that helps."""
    ensure_schemas(session)
    role = new_role("writer")
    log_in_as(USER=role)
    lock = AdvisoryLock(open_session())
    schemas = PostgresSchemas(make_context(), lock, tenants, 1)
    with pytest.raises(MissingPrivilege) as caught:
        schemas.plan(schemas.all())
    grant = f'GRANT SELECT, INSERT, UPDATE, DELETE ON {SCHEMA_TABLE} TO "{role}";'
    assert str(caught.value).endswith(grant)
    django_database.rows(grant)
    schemas.plan(schemas.all())
    rows = django_database.rows(f"SELECT schema FROM {SCHEMA_TABLE} ORDER BY schema")
    assert [row["schema"] for row in rows] == ["t1", "t2"]
    log_in_as(USER="postgres")


def test_a_failure_without_a_worker(
    schemas: PostgresSchemas,
    add_schema: Callable[..., None],
    django_database: Database,
) -> None:
    """The leader writes the failure of a schema whose worker died before it could."""
    add_schema("t1")
    schemas.plan(schemas.all())
    schemas.note(SchemaResult("t1", "The worker died."))
    rows = django_database.rows(
        f"SELECT schema, state, error FROM {SCHEMA_TABLE} ORDER BY schema"
    )
    assert [tuple(row.values()) for row in rows] == [
        ("t1", "failed", "The worker died."),
        ("t2", "pending", None),
    ]
    assert schemas.failed() == {"t1"}


def test_a_terminated_session(
    schemas: PostgresSchemas, django_database: Database
) -> None:
    """A leader whose session has ended learns that it does not lead any more."""
    assert schemas.known() == 0
    pid = schemas.session.handshake_pid
    django_database.rows("SELECT pg_terminate_backend(%s, 5000)", pid)
    with pytest.raises(LockLost, match="The leader session is gone: terminating"):
        schemas.known()


def test_the_connections_of_workers(
    small_shop: Shop,
    tenants: Any,
    open_session: Callable[..., Session],
    new_role: Callable[..., str],
    log_in_as: Callable[..., None],
) -> None:
    """A forked worker has two connections, and the limits tell how many workers get theirs."""
    log_in_as(USER=new_role("limited", "LOGIN CONNECTION LIMIT 6"))
    lock = AdvisoryLock(open_session())
    assert PostgresSchemas(make_context(), lock, tenants, 1).max_workers() == 2
    log_in_as(USER="postgres")
