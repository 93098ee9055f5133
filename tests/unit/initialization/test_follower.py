"""What a follower makes of what it sees, and what it says about it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from django_safe_init.backends.base.context import Context
from django_safe_init.backends.postgresql.observer import PostgresObserver
from django_safe_init.conf import Settings
from django_safe_init.core.build import Build
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.records import Activity, Blocker, LeaderSnapshot
from django_safe_init.core.states import State
from django_safe_init.exceptions import LeaderFailed, WaitTimeout
from django_safe_init.initialization import wait_log as module
from django_safe_init.initialization.follower import Follower
from django_safe_init.initialization.types import Decision
from django_safe_init.initialization.wait_log import WaitLog, describe_leader
from tests.unit.snapshots import OTHER, OWN, ended, run_row, snapshot

BUILD = Build(frozenset(), OWN)
NOTHING = snapshot(missing=("shop.0001_initial",))
BEHIND = {"missing": ("shop.0001_initial",)}
LED = {"leader_pid": 99}


def follower(since=NOTHING, *, may_lead=True, propagate_failure=True) -> Follower:
    context = Context("default", BUILD, Settings(), Deadline(None))
    return Follower(
        PostgresObserver(context),
        since,
        satisfied=lambda found: found.ready,
        may_lead=may_lead,
        propagate_failure=propagate_failure,
    )


OPEN_ONE = snapshot(run_row(1), **BEHIND, **LED)


@pytest.mark.parametrize(
    ("since", "now", "verdict"),
    [
        pytest.param(NOTHING, OPEN_ONE, None, id="led"),
        pytest.param(NOTHING, NOTHING, Decision.CAMPAIGN, id="free"),
        pytest.param(NOTHING, snapshot(**LED, **BEHIND), None, id="leader starts"),
        pytest.param(NOTHING, snapshot(ended(1, "ready")), Decision.DONE, id="ready"),
        pytest.param(
            NOTHING,
            snapshot(ended(1, "ready"), **LED),
            Decision.DONE,
            id="ready, not yet unlocked",
        ),
        pytest.param(
            OPEN_ONE, snapshot(ended(1, "ready")), Decision.DONE, id="ended meanwhile"
        ),
        pytest.param(
            snapshot(ended(1, "ready")),
            snapshot(ended(1, "ready")),
            Decision.CAMPAIGN,
            id="ended before: --force",
        ),
        pytest.param(
            NOTHING,
            snapshot(ended(1, "ready"), **BEHIND),
            Decision.CAMPAIGN,
            id="ready and then reversed",
        ),
        pytest.param(
            NOTHING,
            snapshot(ended(1, "ready", build=OTHER)),
            Decision.DONE,
            id="another build's work covers ours",
        ),
        pytest.param(
            NOTHING,
            snapshot(ended(1, "ready", build=OTHER), **BEHIND),
            Decision.CAMPAIGN,
            id="another build's work does not",
        ),
        pytest.param(
            OPEN_ONE, snapshot(run_row(1), **BEHIND), Decision.CAMPAIGN, id="died"
        ),
        pytest.param(
            OPEN_ONE,
            snapshot(ended(1, "transient"), **BEHIND),
            Decision.CAMPAIGN,
            id="transient end",
        ),
        pytest.param(
            snapshot(ended(1, "failed"), **BEHIND),
            snapshot(ended(1, "failed"), **BEHIND),
            Decision.CAMPAIGN,
            id="failed before we came",
        ),
        pytest.param(
            NOTHING,
            snapshot(ended(1, "failed", build=OTHER), **BEHIND),
            Decision.CAMPAIGN,
            id="another build failed",
        ),
    ],
)
def test_verdict(since, now, verdict) -> None:
    """A process that may lead goes on, tries the lock, or waits."""
    assert follower(since).decide(now) is verdict


@pytest.mark.parametrize("since", [NOTHING, OPEN_ONE])
@pytest.mark.parametrize("leads", [True, False])
def test_shared_failure(since, leads) -> None:
    """A failure of this build while we waited is ours too, with the leader's reason."""
    failed = snapshot(ended(1, "failed"), **BEHIND, **LED)
    with pytest.raises(LeaderFailed) as caught:
        follower(since, may_lead=leads).decide(failed)
    assert str(caught.value) == "The leader (web-1:77) failed: ValueError: it broke"
    assert caught.value.run == 1


