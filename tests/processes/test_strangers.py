"""A role that may only connect can neither block a replica without limit nor fail a run."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from django_safe_init.backends.postgresql.lock_keys import (
    channel,
    leader_key,
    work_key,
)
from tests.processes.harness import Fleet, exit_codes
from tests.support import Database


@pytest.fixture
def roles(database: Database) -> Iterator[dict[str, str]]:
    """Yield the names of a role that owns the schema, and of one that may only connect."""
    names = {name: f"{database.name}_{name}" for name in ("owner", "stranger")}
    for name in names.values():
        database.rows(f"CREATE ROLE {name} LOGIN")
    database.rows(f"GRANT ALL ON SCHEMA public TO {names['owner']}")
    database.rows(f"GRANT pg_read_all_stats TO {names['owner']}")
    yield names
    for name in names.values():
        database.rows(f"DROP OWNED BY {name}")
        database.rows(f"DROP ROLE {name}")


@pytest.fixture
def stranger(database: Database, roles: dict[str, str]) -> Iterator[Any]:
    """Yield a session of the role that may only connect."""
    with closing(database.connect(user=roles["stranger"])) as raw:
        yield raw


@pytest.fixture
def owned(fleet: Fleet, roles: dict[str, str]) -> Fleet:
    """Return a fleet whose role owns the schema and may end no other role's sessions."""
    fleet.use(database_settings={"USER": roles["owner"]})
    return fleet


@pytest.mark.parametrize("key", ["work", "leader"])
def test_a_key_that_is_held(
    owned: Fleet, database: Database, stranger: Any, roles: dict[str, str], key: str
) -> None:
    """`--timeout` ends the wait for a stranger's session, which the error names."""
    number = work_key() if key == "work" else leader_key()
    stranger.execute("SELECT pg_advisory_lock(%s)", [number])
    pid, role = stranger.info.backend_pid, roles["stranger"]
    for command in (["safe_migrate", "--timeout", "3"], ["migrate"]):
        ended = owned.run(*command, safe_init={"MAX_WAIT": 3})
        assert ended.wait() == 3, owned
        error = ended.stderr.rpartition("CommandError: ")[2]
        assert str(pid) in error
        assert f"role {role}" in error
        assert "from 127.0.0.1" in error
    stranger.execute("SELECT pg_advisory_unlock_all()")
    assert owned.run("safe_migrate").wait() == 0, owned


def test_bursts(owned: Fleet, database: Database, stranger: Any) -> None:
    """A stranger that takes the work key, and sends notifications, all the time fails no run."""
    stop = threading.Event()

    def disturb() -> None:
        while not stop.is_set():
            stranger.execute("SELECT pg_advisory_lock(%s)", [work_key()])
            stranger.execute(f"NOTIFY {channel()}")
            stop.wait(0.05)
            stranger.execute("SELECT pg_advisory_unlock(%s)", [work_key()])
            stop.wait(0.05)

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        for number in range(3):
            force = (
                [["safe_migrate", "--force"]] * 2 if number else [["safe_migrate"]] * 3
            )
            assert set(exit_codes(owned.start_together(*force))) == {0}, owned
    finally:
        stop.set()
        thread.join()
    assert {run["outcome"] for run in database.runs()} == {"ready"}
    assert database.applied_once()
