"""Register the fake backend."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from django_safe_init import backends
from tests.database.conftest import _as_default
from tests.fake_backend.server import FakeServer, server_of

pytest.register_assert_rewrite("django_safe_init.testing")


@pytest.fixture
def fake(
    tmp_path: Path,
    settings: Any,
    django_db_blocker: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[FakeServer]:
    """Yield the server of an empty database of the fake, as `default`."""
    monkeypatch.setitem(backends.BACKENDS, "other", "tests.fake_backend")
    settings.SAFE_INIT = {"IN_TESTS": True}
    values = {"ENGINE": "tests.other_engine", "NAME": str(tmp_path / "db.fake")}
    with django_db_blocker.unblock():
        for _ in _as_default(values, None):
            yield server_of("default")
