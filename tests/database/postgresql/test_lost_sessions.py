"""Sessions that end before, in and after each statement of a run, a wait and a status.

Each ends in a documented result: starting over and success, or a `SafeInitError`.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from typing import Any

import psycopg
import pytest
from django.core.checks.registry import registry as registry_of_checks
from django.core.management import CommandError, call_command
from django.db import connections

from django_safe_init import (
    DatabaseUnreachable,
    get_status,
    initialize,
    is_ready,
)
from django_safe_init.backends.postgresql import answer_limit, connect
from django_safe_init.backends.postgresql.lock import AdvisoryLock
from django_safe_init.backends.postgresql.recorder import PostgresRecorder
from django_safe_init.backends.postgresql.session import Session
from django_safe_init.core.build import current_build
from django_safe_init.core.states import State
from django_safe_init.core.step import StepDefinition
from django_safe_init.core.step_registry import registry
from django_safe_init.management.commands.migrate import Command as Migrate
from django_safe_init.management.commands.safe_init_status import (
    Command as StatusCommand,
)
from django_safe_init.management.commands.safe_init_unlock import Command as Unlock
from django_safe_init.management.commands.safe_init_validate import Command as Validate
from django_safe_init.management.commands.safe_migrate import Command as SafeMigrate
from django_safe_init.serving.background.poller import StatusPoller
from tests.database.conftest import INITIAL, Shop
from tests.support import Database, wait_until
from tests.wire import (
    ANSWER_LOST,
    FAULTS,
    NO_ANSWER,
    TERMINATED_AFTER,
    TERMINATED_BEFORE,
    StatementProxy,
)

pytestmark = pytest.mark.thorough

#: The statements of a run are divided among so many tests, which run side by side.
PARTS = 4
RUN_FAULTS = [TERMINATED_BEFORE, ANSWER_LOST, TERMINATED_AFTER]


@pytest.fixture
def proxy(
    django_database: Database, log_in_as: Callable[..., None], monkeypatch: Any
) -> Iterator[StatementProxy]:
    """Yield a proxy before `django_database` that `default` uses, with short pauses."""
    monkeypatch.setattr(random, "uniform", lambda low, high: min(low, 0.01))
    monkeypatch.setattr(answer_limit, "ANSWER_SECONDS", 1.0)
    monkeypatch.setattr(connect, "_LAST_ANSWER_SECONDS", 1.0)
    with StatementProxy(django_database) as made:
        log_in_as(HOST="127.0.0.1", PORT=made.port)
        yield made
        connections["default"].close()


def each_statement(
    proxy: StatementProxy, fault: str, act: Callable[[], None], numbers: Iterable[int]
) -> list[str]:
    """Call `act` with the fault at each of these statements, until a call meets no fault.

    Returns the statements that met the fault.
    """
    hits: list[str] = []
    for number in numbers:
        proxy.arm(number, fault)
        try:
            act()
        except BaseException as exc:
            exc.add_note(f"{fault}, statement {number}: {proxy.hit!r}")
            raise
        if not proxy.hit:
            break
        hits.append(proxy.hit)
    return hits


def insert(connection: Any, name: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO shop_product (name) VALUES (%s)", [name])


@pytest.fixture
def work(shop: Shop, monkeypatch: Any) -> Shop:
    """Return a build with an atomic and a non-atomic migration, and a step."""
    shop.write("0001_initial", INITIAL)
    shop.run("0002_data", lambda connection: insert(connection, "data"))
    shop.run("0003_open", lambda connection: connection.cursor().close(), atomic=False)
    monkeypatch.setattr(registry, "_steps", [])
    monkeypatch.setattr(registry, "_is_complete", True)
    registry.add(
        StepDefinition(
            "shop", "seed", lambda context: insert(context.connection, "seed")
        )
    )
    return shop


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("fault", RUN_FAULTS)
def test_a_run(
    proxy: StatementProxy, work: Shop, django_database: Database, fault: str, part: int
) -> None:
    """A run whose session ends at any statement starts over; nothing is done twice."""

    def run() -> None:
        django_database.rows("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        assert initialize().result == "ready"
        assert set(django_database.applied_counts().values()) == {1}
        rows = django_database.rows("SELECT name FROM shop_product ORDER BY id")
        assert [row["name"] for row in rows] == ["data", "seed"]
        outcomes = [each["outcome"] for each in django_database.runs()]
        assert outcomes[-1] == "ready"
        assert set(outcomes[:-1]) <= {"transient", "ready"}

    hits = each_statement(proxy, fault, run, count(1 + part, PARTS))
    assert len(hits) * PARTS > 60


@pytest.mark.parametrize("fault", [TERMINATED_BEFORE, ANSWER_LOST])
def test_migrate(
    proxy: StatementProxy,
    work: Shop,
    django_database: Database,
    monkeypatch: Any,
    capsys: Any,
    fault: str,
) -> None:
    """`migrate` whose session ends before it leads starts over, also in a system check."""

    def check_database(databases: list[str], **kwargs: Any) -> list[Any]:
        connections["default"].cursor().execute("SELECT 'a system check'")
        return []

    def run() -> None:
        django_database.rows("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        call_command(Migrate(), verbosity=0, skip_checks=False)
        assert set(django_database.applied_counts().values()) == {1}

    check_database.tags = ["database"]
    monkeypatch.setattr(registry_of_checks, "registered_checks", {check_database})
    hits = each_statement(proxy, fault, run, range(1, 20))
    assert any("a system check" in hit for hit in hits)


class Leader:
    """Another process's leader, which ends its run once its follower is at work."""

    #: The statements that a follower executes before the leader ends.
    STATEMENTS = 16

    def __init__(self, session: Session, proxy: StatementProxy) -> None:
        self.lock = AdvisoryLock(session)
        self.recorder = PostgresRecorder(session, current_build(), None)
        self.proxy = proxy

    def lead(self) -> None:
        assert self.lock.try_acquire()
        self.recorder.open_run("test")

    def end(self) -> None:
        wait_until(lambda: self.proxy.count >= self.STATEMENTS)
        self.recorder.finish_run("ready", State.READY)
        self.lock.release()


