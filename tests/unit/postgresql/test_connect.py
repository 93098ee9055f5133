"""Wrappers of our own: unpooled, direct, and nothing else changed."""

from __future__ import annotations

import copy

import psycopg
import pytest
from django.db import connections

from django_safe_init.backends.postgresql.connect import (
    KEEPALIVES,
    create_direct_wrapper,
    retry_when_busy,
)
from django_safe_init.core.databases import check_alias
from django_safe_init.exceptions import ConfigurationError


@pytest.fixture
def options(monkeypatch):
    """The OPTIONS of `default`, to be filled by the test."""
    chosen: dict[str, object] = {}
    monkeypatch.setitem(connections.settings["default"], "OPTIONS", chosen)
    return chosen


def test_the_pool_is_left_out(options) -> None:
    """A pool keeps a session lock after close(): our wrapper has none, theirs keeps it."""
    options["pool"] = {"min_size": 1}
    before = copy.deepcopy(connections.settings["default"])
    assert "pool" not in create_direct_wrapper("default").settings_dict["OPTIONS"]
    assert connections.settings["default"] == before


def test_keepalives(options) -> None:
    """A dead network is noticed by keepalives, unless the project chose others."""
    options["keepalives_idle"] = 99
    found = create_direct_wrapper("default").settings_dict["OPTIONS"]
    assert found == {**KEEPALIVES, "keepalives_idle": 99}


@pytest.mark.usefixtures("options")
def test_direct() -> None:
    """What DIRECT says wins over DATABASES, for this wrapper only."""
    wrapper = create_direct_wrapper("default", {"HOST": "server", "PORT": 5433})
    assert wrapper.settings_dict["HOST"] == "server"
    assert wrapper.settings_dict["PORT"] == 5433
    assert wrapper.settings_dict["NAME"] == connections.settings["default"]["NAME"]
    assert connections.settings["default"]["HOST"] != "server"
    assert wrapper.alias == "default"


def test_check_alias() -> None:
    """An alias that is not there is an error that lists those that are."""
    check_alias("default")
    with pytest.raises(ConfigurationError) as caught:
        check_alias("nowhere")
    assert str(caught.value) == (
        "There is no database 'nowhere' in DATABASES. Use one of: default."
    )


class FullServer:
    """A wrapper whose server refuses the first connections, each with the next text."""

    def __init__(self, *refusals: str) -> None:
        self.refusals = list(refusals)

    def get_new_connection(self, params: dict[str, object]) -> dict[str, object]:
        if self.refusals:
            raise psycopg.OperationalError(self.refusals.pop(0))
        return params


def test_a_full_server_is_waited_for() -> None:
    """A run's connection is had as soon as the server has one."""
    full = "FATAL: sorry, too many clients already"
    wrapper = retry_when_busy(FullServer(full, full), 60)
    assert wrapper.get_new_connection({"dbname": "shop"}) == {"dbname": "shop"}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("connection refused", 60), ("sorry, too many clients already", 0)],
)
def test_other_refusals_are_not(text, seconds) -> None:
    """Another error, or a server that stays full, is the caller's."""
    wrapper = retry_when_busy(FullServer(text), seconds)
    with pytest.raises(psycopg.OperationalError, match=text):
        wrapper.get_new_connection({})
