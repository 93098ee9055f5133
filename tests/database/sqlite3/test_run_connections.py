"""Django's connection during a run on SQLite."""

from __future__ import annotations

import pytest
from django.db import connections
from django.db.backends.signals import connection_created

from django_safe_init import InitializationFailed, initialize
from django_safe_init.backends.sqlite3 import run_connections
from django_safe_init.backends.sqlite3.run_connections import RunConnection
from django_safe_init.core.cancellation import CancellationToken


class Boom(Exception):
    """An error of the test."""


def receivers() -> int:
    return len(connection_created.receivers)


@pytest.fixture(params=[Boom, KeyboardInterrupt, SystemExit])
def error(request) -> type[BaseException]:
    return request.param


@pytest.fixture
def refusing(error):
    """Connect a receiver that raises for each new connection."""

    def refuse(**kwargs) -> None:
        raise error("not this one")

    connection_created.connect(refuse)
    yield
    connection_created.disconnect(refuse)


def test_a_receiver_that_raises(lite, refusing, error) -> None:
    """The project's wrapper and receivers are back, and the new connection is closed."""
    before, count = connections["default"], receivers()
    entered = RunConnection("default")
    with pytest.raises(error), entered:
        raise AssertionError("not reached")
    assert connections["default"] is before
    assert receivers() == count


@pytest.mark.parametrize("step", ["create_connection", "ensure_connection"])
def test_each_step(lite, monkeypatch, error, step) -> None:
    """An error of each step restores the project's wrapper."""
    before, count, made = connections["default"], receivers(), []
    create = connections.create_connection

    def make(alias: str):
        if step == "create_connection":
            raise error
        made.append(create(alias))
        monkeypatch.setattr(made[0], step, fail)
        return made[0]

    def fail() -> None:
        raise error

    monkeypatch.setattr(connections, "create_connection", make)
    token = CancellationToken()
    monkeypatch.setattr(run_connections, "current_token", lambda: token)
    with pytest.raises(error):
        RunConnection("default").__enter__()
    assert connections["default"] is before
    assert receivers() == count
    assert all(each.connection is None for each in made)
    assert not token._registered


def test_a_run(lite, small_shop, refusing, error) -> None:
    """A run that gets no connection leaves the project's wrapper in its place."""
    before = connections["default"]
    with pytest.raises(
        KeyboardInterrupt if error is KeyboardInterrupt else InitializationFailed
    ):
        initialize()
    assert connections["default"] is before
