"""The moment at which a ready process checks its databases again, and the gate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from django.core.signals import got_request_exception
from django.db import InterfaceError, OperationalError, connections
from django.db.backends.signals import connection_created

from django_safe_init.backends.base.losses import LossDetector
from django_safe_init.core.states import State
from django_safe_init.exceptions import DatabaseUnreachable
from django_safe_init.serving.background import recheck as module
from django_safe_init.serving.background.readiness import readiness
from django_safe_init.serving.background.recheck import ReadinessCheck, Recheck
from django_safe_init.status import Status
from tests.support import wait_until
from tests.unit.conftest import BEHIND, READY, report, status_of
from tests.unit.snapshots import run_row, snapshot

LACKING = status_of(BEHIND)
LOCKED = Status("default", State.MIGRATING, 0, "the status tables are locked")
FORCED = status_of(snapshot(run_row(9), leader_pid=1))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Return a function that sets the results of the reads; it returns those still unread."""
    monkeypatch.setattr(module, "SECONDS_BETWEEN_READS", 0.01)

    def set_results(*results: Any, is_primary: bool = True) -> list[Any]:
        left = list(results)

        def open_reader(*arguments: Any) -> Any:
            return SimpleNamespace(on_primary=lambda: is_primary, close=lambda: None)

        def read_status(alias: str, reader: Any) -> Status:
            result = left.pop(0)
            if isinstance(result, Exception):
                raise result
            return result

        monkeypatch.setattr(module, "open_reader", open_reader)
        monkeypatch.setattr(module, "read_status", read_status)
        return left

    return set_results


def revoked(delay: float = 0.0) -> list[Status]:
    """Run one check; return the statuses with which it has closed the gate."""
    found: list[Status] = []
    ReadinessCheck("default", None, delay, found.append).run()
    return found


def test_two_reads_that_lack_something(read) -> None:
    """The gate closes after the second read, with its status."""
    left = read(LACKING, LACKING, READY)
    assert revoked() == [LACKING]
    assert left == [READY]


@pytest.mark.parametrize(
    "results",
    [
        [READY],
        [FORCED],
        [LACKING, READY],
        [DatabaseUnreachable(), LACKING, LOCKED, READY],
        [ValueError("a bug"), READY],
    ],
)
def test_a_read_that_finds_everything(read, results) -> None:
    """A read without anything missing ends the check, whatever came before."""
    left = read(*results)
    assert revoked() == []
    assert left == []


def test_reads_without_an_answer_do_not_count(read) -> None:
    """Between the two reads the server may be unreachable or locked."""
    read(LOCKED, LACKING, DatabaseUnreachable(), LOCKED, LACKING)
    assert revoked() == [LACKING]


def test_a_standby_is_not_believed(read, monkeypatch) -> None:
    """Reads on a standby do not count, and the check ends at some time."""
    monkeypatch.setattr(module, "_MAX_READS", 3)
    left = read(LACKING, LACKING, LACKING, LACKING, is_primary=False)
    assert revoked() == []
    assert len(left) == 1


@pytest.mark.parametrize("results", [[READY], [LACKING, LACKING]])
def test_a_check_can_be_stopped(read, results) -> None:
    """A stopped check makes no further read."""
    left = read(*results)
    check = ReadinessCheck("default", None, 60.0 * (len(results) == 1), print)
    if len(results) == 2:
        module.SECONDS_BETWEEN_READS = 60.0  # the fixture restores it
    check.start()
    wait_until(lambda: len(left) == 1)
    check.stop()
    assert len(left) == 1


# When it begins


