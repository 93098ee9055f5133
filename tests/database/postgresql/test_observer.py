"""The PostgreSQL observer keeps a session while the database server has room."""

from __future__ import annotations

import time

import psycopg
import pytest

from django_safe_init.backends.postgresql import observer as module
from django_safe_init.backends.postgresql.lock import AdvisoryLock
from django_safe_init.backends.postgresql.lock_keys import channel
from django_safe_init.backends.postgresql.observer import PostgresObserver
from django_safe_init.backends.postgresql.session import Session
from tests.support import make_context, wait_until


@pytest.fixture
def observer(django_database, shop):
    made = PostgresObserver(make_context())
    yield made
    made.close()


@pytest.fixture
def pauses(monkeypatch) -> list[float]:
    """Return the list of a follower's pauses; each ends at once."""
    noted: list[float] = []
    monkeypatch.setattr(module, "sleep", noted.append)
    return noted


def test_with_room_it_listens(observer, django_database) -> None:
    """An observer keeps its session and listens while the server has room."""
    session = observer.reader().session
    observer.wait()
    observer.wait()
    assert observer.session is session
    assert session.rows("SELECT pg_listening_channels()")
    assert observer.reader().session is session


def test_a_notification_ends_the_pause(observer, session, monkeypatch) -> None:
    """The leader's notification ends the wait, long before the next poll."""
    observer.reader()
    observer.wait()
    monkeypatch.setattr(module.random, "uniform", lambda *bounds: 3600.0)
    lock = AdvisoryLock(session)
    assert lock.try_acquire()
    lock.release()
    observer.wait()


def test_many_notifications(observer, session, in_background) -> None:
    """Any role may send notifications; a flood of them causes about two queries a second."""
    observer.reader()
    observer.wait()
    name = channel()
    started = time.monotonic()

    def flood() -> None:
        for _ in range(400):
            session.rows(f"NOTIFY {name}")
            time.sleep(0.01)

    flooding, looks = in_background(flood), 0
    while flooding.is_alive():
        observer.wait()
        looks += 1
    flooding.result()
    # The first queries are close together, the later ones half a second apart and more.
    assert looks <= 6 + 2.5 * (time.monotonic() - started)
    observer.wait()
    observer.wait()
    assert observer._least_pause == 0  # the next notification is obeyed at once


@pytest.mark.parametrize(
    ("limited", "options", "is_kept"),
    [
        ("ROLE {used}", "LOGIN", False),
        ("DATABASE {database}", "LOGIN", False),
        ("ROLE {used}", "LOGIN SUPERUSER", True),
        ("ROLE {unused}", "LOGIN", True),
    ],
)
def test_a_limit_of_connections(
    observer,
    pauses,
    connect_raw,
    django_database,
    log_in_as,
    new_role,
    limited,
    options,
    is_kept,
) -> None:
    """A follower keeps no session if its role or database uses half of its connections."""
    used = new_role(f"used_{django_database.name}", options)
    unused = new_role(f"unused_{django_database.name}")
    target = limited.format(used=used, unused=unused, database=django_database.name)
    django_database.rows(f"ALTER {target} CONNECTION LIMIT 4")
    log_in_as(USER=used)
    for _ in range(2):
        connect_raw(user=used)
    observer.reader()
    observer.wait()
    assert observer.keeps_connection is is_kept
    assert (observer.session is not None) is is_kept


def test_a_poll_without_room_is_cheap(
    observer, pauses, connect_raw, django_database, monkeypatch
) -> None:
    """Hundreds of followers without a session cost the server five messages a poll each."""
    for _ in range(
        django_database.value("SELECT current_setting('max_connections')::int") // 2
    ):
        connect_raw()
    messages: list[str] = []
    execute = Session._execute

    def count(self, statement, params):
        messages.append(statement)
        return execute(self, statement, params)

    monkeypatch.setattr(Session, "_execute", count)
    for _ in range(3):
        reader = observer.reader()
        reader.peek()
        reader.read()
        observer.wait()
        assert observer.session is None
    # The search of new tables, two reads, a second search, and the free slots.
    assert len(messages) <= 3 * 5


def test_without_room_it_disconnects(
    observer, pauses, connect_raw, django_database
) -> None:
    """An observer closes its session between polls if half of the server's slots are taken."""
    slots = django_database.value("SELECT current_setting('max_connections')::int")
    for _ in range(slots // 2):
        connect_raw()
    observer.reader()
    wait_until(lambda: django_database.followers())
    observer.wait()
    assert observer.session is None
    wait_until(lambda: not django_database.followers())
    [pause] = pauses
    assert pause == 0.75 or 2 <= pause <= 3
    assert observer.reader().peek().latest is None


def test_most_poll_rarely(observer, monkeypatch, pauses) -> None:
    """Without a session one observer in eight polls often, and the others every three seconds."""
    for chance in (0.0, 0.874, 0.876):
        monkeypatch.setattr(module.random, "random", lambda chance=chance: chance)
        observer.wait()
    assert [2 <= pause <= 3 for pause in pauses] == [True, True, False]
    assert pauses[2] == 0.75


def test_a_poolers_connection_is_kept(observer, monkeypatch, pauses) -> None:
    """An observer keeps a connection to a pooler, and polls instead of listening."""
    session = observer.reader().session
    monkeypatch.setattr(psycopg.ConnectionInfo, "backend_pid", property(lambda _: 1))
    observer.wait()
    observer.wait()
    assert observer.session is session
    assert all(0.5 <= pause <= 1 for pause in pauses)
    assert len(pauses) == 2
    assert session.rows("SELECT pg_listening_channels()") == []


def test_room_is_queried_again(observer, monkeypatch) -> None:
    """The observer asks the server for its room again after ten seconds."""
    queries = []
    session = observer.reader().session
    real = session.read
    monkeypatch.setattr(
        session, "read", lambda *args: (queries.append(args), real(*args))[1]
    )
    observer.wait()
    observer.wait()
    assert len(queries) == 1
    observer._free_slots_at -= 10
    observer.wait()
    assert len(queries) == 2


def test_followers_use_the_pooler(observer, settings, django_database) -> None:
    """An observer polls through the alias's own settings, and uses DIRECT only to lead."""
    entry = {"OPTIONS": {"options": "-c work_mem=777kB"}}
    settings.SAFE_INIT = {**settings.SAFE_INIT, "DIRECT": {"default": entry}}
    observer.context = make_context()
    direct = observer.direct_reader().session
    assert direct.rows("SHOW work_mem") == [("777kB",)]
    assert observer.direct_reader().session is direct
    pooled = observer.reader().session
    assert pooled.rows("SHOW work_mem") == [("4MB",)]
    assert direct.raw.closed
    assert observer.reader().session is pooled
