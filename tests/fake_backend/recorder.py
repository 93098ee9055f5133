"""Write the status of a database of the fake, as long as its process leads."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any, TypeVar

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from django_safe_init.backends.base.context import Context
from django_safe_init.backends.base.recorder import (
    BaseRecorder,
    Fence,
    OpenRun,
    RunEnd,
    RunOutcome,
)
from django_safe_init.backends.base.retention import RetainedRun
from django_safe_init.core.states import State
from django_safe_init.core.step import DONE
from tests.fake_backend.lock import FakeLock
from tests.fake_backend.server import Row, now

T = TypeVar("T")

_ids = count(1)


class FakeRecorder(BaseRecorder):
    """Writes one run and its steps into the objects of the server."""

    def __init__(self, context: Context, lock: FakeLock) -> None:
        super().__init__(context.build, context.settings.lock_key)
        self.lock = lock
        self.server = lock.server
        self._step: Row = {}

    def ensure_tables(self) -> None:
        with self.server.guard:
            if self.server.runs is None:
                self.server.runs = {}

    def update(self, state: State, message: str = "") -> None:
        self.state, self.message = state, message
        self._transaction(self._write)

    def beat(self) -> None:
        """Record that the leader is alive, and the progress of its step."""
        self._transaction(self._write)

    def start_step(
        self,
        name: str,
        *,
        backwards: bool,
        atomic: bool,
        detail: Any = None,
        kind: str = "migration",
    ) -> Fence:
        self.message = name
        self.progress.clear()
        self._step = {
            "run_id": self.run_id,
            "position": self.done + 1,
            "kind": kind,
            "name": name,
            "backwards": backwards,
            "atomic": atomic,
            "detail": detail,
            "started_at": now(),
            "finished_at": None,
            "outcome": None,
        }
        self._transaction(lambda: self.server.steps.append(self._step))
        self._transaction(self._write)
        return Fence(self.lock.verify)

    def finish_step(self, outcome: str) -> None:
        self.progress.clear()
        self.done += outcome != "failed"
        if self._step["outcome"] is None:
            self._transaction(lambda: self._end_step(outcome))
        self._transaction(self._write)

    def _end_step(self, outcome: str) -> None:
        self._step.update(outcome=outcome, finished_at=now())

    def complete_step(self, connection: BaseDatabaseWrapper) -> None:
        # The objects are in no transaction; this runs after the commit, and only then.
        transaction.on_commit(lambda: self._end_step(DONE), connection.alias)

    def _transaction(self, work: Callable[[], T]) -> T:
        with self.server.guard:
            self.lock.verify()
            return work()

    @property
    def _runs(self) -> dict[int, Row]:
        assert self.server.runs is not None  # a leader has created the tables
        return self.server.runs

    def _write(self) -> None:
        items = self.progress.publish() or (None, None, None)
        self._runs[self.run_id].update(
            self._run_params(),
            heartbeat_at=now(),
            **dict(
                zip(("item_done", "item_total", "item_message"), items, strict=True)
            ),
        )

    def _open_runs(self) -> list[OpenRun]:
        return [
            OpenRun(run["id"], run["build"], run["leader"], run["message"])
            for run in self.server.runs_of(self.lock_key)
            if run["finished_at"] is None
        ]

    def _outcomes(self, limit: int) -> list[RunOutcome]:
        return [
            RunOutcome(
                run["id"], run["leader"], run["outcome"], run["checks"], run["state"]
            )
            for run in self.server.runs_of(self.lock_key)
            if run["build"] == self.build and run["outcome"] is not None
        ][:limit]

    def _begin_run(self, ends: list[RunEnd], command: str) -> int:
        self._end_runs(ends)
        run = next(_ids)
        self._runs[run] = {
            "id": run,
            **self._new_run_params(command),
            **self._run_params(),
            "backend_pid": self.lock.pid,
            "started_at": now(),
            "heartbeat_at": now(),
            "finished_at": None,
            "outcome": None,
            "error": None,
        }
        return run

    def _end_runs(self, ends: list[RunEnd]) -> None:
        for run, outcome, error in ends:
            self._runs[run].update(
                state="error", outcome=outcome, error=error, finished_at=now()
            )

    def _close_run(
        self, outcome: str, state: State, error: str | None, traceback: str | None
    ) -> None:
        self.state = state
        self._write()
        self._runs[self.run_id].update(
            outcome=outcome, error=error, traceback=traceback, finished_at=now()
        )

    def _store_findings(self, findings: str) -> None:
        self._runs[self.run_id]["findings"] = findings

    def _retained_runs(self) -> list[RetainedRun]:
        return [
            RetainedRun(
                run["id"], run["build"], run["outcome"], run["finished_at"] is None
            )
            for run in self.server.runs_of(self.lock_key)
        ]

    def _runs_of_last_completions(self) -> set[int]:
        last = {
            step["name"]: step["run_id"]
            for step in reversed(self.server.steps_of(self.lock_key))
            if step["kind"] == "step" and step["outcome"] == DONE
        }
        return set(last.values())

    def _delete_runs(self, runs: list[int]) -> None:
        for run in runs:
            del self._runs[run]
        self.server.steps[:] = [
            step for step in self.server.steps if step["run_id"] not in runs
        ]
