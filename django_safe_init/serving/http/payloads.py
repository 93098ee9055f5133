"""The JSON bodies of the responses: the public ones, and the details for the status token.

The details begin with `StatusDetail.as_json`, which `safe_init_status --json` prints too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.utils.translation import gettext_lazy as _

from django_safe_init.core.states import State
from django_safe_init.status import Status, StatusDetail

#: The public state for each state.
PUBLIC_STATES: dict[State, str] = {
    State.UNINITIALIZED: "not_initialized",
    State.CONNECTING: "initializing",
    State.ACQUIRING_LOCK: "initializing",
    State.CHECKING_SCHEMA: "initializing",
    State.MIGRATING: "migrating",
    State.VALIDATING: "migrating",
    State.READY: "ready",
    State.ERROR: "error",
}
#: The text for each public state. The texts are fixed, so they cannot disclose anything.
MESSAGES = {
    "not_initialized": _("The database has not been initialized yet."),
    "initializing": _("The initialization of the database is starting."),
    "migrating": _("The database is being migrated."),
    "ready": _("The database is ready."),
    "error": _("The initialization of the database failed."),
}
#: From the most to the least ready.
_ORDER = (
    State.READY,
    State.VALIDATING,
    State.MIGRATING,
    State.CHECKING_SCHEMA,
    State.ACQUIRING_LOCK,
    State.CONNECTING,
    State.UNINITIALIZED,
    State.ERROR,
)

Body = dict[str, Any]

#: The public body of `/health/db` once all databases are ready.
HEALTHY: Body = {"status": "healthy", "state": State.READY.value, "initialized": True}


def least_ready(statuses: Sequence[Status]) -> Status:
    """Return the least ready of the statuses, which stands for all of them."""
    return max(statuses, key=lambda each: (_ORDER.index(each.state), -each.progress))


def health(status: Status) -> Body:
    """Return the public body of `/health/db`."""
    state = status.state.value
    if status.ready:
        return HEALTHY
    if status.state is State.ERROR:
        return {"status": "unhealthy", "state": state, "error": _failure(status)}
    return {"status": "initializing", "state": state, "progress": status.progress}


def public_status(status: Status) -> Body:
    """Return the public body of `/api/db/status`. With tenants it counts them, without names."""
    state = PUBLIC_STATES[status.state]
    body: Body = {
        "state": state,
        "progress": status.progress,
        "message": str(MESSAGES[state]),
    }
    if status.schemas is not None:
        body["schemas"] = status.schemas.as_json()
    return body


def problem(status: Status) -> Body:
    """Return the body for a blocked request: problem details as in RFC 9457."""
    return {
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": 503,
        "detail": str(MESSAGES[PUBLIC_STATES[status.state]]),
        "state": PUBLIC_STATES[status.state],
        "progress": status.progress,
    }


def details(databases: Sequence[StatusDetail]) -> Body:
    """Return the details for the token: each database with the steps of its run."""
    return {"databases": [_database(detail) for detail in databases]}


def _database(detail: StatusDetail) -> Body:
    return {
        **detail.as_json(),
        "steps": [step._asdict() for step in detail.steps],
        "role": detail.role,
        "followers": detail.followers,
        "remaining_seconds": detail.remaining_seconds,
    }


def _failure(status: Status) -> str:
    number = f", run {status.run.id}" if status.run else ""
    return f"initialization failed{number}"
