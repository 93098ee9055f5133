"""Rendering of the live view, without a terminal."""

from __future__ import annotations

import dataclasses
import io

import pytest
from rich.console import Console

from django_safe_init.core.records import Activity, Blocker
from django_safe_init.core.states import State
from django_safe_init.management import live_view
from django_safe_init.management.live_view import LiveView, StatusView
from django_safe_init.status import (
    Status,
    StatusDetail,
    StepRow,
    describe,
    poll_interval,
)
from tests.unit.snapshots import OWN, ended_run, run_row, snapshot

BLOCKER = Blocker(88, "app", "psql", "idle in transaction", 40.0, "LOCK TABLE shop")
BLOCKED = Activity("ALTER TABLE shop\n  ADD x int", 3.0, 4712, False, (BLOCKER,))
BUSY = Activity("CREATE INDEX shop_x", 61.0, 4712, True, ())
IDLE = Activity(None, 0.0, None, False, ())


def steps(
    count: int, last: str | None = None, **changes: object
) -> tuple[StepRow, ...]:
    """Return `count` steps; the last one has the outcome `last`, None while it runs."""
    done = [
        StepRow(i, "migration", f"shop.{i:04}_step", False, "done", 0.25 * i)
        for i in range(1, count)
    ]
    newest = StepRow(count, "migration", f"shop.{count:04}_step", False, last, 7.0)
    return (*done, newest._replace(**changes))


def working(**changes: object) -> StatusDetail:
    """Return the detail of a leader in the fourth of fourteen steps."""
    status = describe("default", snapshot(run_row(18), leader_pid=4711))
    values = {"status": status, "steps": steps(4), "role": "shop", "followers": 7}
    return StatusDetail(**{**values, **changes})


def rendered(
    detail: StatusDetail, width: int = 80, height: int = 24, **more: object
) -> str:
    """Return the rendered view as text."""
    console = Console(
        record=True, width=width, height=height, file=io.StringIO(), color_system=None
    )
    console.print(StatusView(detail, **more))
    return console.export_text()


def lines(detail: StatusDetail, **more: object) -> list[str]:
    return [line.rstrip() for line in rendered(detail, **more).splitlines()]


@pytest.mark.parametrize("width", [80, 120])
def test_a_run(width) -> None:
    """The view shows progress, age, leader, statement, followers and steps within the width."""
    shown = lines(working(activity=BUSY), width=width, elapsed=2.0)
    assert all(len(line) <= width for line in shown)
    assert shown[0] == "default: migrating, run 18 of safe_migrate"
    assert shown[1].startswith("3 of 14 ━")
    assert shown[1].endswith(" 14.3 s")
    assert [line.split(None, 1) for line in shown[2:6]] == [
        ["now", "migrating 4/14 shop.0004_x"],
        ["leader", "web-1:77, lock held by backend 4711, role shop, for 14.3 s"],
        ["statement", "1 min 03 s: CREATE INDEX shop_x"],
        ["followers", "7 connected now"],
    ]
    assert shown[6].split() == ["#", "step", "kind", "state", "time"]
    assert shown[8].split() == ["1", "shop.0001_step", "migration", "done", "0.25", "s"]
    assert shown[11].split() == [
        "4",
        "shop.0004_step",
        "migration",
        "running",
        "9.00",
        "s",
    ]
    assert shown[12:] == ["10 to come"]


@pytest.mark.parametrize(("total", "text"), [(9, "prices 2/9 ━"), (None, "prices 2\n")])
def test_a_step_that_counts(total, text) -> None:
    """The progress of the running step has a separate line, with a bar if the total is known."""
    run = run_row(18, item_done=2, item_total=total, item_message="prices")
    status = describe("default", snapshot(run, leader_pid=4711))
    shown = lines(working(status=status))
    assert f"{shown[2]}\n".startswith(text)
    assert shown[3].split(None, 1)[1].startswith("migrating 4/14 shop.0004_x: prices 2")


def test_a_blocked_statement() -> None:
    """The view names the session that blocks the leader's statement."""
    text = rendered(working(activity=BLOCKED), width=120)
    assert "3.00 s: ALTER TABLE shop ADD x int" in text
    blocker = "pid 88 (role app, psql, idle in transaction for 40 s: LOCK TABLE shop)"
    assert f"blocked by  {blocker}" in text


def test_many_sessions_that_block() -> None:
    """The view names the first of many sessions that block, and counts the others."""
    blockers = tuple(dataclasses.replace(BLOCKER, pid=pid) for pid in range(80, 100))
    activity = dataclasses.replace(BLOCKED, blockers=blockers)
    shown = [line for line in lines(working(activity=activity)) if "blocked by" in line]
    assert len(shown) == 4
    assert shown[-1].endswith("17 more sessions")


def test_nothing_is_running_in_the_server() -> None:
    """The view omits the statement between two statements, and an unknown role."""
    text = rendered(working(activity=IDLE, role=None))
    assert "statement" not in text
    assert "backend 4711, for" in text