def test_a_failure_that_is_not_shared() -> None:
    """`migrate` to some target does not fail because a whole initialization did."""
    failed = snapshot(ended(1, "failed"), **BEHIND)
    assert follower(propagate_failure=False).decide(failed) is Decision.CAMPAIGN


@pytest.mark.parametrize(
    ("now", "verdict"),
    [
        (snapshot(ended(1, "ready")), Decision.DONE),
        (snapshot(), Decision.DONE),
        (NOTHING, None),
        (snapshot(run_row(1), **BEHIND), None),
        (snapshot(ended(1, "interrupted"), **BEHIND), None),
    ],
)
def test_external(now, verdict) -> None:
    """A process that never leads waits until its build is ready, by whomever."""
    assert follower(may_lead=False).decide(now) is verdict


@pytest.mark.parametrize(
    ("latest", "leader_pid", "line"),
    [
        (None, None, "waiting for somebody to initialize this database"),
        (None, 99, "waiting for the leader (pid 99), which is starting"),
        (
            ended(1, "ready"),
            99,
            "waiting for the leader (pid 99), which is starting",
        ),
        (
            run_row(8),
            99,
            "waiting for web-1:77, leader of run 8 for 12 s: migrating 4/14 shop.0004_x",
        ),
        (
            run_row(8, done=14),
            99,
            "waiting for web-1:77, leader of run 8 for 12 s: migrating 14/14 shop.0004_x",
        ),
        (
            run_row(8, total=0, message="", state=State.CHECKING_SCHEMA),
            99,
            "waiting for web-1:77, leader of run 8 for 12 s: checking_schema",
        ),
    ],
)
def test_what_the_leader_does(latest, leader_pid, line) -> None:
    """One line says who leads, since when, what it is doing, n of total."""
    assert describe_leader(LeaderSnapshot(latest, leader_pid)) == line


# What it says, and when


BLOCKER = Blocker(55, "report", "", "active", 7.4, "SELECT  *\n FROM " + "x" * 200)
END_IT = "SELECT pg_terminate_backend(55);"


