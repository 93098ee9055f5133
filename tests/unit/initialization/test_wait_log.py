"""The lines that a follower writes while it waits, and its timeouts."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import pytest

from django_safe_init.backends.base.context import Context
from django_safe_init.backends.postgresql.observer import PostgresObserver
from django_safe_init.conf import Settings
from django_safe_init.core.build import Build
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.records import Activity, Blocker, LeaderSnapshot
from django_safe_init.core.states import State
from django_safe_init.exceptions import WaitTimeout
from django_safe_init.initialization import wait_log as module
from django_safe_init.initialization.wait_log import WaitLog, describe_leader
from tests.unit.snapshots import OWN, ended_run, run_row

BUILD = Build(frozenset(), OWN)


@pytest.mark.parametrize(
    ("latest", "leader_pid", "line"),
    [
        (None, None, "waiting for somebody to initialize this database"),
        (None, 99, "waiting for a leader that has opened no run yet"),
        (
            ended_run(1, "ready"),
            99,
            "waiting for a leader that has opened no run yet",
        ),
        (
            run_row(8),
            99,
            "waiting for the leader web-1:77 of run 8, for 12 s: migrating 4/14 shop.0004_x",
        ),
        (
            run_row(8, done=14),
            99,
            "waiting for the leader web-1:77 of run 8, for 12 s: migrating 14/14 shop.0004_x",
        ),
        (
            run_row(8, total=0, message="", state=State.CHECKING_SCHEMA),
            99,
            "waiting for the leader web-1:77 of run 8, for 12 s: checking_schema",
        ),
    ],
)
def test_describe_leader(latest, leader_pid, line) -> None:
    """One line names the leader, its run, the run's age and its step."""
    assert describe_leader(LeaderSnapshot(latest, leader_pid)) == line


def test_describe_the_holder() -> None:
    """The holder of the lock is named if it has opened no run."""
    line = describe_leader(LeaderSnapshot(run_row(8), 99), "backend 99 (role x)")
    assert line == (
        "waiting for a leader that has opened no run yet: backend 99 (role x)"
    )


BLOCKER = Blocker(55, "report", "", "active", 7.4, "SELECT  *\n FROM " + "x" * 200)
END_IT = "SELECT pg_terminate_backend(55);"


class WaitLogHarness:
    """A `WaitLog` with its own clock, which observes the activity that the test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **settings: float) -> None:
        self.now = 1000.0
        self.lines: list[str] = []
        self.activity = Activity(None, 0.0, None, False, ())
        self.looked_up: list[str] = []
        self.reader = SimpleNamespace(
            activity=lambda: self.activity, leader_session=self._leader_session
        )
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)
        context = Context(
            "shop", BUILD, Settings(**settings), Deadline(None), self.lines.append
        )
        self.log = WaitLog(PostgresObserver(context))

    def observe(self, seconds: float, **changes) -> list[str]:
        """Return the new lines after `seconds`, in which a run with these changes was observed."""
        self.now += seconds
        before = len(self.lines)
        self.note(LeaderSnapshot(run_row(8, **changes), 99))
        return self.lines[before:]

    def _leader_session(self) -> str:
        self.looked_up.append("looked up")
        return ""

    def note(self, peeked: LeaderSnapshot) -> None:
        self.log.note(peeked, self.reader)


@pytest.fixture
def harness(monkeypatch) -> WaitLogHarness:
    return WaitLogHarness(monkeypatch, wait_timeout=60)


def test_the_first_line(harness) -> None:
    """The first observation is logged at once, and an unchanged one is not."""
    assert harness.observe(0) == [
        "waiting for the leader web-1:77 of run 8, for 12 s: migrating 4/14 shop.0004_x"
    ]
    assert harness.observe(1) == []
    assert harness.observe(6) == []


def test_a_line_every_five_seconds(harness) -> None:
    """A change is logged at most every five seconds."""
    harness.observe(0)
    assert harness.observe(1, done=4) == []
    assert len(harness.observe(4, done=5)) == 1
    assert harness.observe(1, done=5) == []


def test_a_reminder_every_half_minute(harness) -> None:
    """Without a change a line is logged every 30 seconds."""
    harness.observe(0)
    assert harness.observe(29) == []
    assert len(harness.observe(1)) == 1
    assert harness.observe(29) == []


def test_it_asks_less_without_a_connection(harness) -> None:
    """A follower that cannot keep a connection looks up the statement every 15 seconds.

    A quarter of WAIT_TIMEOUT, which is 60 s here, and 30 s at most.
    """
    asked: list[float] = []
    harness.reader.activity = lambda: asked.append(harness.now) or harness.activity
    harness.observe(0)
    harness.log.observer.keeps_connection = False
    for _ in range(60):
        harness.observe(1)
    assert [after - before for before, after in pairwise(asked)] == [15, 15, 15]
    harness.log.observer.keeps_connection = True
    harness.observe(5)
    assert len(asked) == 5


def test_it_names_the_statement(harness) -> None:
    """The line contains the leader's running statement."""
    harness.activity = Activity("CREATE INDEX x", 31.4, 4712, True, ())
    harness.observe(0)
    [line] = harness.observe(30)
    assert line.endswith("shop.0004_x; running for 31 s: CREATE INDEX x")


