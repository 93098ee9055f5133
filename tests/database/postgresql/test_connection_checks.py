"""A read-only standby: its locks mean nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from django_safe_init import UnsafeConnection, get_status, initialize
from example_project.embedded import EmbeddedServer


@pytest.fixture
def standby(spare_server) -> Iterator[EmbeddedServer]:
    """The spare server, in recovery for as long as the test lasts."""
    signal_file = spare_server.data / "standby.signal"
    spare_server.stop()
    signal_file.touch()
    spare_server.start()
    yield spare_server
    spare_server.stop()
    signal_file.unlink()
    spare_server.start()


def test_a_standby_is_refused(django_database, log_in_as, standby, small_shop) -> None:
    """Nobody leads on a standby: the error names DIRECT, and the status can be read."""
    log_in_as(HOST=standby.host, PORT=standby.port, NAME="postgres")
    with pytest.raises(UnsafeConnection) as caught:
        initialize()
    assert "The database 'default' is a read-only standby." in str(caught.value)
    assert '"DIRECT": {"default": {"HOST": ..., "PORT": ...}}' in str(caught.value)
    assert get_status().state == "uninitialized"
