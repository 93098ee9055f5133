"""State the promises of a leader lock."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

from django_safe_init.backends.base.lock import Lock
from django_safe_init.exceptions import LockLost
from django_safe_init.testing.assertions import raises


class LockContract(ABC):
    """The promises of a leader lock. Each test opens the locks it needs and closes them."""

    #: The number of contenders for one lock.
    contenders = 8
    #: The number of steps of the work, which one contender must do.
    steps = 5

    @abstractmethod
    def open_lock(self) -> AbstractContextManager[Lock]:
        """Return a new contender for the same lock, as another process would have it."""

    @abstractmethod
    def kill_holder(self, lock: Lock) -> None:
        """End the contender as `kill -9` would; return when it is dead."""

    def test_exactly_one_does_all_the_work(self) -> None:
        """One of many contenders does every step, the others none, and none fails."""
        work = _Work(self.steps)
        with ThreadPoolExecutor(self.contenders) as pool:
            done = list(pool.map(lambda _: self._contend(work), range(self.contenders)))
        assert sorted(done) == [0] * (self.contenders - 1) + [self.steps]
        assert not work.overlapped

    def _contend(self, work: _Work) -> int:
        with self.open_lock() as lock:
            while not work.finished.is_set():
                if lock.try_acquire():
                    try:
                        return work.do_the_rest(lock)
                    finally:
                        lock.release()
                work.finished.wait(0.01)
        return 0

    def test_a_held_lock_is_refused_at_once_and_free_after_its_release(self) -> None:
        """A second contender is told "no", and gets the lock once it is released."""
        with self.open_lock() as first, self.open_lock() as second:
            assert first.try_acquire()
            assert not second.try_acquire()
            first.release()
            assert second.try_acquire()
            second.release()

    def test_a_dead_holder_is_replaced(self) -> None:
        """The lock of a dead holder is free."""
        with self.open_lock() as second:
            with self.open_lock() as first:
                assert first.try_acquire()
                self.kill_holder(first)
                assert second.try_acquire()
            second.verify()
            second.release()

    def test_a_dead_holder_learns_that_it_lost(self) -> None:
        """A holder that has lost the lock gets `LockLost` from `verify` and `release`."""
        with self.open_lock() as lock:
            assert lock.try_acquire()
            lock.verify()
            self.kill_holder(lock)
            with raises(LockLost):
                lock.verify()
            with raises(LockLost):
                lock.release()

    def test_a_lock_that_is_not_held_cannot_be_released(self) -> None:
        """A contender without the lock gets `LockLost` from `verify` and `release`."""
        with self.open_lock() as lock:
            with raises(LockLost):
                lock.verify()
            with raises(LockLost):
                lock.release()


class _Work:
    """Steps that must not be done twice, or by two contenders at once."""

    def __init__(self, steps: int) -> None:
        self.left = steps
        self.finished = threading.Event()
        self.overlapped = False
        self._alone = threading.Lock()

    def do_the_rest(self, lock: Lock) -> int:
        """Do the remaining steps, and return their number."""
        if not self._alone.acquire(blocking=False):
            self.overlapped = True
            return 0
        try:
            done = 0
            while self.left:
                lock.verify()
                self.left -= 1
                done += 1
            self.finished.set()
            return done
        finally:
            self._alone.release()
