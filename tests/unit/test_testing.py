"""The lock contract passes for a correct lock and fails for each incorrect one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from django_safe_init.exceptions import LockLost
from django_safe_init.testing import LockContract


class Threads:
    """A lock among the threads of one process."""

    def __init__(self) -> None:
        self.holder: TrueLock | None = None
        self.guard = threading.Lock()


class TrueLock:
    def __init__(self, shared: Threads) -> None:
        self.shared = shared

    def try_acquire(self) -> bool:
        with self.shared.guard:
            if self.shared.holder is None:
                self.shared.holder = self
            return self.shared.holder is self

    def verify(self) -> None:
        if self.shared.holder is not self:
            raise LockLost

    def release(self) -> None:
        self.verify()
        self.shared.holder = None


class GrantingLock(TrueLock):
    """Grants each request; the first holder waits until a second one has released."""

    released = threading.Event()

    def try_acquire(self) -> bool:
        return True

    def verify(self) -> None:
        assert self.released.wait(10)

    def release(self) -> None:
        self.released.set()


class CarelessLock(TrueLock):
    """Never notices that it was lost."""

    def verify(self) -> None:
        pass

    def release(self) -> None:
        self.shared.holder = None


class Contract(LockContract):
    contenders = 4
    kind = TrueLock

    def __init__(self) -> None:
        self.shared = Threads()

    @contextmanager
    def open_lock(self) -> Iterator[TrueLock]:
        yield self.kind(self.shared)

    def kill_holder(self, lock) -> None:
        self.shared.holder = None


class StickyContract(Contract):
    """Has a lock that is not free after the death of its holder."""

    def kill_holder(self, lock) -> None:
        lock.dead = True


TESTS = [name for name in vars(LockContract) if name.startswith("test_")]


def contract_of(kind: type[TrueLock]) -> Contract:
    contract = Contract()
    contract.kind = kind
    return contract


@pytest.mark.parametrize("name", TESTS)
def test_a_true_lock(name) -> None:
    """A lock that excludes passes every test."""
    getattr(contract_of(TrueLock), name)()


@pytest.mark.parametrize(
    "name",
    [
        "test_exactly_one_does_all_the_work",
        "test_a_held_lock_is_refused_at_once_and_free_after_its_release",
    ],
)
def test_a_lock_that_grants_everybody(name) -> None:
    """The contract fails for a lock that two contenders hold."""
    with pytest.raises(AssertionError):
        getattr(contract_of(GrantingLock), name)()


@pytest.mark.parametrize(
    "name",
    [
        "test_a_dead_holder_learns_that_it_lost",
        "test_a_lock_that_is_not_held_cannot_be_released",
    ],
)
def test_a_lock_that_never_notices(name) -> None:
    """The contract fails for a lock that does not notice its loss."""
    with pytest.raises(AssertionError):
        getattr(contract_of(CarelessLock), name)()


def test_a_lock_that_outlives_its_holder() -> None:
    """The contract fails for a lock that its dead holder keeps."""
    with pytest.raises(AssertionError):
        StickyContract().test_a_dead_holder_is_replaced()