@pytest.fixture
def other_leader(
    open_session: Callable[..., Session],
    proxy: StatementProxy,
    work: Shop,
    django_database: Database,
) -> Leader:
    """Return a leader of this build, whose work is done, on a session without the proxy."""
    initialize()
    address = django_database.settings()
    session = open_session("other", HOST=address["HOST"], PORT=address["PORT"])
    return Leader(session, proxy)


@pytest.mark.parametrize("mode", ["self", "external"])
@pytest.mark.parametrize("fault", [*FAULTS, NO_ANSWER])
def test_a_wait(
    proxy: StatementProxy,
    other_leader: Leader,
    django_database: Database,
    in_background: Callable[[Callable[[], None]], Any],
    fault: str,
    mode: str,
) -> None:
    """A follower whose session ends at any statement waits on, and is ready as the others."""

    def wait() -> None:
        other_leader.lead()
        leading = in_background(other_leader.end)
        try:
            outcome = initialize(mode=mode, timeout=60)
        finally:
            leading.result()
        # A process that starts over may come when the leader has ended.
        assert outcome.role == "follower" or (proxy.hit and outcome.role == "none")
        assert outcome.applied == ()
        assert {each["outcome"] for each in django_database.runs()} == {"ready"}

    hits = each_statement(proxy, fault, wait, count(1))
    assert len(hits) >= Leader.STATEMENTS
    assert any("LISTEN" in hit for hit in hits)


def command(cls: Any, *arguments: str) -> Callable[[], None]:
    """Return a function that runs a command, which may end with a documented exit code."""

    def run() -> None:
        code: Any = 0
        try:
            call_command(cls(), *arguments, verbosity=0)
        except CommandError as exc:
            code = exc.returncode
        except SystemExit as exc:
            code = exc.code
        assert code in (0, 4)

    return run


def ask() -> None:
    """Read the status by the Python API, which may raise one error."""
    try:
        assert get_status().ready
        assert is_ready()
    except DatabaseUnreachable:
        pass


def poll() -> None:
    """Poll until ready, as a web process does."""
    seen: list[Any] = []
    poller = StatusPoller("default", None, seen.append)
    poller.run()
    assert seen[-1].status.ready
    assert {each.status.state for each in seen[:-1]} <= {State.CONNECTING}


COMMANDS = {
    "api": ask,
    "poller": poll,
    "status": command(StatusCommand),
    "status json": command(StatusCommand, "--json", "--history", "3"),
    "status watch": command(StatusCommand, "--watch"),
    "status wait": command(StatusCommand, "--wait", "--timeout", "60"),
    "validate": command(Validate),
    "unlock": command(Unlock, "--noinput"),
    "check": command(SafeMigrate, "--check"),
    "plan": command(SafeMigrate, "--plan"),
    "safe_migrate": command(SafeMigrate),
}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("fault", [*FAULTS, NO_ANSWER])
def test_a_status(
    proxy: StatementProxy,
    work: Shop,
    settings: Any,
    monkeypatch: Any,
    capsys: Any,
    fault: str,
    name: str,
) -> None:
    """A command whose session ends at any statement has a result, or exit code 4."""
    settings.SAFE_INIT = {**settings.SAFE_INIT, "STATUS_TOKEN": "secret"}
    monkeypatch.setattr("django_safe_init.serving.background.poller.MIN_INTERVAL", 0.01)
    initialize()
    assert each_statement(proxy, fault, COMMANDS[name], count(1))


def test_a_signal_without_an_answer(
    proxy: StatementProxy, open_session: Callable[..., Session], monkeypatch: Any
) -> None:
    """One SIGINT ends a process that waits for an answer, and its other threads go on."""

    def interrupt(*arguments: Any) -> None:
        raise KeyboardInterrupt

    session = open_session()
    session.patience = lambda: answer_limit.ANSWER_SECONDS
    proxy.arm(1, NO_ANSWER)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises((KeyboardInterrupt, psycopg.Error)):
            session.rows("SELECT 1")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert proxy.hit
    wait_until(lambda: session.raw.closed)
