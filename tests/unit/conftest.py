"""The known statuses of this process, as a test sets them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.conf import settings as django_settings

from django_safe_init.core.schemas import (
    BlockedTenants,
    SchemaProgress,
    SchemaSummary,
)
from django_safe_init.core.states import State
from django_safe_init.serving.background import readiness as module
from django_safe_init.serving.background.readiness import readiness
from django_safe_init.status import Status, StatusDetail, describe
from tests.unit.snapshots import run_row, snapshot


class SilentPoller:
    """A poller that never polls."""

    def __init__(self, alias: str, *arguments: object) -> None:
        self.alias = alias

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def cancel(self) -> None: ...


@pytest.fixture
def set_statuses(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Any]]:
    """Set the statuses of this process's databases; no poller polls."""
    settings.SAFE_INIT = {"IN_TESTS": True}
    monkeypatch.setattr(module, "StatusPoller", SilentPoller)

    def set_all(*statuses: Status) -> None:
        known = django_settings.DATABASES
        for alias in {each.database for each in statuses} - known.keys():
            monkeypatch.setitem(known, alias, dict(known["default"]))
        settings.SAFE_INIT = {
            **settings.SAFE_INIT,
            "DATABASES": [each.database for each in statuses],
        }
        readiness.start()
        for each in statuses:
            report(each)

    yield set_all
    readiness.reset()


def report(status: Status) -> None:
    """Report a status as a poller does."""
    readiness.update(StatusDetail(status))


def status_of(found: Any, database: str = "default") -> Status:
    """Return the status of a snapshot."""
    return describe(database, found)


BEHIND = snapshot(missing=("shop.0002_secret",))
READY = Status("default", State.READY, 100, "everything this build knows is done")

IN_TENANTS = run_row(1, schemas=SchemaProgress(3, 1))
#: The shared schema is done, and a leader is in the schemas of tenants.
SHARED_READY = status_of(
    snapshot(
        IN_TENANTS,
        leader_pid=99,
        shared_suffices=True,
        schemas=SchemaSummary(3, ("t1", "t2")),
    )
)
BLOCKED = BlockedTenants(
    frozenset({"t1", "t2"}), {"t1.example": "t1", "t2.example": "t2"}
)


def report_blocked(blocked: BlockedTenants) -> None:
    """Report a ready database with these blocked tenants, as a poller does."""
    readiness.update(StatusDetail(SHARED_READY, blocked=blocked))
