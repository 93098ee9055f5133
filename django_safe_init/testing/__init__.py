"""State the promises of a backend as tests to inherit.

    class TestMyRecorder(RecorderContract):
        def open_backend(self, context):
            return MyBackend(context)

Works with pytest and, next to `unittest.TestCase`, with Django's runner. `LockContract` needs
no database. Each test of the other contracts needs an empty one.

May use `backends.base`, `core` and Django's connections. Must not use a driver, a test framework
or the tests of this project.
"""

from __future__ import annotations

from django_safe_init.testing.leadership import LeadershipContract
from django_safe_init.testing.lock import LockContract
from django_safe_init.testing.reader import ReaderContract
from django_safe_init.testing.recorder import RecorderContract
from django_safe_init.testing.transaction import TransactionContract

__all__ = [
    "LeadershipContract",
    "LockContract",
    "ReaderContract",
    "RecorderContract",
    "TransactionContract",
]