def test_it_names_the_blocker(harness) -> None:
    """A blocker is logged with its age, its query and the SQL that ends it."""
    harness.activity = Activity("ALTER TABLE x", 8.0, 4712, False, (BLOCKER,), END_IT)
    harness.observe(0)
    [line] = harness.observe(5)
    assert (
        "running for 8 s: ALTER TABLE x; blocked by pid 55 (role report, no name, active "
        "for 7 s: SELECT * FROM xxx"
    ) in line
    assert line.endswith("...). To end it: SELECT pg_terminate_backend(55);")
    assert len(line) < 350


def test_no_progress(harness) -> None:
    """WAIT_TIMEOUT counts from the last step, and its error names the leader and how to end it."""
    harness.observe(0)
    harness.observe(59)
    harness.log.check_timeouts()
    harness.observe(2)
    with pytest.raises(WaitTimeout) as caught:
        harness.log.check_timeouts()
    text = str(caught.value)
    assert text.startswith(
        "Gave up: no progress for 60 s. waiting for the leader web-1:77 of run 8"
    )
    assert text.endswith(
        ". To end the leader, by one of these:\n"
        "    python manage.py safe_init_unlock --database shop\n"
        "    SELECT pg_terminate_backend(99);"
    )


@pytest.mark.parametrize(
    "change", [{"done": 4}, {"message": "other"}, {"state": State.VALIDATING}]
)
def test_a_step_is_progress(harness, change) -> None:
    """Each step restarts WAIT_TIMEOUT."""
    harness.observe(0)
    harness.observe(59, **change)
    harness.observe(59, **change)
    harness.log.check_timeouts()
    harness.observe(2, **change)
    with pytest.raises(WaitTimeout):
        harness.log.check_timeouts()


def test_a_running_statement_is_progress(harness) -> None:
    """A statement that runs and is not blocked restarts WAIT_TIMEOUT."""
    harness.activity = Activity("CREATE INDEX x", 3600.0, 4712, True, ())
    harness.observe(0)
    for _ in range(10):
        harness.observe(59)
        harness.log.check_timeouts()
    harness.activity = Activity(None, 0.0, None, False, ())
    harness.observe(61)
    with pytest.raises(WaitTimeout):
        harness.log.check_timeouts()


def test_a_blocked_statement_is_no_progress(harness) -> None:
    """A blocked statement does not restart WAIT_TIMEOUT, and the error names the blocker."""
    harness.activity = Activity("ALTER TABLE x", 8.0, 4712, False, (BLOCKER,), END_IT)
    harness.observe(0)
    harness.observe(61)
    with pytest.raises(WaitTimeout, match=r"blocked by pid 55 ") as caught:
        harness.log.check_timeouts()
    assert str(caught.value).endswith(
        ". To end the session that blocks it, or the leader:\n"
        "    SELECT pg_terminate_backend(55);\n"
        "    python manage.py safe_init_unlock --database shop\n"
        "    SELECT pg_terminate_backend(99);"
    )


def test_the_deadline(harness) -> None:
    """The deadline ends the wait, with or without progress."""
    harness.log.deadline = Deadline(5)
    harness.observe(0)
    harness.observe(5, done=4)
    with pytest.raises(
        WaitTimeout, match=r"^Gave up after 5 s\. waiting for the leader web-1:77"
    ):
        harness.log.check_timeouts()


def test_no_leader(monkeypatch) -> None:
    """Without a leader the error names the command to run."""
    harness = WaitLogHarness(monkeypatch, wait_timeout=1)
    harness.note(LeaderSnapshot(None, None))
    harness.now += 2
    with pytest.raises(
        WaitTimeout, match=r"Start one: python manage\.py safe_migrate --database shop"
    ):
        harness.log.check_timeouts()


COUNTING = {"item_total": 9, "item_message": "prices"}


def test_the_items_of_a_step(harness) -> None:
    """A step's first item count is logged at once, and later counts every five seconds."""
    harness.observe(0)
    [line] = harness.observe(1, item_done=2, **COUNTING)
    assert line.endswith("migrating 4/14 shop.0004_x: prices 2/9")
    assert harness.observe(1, item_done=3, **COUNTING) == []
    assert harness.observe(1) == []
    assert harness.observe(1, item_done=4, **COUNTING) == []
    [line] = harness.observe(2, item_done=5, **COUNTING)
    assert line.endswith("prices 5/9")
    assert len(harness.observe(1, done=4, item_done=0, **COUNTING)) == 1


def test_counting_is_progress(harness) -> None:
    """Each new item count restarts WAIT_TIMEOUT."""
    for number in range(10):
        harness.observe(59, item_done=number)
        harness.log.check_timeouts()
    harness.observe(61, item_done=9)
    with pytest.raises(WaitTimeout, match=r"shop\.0004_x: 9\. To end"):
        harness.log.check_timeouts()


def test_the_holder_is_looked_up_once(harness) -> None:
    """The session that holds the lock is looked up when it changes, if no run names it."""
    for pid in (99, 99, 100, None, 4711):
        harness.note(LeaderSnapshot(run_row(8), pid))
    assert len(harness.looked_up) == 2
