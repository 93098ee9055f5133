"""Databases in memory."""

from __future__ import annotations

from django.db import OperationalError, connection

from django_safe_init import (
    State,
    get_status,
    initialize,
    is_ready,
)
from django_safe_init.backends import get_backend, get_features
from django_safe_init.backends.sqlite3.features import MEMORY
from django_safe_init.backends.sqlite3.memory import MemoryReader
from django_safe_init.core.build import current_build
from django_safe_init.core.records import RUN_TABLE, RunDetail
from django_safe_init.management.commands.safe_init_unlock import Command as Unlock
from tests.support import make_context


def test_in_memory(memory, small_shop) -> None:
    """In memory only Django's `migrate` runs, and the status is correct."""
    assert get_features("default") is MEMORY
    assert get_status().state is State.UNINITIALIZED
    assert initialize().role == "none"
    assert is_ready()
    assert RUN_TABLE not in connection.introspection.table_names()
    reader = MemoryReader("default", current_build())
    assert reader.finished_run() is None
    assert reader.peek() == (None, None)
    assert reader.leader_pid() is None
    assert reader.history(9) == []
    assert not reader.activity().progressing
    assert reader.run_detail(None, 9) == RunDetail()
    assert reader.seconds_left(None, ()) is None
    Unlock().handle(database="default", interactive=False)


def test_the_backend_has_nothing_to_wait_for(memory) -> None:
    """The backend of a database in memory reads it, and knows neither server nor leader."""
    backend = get_backend(make_context())
    backend.wait_for_server()
    assert not backend.is_busy(OperationalError("database is locked"))
    with backend.lock_holder() as holder:
        assert holder is None
    reader = backend.reader()
    assert reader.interrupted() == {}
    assert reader.completed_steps() == []
