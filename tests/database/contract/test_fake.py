"""The fake backend leads, follows, takes over and reports, so a backend is one folder."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection

from django_safe_init import (
    InitializationFailed,
    LeaderFailed,
    State,
    get_status,
    initialize,
    is_ready,
)
from django_safe_init.backends import get_features
from django_safe_init.core.step import StepDefinition
from django_safe_init.core.step_registry import registry
from django_safe_init.management.commands.safe_init_unlock import Command as Unlock
from django_safe_init.signals import state_changed
from django_safe_init.validation import validate_database
from tests.database.conftest import Shop
from tests.fake_backend.lock import FakeLock
from tests.fake_backend.observer import FakeObserver
from tests.fake_backend.server import FakeServer
from tests.support import PATIENCE


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register one step, which inserts a row."""

    def seed(context: Any) -> None:
        with context.connection.cursor() as cursor:
            cursor.execute("INSERT INTO shop_product (name) VALUES ('seed')")

    monkeypatch.setattr(registry, "_steps", [StepDefinition("shop", "seed", seed)])
    monkeypatch.setattr(registry, "_is_complete", True)


@pytest.fixture
def states() -> Iterator[list[State]]:
    """Collect the states of this process's initializations."""
    seen: list[State] = []

    def note(new: State, **kwargs: Any) -> None:
        seen.append(new)

    state_changed.connect(note)
    yield seen
    state_changed.disconnect(note)


class Gate:
    """A migration whose first run waits until the test lets it pass."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()

    def wait(self, connection: Any) -> None:
        if not self.reached.is_set():
            self.reached.set()
            assert self.opened.wait(PATIENCE)


@pytest.fixture
def gate(small_shop: Shop) -> Iterator[Gate]:
    """Add a migration that waits to the small shop."""
    made = Gate()
    small_shop.run("0003_gate", made.wait)
    yield made
    made.opened.set()


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Return an event that the first wait of a follower sets."""
    event, wait = threading.Event(), FakeObserver.wait

    def note(self: FakeObserver) -> None:
        event.set()
        wait(self)

    monkeypatch.setattr(FakeObserver, "wait", note)
    return event


def rows(statement: str) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return list(cursor.fetchall())


def outcomes(server: FakeServer) -> list[str | None]:
    """Return the outcomes of all runs, oldest first."""
    return [run["outcome"] for run in server.runs.values()]


def test_a_run(fake, small_shop, steps, states) -> None:
    """A leader applies the migrations, runs the steps and records both."""
    outcome = initialize()
    assert (outcome.result, outcome.role) == ("ready", "leader")
    assert outcome.applied == ("shop.0001_initial", "shop.0002_sale")
    recorded = rows("SELECT name FROM django_migrations WHERE app = 'shop' ORDER BY id")
    assert recorded == [("0001_initial",), ("0002_sale",)]
    assert rows("SELECT name FROM shop_product") == [("seed",)]
    [run] = fake.runs.values()
    assert (run["outcome"], run["state"], run["progress"]) == ("ready", "ready", 100)
    assert (run["id"], run["done"], run["total"]) == (outcome.run, 3, 3)
    assert [(step["name"], step["outcome"]) for step in fake.steps] == [
        ("shop.0001_initial", "done"),
        ("shop.0002_sale", "done"),
        ("shop.seed", "done"),
    ]
    assert states == [
        State.CONNECTING,
        State.ACQUIRING_LOCK,
        State.CHECKING_SCHEMA,
        State.MIGRATING,
        State.VALIDATING,
        State.READY,
    ]
    assert fake.leader is None


def test_a_start_with_nothing_to_do(fake, small_shop, states) -> None:
    """A second initialization takes the fast path: it becomes no leader."""
    first = initialize()
    states.clear()
    second = initialize()
    assert (second.role, second.run) == ("none", first.run)
    assert states == [State.CONNECTING, State.READY]
    assert outcomes(fake) == ["ready"]


def test_a_new_build(fake, small_shop) -> None:
    """A build with one more migration applies only that one."""
    initialize()
    small_shop.run("0003_more", lambda connection: None)
    assert initialize().applied == ("shop.0003_more",)
    assert outcomes(fake) == ["ready", "ready"]


