"""The `manage.py` of the killed projects.

`RESUME_KILL` and `RESUME_POINTS` are explained in `tests.resume`. With `PACKAGE_NON_ATOMIC` no
migration is one transaction, so each has a journal. Python functions stay atomic.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from django.core.management import execute_from_command_line
from django.db.migrations import Migration
from django.db.migrations.operations import RunPython, SeparateDatabaseAndState


def make_non_atomic() -> None:
    """Let each migration from now on be non-atomic."""
    original = Migration.__init__

    def __init__(self: Migration, name: str, app_label: str) -> None:
        original(self, name, app_label)
        if not self.atomic:
            return
        self.atomic = False
        for operation in _functions(self.operations):
            if operation.atomic is None:
                operation.atomic = True

    Migration.__init__ = __init__  # type: ignore[method-assign]


def _functions(operations: Sequence[Any]) -> Iterator[RunPython]:
    for operation in operations:
        if isinstance(operation, RunPython):
            yield operation
        elif isinstance(operation, SeparateDatabaseAndState):
            yield from _functions(operation.database_operations)


if __name__ == "__main__":
    if os.environ.get("PACKAGE_NON_ATOMIC"):
        make_non_atomic()
    if os.environ.get("RESUME_POINTS"):
        from tests.resume.project import dying

        dying.install()
        dying.install_for_atomic()
    execute_from_command_line(sys.argv)
