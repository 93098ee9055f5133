"""The poller: its reports, its interval, and its end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from django_safe_init.backends.base.features import BackendFeatures
from django_safe_init.backends.postgresql.features import FEATURES as POSTGRESQL
from django_safe_init.backends.sqlite3.features import FILE, MEMORY
from django_safe_init.core.schemas import BlockedTenants
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
from tests.support import PATIENCE, wait_until
from tests.unit.conftest import BLOCKED, READY, SHARED_READY, status_of
from tests.unit.snapshots import run_row, snapshot

MISSING = {"missing": ("shop.0002_more",)}
MIGRATING = status_of(snapshot(run_row(1), **MISSING, leader_pid=99))
LOCKED = Status("default", State.MIGRATING, 0, "locked", led=True)
BEHIND = status_of(snapshot(**MISSING))


@pytest.fixture
def poll(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[Status]]]:
    """Run a poller that meets these statuses and errors in turn; return its reports."""
    monkeypatch.setattr(poller, "poll_interval", lambda seconds: 0)
    started: list[StatusPoller] = []

    def run(*results: Status | Exception) -> list[Status]:
        left: list[Status | Exception] = list(results)
        reported: list[StatusDetail] = []

        def open_reader(*arguments: Any) -> Any:
            result = left.pop(0) if left else READY
            if isinstance(result, Exception):
                raise result
            return Reader(result)

        monkeypatch.setattr(poller, "open_reader", open_reader)
        monkeypatch.setattr(poller, "read_status", lambda alias, reader: reader.status)
        started.append(StatusPoller("default", None, reported.append))
        started[-1].start()
        started[-1].join(PATIENCE)
        assert not started[-1].is_alive()
        return [detail.status for detail in reported]

    yield run
    for each in started:
        each.stop()


class Reader:
    """A reader with one status."""

    def __init__(self, status: Status) -> None:
        self.status = status

    def seconds_left(self, *arguments: object) -> None: ...

    def blocked(self, behind: object) -> BlockedTenants:
        return BLOCKED

    def close(self) -> None: ...


def test_it_ends_with_ready(poll) -> None:
    """The poller reports each status, and ends once the database is ready."""
    assert poll(BEHIND, MIGRATING, READY, BEHIND) == [BEHIND, MIGRATING, READY]


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
def test_errors_become_a_status(poll, error, state, text) -> None:
    """The poller reports any error as a status, and polls again."""
    first, last = poll(error)
    assert (first.state, first.error) == (state, text)
    assert last.ready


def test_a_locked_table_hides_no_progress(poll) -> None:
    """While a migration locks our tables, the poller keeps reporting the known run."""
    assert poll(MIGRATING, LOCKED, LOCKED)[1:3] == [MIGRATING, MIGRATING]


def test_a_new_status_replaces_the_old(poll) -> None:
    """A run that can be read, or another state, replaces the known status."""
    assert poll(MIGRATING, BEHIND, LOCKED, READY) == [MIGRATING, BEHIND, LOCKED, READY]


@pytest.mark.parametrize(
    ("features", "guarded"),
    [(POSTGRESQL, True), (FILE, True), (BackendFeatures(), True), (MEMORY, False)],
)
def test_private_databases(poll, monkeypatch, features, guarded) -> None:
    """A database is read unless only this process can reach it."""
    monkeypatch.setattr(poller, "get_features", lambda alias: features)
    first, *_ = poll(BEHIND)
    assert first.ready is not guarded


def test_more_for_the_token(poll, monkeypatch, settings) -> None:
    """The poller reads steps and leader only if a token is configured."""
    looked: list[Any] = []

    def read_scene(
        alias: str, reader: Any, before: StatusDetail | None
    ) -> StatusDetail:
        looked.append(before)
        return StatusDetail(reader.status)

    monkeypatch.setattr(poller, "read_detail", read_scene)
    poll(BEHIND)
    assert looked == []
    settings.SAFE_INIT = {"STATUS_TOKEN": "s3cret"}
    poll(BEHIND)
    assert [before and before.status for before in looked] == [None, BEHIND]


def test_changes_are_logged_once(poll, caplog) -> None:
    """The poller logs each change of the status once."""
    unreached = DatabaseUnreachable("no answer")
    with caplog.at_level(logging.INFO, "django_safe_init"):
        poll(unreached, unreached, BEHIND, BEHIND, READY)
    assert [(each.levelname, each.getMessage()) for each in caplog.records] == [
        ("WARNING", "default is not ready: no answer"),
        ("INFO", "default is not ready: not initialized for this build"),
        ("INFO", "default is ready for this process"),
    ]


@pytest.mark.parametrize(
    ("took", "pause"), [(0, 1), (0.01, 1), (0.1, 2), (0.15, 3), (2, 3), (60, 3)]
)
def test_pauses(took, pause) -> None:
    """The poller polls at most once a second, less often if polls are slow, and with jitter."""
    pauses = [poll_interval(took) for _ in range(50)]
    assert pause <= min(pauses) < max(pauses) <= 1.25 * pause


def test_stop(monkeypatch) -> None:
    """A stopped poller ends without another poll."""
    reported: list[StatusDetail] = []
    monkeypatch.setattr(poller, "open_reader", lambda *arguments: Reader(BEHIND))
    monkeypatch.setattr(poller, "read_status", lambda alias, reader: reader.status)
    watching = StatusPoller("default", None, reported.append)
    watching.start()
    wait_until(lambda: reported)
    watching.stop()
    assert not watching.is_alive()
    assert [detail.status for detail in reported] == [BEHIND]


def test_unreachable() -> None:
    """A database that has not answered yet has a status too."""
    assert Status.unreachable("default") == Status(
        "default", State.CONNECTING, 0, "waiting for the server"
    )


def test_it_polls_until_all_tenants_are_done(poll) -> None:
    """The poller goes on while schemas are behind, and reports the blocked tenants."""
    assert poll(SHARED_READY, READY, BEHIND) == [SHARED_READY, READY]


def test_cancelled_during_a_poll(monkeypatch) -> None:
    """A poller that is cancelled during a poll does not report it."""
    reported: list[StatusDetail] = []

    def open_reader(*arguments: Any) -> Any:
        thread.cancel()
        return Reader(READY)

    monkeypatch.setattr(poller, "open_reader", open_reader)
    monkeypatch.setattr(poller, "read_status", lambda alias, reader: reader.status)
    thread = StatusPoller("default", None, reported.append)
    thread.start()
    thread.join(PATIENCE)
    assert reported == []
