"""What this process knows of its databases, as the test says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.conf import settings as django_settings

from django_safe_init.core.states import State
from django_safe_init.serving.background import readiness as module
from django_safe_init.serving.background.readiness import readiness
from django_safe_init.status import Status, StatusDetail, describe
from tests.unit.snapshots import reading


class Deaf:
    """A lookout that never looks."""

    def __init__(self, alias: str, *arguments: object) -> None:
        self.alias = alias

    def start(self) -> None: ...

    def stop(self) -> None: ...


@pytest.fixture
def tell(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Any]]:
    """Tells this process the status of its databases; it is switched on, and looks at none."""
    settings.SAFE_INIT = {"IN_TESTS": True}
    monkeypatch.setattr(module, "StatusPoller", Deaf)

    def tell_all(*statuses: Status) -> None:
        known = django_settings.DATABASES
        for alias in {each.database for each in statuses} - known.keys():
            monkeypatch.setitem(known, alias, dict(known["default"]))
        settings.SAFE_INIT = {
            **settings.SAFE_INIT,
            "DATABASES": [each.database for each in statuses],
        }
        readiness.start()
        for each in statuses:
            hear(each)

    yield tell_all
    readiness.reset()


def hear(status: Status) -> None:
    """This process hears of a status."""
    readiness.update(StatusDetail(status))


def status_of(found: Any, database: str = "default") -> Status:
    """The status that comes of a reading."""
    return describe(database, found)


BEHIND = reading(missing=("shop.0002_secret",))
READY = Status("default", State.READY, 100, "everything this build knows is done")
