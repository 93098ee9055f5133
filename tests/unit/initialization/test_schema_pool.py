"""Workers in this process and in forked ones, with a worker that needs no database."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from django_safe_init.backends.base.schema_session import SchemaResult
from django_safe_init.backends.tenants import Tenant
from django_safe_init.exceptions import ConfigurationError, LockLost
from django_safe_init.initialization.schemas import pool as module
from django_safe_init.initialization.schemas.pool import (
    ForkedPool,
    SerialPool,
    WorkerDied,
    opened_pool,
)
from tests.support import wait_until

A, B, C = (Tenant(name) for name in "abc")


class Worker:
    """Returns the id of its process as the traceback of each result."""

    def __init__(
        self, work: Callable[[Tenant], object] = lambda tenant: None, log: Any = None
    ) -> None:
        self._work = work
        self._log = log or (lambda event: None)
        self.connections = SimpleNamespace(
            connections=self._opened, close=lambda: self._log("closed")
        )

    @contextmanager
    def _opened(self) -> Iterator[None]:
        self._log("opened")
        try:
            yield
        finally:
            self._log("left")

    def work(self, tenant: Tenant) -> SchemaResult:
        self._work(tenant)
        return SchemaResult(tenant.schema, traceback=str(os.getpid()))


def take(pool: Any) -> tuple[str, Any]:
    """Return the name of the schema and the result of the next one."""
    tenant, result = pool.next()
    return tenant.schema, result


def end(pool: ForkedPool) -> None:
    """Let the only process of the pool end as if its parent had ended."""
    [child] = pool._children
    child.pipe.close()
    child.process.join()


def test_one_process() -> None:
    """Without `--jobs` this process does the work, one schema after another."""
    events: list[str] = []
    made: list[bool] = []

    def make(forked: bool) -> Any:
        made.append(forked)
        return Worker(log=events.append)

    with opened_pool(1, make) as pool:
        assert isinstance(pool, SerialPool)
        assert (pool.size, pool.busy, pool.has_room()) == (1, 0, True)
        pool.submit(A)
        assert (pool.busy, pool.has_room()) == (1, False)
        assert take(pool) == ("a", SchemaResult("a", traceback=str(os.getpid())))
        assert pool.has_room()
    assert made == [False]
    assert events == ["opened", "left"]


def test_several_processes(tmp_path: Path) -> None:
    """Each forked process opens its own connections, and closes them at the end."""

    def make(forked: bool) -> Any:
        assert forked
        return Worker(log=lambda event: (tmp_path / f"{event} {os.getpid()}").touch())

    with opened_pool(2, make) as pool:
        assert (pool.size, pool.busy) == (2, 0)
        pool.submit(A)
        assert pool.has_room()
        pool.submit(B)
        assert (pool.busy, pool.has_room()) == (2, False)
        results = dict(take(pool) for _ in range(2))
        pids = {result.traceback for result in results.values()}
        assert set(results) == {"a", "b"}
        assert len(pids) == 2
        assert str(os.getpid()) not in pids
        assert {path.name for path in tmp_path.iterdir()} == {
            f"opened {p}" for p in pids
        }


def test_a_child_ends_when_its_pipe_is_closed(tmp_path: Path) -> None:
    """A child whose parent closes the pipe leaves its connections and closes its sessions."""

    def make() -> Any:
        return Worker(log=lambda event: (tmp_path / event).touch())

    with ForkedPool(1, make) as pool:
        [child] = pool._children
        pool.submit(A)
        take(pool)
        end(pool)
        assert child.process.exitcode == 0
        assert {path.name for path in tmp_path.iterdir()} == {
            "opened",
            "left",
            "closed",
        }


def test_lost_leadership() -> None:
    """A worker that finds that its leader does not lead ends the run."""

    def lose(tenant: Tenant) -> None:
        raise LockLost(f"lost in {tenant.schema}")

    with ForkedPool(1, lambda: Worker(lose)) as pool:  # type: ignore[arg-type, return-value]
        pool.submit(A)
        with pytest.raises(LockLost, match="lost in a"):
            pool.next()
        end(pool)


def test_a_worker_that_cannot_begin() -> None:
    """A worker that gets no connection ends the run with its reason."""

    def make() -> Any:
        raise ConfigurationError("no room")

    with ForkedPool(1, make) as pool:
        pool.submit(A)
        with pytest.raises(LockLost, match="no room"):
            pool.next()
        end(pool)


def test_a_process_that_dies() -> None:
    """The schema of a process that died is returned with its exit code; another one is forked."""

    def die(tenant: Tenant) -> None:
        if tenant == A:
            os._exit(3)
        if tenant == B:
            os.kill(os.getpid(), signal.SIGKILL)

    with ForkedPool(1, lambda: Worker(die)) as pool:  # type: ignore[arg-type, return-value]
        for tenant, code in ((A, 3), (B, -signal.SIGKILL)):
            pool.submit(tenant)
            assert take(pool) == (tenant.schema, WorkerDied(tenant, code))
        pool.submit(C)
        assert take(pool)[0] == "c"


def test_a_process_that_died_before_it_got_work() -> None:
    """The pool returns its schema with the exit code."""
    with ForkedPool(1, lambda: Worker()) as pool:  # type: ignore[arg-type, return-value]
        [child] = pool._children
        child.process.kill()
        child.process.join()
        pool.submit(A)
        assert take(pool) == ("a", WorkerDied(A, -signal.SIGKILL))


def test_a_signal_while_a_worker_works(tmp_path: Path, monkeypatch: Any) -> None:
    """The leader notices a signal while no result comes."""
    allowed = tmp_path / "allowed"
    asked = []

    def check() -> None:
        asked.append(True)
        if len(asked) == 3:
            allowed.touch()

    monkeypatch.setattr(module, "check_cancellation", check)
    monkeypatch.setattr(module, "_POLL_SECONDS", 0.01)
    with ForkedPool(1, lambda: Worker(lambda t: wait_until(allowed.exists))) as pool:  # type: ignore[arg-type, return-value]
        pool.submit(A)
        assert take(pool)[0] == "a"
    assert len(asked) >= 3


def test_the_end_of_the_pool() -> None:
    """The end of the pool ends its processes, also in the middle of their work."""
    with ForkedPool(2, lambda: Worker(lambda t: signal.pause())) as pool:  # type: ignore[arg-type, return-value]
        pool.submit(A)
        pids = [child.process.pid for child in pool._children]
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid or 0, 0)


def test_the_end_of_the_leader(tmp_path: Path) -> None:
    """The processes of a leader that was killed end at once, also in the middle of their work."""
    working = tmp_path / "working"

    def work(tenant: Tenant) -> None:
        working.write_text(f"{os.getpid()}.")
        signal.pause()

    def lead() -> None:
        with ForkedPool(1, lambda: Worker(work)) as pool:  # type: ignore[arg-type, return-value]
            pool.submit(A)
            pool.next()

    leader = multiprocessing.get_context("fork").Process(target=lead)
    leader.start()
    wait_until(lambda: working.exists() and working.read_text().endswith("."))
    leader.kill()
    leader.join()
    leader.close()
    wait_until(lambda: not is_running(int(working.read_text()[:-1])))


def is_running(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_a_process_that_cannot_be_forked(monkeypatch: Any) -> None:
    """If a process cannot be forked, those before it are ended."""
    fork = ForkedPool._fork
    pids: list[int] = []

    def fail(self: ForkedPool) -> None:
        if pids:
            raise OSError("no processes left")
        fork(self)
        pids.append(self._children[0].process.pid or 0)

    monkeypatch.setattr(ForkedPool, "_fork", fail)
    with pytest.raises(OSError, match="no processes left"):
        ForkedPool(2, lambda: Worker()).__enter__()  # type: ignore[arg-type, return-value]
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)
