"""The lock contract passes for a correct lock and fails for each incorrect one.

`tests/database/contract/test_kit.py` is the same for the contracts that need a database.
"""

from __future__ import annotations

import threading
import unittest
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from django_safe_init.testing import LockContract
from tests.fake_backend.lock import FakeLock
from tests.fake_backend.server import FakeServer
from tests.support import PATIENCE


class GrantingLock(FakeLock):
    """Grants each request; the first holder waits until a second one has released."""

    released = threading.Event()

    def try_acquire(self) -> bool:
        return True

    def verify(self) -> None:
        assert self.released.wait(PATIENCE)

    def release(self) -> None:
        self.released.set()


class CarelessLock(FakeLock):
    """Never notices its loss."""

    def verify(self) -> None:
        pass

    def release(self) -> None:
        self.server.leader = None


class Contract(LockContract):
    contenders = 4
    kind = FakeLock

    def __init__(self) -> None:
        self.server = FakeServer()

    @contextmanager
    def open_lock(self) -> Iterator[FakeLock]:
        yield self.kind(self.server)

    def kill_holder(self, lock) -> None:
        self.server.leader = None


class UnittestContract(LockContract, unittest.TestCase):
    open_lock = Contract.open_lock
    kill_holder = Contract.kill_holder
    kind = FakeLock

    def setUp(self) -> None:
        self.server = FakeServer()


class GrantingContract(Contract):
    kind = GrantingLock


class CarelessContract(Contract):
    kind = CarelessLock


class StickyContract(Contract):
    """Has a lock that its dead holder keeps."""

    def kill_holder(self, lock) -> None:
        pass


TESTS = [name for name in vars(LockContract) if name.startswith("test_")]
BROKEN = {
    "test_exactly_one_does_all_the_work": GrantingContract,
    "test_a_held_lock_is_refused_at_once_and_free_after_its_release": GrantingContract,
    "test_a_dead_holder_is_replaced": StickyContract,
    "test_a_dead_holder_learns_that_it_lost": CarelessContract,
    "test_a_lock_that_is_not_held_cannot_be_released": CarelessContract,
}


@pytest.mark.parametrize("name", TESTS)
def test_a_correct_lock(name) -> None:
    """A lock that excludes passes every test."""
    getattr(Contract(), name)()


@pytest.mark.parametrize("name", TESTS)
def test_an_incorrect_lock(name) -> None:
    """Every test fails for a lock that breaks its promise."""
    with pytest.raises(AssertionError):
        getattr(BROKEN[name](), name)()


def test_unittest() -> None:
    """A contract next to `unittest.TestCase` runs without pytest."""
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(UnittestContract)
    result = unittest.TestResult()
    suite.run(result)
    assert (result.testsRun, result.wasSuccessful()) == (len(TESTS), True)
