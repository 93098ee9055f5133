"""Each run removes old runs, and keeps the runs that a later run needs."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import pytest

from django_safe_init import initialize
from django_safe_init.backends.base import retention as module
from django_safe_init.backends.postgresql.reader import PostgresReader
from django_safe_init.backends.postgresql.recorder import PostgresRecorder
from django_safe_init.backends.postgresql.schema import ensure_tables
from django_safe_init.backends.postgresql.session import Session
from django_safe_init.core.build import Build, current_build
from django_safe_init.core.records import RUN_TABLE, STEP_TABLE, InterruptedStep
from django_safe_init.core.states import State
from django_safe_init.exceptions import LockLost


@pytest.fixture
def record(session):
    """Return a function that writes a run with one step, which stays open if it is `unfinished`."""
    ensure_tables(session)

    def write(
        outcome: str | None = "ready",
        build: str = "x",
        key: str | None = None,
        name: str = "shop.0001",
        unfinished: bool = False,
    ) -> int:
        recorder = PostgresRecorder(session, Build(frozenset(), build), key)
        recorder.open_run("test")
        recorder.start_step(name, backwards=False, atomic=not unfinished)
        if not unfinished:
            recorder.finish_step("done")
        if outcome is not None:
            recorder.finish_run(outcome, State.READY)
        return recorder.run_id

    return write


def prune(
    session: Session,
    lock_key: str | None,
    build: str,
    keep: int,
    needed: Iterable[int] = (),
) -> None:
    recorder = PostgresRecorder(session, Build(frozenset(), build), lock_key)
    recorder.prune(keep, frozenset(needed))


def read_interrupted(session: Session) -> dict[str, InterruptedStep]:
    return PostgresReader(session, Build(frozenset(), "x"), None).interrupted()


def remaining_runs(database) -> list[int]:
    """Return the ids of the remaining runs; each has its step, and no step is without its run."""
    runs = [run["id"] for run in database.runs()]
    assert [step["run_id"] for step in database.steps()] == runs
    return runs


def test_only_the_newest_are_kept(session, record, django_database) -> None:
    """The oldest runs are removed with their steps."""
    made = [record() for _ in range(5)]
    prune(session, None, "x", 2, ())
    assert remaining_runs(django_database) == made[3:]


def test_fewer_than_are_kept(session, record, django_database) -> None:
    """No run is removed while HISTORY is not exceeded."""
    made = [record() for _ in range(2)]
    prune(session, None, "x", 2, ())
    assert remaining_runs(django_database) == made


def test_a_batch(session, record, django_database, monkeypatch) -> None:
    """One leader removes a limited number of runs, the oldest first."""
    monkeypatch.setattr(module, "BATCH", 2)
    made = [record() for _ in range(5)]
    prune(session, None, "x", 1, ())
    assert remaining_runs(django_database) == made[2:]
    prune(session, None, "x", 1, ())
    assert remaining_runs(django_database) == made[4:]


def test_another_projects_runs(session, record, django_database) -> None:
    """Runs of another LOCK_KEY are neither removed nor counted."""
    other = [record(key="other") for _ in range(3)]
    own = [record() for _ in range(2)]
    prune(session, None, "x", 2, ())
    assert remaining_runs(django_database) == other + own
    prune(session, None, "x", 1, ())
    assert remaining_runs(django_database) == [*other, own[1]]


def test_the_open_run(session, record, django_database) -> None:
    """The open run stays, whatever its id."""
    made = [record(), record(None)]
    django_database.rows(
        f"UPDATE {RUN_TABLE} SET finished_at = now(), outcome = 'ready' WHERE id = %s",
        made[1],
    )
    django_database.rows(
        f"UPDATE {RUN_TABLE} SET finished_at = NULL, outcome = NULL WHERE id = %s",
        made[0],
    )
    prune(session, None, "x", 1, ())
    assert remaining_runs(django_database) == made


def test_an_unfinished_step(session, record, django_database) -> None:
    """The run of an unfinished migration stays until that migration is applied."""
    kept = record("interrupted", name="shop.0002", unfinished=True)
    newer = [record() for _ in range(3)]

    def prune_unneeded() -> None:
        needed = {step.run for step in read_interrupted(session).values()}
        prune(session, None, "x", 1, needed)

    prune_unneeded()
    assert remaining_runs(django_database) == [kept, newer[-1]]
    applied = record(name="shop.0002")
    prune_unneeded()
    assert remaining_runs(django_database) == [applied]
    assert read_interrupted(session) == {}


@pytest.mark.parametrize(
    ("builds", "kept"),
    [
        # Both transient ends of this build still count, so they exceed HISTORY.
        (["x", "x"], 2),
        # Transient ends of another build do not count.
        (["y", "y"], 1),
    ],
)
def test_ends_that_count(session, record, django_database, builds, kept) -> None:
    """Transient ends that still count are kept beyond HISTORY."""
    made = [record("transient", build=build) for build in builds]
    prune(session, None, "x", 1, ())
    assert remaining_runs(django_database) == made[-kept:]


def test_ends_that_no_longer_count(session, record, django_database) -> None:
    """Transient ends before a success are removed like any other run."""
    record("transient")
    made = record("ready")
    prune(session, None, "x", 1, ())
    assert remaining_runs(django_database) == [made]


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
    settings, django_database, log_in_as, new_role, session, record, small_shop, caplog
) -> None:
    """A role without DELETE leads, and one log line names the GRANT that helps."""
    settings.SAFE_INIT = {"IN_TESTS": True, "HISTORY": 1}
    record()
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
    assert len(django_database.runs()) == 2
    django_database.rows(grant)
    small_shop.run("0003", lambda connection: None)
    initialize()
    assert len(django_database.runs()) == 1
    log_in_as(USER="postgres")


def test_a_locked_table(session, record, raw_session, django_database, caplog) -> None:
    """Old runs that cannot be removed now stay for the next leader."""
    made = [record(), record()]
    raw_session.execute(f"BEGIN; LOCK TABLE {STEP_TABLE}")
    with caplog.at_level(logging.WARNING, "django_safe_init"):
        prune(session, None, "x", 1, ())
    [line] = caplog.messages
    assert line.startswith("Old runs are kept for now: canceling statement due to lock")
    raw_session.execute("COMMIT")
    assert remaining_runs(django_database) == made


def test_a_lost_session(session, record, django_database) -> None:
    """A leader without its session raises `LockLost`."""
    record()
    django_database.rows("SELECT pg_terminate_backend(%s, 5000)", session.handshake_pid)
    with pytest.raises(LockLost):
        prune(session, None, "x", 1, ())
