"""Several hosts in HOST, a service file, and connections that reach another server."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import psycopg
import pytest
from django.db import connection, connections

from django_safe_init import (
    DatabaseUnreachable,
    LoginRefused,
    SafeInitError,
    get_status,
    initialize,
)
from django_safe_init.backends.postgresql.lock import AdvisoryLock
from django_safe_init.backends.postgresql.lock_keys import work_key
from django_safe_init.backends.postgresql.run_connections import FencedConnections
from django_safe_init.exceptions import LockLost, ReadOnlyServer
from django_safe_init.management.commands.safe_init_status import Command as Status
from django_safe_init.management.commands.safe_init_unlock import Command as Unlock
from django_safe_init.management.commands.safe_init_validate import Command as Validate
from tests.database.engine.base import DatabaseWrapper
from tests.streaming import StreamingPair
from tests.support import PATIENCE, Database

pytestmark = pytest.mark.thorough

READ_WRITE = {"target_session_attrs": "read-write"}
_numbers = count(1)
Configure = Callable[..., None]


@pytest.fixture(scope="module")
def pair() -> Iterator[StreamingPair]:
    made = StreamingPair()
    yield made
    made.close()


@pytest.fixture
def replicated(pair) -> Iterator[Database]:
    """Yield a new database of the primary, which the standby has too."""
    name = f"hosts_{os.getpid()}_{next(_numbers)}"
    pair.primary.create_database(name)
    pair.wait_for_standby()
    database = Database(name, pair.primary.params())
    yield database
    connections["default"].close()
    database.close()
    pair.primary.drop_database(name)


@pytest.fixture
def use_hosts(
    request,
    django_database,
    replicated,
    pair,
    log_in_as,
    settings,
    tmp_path,
    monkeypatch,
) -> Configure:
    """Return a function that names the standby first and the primary second, in some way."""
    hosts = {
        "HOST": f"{pair.standby.host},{pair.primary.host}",
        "PORT": f"{pair.standby.port},{pair.primary.port}",
    }

    def use(way: str, **options: Any) -> None:
        base = {"NAME": replicated.name, "OPTIONS": options}
        if way == "hosts":
            log_in_as(**base, **hosts)
        elif way == "direct":
            standby = {"HOST": pair.standby.host, "PORT": pair.standby.port}
            log_in_as(**{**base, **standby, "OPTIONS": {}})
            direct = {**hosts, "OPTIONS": options}
            settings.SAFE_INIT = {**settings.SAFE_INIT, "DIRECT": {"default": direct}}
        else:
            file = tmp_path / "services"
            lines = [f"host={hosts['HOST']}", f"port={hosts['PORT']}", "user=postgres"]
            file.write_text("\n".join(["[shop]", *lines, f"dbname={replicated.name}"]))
            monkeypatch.setenv("PGSERVICEFILE", str(file))
            log_in_as(
                NAME="",
                HOST="",
                PORT="",
                USER="",
                OPTIONS={"service": "shop", **options},
            )

    before = {
        key: connections.settings["default"][key]
        for key in ("NAME", "HOST", "PORT", "USER")
    }
    yield use
    log_in_as(**before)


@pytest.mark.parametrize("way", ["hosts", "direct", "service"])
@pytest.mark.parametrize("options", [{}, {"load_balance_hosts": "random"}])
def test_the_primary_is_found(
    replicated, pair, small_shop, command_line, use_hosts, way, options
) -> None:
    """Every session finds the primary behind the standby that HOST names first."""
    use_hosts(way, **READ_WRITE, **options)
    assert initialize().role == "leader"
    assert replicated.applied_once() == ["shop.0001_initial", "shop.0002_sale"]
    assert initialize().role == "none"
    pair.wait_for_standby()
    assert get_status().ready
    for command, name in (
        (Status, "safe_init_status"),
        (Validate, "safe_init_validate"),
        (Unlock, "safe_init_unlock"),
    ):
        arguments = ["--noinput"] if command is Unlock else []
        assert command_line(command, name, *arguments).code == 0


def test_a_follower_on_several_hosts(
    replicated, small_shop, use_hosts, in_background
) -> None:
    """A follower with several hosts waits for the leader on the primary."""
    use_hosts("hosts", **READ_WRITE)
    followers: list[Any] = []

    def follow(connection: Any) -> None:
        followers.append(in_background(initialize))
        # A follower listens once it has seen the leader.
        while not replicated.backends("query LIKE 'LISTEN%'"):
            assert followers[0].is_alive()

    small_shop.run("0003_wait", follow)
    assert initialize().role == "leader"
    assert followers[0].result(PATIENCE).role == "follower"


def test_no_primary(
    replicated, pair, small_shop, log_in_as, settings, use_hosts
) -> None:
    """If every host is a standby, the wait ends as for one standby."""
    use_hosts("hosts", **READ_WRITE)
    log_in_as(PORT=f"{pair.standby.port},{pair.standby.port}")
    settings.SAFE_INIT = {**settings.SAFE_INIT, "CONNECT_ATTEMPTS": 2}
    with pytest.raises(ReadOnlyServer, match="session is read-only") as caught:
        initialize()
    assert caught.value.exit_code == 2


def test_a_host_that_is_down(
    replicated, pair, small_shop, log_in_as, settings, use_hosts
) -> None:
    """A host that is down, and one that refuses the role, are not a final refusal."""
    settings.SAFE_INIT = {**settings.SAFE_INIT, "CONNECT_ATTEMPTS": 1}
    use_hosts("hosts", **READ_WRITE)
    log_in_as(PORT=f"1,{pair.primary.port}")
    assert initialize().role == "leader"
    log_in_as(USER="nobody_here")
    with pytest.raises(DatabaseUnreachable) as caught:
        get_status()
    assert not isinstance(caught.value, LoginRefused)
    log_in_as(PORT=f"{pair.standby.port},{pair.primary.port}")
    with pytest.raises(LoginRefused):
        get_status()
    log_in_as(USER="postgres")


# Two servers that are both primaries


def test_a_connection_to_another_server(session, server16) -> None:
    """A run's connection that does not see the leader lock in its own server is closed."""
    lock = AdvisoryLock(session)
    assert lock.try_acquire()
    other = {"HOST": server16.host, "PORT": server16.port, "NAME": "postgres"}
    with FencedConnections("default", lock, other):
        with pytest.raises(LockLost, match="reached another server or database"):
            connection.ensure_connection()
        assert connection.connection is None
    lock.verify()
    database = Database("postgres", server16.params())
    assert database.holders(work_key()) == []
    database.close()


@pytest.fixture
def split(
    django_database, server16, log_in_as, monkeypatch
) -> Iterator[tuple[Database, Database]]:
    """Let Django's connections reach another server than the sessions of this package."""
    server16.create_database(django_database.name)
    other = Database(django_database.name, server16.params())

    def connect(wrapper: DatabaseWrapper, params: dict[str, Any]) -> Any:
        if "application_name" not in params:
            params = {**params, "port": server16.port}
        return psycopg.connect(**params)

    monkeypatch.setattr(DatabaseWrapper, "connect_with", staticmethod(connect))
    engine = connections.settings["default"]["ENGINE"]
    log_in_as(ENGINE="tests.database.engine")
    yield django_database, other
    log_in_as(ENGINE=engine)
    other.close()
    server16.drop_database(django_database.name)


def test_a_split_project(split, small_shop) -> None:
    """A process whose connections reach two servers migrates neither of them."""
    ours, other = split
    with pytest.raises(SafeInitError, match="another server or database") as caught:
        initialize()
    assert caught.value.exit_code in (1, 5)
    for database in (ours, other):
        assert not database.has_table("shop_product")
        assert database.applied_counts() == {}
    assert {run["outcome"] for run in ours.runs()} <= {"transient", "failed"}