class Loss(LossDetector):
    """A detector whose losses the test makes."""

    lost = False

    def pop(self) -> bool:
        lost, self.lost = self.lost, False
        return lost


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the delays of the checks that were started; each ends at once."""
    delays: list[float] = []

    class Check:
        def __init__(self, alias: str, build: Any, delay: float, revoke: Any) -> None:
            delays.append(delay)

        def start(self) -> None: ...

        def stop(self) -> None: ...

        def is_alive(self) -> bool:
            return False

    monkeypatch.setattr(module, "ReadinessCheck", Check)
    return delays


@pytest.fixture
def detector(monkeypatch: pytest.MonkeyPatch) -> Loss:
    made = Loss()
    monkeypatch.setattr(module, "_loss_detector", lambda alias: made)
    return made


@pytest.fixture
def watched(detector) -> Iterator[Recheck]:
    """Yield the recheck of a process whose `default` is ready."""
    made = Recheck(print)
    made.watch(["default"], None)
    yield made
    made.stop()


def connect(wrapper: Any = None) -> None:
    """Tell the receivers that the application has opened a connection."""
    connection_created.send(type(wrapper), connection=wrapper or connections["default"])


def test_a_connection_after_a_loss(watched, detector, checks) -> None:
    """Only a new connection after a loss starts a check, and only once for each loss."""
    connect()
    assert checks == []
    detector.lost = True
    connect()
    connect()
    assert checks == [0.0]


def test_at_most_every_half_minute(watched, detector, checks) -> None:
    """A loss soon after a check is checked when the interval has passed."""
    for _ in range(3):
        detector.lost = True
        connect()
    assert checks[0] == 0.0
    assert 0 < checks[1] <= module.MIN_INTERVAL < checks[2] <= 2 * module.MIN_INTERVAL


def test_one_check_at_a_time(watched, detector, read, monkeypatch) -> None:
    """A loss during a check starts no second one."""
    monkeypatch.setattr(module, "SECONDS_BETWEEN_READS", 60.0)
    left = read(LACKING, LACKING)
    for _ in range(2):
        detector.lost = True
        connect()
    wait_until(lambda: len(left) == 1)
    assert len(watched._checks) == 1
    assert watched._checked_at["default"] < module.time.monotonic()


def test_connections_of_other_code(watched, detector, checks) -> None:
    """A connection that is not the application's own starts no check."""
    detector.lost = True
    connect(connections.create_connection("default"))
    other = connections.create_connection("default")
    other.alias = "other"
    connect(other)
    assert checks == []


@contextmanager
def failed_request(error: Exception) -> Iterator[None]:
    """Report an error that a view has raised, inside the block."""
    try:
        raise error
    except Exception:  # noqa: BLE001  (as Django's handler does)
        got_request_exception.send(None)
        yield


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


LOST = psycopg.OperationalError("server closed the connection unexpectedly")


@pytest.mark.parametrize(
    ("error", "count"),
    [
        (caused(OperationalError(str(LOST)), LOST), 1),
        (caused(ValueError("in a view"), caused(OperationalError(str(LOST)), LOST)), 1),
        (InterfaceError("connection already closed"), 1),
        (caused(OperationalError("a"), psycopg.errors.DeadlockDetected("a")), 0),
        (ValueError("no"), 0),
    ],
)
def test_a_request_that_lost_its_connection(watched, checks, error, count) -> None:
    """A request that failed without its database is a loss."""
    with failed_request(error):
        connect()
    assert len(checks) == count


def test_another_engine(watched, checks, monkeypatch) -> None:
    """On an engine that this package does not know, each operational error is a loss."""
    features = SimpleNamespace(is_supported=False)
    monkeypatch.setattr(module, "get_features", lambda alias: features)
    with failed_request(OperationalError("gone away")):
        connect()
    assert len(checks) == 1


def test_the_detector_of_an_engine(monkeypatch) -> None:
    """PostgreSQL tells which connections were lost, an unknown engine does not."""
    assert type(module._loss_detector("default")) is not LossDetector
    features = SimpleNamespace(is_supported=False)
    monkeypatch.setattr(module, "get_features", lambda alias: features)
    silent = module._loss_detector("default")
    silent.add(object())
    assert not silent.pop()


# The gate


def test_the_gate_closes_and_opens(set_statuses, caplog) -> None:
    """A database that lacks something is polled again, and ready when it has everything."""
    set_statuses(READY, Status("other", State.READY, 100, ""))
    readiness._revoke(LACKING)
    assert not readiness.complete
    assert not readiness.ready("default")
    assert readiness.ready("other")
    assert readiness.status("default") is LACKING
    assert (
        "default lacks migrations or steps that it had, probably since a failover: "
        "shop.0002_secret"
    ) in caplog.messages
    report(READY)
    assert readiness.ready()


def test_a_ready_process_watches(set_statuses, detector, checks) -> None:
    """As soon as all databases are ready, losses are noticed; `reset` ends that."""
    set_statuses(LACKING)
    detector.lost = True
    connect()
    assert checks == []
    report(READY)
    connect()
    assert checks == [0.0]
    readiness.reset()
    detector.lost = True
    connect()
    assert checks == [0.0]
