"""Forked children: they cannot end a parent's session, and cannot keep its lock."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable

import psycopg
import pytest

from django_safe_init.backends.postgresql.lock import AdvisoryLock
from django_safe_init.backends.postgresql.lock_keys import leader_key
from tests.support import wait_until


def fork(child: Callable[[], None]) -> int:
    """Run `child` in a forked process, which exits with 0 if it raises nothing."""
    with warnings.catch_warnings():
        # Python 3.12 warns of threads, and the tests of others may have left some.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        child()
        code = 0
    finally:
        os._exit(code)


def exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("end", ["closes", "exits"])
def test_a_child_cannot_end_the_parents_session(session, end) -> None:
    """A child that closes an inherited session, or just exits, leaves the parent its lock."""
    lock = AdvisoryLock(session)
    assert lock.try_acquire()
    assert exit_code(fork(session.close if end == "closes" else lambda: None)) == 0
    lock.verify()
    lock.release()


def test_a_child_cannot_use_the_parents_session(session) -> None:
    """A statement of a child on an inherited session fails instead of mixing with ours."""

    def use() -> None:
        with pytest.raises(psycopg.OperationalError):
            session.rows("SELECT 1")

    assert exit_code(fork(use)) == 0
    assert session.rows("SELECT 2") == [(2,)]


def test_a_closed_session_is_no_obstacle(session) -> None:
    """A fork after a session was closed is as good as any."""
    session.close()
    assert exit_code(fork(lambda: None)) == 0


def test_a_child_does_not_keep_a_dead_parents_lock(
    open_session, django_database
) -> None:
    """The lock of a killed leader is free although its child lives on."""
    reading, writing = os.pipe()
    told, tell = os.pipe()

    def lead_and_fork() -> None:
        assert AdvisoryLock(open_session()).try_acquire()
        grandchild = fork(lambda: os.read(reading, 1))
        os.write(tell, f"{grandchild}\n".encode())
        signal.pause()

    os.set_blocking(told, True)
    leader = fork(lead_and_fork)
    grandchild = int(os.read(told, 20))
    try:
        assert django_database.holders(leader_key())
        os.kill(leader, signal.SIGKILL)
        assert exit_code(leader) == -signal.SIGKILL
        wait_until(lambda: not django_database.holders(leader_key()), 5)
        os.kill(grandchild, 0)
    finally:
        os.write(writing, b"x")
        for end in (reading, writing, told, tell):
            os.close(end)
