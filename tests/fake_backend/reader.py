"""Read the status of a database of the fake."""

from __future__ import annotations

from collections.abc import Sequence

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from django_safe_init.backends.base.context import Context
from django_safe_init.backends.base.reader import BaseReader, decode_findings
from django_safe_init.core.records import (
    Activity,
    InterruptedStep,
    LeaderSnapshot,
    PreviousFindings,
    RunDetail,
    RunRow,
    Snapshot,
    TablesLocked,
    TablesUnreadable,
    run_row,
    same_apps,
    step_row,
)
from django_safe_init.core.step import (
    DONE,
    CompletedStep,
    completed_step,
    missing_steps,
)
from tests.fake_backend.introspection import recorded_migrations
from tests.fake_backend.server import Row, seconds, server_of


class FakeReader(BaseReader):
    """Reads the objects of the server, and `django_migrations` over one connection."""

    def __init__(self, context: Context) -> None:
        self.server = server_of(context.alias)
        self.alias = context.alias
        self.lock_key = context.settings.lock_key or ""
        self.definition = context.build
        self.build = context.build.fingerprint
        self.steps = context.build.steps_of(context.alias)
        self._wrapper: BaseDatabaseWrapper | None = None

    def finished_run(self, release: str | None = None) -> int | None:
        if self.server.runs is None:
            raise TablesUnreadable("The status tables do not exist.")
        own = self._newest(self._own_runs())
        if own is None or own.outcome != "ready" or self.read().missing:
            return None
        if release is not None and not release == own.release == self._release():
            return None
        return own.id

    def _release(self) -> str | None:
        ended = [run for run in self._runs() if run["outcome"] is not None]
        newest = self._newest(ended)
        return newest.release if newest else None

    def read(self) -> Snapshot:
        runs, own = self._runs(), self._own_runs()
        recorded = self._recorded()
        missing = self.definition.pending(recorded)
        ready = [run["id"] for run in runs if run["outcome"] == "ready"]
        return Snapshot(
            (*missing, *missing_steps(self.steps, self.completed_steps())),
            self._newest(runs),
            self._newest(own),
            finished=any(run["id"] in ready for run in own),
            superseded=bool(own) and max(ready, default=0) > own[0]["id"],
            leader_pid=self.leader_pid(),
            unknown=same_apps(recorded - self.definition.known, missing),
            release=self._release(),
        )

    def peek(self) -> LeaderSnapshot:
        return LeaderSnapshot(self._newest(self._runs()), self.leader_pid())

    def leader_pid(self) -> int | None:
        leader = self.server.leader
        return leader and leader.pid

    def history(self, count: int) -> list[RunRow]:
        return [_run_row(run) for run in self._runs()[:count]]

    def find_run(self, number: int) -> RunRow | None:
        found = (run for run in self._runs() if run["id"] == number)
        return next(map(_run_row, found), None)

    def traceback(self, run: RunRow) -> str | None:
        assert self.server.runs is not None  # the run was read from it
        found: str | None = self.server.runs[run.id].get("traceback")
        return found

    def activity(self) -> Activity:
        leads = self.leader_pid() is not None
        return Activity(None, 0.0, None, progressing=leads, blockers=())

    def run_detail(self, run: RunRow, steps: int | None) -> RunDetail:
        rows = [step for step in self.server.steps if step["run_id"] == run.id]
        newest = rows[-steps:] if steps else []
        end = (self.server.runs or {}).get(run.id, {}).get("finished_at")
        timed = [
            {
                **step,
                "seconds": seconds(
                    {"finished_at": end, **_known(step)}, end="finished_at"
                ),
            }
            for step in newest
        ]
        return RunDetail(tuple(map(step_row, timed)))

    def seconds_left(self, run: RunRow, names: Sequence[str]) -> float | None:
        earlier = {
            step["name"]: seconds(step, end="finished_at")
            for step in reversed(self.server.steps_of(self.lock_key))
            if step["run_id"] != run.id and step["outcome"] == DONE
        }
        if set(names) - set(earlier):
            return None
        return sum(earlier[name] for name in names)

    def interrupted(self) -> dict[str, InterruptedStep]:
        newest: dict[str, Row] = {}
        for step in self.server.steps_of(self.lock_key):
            newest.setdefault(step["name"], step)
        return {
            name: InterruptedStep.from_row(
                step["run_id"], name, step["backwards"], step["detail"]
            )
            for name, step in newest.items()
            if not step["atomic"] and step["finished_at"] is None
        }

    def previous_findings(self, run: int) -> PreviousFindings | None:
        assert self.server.runs is not None
        for row in self._runs():
            if row["id"] < run and (row["outcome"] == "ready" or row.get("findings")):
                part = row["outcome"] == "partial" and row["error"] is None
                finished = part or row["outcome"] == "ready"
                return decode_findings(finished, row.get("findings"))
        return None

    def completed_steps(self) -> list[CompletedStep]:
        return [
            completed_step(step["name"], step["detail"])
            for step in self.server.steps_of(self.lock_key)
            if step["kind"] == "step" and step["outcome"] == DONE
        ]

    def close(self) -> None:
        wrapper, self._wrapper = self._wrapper, None
        if wrapper is not None:
            wrapper.close()

    def _runs(self) -> list[Row]:
        if self.server.tables_are_locked:
            raise TablesLocked("The status tables are locked.")
        return self.server.runs_of(self.lock_key)

    def _own_runs(self) -> list[Row]:
        return [run for run in self._runs() if run["build"] == self.build]

    def _newest(self, runs: list[Row]) -> RunRow | None:
        return _run_row(runs[0]) if runs else None

    def _recorded(self) -> set[str]:
        # A wrapper of its own: in a leader's thread, Django's belongs to the run.
        self._wrapper = self._wrapper or connections.create_connection(self.alias)
        return set(recorded_migrations(self._wrapper))


def _known(row: Row) -> Row:
    return {name: value for name, value in row.items() if value is not None}


def _run_row(run: Row) -> RunRow:
    finished_at = run["finished_at"]
    row = run_row(
        {
            **run,
            "started_at": run["started_at"].isoformat(),
            "finished_at": finished_at and finished_at.isoformat(),
            "age_seconds": seconds(run),
            "silence_seconds": seconds(run, "heartbeat_at"),
            "duration_seconds": seconds(run, end="finished_at"),
        }
    )
    assert row is not None  # it has all columns
    return row
