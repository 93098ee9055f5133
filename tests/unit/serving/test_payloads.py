"""The bodies of the responses: the public ones, and the details for the token."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import django_safe_init
from django_safe_init.core.records import Activity, Blocker, StepRow
from django_safe_init.core.schemas import (
    FailedSchemas,
    SchemaFailure,
    SchemaProgress,
)
from django_safe_init.core.states import State
from django_safe_init.serving.http import payloads
from django_safe_init.status import Status, StatusDetail, describe
from tests.support import validate_json
from tests.unit.snapshots import ended_run, run_row, snapshot

BEHIND = {"missing": ("shop.0002_secret",)}
LED = {"leader_pid": 99}
OPEN = run_row(17, message="shop.0002_secret")
MIGRATING = describe("default", snapshot(OPEN, **BEHIND, **LED))
FAILED = describe("default", snapshot(ended_run(18, "failed"), **BEHIND))
DIED = describe("default", snapshot(run_row(19), **BEHIND))
BEHIND_ONLY = describe("default", snapshot(**BEHIND))
READY = describe("default", snapshot(ended_run(18, "ready")))
UNREACHABLE = Status.unreachable("default", "the host db.internal does not answer")
BROKEN = Status("default", State.ERROR, 0, "x", error="OperationalError: secret")
#: Texts that no public body may contain.
SECRETS = (
    "0002",
    "shop",
    "web-1",
    "ValueError",
    "broke",
    "internal",
    "4711",
    "default",
)


def test_every_state_is_published() -> None:
    """Each of the eight states maps to one of five public states, and each of those has a text."""
    assert set(payloads.PUBLIC_STATES) == set(State)
    assert set(payloads.PUBLIC_STATES.values()) == set(payloads.MESSAGES)
    assert len(payloads.MESSAGES) == 5


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (READY, {"status": "healthy", "state": "ready", "initialized": True}),
        (
            MIGRATING,
            {"status": "initializing", "state": "migrating", "progress": 21},
        ),
        (
            BEHIND_ONLY,
            {"status": "initializing", "state": "uninitialized", "progress": 0},
        ),
        (
            UNREACHABLE,
            {"status": "initializing", "state": "connecting", "progress": 0},
        ),
        (
            FAILED,
            {
                "status": "unhealthy",
                "state": "error",
                "error": "initialization failed, run 18",
            },
        ),
        (
            DIED,
            {
                "status": "unhealthy",
                "state": "error",
                "error": "initialization failed, run 19",
            },
        ),
        (
            BROKEN,
            {"status": "unhealthy", "state": "error", "error": "initialization failed"},
        ),
    ],
)
def test_health(status, body) -> None:
    """The health body has one of three words, the state, and its progress or error."""
    assert payloads.health(status) == body
    validate_json("health", body)


@pytest.mark.parametrize(
    ("status", "state", "progress", "message"),
    [
        (BEHIND_ONLY, "not_initialized", 0, "has not been initialized yet"),
        (UNREACHABLE, "initializing", 0, "is starting"),
        (MIGRATING, "migrating", 21, "is being migrated"),
        (READY, "ready", 100, "is ready"),
        (FAILED, "error", 0, "failed"),
    ],
)
def test_public_status(status, state, progress, message) -> None:
    """The public status has one of five states, the progress and a fixed text."""
    body = payloads.public_status(status)
    assert (body["state"], body["progress"]) == (state, progress)
    assert message in body["message"]
    validate_json("status", body)


def test_problem() -> None:
    """A blocked request gets problem details as in RFC 9457, with the public state."""
    validate_json("problem", payloads.problem(MIGRATING))
    assert payloads.problem(MIGRATING) == {
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": 503,
        "detail": "The database is being migrated.",
        "state": "migrating",
        "progress": 21,
    }


@pytest.mark.parametrize(
    "status", [READY, MIGRATING, BEHIND_ONLY, UNREACHABLE, FAILED, DIED, BROKEN]
)
def test_nothing_is_given_away(status) -> None:
    """Public bodies contain no migration, app, host, alias or text of an error."""
    bodies = (payloads.health, payloads.public_status, payloads.problem)
    text = json.dumps([body(status) for body in bodies])
    assert [secret for secret in SECRETS if secret in text] == []


def test_details() -> None:
    """The token unlocks all details of each database."""
    step = StepRow(2, "migration", "shop.0002_secret", False, "failed", 1.5)
    blocker = Blocker(8, "app", "psql", "idle", 3.0, "TABLE shop")
    waiting = Activity("SELECT secret", 2.0, 7, False, (blocker,))
    detail = StatusDetail(FAILED, (step,), role="owner", followers=3, activity=waiting)
    [found] = payloads.details([detail])["databases"]
    assert found == {
        **FAILED.as_json(),
        "steps": [step._asdict()],
        "role": "owner",
        "followers": 3,
        "activity": "running for 2 s: SELECT secret; blocked by pid 8 (role app, psql, idle "
        "for 3 s: TABLE shop)",
        "blockers": [
            {
                "pid": 8,
                "role": "app",
                "application": "psql",
                "state": "idle",
                "seconds": 3.0,
                "query": "TABLE shop",
                "client": None,
            }
        ],
        "remaining_seconds": None,
    }
    assert found["run"]["leader"] == "web-1:77"
    assert found["error"] == "ValueError: it broke"
    assert found["pending"] == ["shop.0002_secret"]
    json.dumps(found)
    assert StatusDetail(READY).as_json()["activity"] is None


def test_least_ready() -> None:
    """Of several databases the least ready one counts, by its state and then its progress."""
    least = describe("other", snapshot(run_row(progress=3), **BEHIND, **LED))
    order = [READY, MIGRATING, least, UNREACHABLE, BEHIND_ONLY, FAILED]
    for index, status in enumerate(order):
        assert payloads.least_ready(order[: index + 1]) is status
        assert payloads.least_ready(order[index::-1]) is status


def test_states_of_the_module() -> None:
    """The ES module knows all public states."""
    module = (
        Path(django_safe_init.__file__).parent / "static/django_safe_init/status.js"
    )
    frozen = re.search(r"State = Object\.freeze\(\{(.*?)\}\)", module.read_text(), re.S)
    assert frozen is not None
    states = re.findall(r'"(\w+)"', frozen[1])
    assert set(states) >= set(payloads.PUBLIC_STATES.values())


def test_tenants_are_counted_and_not_named() -> None:
    """The public status counts the schemas of tenants, and names none."""
    failed = FailedSchemas(1, (SchemaFailure("secret", "ValueError: secret"),))
    run = run_row(17, schemas=SchemaProgress(1000, 412, 1))
    found = describe("default", snapshot(run, failed=failed, **LED))
    body = payloads.public_status(found)
    assert body["schemas"] == {
        "total": 1000,
        "done": 412,
        "failed": 1,
        "pending": 587,
        "behind": 588,
    }
    validate_json("status", body)
    for public in (body, payloads.health(found), payloads.problem(found)):
        assert "secret" not in json.dumps(public)
    details = json.dumps(payloads.details([StatusDetail(found)]))
    assert "ValueError: secret" in details
