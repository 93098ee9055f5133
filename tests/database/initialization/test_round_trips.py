"""The messages that a start with nothing to do sends to the server."""

from __future__ import annotations

import psycopg
import pytest
from django.db.backends.signals import connection_created

from django_safe_init import initialize


@pytest.fixture
def sent(monkeypatch) -> list[str]:
    """Return the list of the statements that psycopg executes."""
    noted: list[str] = []
    execute = psycopg.Cursor.execute

    def note(self, query, *arguments, **options):
        noted.append(str(query))
        return execute(self, query, *arguments, **options)

    monkeypatch.setattr(psycopg.Cursor, "execute", note)
    return noted


def test_nothing_to_do(django_database, small_shop, sent) -> None:
    """A start with nothing to do sends two messages after connecting."""
    initialize()
    sent.clear()
    assert initialize().role == "none"
    assert len(sent) == 2, sent


def test_the_messages_of_the_project(django_database, small_shop, sent) -> None:
    """The receivers of the project run once for each session."""

    def receiver(connection, **kwargs) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET application_name = 'mine'")

    initialize()
    sent.clear()
    connection_created.connect(receiver)
    try:
        assert initialize().role == "none"
    finally:
        connection_created.disconnect(receiver)
    assert len(sent) == 3, sent
