"""Each run removes old runs, and keeps the runs that a later run needs."""

from __future__ import annotations

import logging

import pytest

from django_safe_init import initialize
from django_safe_init.backends.postgresql.recorder import PostgresRecorder
from django_safe_init.core.build import current_build
from django_safe_init.core.records import RUN_TABLE, STEP_TABLE
from django_safe_init.core.states import State
from django_safe_init.exceptions import LockLost


@pytest.fixture
def recorder(recorder) -> PostgresRecorder:
    """Return a recorder that has recorded two runs."""
    for _ in range(2):
        recorder.open_run("test")
        recorder.finish_run("ready", State.READY)
    return recorder


def test_a_leader_prunes(settings, django_database, small_shop) -> None:
    """Each run removes runs beyond HISTORY; an older build without runs leads once more."""
    settings.SAFE_INIT = {"IN_TESTS": True, "HISTORY": 2}
    initialize()
    first = current_build().fingerprint
    for name in ("0003", "0004"):
        small_shop.run(name, lambda connection: None)
        initialize()
    assert first not in [run["build"] for run in django_database.runs()]
    assert {step["run_id"] for step in django_database.steps()} == {2, 3}
    small_shop.remove("0004")
    small_shop.remove("0003")
    outcome = initialize()
    assert (outcome.role, outcome.applied) == ("leader", ())
    assert initialize().role == "none"
    assert [run["id"] for run in django_database.runs()] == [3, 4]


def test_no_right_to_delete(
    settings, django_database, log_in_as, new_role, recorder, small_shop, caplog
) -> None:
    """A role without DELETE leads, and one log line names the GRANT that helps."""
    settings.SAFE_INIT = {"IN_TESTS": True, "HISTORY": 1}
    role = new_role("writer")
    tables = f"{RUN_TABLE}, {STEP_TABLE}"
    django_database.rows(f"GRANT CREATE ON SCHEMA public TO {role}")
    django_database.rows(f"GRANT SELECT, INSERT, UPDATE ON {tables} TO {role}")
    log_in_as(USER=role)
    with caplog.at_level(logging.WARNING, "django_safe_init"):
        assert initialize().role == "leader"
    grant = f'GRANT DELETE ON {tables} TO "writer";'
    assert caplog.messages == [
        f"Old runs are kept. To remove them, as the tables' owner: {grant}"
    ]
    assert len(django_database.runs()) == 3
    django_database.rows(grant)
    small_shop.run("0003", lambda connection: None)
    initialize()
    assert len(django_database.runs()) == 1
    log_in_as(USER="postgres")


def test_a_locked_table(recorder, raw_session, django_database, caplog) -> None:
    """Old runs that cannot be removed now stay for the next leader."""
    raw_session.execute(f"BEGIN; LOCK TABLE {STEP_TABLE}")
    with caplog.at_level(logging.WARNING, "django_safe_init"):
        recorder.prune(1, frozenset())
    [line] = caplog.messages
    assert line.startswith("Old runs are kept for now: canceling statement due to lock")
    raw_session.execute("COMMIT")
    assert len(django_database.runs()) == 2


def test_a_lost_session(recorder, django_database) -> None:
    """A leader without its session raises `LockLost`."""
    pid = recorder.session.handshake_pid
    django_database.rows("SELECT pg_terminate_backend(%s, 5000)", pid)
    with pytest.raises(LockLost):
        recorder.prune(1, frozenset())