def test_a_follower(fake, gate, waiting, in_background) -> None:
    """A follower waits for the leader, and is told when the build is ready."""
    leader = in_background(initialize)
    assert gate.reached.wait(PATIENCE)
    follower = in_background(initialize)
    assert waiting.wait(PATIENCE)
    gate.opened.set()
    led, followed = leader.result(), follower.result()
    assert (led.role, followed.role) == ("leader", "follower")
    assert (followed.run, followed.applied) == (led.run, ())
    assert outcomes(fake) == ["ready"]


def test_a_failure(fake, gate, small_shop, waiting, in_background) -> None:
    """A migration that fails ends the run, for the leader and for its followers."""

    def fail(connection: Any) -> None:
        raise ValueError("it broke")

    small_shop.run("0004_fail", fail)
    leader = in_background(initialize)
    assert gate.reached.wait(PATIENCE)
    follower = in_background(initialize)
    assert waiting.wait(PATIENCE)
    gate.opened.set()
    with pytest.raises(InitializationFailed, match="0004_fail: ValueError: it broke"):
        leader.result()
    with pytest.raises(LeaderFailed, match="it broke"):
        follower.result()
    assert outcomes(fake) == ["failed"]
    assert get_status().state is State.ERROR
    assert fake.steps[-1]["outcome"] == "failed"


def test_a_takeover(fake, gate, in_background) -> None:
    """A dead leader is replaced: its work is undone, and its run is abandoned."""
    dead = in_background(initialize)
    assert gate.reached.wait(PATIENCE)
    run = get_status().run
    fake.leader = None
    assert get_status().error.endswith("died in shop.0003_gate")
    outcome = initialize()
    assert (outcome.role, outcome.applied) == ("leader", ("shop.0003_gate",))
    assert outcomes(fake) == ["abandoned", "ready"]
    assert fake.runs[run.id]["error"].endswith("died in shop.0003_gate")
    gate.opened.set()
    # What died was a thread: it finds that it lost the lock, and that the work is done.
    assert dead.result().run == outcome.run
    applied = rows("SELECT name FROM django_migrations WHERE app = 'shop'")
    assert sorted(applied) == [("0001_initial",), ("0002_sale",), ("0003_gate",)]


def test_the_status(fake, gate, in_background) -> None:
    """The status of the database is read through the fake's reader."""
    assert get_features("default").has_lock
    status = get_status()
    assert (status.state, status.led) == (State.UNINITIALIZED, False)
    assert status.pending == ("shop.0001_initial", "shop.0002_sale", "shop.0003_gate")
    leader = in_background(initialize)
    assert gate.reached.wait(PATIENCE)
    status = get_status()
    assert (status.state, status.led, status.progress) == (State.MIGRATING, True, 66)
    assert status.message == "migrating 3/3 shop.0003_gate"
    assert not is_ready()
    gate.opened.set()
    leader.result()
    assert is_ready()


def test_a_leader_that_is_starting(fake, small_shop) -> None:
    """A backend that cannot name who holds the lock says only that a leader is starting."""
    lock = FakeLock(fake)
    assert lock.try_acquire()
    status = get_status()
    lock.release()
    assert (status.led, status.message) == (True, "a leader is starting")


def test_unlock(fake, gate, in_background, capsys) -> None:
    """`safe_init_unlock` ends the leader, which starts over when it notices."""
    leader = in_background(initialize)
    assert gate.reached.wait(PATIENCE)
    pid = fake.leader.pid
    Unlock().run_from_argv(["manage.py", "safe_init_unlock", "--noinput"])
    assert capsys.readouterr().out.splitlines() == [
        f"default: led by process {pid}",
        "default: ended; a replica that waits takes over",
    ]
    gate.opened.set()
    assert leader.result().role == "leader"
    assert outcomes(fake) == ["transient", "ready"]


def test_unlock_without_a_leader(fake, capsys) -> None:
    """`safe_init_unlock` ends nothing while no process leads."""
    Unlock().run_from_argv(["manage.py", "safe_init_unlock", "--noinput"])
    assert capsys.readouterr().out == "default: nobody holds the leader lock\n"


def test_validation(fake) -> None:
    """Validation compares the models with the fake's introspection."""
    initialize()
    found = validate_database("default", print)
    assert found.passes(strict=True)
    assert found.tables > 5
    rows("DROP TABLE auth_user_groups")
    rows("ALTER TABLE auth_user DROP COLUMN first_name")
    assert [
        (each.kind.value, each.object)
        for each in validate_database("default", print).findings
    ] == [
        ("missing_table", "auth_user_groups"),
        ("missing_column", "auth_user.first_name"),
    ]
