"""For tests: the contract of a leader lock, to be run against every implementation.

    class TestMyLock(LockContract):
        def open_lock(self): ...
        def kill_holder(self, lock): ...

Works with pytest and, next to `unittest.TestCase`, with Django's runner.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

from django_safe_init.backends.base.lock import Lock
from django_safe_init.exceptions import LockLost


class LockContract(ABC):
    """What every leader lock must do; each test opens the locks it needs and closes them."""

    #: How many compete for one lock.
    contenders = 8
    #: How many steps the work has, all to be done by one.
    steps = 5

    @abstractmethod
    def open_lock(self) -> AbstractContextManager[Lock]:
        """A new contender for one and the same lock, as another process would have it."""

    @abstractmethod
    def kill_holder(self, lock: Lock) -> None:
        """End the contender without its doing, as `kill -9` would; return when it is dead."""

    def test_exactly_one_does_all_the_work(self) -> None:
        """Many compete: one does every step, the others none, and none fails."""
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
        """A holder that has lost the lock is told so, and never goes on as if it led."""
        with self.open_lock() as lock:
            assert lock.try_acquire()
            lock.verify()
            self.kill_holder(lock)
            assert _raises_lock_lost(lock.verify)
            assert _raises_lock_lost(lock.release)

    def test_a_lock_that_is_not_held_cannot_be_released(self) -> None:
        """Releasing or verifying what one does not hold is an error."""
        with self.open_lock() as lock:
            assert _raises_lock_lost(lock.verify)
            assert _raises_lock_lost(lock.release)


class _Work:
    """Steps that must not be done twice or by two at once."""

    def __init__(self, steps: int) -> None:
        self.left = steps
        self.finished = threading.Event()
        self.overlapped = False
        self._alone = threading.Lock()

    def do_the_rest(self, lock: Lock) -> int:
        """Do what is left; returns how many steps that were."""
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


def _raises_lock_lost(call: Callable[[], object]) -> bool:
    try:
        call()
    except LockLost:
        return True
    return False
