"""Waiting as a follower on PostgreSQL: with a session that is kept, or without one."""

from __future__ import annotations

import time

import psycopg
import pytest

from django_safe_init.backends.postgresql import observer as module
from django_safe_init.backends.postgresql.lock import AdvisoryLock
from django_safe_init.backends.postgresql.observer import PostgresObserver
from tests.support import make_context, wait_until


@pytest.fixture
def watch(django_database, shop):
    made = PostgresObserver(make_context())
    yield made
    made.close()


@pytest.fixture
def pauses(monkeypatch) -> list[float]:
    """How long a follower would have slept."""
    noted: list[float] = []
    monkeypatch.setattr(module, "sleep", noted.append)
    return noted


def test_with_room_it_listens(watch, django_database) -> None:
    """While the server has room, a follower keeps its session and listens on it."""
    session = watch.reader().session
    watch.wait()
    watch.wait()
    assert watch.session is session
    assert session.rows("SELECT pg_listening_channels()")
    assert watch.reader().session is session


def test_a_notification_ends_the_pause(watch, session, in_background) -> None:
    """The leader's word ends the pause."""
    watch.reader()
    watch.wait()
    lock = AdvisoryLock(session)
    assert lock.try_acquire()
    started = time.monotonic()
    lock.release()
    watch.wait()
    assert time.monotonic() - started < 0.5


def test_without_room_it_lets_go(watch, pauses, connect_raw, django_database) -> None:
    """Where half of the slots are taken, a follower gives its own back between looks."""
    slots = django_database.value("SELECT current_setting('max_connections')::int")
    for _ in range(slots // 2):
        connect_raw()
    watch.reader()
    wait_until(lambda: django_database.followers())
    watch.wait()
    assert watch.session is None
    wait_until(lambda: not django_database.followers())
    [pause] = pauses
    assert pause == 0.75 or 2 <= pause <= 3
    assert watch.reader().peek().latest is None


def test_most_look_rarely(watch, monkeypatch, pauses) -> None:
    """Without a session one in eight looks often, the others about every three seconds."""
    for chance in (0.0, 0.874, 0.876):
        monkeypatch.setattr(module.random, "random", lambda chance=chance: chance)
        watch.wait()
    assert [2 <= pause <= 3 for pause in pauses] == [True, True, False]
    assert pauses[2] == 0.75


def test_a_poolers_connection_is_kept(watch, monkeypatch, pauses) -> None:
    """A connection to a pooler is cheap: it is kept, without listening, and looks."""
    session = watch.reader().session
    monkeypatch.setattr(psycopg.ConnectionInfo, "backend_pid", property(lambda _: 1))
    watch.wait()
    watch.wait()
    assert watch.session is session
    assert all(0.5 <= pause <= 1 for pause in pauses)
    assert len(pauses) == 2
    assert session.rows("SELECT pg_listening_channels()") == []


def test_room_is_asked_for_again(watch, monkeypatch) -> None:
    """An answer holds for ten seconds; then the server is asked again."""
    asked = []
    session = watch.reader().session
    real = session.read
    monkeypatch.setattr(
        session, "read", lambda *args: (asked.append(args), real(*args))[1]
    )
    watch.wait()
    watch.wait()
    assert len(asked) == 1
    watch._room_seen -= 10
    watch.wait()
    assert len(asked) == 2


def test_followers_use_the_pooler(watch, settings, django_database) -> None:
    """The direct way is for who may lead; a follower looks through the alias's own settings."""
    direct = {"OPTIONS": {"options": "-c work_mem=777kB"}}
    settings.SAFE_INIT = {**settings.SAFE_INIT, "DIRECT": {"default": direct}}
    watch.context = make_context()
    leading = watch.direct_reader().session
    assert leading.rows("SHOW work_mem") == [("777kB",)]
    assert watch.direct_reader().session is leading
    following = watch.reader().session
    assert following.rows("SHOW work_mem") == [("4MB",)]
    assert leading.raw.closed
    assert watch.reader().session is following
