"""The key of a tenant's schema, which a creation of the tenant holds."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import pytest
from django.db import connection, transaction

from django_safe_init.backends import schema_guard
from django_safe_init.backends.postgresql.lock_keys import schema_key
from django_safe_init.conf import get_settings
from django_safe_init.exceptions import WaitTimeout
from tests.database.conftest import Background
from tests.support import Database, make_context, wait_until

KEY = schema_key("t1")
#: The longest wait of a test that waits in vain.
SHORT = 0.2

Block = Callable[[], AbstractContextManager[Any]]
BLOCKS = pytest.mark.parametrize(
    "block", [nullcontext, transaction.atomic], ids=["plain", "atomic"]
)


def holders_inside(database: Database, block: Block) -> list[int]:
    """Return the sessions that hold the key while a tenant is created."""
    connection.ensure_connection()
    with block(), schema_guard("t1", make_context()):
        return database.holders(KEY)


@BLOCKS
def test_held(django_database: Database, block: Block) -> None:
    """The key is held in the block, in a transaction by the project's own connection."""
    connection.ensure_connection()
    [holder] = holders_inside(django_database, block)
    own = connection.connection.info.backend_pid
    assert (holder == own) is (block is transaction.atomic)
    wait_until(lambda: not django_database.holders(KEY))


@BLOCKS
def test_wait(
    django_database: Database,
    raw_session: Any,
    in_background: Callable[..., Background],
    block: Block,
) -> None:
    """A creation polls the key that a run holds, and gets it afterwards."""
    raw_session.execute("SELECT pg_advisory_lock(%s)", [KEY])
    creation = in_background(lambda: holders_inside(django_database, block))
    asks = f"query LIKE '%pg_try_advisory%({KEY})%' AND state LIKE 'idle%'"
    wait_until(lambda: django_database.backends(asks))
    assert creation.is_alive()
    raw_session.execute("SELECT pg_advisory_unlock(%s)", [KEY])
    [holder] = creation.result()
    assert holder != raw_session.info.backend_pid


@BLOCKS
def test_timeout(django_database: Database, raw_session: Any, block: Block) -> None:
    """After `WAIT_TIMEOUT` the error names the schema, and the holder if a session can ask."""
    raw_session.execute("SELECT pg_advisory_lock(%s)", [KEY])
    context = make_context(settings=replace(get_settings(), wait_timeout=SHORT))
    holder = f"backend {raw_session.info.backend_pid} (role postgres, "
    if block is transaction.atomic:
        holder = "another session. "
    with (
        pytest.raises(WaitTimeout) as caught,
        block(),
        schema_guard("t1", context),
    ):
        pytest.fail("the key was taken")
    text = str(caught.value)
    assert text.startswith(f"The schema 't1' is being migrated by {holder}")
    assert text.endswith("Start again later.")