def test_a_long_statement() -> None:
    """The view shortens a statement of many lines to one line."""
    activity = BUSY.__class__("SELECT\n" + "x, " * 200, 1.0, 1, True, ())
    text = rendered(working(activity=activity), width=200)
    assert "1.00 s: SELECT x, x, " in text
    assert max(map(len, text.splitlines())) <= 200
    assert "..." in text


@pytest.mark.parametrize("height", [12, 16, 24, 50])
def test_many_steps(height) -> None:
    """The view shows the newest steps that fit the terminal's height."""
    run = run_row(18, done=99, total=140)
    status = describe("default", snapshot(run, leader_pid=4711))
    shown = lines(working(status=status, steps=steps(100)), height=height)
    assert len(shown) < height
    assert "shop.0100_step" in shown[-2]
    first = int(shown[7].split()[0])
    assert shown[-1] == f"{first - 1} before, 40 to come"


def test_a_tiny_terminal() -> None:
    """The view omits the steps if none fits."""
    assert "step" not in rendered(working(), height=8).replace("0004_step", "")
    assert "leader" in rendered(working(), height=8)


def test_a_narrow_terminal() -> None:
    """The view shortens a long name and does not wrap it."""
    detail = working(steps=steps(1, name="shop.0001_" + "x" * 100))
    shown = lines(detail, width=60)
    assert "…" in shown[-2]
    assert all(len(line) <= 60 for line in shown)


def test_a_reversal() -> None:
    """The view marks a step that is unapplied."""
    assert "backwards" in rendered(working(steps=steps(1, backwards=True)))


@pytest.mark.parametrize("outcome", ["done", "faked", "failed"])
def test_outcomes(outcome) -> None:
    """A finished step has its outcome and its own time."""
    shown = lines(working(steps=steps(1, outcome)), elapsed=5.0)
    assert shown[-2].split()[-3:] == [outcome, "7.00", "s"]


def test_a_dead_leader() -> None:
    """The step of a leader that died is broken off, and its time does not grow."""
    status = describe("default", snapshot(run_row(18), run_row(18), missing=("a.1",)))
    assert status.state is State.ERROR
    shown = lines(working(status=status), elapsed=5.0)
    assert shown[0].startswith("default: error, run 18")
    assert shown[2].split(None, 1) == ["died", "web-1:77 in shop.0004_x"]
    assert shown[-2].split() == [
        "4",
        "shop.0004_step",
        "migration",
        "broken",
        "off",
        "7.00",
        "s",
    ]


def test_the_end() -> None:
    """A run that is ready has no steps to come, and its time does not grow."""
    run = ended_run(18, "ready", done=4, total=4, duration_seconds=90.0)
    status = describe("default", snapshot(run))
    shown = lines(working(status=status, steps=steps(4, "done")), elapsed=5.0)
    assert shown[0].startswith("default: ready, run 18")
    assert shown[1].endswith("1 min 30 s")
    assert shown[2] == "status     everything this build knows is done"
    assert "shop.0004_step" in shown[-1]


def test_before_any_run() -> None:
    """The view shows only the status of a database without a run."""
    status = Status("default", State.UNINITIALIZED, 0, "not initialized")
    assert lines(StatusDetail(status)) == [
        "default: uninitialized",
        "status  not initialized",
    ]


def test_a_run_without_a_plan() -> None:
    """The view has no bar while the leader reads the migrations."""
    run = run_row(18, total=0, done=0, message="reading migrations")
    status = describe("default", snapshot(run, leader_pid=4711))
    shown = lines(StatusDetail(status, followers=0))
    assert shown[1].split(None, 1) == ["now", "migrating reading migrations"]


def test_notes() -> None:
    """The view shows the reason why its details are incomplete."""
    text = rendered(working(note="the tables are locked"), notice="Connecting again.")
    assert "the tables are locked\nConnecting again.\n" in text


@pytest.mark.parametrize(
    ("detail", "queries"),
    [
        (StatusDetail(Status("default", State.UNINITIALIZED, 0, "")), 3),
        (working(), 3),
        (working(activity=BUSY), 4),
        (working(activity=BLOCKED), 5),
    ],
)
def test_four_queries_a_second(detail, queries) -> None:
    """The interval grows with the number of queries of a poll."""
    assert poll_interval(detail) == queries / 4


def test_before_the_first_look() -> None:
    """The view shows the reason for the wait until it has a status."""
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=80, height=24)
    with LiveView("default", console) as view:
        view.report("waiting for the server: it starts")
    assert "default: waiting for the server: it starts" in output.getvalue()
    assert OWN not in output.getvalue()


def test_a_detail_of_an_earlier_connection(monkeypatch) -> None:
    """After a new connection no detail of a run on the earlier one is kept."""
    given: list[object] = []

    def read_detail(database, reader, before):
        given.append(before)
        return working()

    monkeypatch.setattr(live_view, "read_detail", read_detail)
    view = LiveView("default", Console(file=io.StringIO()))
    view.show_status(None)
    view.show_status(None)
    view.report("The connection ended. Connecting again.")
    view.show_status(None)
    assert [each is None for each in given] == [True, False, True]
