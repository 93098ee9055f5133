"""The current activity of the leader's sessions, and their blockers."""

from __future__ import annotations

from django_safe_init.backends.postgresql import activity
from django_safe_init.backends.postgresql.lock_keys import work_key
from tests.support import wait_until


def test_idle(leader, session) -> None:
    """A leader between two steps has no running statement."""
    found = activity.leader_activity(session, None)
    assert (found.query, found.progressing, str(found)) == (None, False, "")


def test_a_running_statement(leader, session, connect_raw, in_background) -> None:
    """The activity contains a running statement of the run's connections, with its age."""
    working = connect_raw()
    working.execute("SELECT pg_advisory_lock_shared(%s)", [work_key()])
    sleeping = in_background(lambda: working.execute("SELECT pg_sleep(2) -- here"))
    found = wait_until(
        lambda: (now := activity.leader_activity(session, None)).query and now
    )
    assert found.progressing
    assert found.pid == working.info.backend_pid
    assert str(found).startswith("running for ")
    assert found.query == "SELECT pg_sleep(2) -- here"
    working.cancel()
    sleeping.error = None
    sleeping.join()


def test_a_blocked_statement(leader, session, connect_raw, in_background) -> None:
    """A statement that waits for a lock is no progress, and the activity names the blocker."""
    session.rows("CREATE TABLE public.busy ()")
    report, working = connect_raw(application_name="report"), connect_raw()
    report.execute("BEGIN; SELECT * FROM busy")
    working.execute("SELECT pg_advisory_lock_shared(%s)", [work_key()])
    altering = in_background(
        lambda: working.execute("ALTER TABLE busy ADD COLUMN name text")
    )
    found = wait_until(
        lambda: (now := activity.leader_activity(session, None)).blockers and now
    )
    assert not found.progressing
    [blocker] = found.blockers
    assert (blocker.pid, blocker.role) == (report.info.backend_pid, "postgres")
    assert (blocker.application, blocker.state) == ("report", "idle in transaction")
    assert f"blocked by pid {blocker.pid} (role postgres, report, from 127" in str(
        found
    )
    report.execute("COMMIT")
    altering.result()
