"""The record that a step is done, in the transaction of what it did."""

from __future__ import annotations

from typing import Protocol

from django.db.backends.base.base import BaseDatabaseWrapper

from django_safe_init.core.columns import STEP_TABLE
from django_safe_init.core.step import DONE
from django_safe_init.exceptions import InitializationFailed


class _Recorder(Protocol):
    run: int
    done: int


def complete(connection: BaseDatabaseWrapper, now: str, recorder: _Recorder) -> None:
    """Write the end of the step that the recorder has started; `now` is the engine's SQL for it.

    The one write to our tables that is not the recorder's: on its own session it could not be
    part of the step's transaction.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE {STEP_TABLE} SET outcome = %s, finished_at = {now}"
            " WHERE run_id = %s AND position = %s",
            [DONE, recorder.run, recorder.done + 1],
        )
        if cursor.rowcount != 1:
            raise InitializationFailed(
                f"The row of {STEP_TABLE} in which the step is to be recorded is gone."
            )