class Observed:
    """A `WaitLog` on a clock of its own, which sees the activity that the test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **settings: float) -> None:
        self.now = 1000.0
        self.lines: list[str] = []
        self.activity = Activity(None, 0.0, None, False, ())
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)
        context = Context(
            "shop", BUILD, Settings(**settings), Deadline(None), self.lines.append
        )
        self.log = WaitLog(PostgresObserver(context))

    def see(self, seconds: float, **changes) -> list[str]:
        """The lines after so many seconds, in which a run like this was seen."""
        self.now += seconds
        before = len(self.lines)
        self.look(LeaderSnapshot(run_row(8, **changes), 99))
        return self.lines[before:]

    def look(self, glance: LeaderSnapshot) -> None:
        self.log.note(glance, SimpleNamespace(activity=lambda: self.activity))


@pytest.fixture
def observed(monkeypatch) -> Observed:
    return Observed(monkeypatch, wait_timeout=60)


def test_it_speaks_at_once(observed) -> None:
    """The first look is worth a line; the same again is not."""
    assert observed.see(0) == [
        "waiting for web-1:77, leader of run 8 for 12 s: migrating 4/14 shop.0004_x"
    ]
    assert observed.see(1) == []
    assert observed.see(6) == []


def test_a_change_is_said_at_most_every_five_seconds(observed) -> None:
    """A fast leader does not flood the log."""
    observed.see(0)
    assert observed.see(1, done=4) == []
    assert len(observed.see(4, done=5)) == 1
    assert observed.see(1, done=5) == []


def test_a_reminder_every_half_minute(observed) -> None:
    """While nothing changes, a line each 30 s says that it still waits."""
    observed.see(0)
    assert observed.see(29) == []
    assert len(observed.see(1)) == 1
    assert observed.see(29) == []


def test_it_names_the_statement(observed) -> None:
    """What the leader runs just now stands in the line."""
    observed.activity = Activity("CREATE INDEX x", 31.4, 4712, True, ())
    observed.see(0)
    [line] = observed.see(30)
    assert line.endswith("shop.0004_x; running for 31 s: CREATE INDEX x")


def test_it_names_what_blocks_the_leader(observed) -> None:
    """A blocker is told at once, with its age, its query and the SQL that ends it."""
    observed.activity = Activity("ALTER TABLE x", 8.0, 4712, False, (BLOCKER,), END_IT)
    observed.see(0)
    [line] = observed.see(5)
    assert (
        "running for 8 s: ALTER TABLE x; blocked by pid 55 (role report, no name, active "
        "for 7 s: SELECT * FROM xxx"
    ) in line
    assert line.endswith("...). To end it: SELECT pg_terminate_backend(55);")
    assert len(line) < 350


def test_no_progress(observed) -> None:
    """WAIT_TIMEOUT counts from the last step, and names the leader and how to end it."""
    observed.see(0)
    observed.see(59)
    observed.log.check_timeouts()
    observed.see(2)
    with pytest.raises(WaitTimeout) as caught:
        observed.log.check_timeouts()
    text = str(caught.value)
    assert text.startswith(
        "Gave up: no progress for 60 s. waiting for web-1:77, leader"
    )
    assert text.endswith(
        ". To end the leader: manage.py safe_init_unlock --database shop, "
        "or SELECT pg_terminate_backend(99);"
    )


@pytest.mark.parametrize(
    "change", [{"done": 4}, {"message": "other"}, {"state": State.VALIDATING}]
)
def test_a_step_is_progress(observed, change) -> None:
    """Each step starts WAIT_TIMEOUT anew."""
    observed.see(0)
    observed.see(59, **change)
    observed.see(59, **change)
    observed.log.check_timeouts()
    observed.see(2, **change)
    with pytest.raises(WaitTimeout):
        observed.log.check_timeouts()


def test_a_running_statement_is_progress(observed) -> None:
    """So is a statement that runs and is not blocked, however long it takes."""
    observed.activity = Activity("CREATE INDEX x", 3600.0, 4712, True, ())
    observed.see(0)
    for _ in range(10):
        observed.see(59)
        observed.log.check_timeouts()
    observed.activity = Activity(None, 0.0, None, False, ())
    observed.see(61)
    with pytest.raises(WaitTimeout):
        observed.log.check_timeouts()


def test_a_blocked_statement_is_none(observed) -> None:
    """A statement that waits for a lock is no progress; the error names the blocker."""
    observed.activity = Activity("ALTER TABLE x", 8.0, 4712, False, (BLOCKER,), END_IT)
    observed.see(0)
    observed.see(61)
    with pytest.raises(
        WaitTimeout, match=r"blocked by pid 55 .*pg_terminate_backend\(55\)"
    ):
        observed.log.check_timeouts()


def test_the_total_time_is_over(observed) -> None:
    """A time-out in all ends the waiting, progress or not."""
    observed.log.deadline = Deadline(5)
    observed.see(0)
    observed.see(5, done=4)
    with pytest.raises(WaitTimeout, match=r"^Gave up after 5 s\. waiting for web-1:77"):
        observed.log.check_timeouts()


def test_nobody_leads(monkeypatch) -> None:
    """Where nobody leads, the error says what to do about that."""
    observed = Observed(monkeypatch, wait_timeout=1)
    observed.look(LeaderSnapshot(None, None))
    observed.now += 2
    with pytest.raises(
        WaitTimeout, match="Nobody initializes this database: run `manage"
    ):
        observed.log.check_timeouts()


COUNTING = {"item_total": 9, "item_message": "prices"}


def test_it_says_how_far_the_step_is(observed) -> None:
    """The first count of a step is told at once, the others every five seconds."""
    observed.see(0)
    [line] = observed.see(1, item_done=2, **COUNTING)
    assert line.endswith("migrating 4/14 shop.0004_x: prices 2/9")
    assert observed.see(1, item_done=3, **COUNTING) == []
    assert observed.see(1) == []
    assert observed.see(1, item_done=4, **COUNTING) == []
    [line] = observed.see(2, item_done=5, **COUNTING)
    assert line.endswith("prices 5/9")
    assert len(observed.see(1, done=4, item_done=0, **COUNTING)) == 1


def test_counting_is_progress(observed) -> None:
    """A step that counts on is waited for, however long it takes."""
    for number in range(10):
        observed.see(59, item_done=number)
        observed.log.check_timeouts()
    observed.see(61, item_done=9)
    with pytest.raises(WaitTimeout, match=r"shop\.0004_x: 9\. To end"):
        observed.log.check_timeouts()
