"""A lookout: what it reports, how often it looks, and that nothing ends it but ready."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from django_safe_init.backends.base.features import BackendFeatures
from django_safe_init.backends.postgresql.features import FEATURES as POSTGRESQL
from django_safe_init.backends.sqlite3.features import FILE, MEMORY
from django_safe_init.core.states import State
from django_safe_init.exceptions import (
    ConfigurationError,
    DatabaseUnreachable,
    LoginRefused,
    SafeInitError,
    UnsupportedEngine,
    WaitTimeout,
)
from django_safe_init.serving.background import poller
from django_safe_init.serving.background.poller import (
    StatusPoller,
    poll_interval,
)
from django_safe_init.status import Status, StatusDetail
from tests.support import wait_until
from tests.unit.conftest import READY, status_of
from tests.unit.snapshots import reading, run_row

MISSING = {"missing": ("shop.0002_more",)}
MIGRATING = status_of(reading(run_row(1), **MISSING, leader_pid=99))
LOCKED = Status("default", State.MIGRATING, 0, "locked", led=True)
BEHIND = status_of(reading(**MISSING))


@pytest.fixture
def look(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[Status]]]:
    """Lets a lookout see, or meet, these one after the other; returns what it reported."""
    monkeypatch.setattr(poller, "poll_interval", lambda seconds: 0)
    started: list[StatusPoller] = []

    def at(*sights: Status | Exception) -> list[Status]:
        left: list[Status | Exception] = list(sights)
        reported: list[StatusDetail] = []

        def open_reader(*arguments: Any) -> Any:
            sight = left.pop(0) if left else READY
            if isinstance(sight, Exception):
                raise sight
            return Reader(sight)

        monkeypatch.setattr(poller, "open_reader", open_reader)
        monkeypatch.setattr(poller, "read_status", lambda alias, reader: reader.sight)
        started.append(StatusPoller("default", None, reported.append))
        started[-1].start()
        started[-1].join(10)
        assert not started[-1].is_alive()
        return [scene.status for scene in reported]

    yield at
    for each in started:
        each.stop()


class Reader:
    """A reader that has one thing to see."""

    def __init__(self, sight: Status) -> None:
        self.sight = sight

    def seconds_left(self, *arguments: object) -> None: ...

    def close(self) -> None: ...


def test_it_ends_with_ready(look) -> None:
    """It reports what it sees, and looks no more once that is ready."""
    assert look(BEHIND, MIGRATING, READY, BEHIND) == [BEHIND, MIGRATING, READY]


@pytest.mark.parametrize(
    ("error", "state", "text"),
    [
        (DatabaseUnreachable("no answer"), State.CONNECTING, "no answer"),
        (LoginRefused("no such role"), State.ERROR, "no such role"),
        (WaitTimeout("no room"), State.CONNECTING, "no room"),
        (ConfigurationError("wrong"), State.ERROR, "wrong"),
        (UnsupportedEngine("which?"), State.ERROR, "which?"),
        (SafeInitError("refused"), State.ERROR, "refused"),
        (OSError("what\nis this?"), State.ERROR, "OSError: what is this?"),
    ],
)
def test_what_goes_wrong_is_a_status(look, error, state, text) -> None:
    """Whatever a look meets is reported, and it looks again."""
    first, last = look(error)
    assert (first.state, first.error) == (state, text)
    assert last.ready


def test_a_locked_table_hides_no_progress(look) -> None:
    """While a migration has locked our tables, the run that was known is still shown."""
    assert look(MIGRATING, LOCKED, LOCKED)[1:3] == [MIGRATING, MIGRATING]


def test_what_is_seen_replaces_what_was(look) -> None:
    """A run that is seen, or another state, is not covered by what was known before."""
    assert look(MIGRATING, BEHIND, LOCKED, READY) == [MIGRATING, BEHIND, LOCKED, READY]


@pytest.mark.parametrize(
    ("features", "lock", "guarded"),
    [
        (POSTGRESQL, "auto", True),
        (FILE, "none", True),
        (MEMORY, "auto", False),
        (BackendFeatures(), "auto", True),
        (BackendFeatures(), "none", False),
    ],
)
def test_nobody_to_wait_for(
    look, monkeypatch, settings, features, lock, guarded
) -> None:
    """Where nobody can lead, and that is accepted, there is nothing to wait for."""
    settings.SAFE_INIT = {"LOCK": lock}
    monkeypatch.setattr(poller, "get_features", lambda alias: features)
    first, *_ = look(BEHIND)
    assert first.ready is not guarded


def test_more_for_the_token(look, monkeypatch, settings) -> None:
    """Steps and leader are looked at only where somebody could ask for them."""
    looked: list[Any] = []

    def read_scene(
        alias: str, reader: Any, before: StatusDetail | None
    ) -> StatusDetail:
        looked.append(before)
        return StatusDetail(reader.sight)

    monkeypatch.setattr(poller, "read_detail", read_scene)
    look(BEHIND)
    assert looked == []
    settings.SAFE_INIT = {"STATUS_TOKEN": "s3cret"}
    look(BEHIND)
    assert [before and before.status for before in looked] == [None, BEHIND]


def test_changes_are_logged_once(look, caplog) -> None:
    """The log says why requests are held back, when that changes, and when it is over."""
    unreached = DatabaseUnreachable("no answer")
    with caplog.at_level(logging.INFO, "django_safe_init"):
        look(unreached, unreached, BEHIND, BEHIND, READY)
    assert [(each.levelname, each.getMessage()) for each in caplog.records] == [
        ("WARNING", "default is not ready: no answer"),
        ("INFO", "default is not ready: not initialized for this build"),
        ("INFO", "default is ready for this process"),
    ]


@pytest.mark.parametrize(
    ("took", "pause"), [(0, 1), (0.01, 1), (0.1, 2), (0.15, 3), (2, 3), (60, 3)]
)
def test_pauses(took, pause) -> None:
    """At most once a second, and rarer the longer a look takes; never quite in step."""
    pauses = [poll_interval(took) for _ in range(50)]
    assert pause <= min(pauses) < max(pauses) <= 1.25 * pause


def test_stop(monkeypatch) -> None:
    """A lookout that is stopped ends without another look."""
    reported: list[StatusDetail] = []
    monkeypatch.setattr(poller, "open_reader", lambda *arguments: Reader(BEHIND))
    monkeypatch.setattr(poller, "read_status", lambda alias, reader: reader.sight)
    watching = StatusPoller("default", None, reported.append)
    watching.start()
    wait_until(lambda: reported)
    watching.stop()
    assert not watching.is_alive()
    assert [scene.status for scene in reported] == [BEHIND]


def test_not_heard_yet() -> None:
    """A database that has not answered yet has a status as well."""
    assert Status.unreachable("default") == Status(
        "default", State.CONNECTING, 0, "waiting for the server"
    )
