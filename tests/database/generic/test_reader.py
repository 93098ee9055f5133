"""Reading on an engine without a leader lock: MariaDB."""

from __future__ import annotations

from contextlib import closing

import pytest
from django.core.management import call_command
from django.db import connections
from prometheus_client import CollectorRegistry, generate_latest

from django_safe_init import (
    DatabaseUnreachable,
    UnsupportedEngine,
    get_status,
    initialize,
    is_ready,
)
from django_safe_init.backends import get_backend, get_features
from django_safe_init.backends.base.features import BackendFeatures
from django_safe_init.contrib.health_check import SafeInit
from django_safe_init.contrib.prometheus import SafeInitCollector
from django_safe_init.core.states import State
from django_safe_init.serving.background.readiness import readiness
from tests.database.conftest import INITIAL
from tests.mariadb import MariaDatabase, install_driver
from tests.support import make_context, wait_until
from tests.unit.snapshots import ended_run


@pytest.fixture
def maria(mariadb, django_database, log_in_as):
    """Yield `mariadb` as Django's `default`."""
    install_driver()
    log_in_as(**mariadb.settings(OPTIONS={}))
    yield mariadb
    log_in_as(**django_database.settings())


def test_status(maria: MariaDatabase, shop) -> None:
    """The status follows the recorded migrations, and nothing is written."""
    shop.write("0001_initial", INITIAL)
    assert get_features("default") == BackendFeatures()
    status = get_status()
    assert (status.state, status.pending) == (
        State.UNINITIALIZED,
        ("shop.0001_initial",),
    )
    assert not is_ready()
    assert not maria.has_table("django_migrations")
    call_command("migrate", verbosity=0)
    assert is_ready()
    assert get_status().progress == 100
    connections["default"].close()
    assert is_ready()
    assert connections["default"].connection is None  # it has read on another one
    with closing(get_backend(make_context()).reader()) as reader:
        assert reader.read().ready
        assert reader.history(5) == []
        assert reader.finished_run() is None
        assert reader.find_run(1) is None
        assert reader.traceback(ended_run(1, "failed")) is None
        assert reader.previous_findings(1) is None
    connections["default"].close()


def test_unknown_migrations(maria: MariaDatabase, shop) -> None:
    """A database that has followed another branch is named."""
    shop.write("0001_initial", INITIAL)
    call_command("migrate", verbosity=0)
    maria.rows("UPDATE django_migrations SET name = '0001_other'")
    status = get_status()
    assert status.unknown == ("shop.0001_other",)
    assert "does not know shop.0001_other" in status.message
    connections["default"].close()


def test_leading_is_refused(maria: MariaDatabase, shop) -> None:
    """`initialize` raises; in the mode "external" it waits for another process."""
    shop.write("0001_initial", INITIAL)
    with pytest.raises(UnsupportedEngine, match=r"engine django\.db\.backends\.mysql"):
        initialize()
    call_command("migrate", verbosity=0)
    outcome = initialize(mode="external")
    assert (outcome.result, outcome.role) == ("ready", "none")
    connections["default"].close()


def test_integrations(maria: MariaDatabase, shop) -> None:
    """The metrics and the health check tell the same as the status."""
    import asyncio

    shop.write("0001_initial", INITIAL)
    registry = CollectorRegistry()
    registry.register(SafeInitCollector())
    ready = b'django_safe_init_state{database="default",state="ready"} '
    assert ready + b"0.0" in generate_latest(registry)
    call_command("migrate", verbosity=0)
    connections["default"].close()
    registry = CollectorRegistry()
    registry.register(SafeInitCollector())
    ready = b'django_safe_init_state{database="default",state="ready"} '
    assert ready + b"1.0" in generate_latest(registry)
    readiness.start_polling()
    wait_until(readiness.ready)
    assert asyncio.run(SafeInit().get_result()).error is None
    readiness.reset()


def test_a_locked_table(maria: MariaDatabase, shop, settings) -> None:
    """A table that another session locks does not make a reader wait for long."""
    shop.write("0001_initial", INITIAL)
    call_command("migrate", verbosity=0)
    connections["default"].close()
    settings.SAFE_INIT = {**settings.SAFE_INIT, "CONNECT_TIMEOUT": 2}
    with maria.server.connect(database=maria.name) as other:
        other.cursor().execute("LOCK TABLES django_migrations WRITE")
        with pytest.raises(DatabaseUnreachable, match="cannot be read"):
            get_status()
    assert is_ready()


def test_a_server_without_an_answer(maria, black_hole, log_in_as, settings) -> None:
    """A server that never answers is given up after CONNECT_TIMEOUT."""
    log_in_as(PORT=str(black_hole))
    settings.SAFE_INIT = {**settings.SAFE_INIT, "CONNECT_TIMEOUT": 1}
    with pytest.raises(DatabaseUnreachable):
        get_status()


def test_the_projects_options_win(maria, log_in_as) -> None:
    """A time limit in OPTIONS stays, and a pool is not used."""
    log_in_as(OPTIONS={"connect_timeout": 7, "pool": True})
    reader = get_backend(make_context()).reader()
    reader.close()  # it has opened nothing yet
    assert reader._connection() is reader._connection()
    assert reader._connection().settings_dict["OPTIONS"] == {
        "connect_timeout": 7,
        "read_timeout": 10,
    }
    reader.close()
    log_in_as(OPTIONS={})
