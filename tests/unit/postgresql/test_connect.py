"""Direct connections, and the pauses between attempts to connect."""

from __future__ import annotations

import copy
import random

import psycopg
import pytest
from django.db import connections

from django_safe_init.backends.postgresql.connect import (
    KEEPALIVES,
    create_direct_wrapper,
    retry_when_busy,
)
from django_safe_init.conf import Settings
from django_safe_init.core.deadline import connect_pauses


@pytest.fixture
def options(monkeypatch):
    """Return the OPTIONS of `default`, which the test fills."""
    chosen: dict[str, object] = {}
    monkeypatch.setitem(connections.settings["default"], "OPTIONS", chosen)
    return chosen


def test_no_pool(options) -> None:
    """A direct connection has no pool, which would keep a session lock after `close()`."""
    options["pool"] = {"min_size": 1}
    before = copy.deepcopy(connections.settings["default"])
    assert "pool" not in create_direct_wrapper("default").settings_dict["OPTIONS"]
    assert connections.settings["default"] == before


def test_keepalives(options) -> None:
    """Keepalives detect a dead network, unless the project configured its own."""
    options["keepalives_idle"] = 99
    found = create_direct_wrapper("default").settings_dict["OPTIONS"]
    assert found == {**KEEPALIVES, "keepalives_idle": 99}


@pytest.mark.usefixtures("options")
def test_direct() -> None:
    """DIRECT overrides DATABASES for a direct connection only."""
    wrapper = create_direct_wrapper("default", {"HOST": "server", "PORT": 5433})
    assert wrapper.settings_dict["HOST"] == "server"
    assert wrapper.settings_dict["PORT"] == 5433
    assert wrapper.settings_dict["NAME"] == connections.settings["default"]["NAME"]
    assert connections.settings["default"]["HOST"] != "server"
    assert wrapper.alias == "default"


class FullServer:
    """A connection wrapper whose server rejects the first connections with these texts."""

    def __init__(self, *refusals: str) -> None:
        self.refusals = list(refusals)

    def get_new_connection(self, params: dict[str, object]) -> dict[str, object]:
        if self.refusals:
            raise psycopg.OperationalError(self.refusals.pop(0))
        return params


def test_a_full_server_is_waited_for() -> None:
    """`retry_when_busy` connects as soon as the full server has a free slot."""
    full = "FATAL: sorry, too many clients already"
    wrapper = retry_when_busy(FullServer(full, full), lambda: 60)
    assert wrapper.get_new_connection({"dbname": "shop"}) == {"dbname": "shop"}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("connection refused", 60), ("sorry, too many clients already", 0)],
)
def test_other_errors(text, seconds) -> None:
    """`retry_when_busy` raises other errors, and the server's error when the time is over."""
    wrapper = retry_when_busy(FullServer(text), lambda: seconds)
    with pytest.raises(psycopg.OperationalError, match=text):
        wrapper.get_new_connection({})


@pytest.mark.parametrize("factor", [0.75, 1.0])
def test_backoff(monkeypatch, factor) -> None:
    """Ten attempts have nine pauses that double from 0.5 s to at most 30 s, minus jitter."""
    monkeypatch.setattr(random, "uniform", lambda low, high: factor)
    pauses = list(connect_pauses(Settings()))
    assert pauses == [pause * factor for pause in (0.5, 1, 2, 4, 8, 16, 30, 30, 30)]


def test_jitter_takes_off_a_quarter_at_most() -> None:
    """Jitter shortens a pause by at most a quarter."""
    for _ in range(50):
        [pause] = connect_pauses(Settings(connect_attempts=2))
        assert 0.375 <= pause <= 0.5


def test_one_attempt_has_no_pause() -> None:
    """CONNECT_ATTEMPTS = 1 tries once."""
    assert list(connect_pauses(Settings(connect_attempts=1))) == []


def test_backoff_is_limited() -> None:
    """CONNECT_MAX_WAIT is the longest pause."""
    settings = Settings(connect_attempts=20, connect_max_wait=1)
    assert max(connect_pauses(settings)) <= 1
