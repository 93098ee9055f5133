"""State the promises of leading: one process at a time, until it ends or is ended."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import closing
from typing import Any

from django_safe_init.exceptions import LockLost
from django_safe_init.testing.assertions import raises
from django_safe_init.testing.backend import SEED, BackendContract, Undo, start


class LeadershipContract(BackendContract):
    """The promises of `LockingBackend.leadership`, and of the proofs that a process leads."""

    @abstractmethod
    def lose_lock(self, lock: Any) -> None:
        """Take the lock away from its holder, which lives on."""

    def test_one_process_leads_at_a_time(self) -> None:
        """A second process gets None while the first one leads, and leads after it."""
        with self._campaign() as (_, first), self._campaign() as (_, second):
            assert first is not None
            assert second is None
        with self._campaign() as (_, third):
            assert third is not None

    def test_an_error_frees_the_lock(self) -> None:
        """A leader's error is raised as it is, and the lock is free afterwards."""
        with raises(Undo), self._campaign():
            raise Undo
        with self._campaign() as (_, lock):
            assert lock is not None

    def test_an_error_hides_a_lost_lock(self) -> None:
        """A leader that lost the lock, and failed, gets the error of its own work."""
        with raises(Undo), self._campaign() as (_, lock):
            self.lose_lock(lock)
            raise Undo

    def test_a_lost_lock_is_an_error(self) -> None:
        """A leader that lost the lock, and did not notice, gets `LockLost` at the end."""
        with raises(LockLost), self._campaign() as (_, lock):
            self.lose_lock(lock)

    def test_a_run_notices_a_lost_lock(self) -> None:
        """`verify` and the start of a step raise `LockLost` once the lock is lost."""
        with (
            raises(LockLost),
            self._campaign() as (backend, lock),
            closing(backend.open_run_session(lock)) as session,
            session.connections(),
        ):
            session.recorder.ensure_tables()
            session.recorder.open_run("test")
            start(session, SEED).verify()
            session.verify()
            self.lose_lock(lock)
            with raises(LockLost):
                session.verify()
            with raises(LockLost):
                start(session, SEED).verify()
