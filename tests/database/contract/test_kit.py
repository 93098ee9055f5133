"""Each test of the contracts fails for a backend that breaks the promise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connections
from django.db.migrations.recorder import MigrationRecorder

from django_safe_init.backends.base import recorder, retention
from django_safe_init.backends.base.recorder import BaseRecorder, RunEnd, RunOutcome
from django_safe_init.backends.base.transaction import MigrationTransaction
from django_safe_init.core.build import Build
from django_safe_init.core.records import (
    TRANSIENT_OUTCOMES,
    Activity,
    InterruptedStep,
    PreviousFindings,
)
from django_safe_init.core.step import DONE, completed_step
from django_safe_init.testing import (
    LeadershipContract,
    ReaderContract,
    RecorderContract,
    TransactionContract,
    assertions,
)
from tests.database.contract.backends import OnFake
from tests.fake_backend import reader, transaction
from tests.fake_backend.backend import FakeBackend
from tests.fake_backend.lock import FakeLock
from tests.fake_backend.reader import FakeReader
from tests.fake_backend.recorder import FakeRecorder
from tests.fake_backend.run_session import FakeRunSession
from tests.fake_backend.server import FakeServer
from tests.fake_backend.transaction import FakeTransaction

Breakage = tuple[Any, str, Callable[..., Any]]


def nothing(*args: Any, **kwargs: Any) -> None:
    """Do nothing, in the place of a method."""


# Leading


@contextmanager
def leadership_that_raises_lock_lost(self: FakeBackend, observer: Any) -> Iterator[Any]:
    lock = self._acquire(observer)
    try:
        yield lock
    finally:
        lock.release()


def release_unverified(self: FakeLock) -> None:
    self.server.leader = None


LEADERSHIP: dict[str, Breakage] = {
    "one_process_leads_at_a_time": (FakeLock, "try_acquire", lambda self: True),
    "an_error_frees_the_lock": (FakeLock, "release", nothing),
    "an_error_hides_a_lost_lock": (
        FakeBackend,
        "leadership",
        leadership_that_raises_lock_lost,
    ),
    "a_lost_lock_is_an_error": (FakeLock, "release", release_unverified),
    "a_run_notices_a_lost_lock": (FakeRunSession, "verify", nothing),
}


# Readers


def create_table(self: FakeReader) -> set[str]:
    MigrationRecorder(connections[self.alias]).ensure_schema()
    return set()


read = FakeReader.read
history = FakeReader.history


def any_ready_run(self: FakeReader, release: str | None = None) -> int | None:
    ready = [run["id"] for run in self._own_runs() if run["outcome"] == "ready"]
    return max(ready, default=None)


def newest_run(self: FakeReader, release: str | None = None) -> int:
    return self._own_runs()[0]["id"]


def release_of_own_runs(self: FakeReader) -> str | None:
    release: str | None = self._own_runs()[0]["release"]
    return release


def oldest_steps(self: FakeReader, run: Any, steps: int | None) -> Any:
    rows = [step for step in self.server.steps if step["run_id"] == run.id]
    timed = [{**step, "seconds": 0} for step in rows[:steps]]
    return reader.RunDetail(tuple(map(reader.step_row, timed)))


def runs_of_all_keys(self: FakeServer, lock_key: str) -> list[Any]:
    return list(reversed((self.runs or {}).values()))


run_detail = FakeReader.run_detail

READER: dict[str, Breakage] = {
    "an_empty_database": (FakeReader, "_recorded", create_table),
    "missing_and_unknown_migrations": (
        reader,
        "same_apps",
        lambda unknown, missing: tuple(sorted(unknown)),
    ),
    "replaced_migrations": (
        Build,
        "pending",
        lambda self, recorded: tuple(sorted(self.migrations.difference(recorded))),
    ),
    "missing_steps": (reader, "missing_steps", lambda steps, completed: ()),
    "the_runs_of_a_snapshot": (
        FakeReader,
        "read",
        lambda self: read(self)._replace(superseded=False),
    ),
    "finished_run": (FakeReader, "finished_run", any_ready_run),
    "finished_run_of_a_release": (FakeReader, "_release", release_of_own_runs),
    "finished_run_with_a_missing_migration": (FakeReader, "finished_run", newest_run),
    "the_leader": (FakeReader, "leader_pid", lambda self: 1),
    "the_activity_without_a_leader": (
        FakeReader,
        "activity",
        lambda self: Activity(None, 0.0, None, True, ()),
    ),
    "the_history": (
        FakeReader,
        "history",
        lambda self, count: history(self, count)[::-1],
    ),
    "a_run_by_its_number": (FakeReader, "find_run", lambda self, number: None),
    "a_lock_key_has_its_own_runs": (FakeServer, "runs_of", runs_of_all_keys),
    "a_step_that_was_broken_off": (
        FakeReader,
        "run_detail",
        lambda self, run, steps: run_detail(self, run, None),
    ),
    "the_steps_of_a_run": (FakeReader, "run_detail", oldest_steps),
    "seconds_left": (FakeReader, "seconds_left", lambda self, run, names: 0.0),
    "locked_tables": (FakeReader, "_runs", lambda self: self.server.runs_of("")),
}


# Recorders

finish_step = FakeRecorder.finish_step
close_run = FakeRecorder._close_run
prune = BaseRecorder._prune
end_of = recorder.end_of
retained_runs = FakeRecorder._retained_runs
completed_steps = FakeReader.completed_steps


def count_each_end(self: FakeRecorder, outcome: str) -> None:
    self.done += outcome == "failed"
    finish_step(self, outcome)


def end_with_a_place(run: Any, lost: Any) -> RunEnd:
    return RunEnd(run.id, "abandoned", f"the leader {run.leader} died in {run.message}")


def outcomes_of_all_builds(self: FakeRecorder, limit: int) -> list[RunOutcome]:
    runs = self.server.runs_of(self.lock_key)
    return [
        RunOutcome(run["id"], run["leader"], run["outcome"])
        for run in runs
        if run["outcome"]
    ][:limit]


def ever_interrupted(self: FakeReader) -> dict[str, InterruptedStep]:
    return {
        step["name"]: InterruptedStep.from_row(step["run_id"], step["name"], False, {})
        for step in reversed(self.server.steps_of(self.lock_key))
        if step["finished_at"] is None
    }


def completed_of_any_kind(self: FakeReader) -> list[Any]:
    steps = self.server.steps_of(self.lock_key)
    return [
        completed_step(step["name"], step["detail"])
        for step in steps
        if step["outcome"] == DONE
    ]


def delete_without_steps(self: FakeRecorder, runs: list[int]) -> None:
    for run in runs:
        del self._runs[run]


RECORDER: dict[str, Breakage] = {
    "an_open_run": (FakeRecorder, "update", nothing),
    "steps": (FakeRecorder, "_end_step", nothing),
    "a_step_that_fails": (FakeRecorder, "finish_step", count_each_end),
    "the_end_of_a_run": (
        FakeRecorder,
        "_close_run",
        lambda self, outcome, state, error, traceback: close_run(
            self, outcome, state, None, None
        ),
    ),
    "the_traceback_of_a_run": (FakeReader, "traceback", lambda self, run: run.error),
    "the_findings_of_a_run": (
        FakeReader,
        "previous_findings",
        lambda self, run: PreviousFindings(False, ("missing_table b",)),
    ),
    "the_findings_of_a_partial_run": (
        FakeReader,
        "previous_findings",
        lambda self, run: PreviousFindings(True, ("missing_table a",)),
    ),
    "the_progress_of_a_loop": (FakeRunSession, "_beat", nothing),
    "a_dead_leaders_run_is_abandoned": (FakeRecorder, "_open_runs", lambda self: []),
    "a_death_without_a_place": (recorder, "end_of", end_with_a_place),
    "the_third_death_is_a_failure": (
        recorder,
        "failures_in_a_row",
        lambda outcomes, lost: 0,
    ),
    "the_third_transient_end_is_a_failure": (
        recorder,
        "failures_in_a_row",
        lambda outcomes, lost: 0,
    ),
    "another_end_resets_the_count": (
        recorder,
        "failures_in_a_row",
        lambda outcomes, lost: sum(
            run.outcome in TRANSIENT_OUTCOMES for run in outcomes
        ),
    ),
    "another_builds_runs_do_not_count": (
        FakeRecorder,
        "_outcomes",
        outcomes_of_all_builds,
    ),
    "another_lock_keys_runs_do_not_count": (FakeServer, "runs_of", runs_of_all_keys),
    "own_losses_do_not_count": (recorder, "end_of", end_with_a_place),
    "interrupted_steps": (FakeReader, "interrupted", ever_interrupted),
    "a_step_that_was_finished_later": (FakeReader, "interrupted", ever_interrupted),
    "completed_steps": (
        FakeReader,
        "completed_steps",
        lambda self: completed_steps(self)[::-1],
    ),
    "a_migration_is_no_completed_step": (
        FakeReader,
        "completed_steps",
        completed_of_any_kind,
    ),
    "a_step_is_completed_by_its_transaction": (
        FakeRecorder,
        "complete_step",
        lambda self, connection: self._end_step(DONE),
    ),
    "the_oldest_runs_are_deleted": (FakeRecorder, "_delete_runs", delete_without_steps),
    "an_open_run_is_kept": (
        FakeRecorder,
        "_retained_runs",
        lambda self: [run._replace(is_open=False) for run in retained_runs(self)],
    ),
    "needed_runs_are_kept": (
        BaseRecorder,
        "_prune",
        lambda self, keep, needed: prune(self, keep, frozenset()),
    ),
    "the_last_completion_of_a_step_is_kept": (
        FakeRecorder,
        "_runs_of_last_completions",
        lambda self: set(),
    ),
    "ends_that_count_are_kept": (
        retention,
        "_counted_failures",
        lambda runs, build: set(),
    ),
    "another_lock_keys_runs_are_kept": (FakeServer, "runs_of", runs_of_all_keys),
}


# Transactions

begin = FakeTransaction._begin
close = MigrationTransaction.close


def begin_outside(self: FakeTransaction, atomic: Any, names: Any) -> None:
    begin(self, atomic, names)
    self._raw.execute("COMMIT")


def close_without_a_check(self: FakeTransaction, atomic: Any, error: Any) -> None:
    self.connection.execute_wrappers.remove(self._execute_wrapper)
    atomic.__exit__(None, None, None)


COMMIT_ANYWAY: Breakage = (
    MigrationTransaction,
    "close",
    lambda self, error=None: close(self),
)
TRANSACTION: dict[str, Breakage] = {
    "a_migration_is_committed_with_its_record": (
        FakeTransaction,
        "_begin",
        begin_outside,
    ),
    "an_error_undoes_the_migration": COMMIT_ANYWAY,
    "each_migration_has_its_own_transaction": COMMIT_ANYWAY,
    "a_migration_that_commits": (FakeTransaction, "has_ended", lambda self: False),
    "a_migration_that_rolls_back": (
        FakeTransaction,
        "_was_rolled_back",
        lambda self, cursor: False,
    ),
    "a_broken_transaction": (FakeTransaction, "_close", close_without_a_check),
    "another_attempt": (FakeTransaction, "retry", nothing),
    "recorded_names": (FakeTransaction, "_recorded_names", lambda self: set()),
    "no_names": (
        transaction,
        "recorded_sql",
        lambda mark, names: "SELECT app, name FROM django_migrations",
    ),
    "a_check_that_fails": (FakeTransaction, "_check_recorded", nothing),
    "on_commit": COMMIT_ANYWAY,
}

BREAKAGES = {
    LeadershipContract: LEADERSHIP,
    ReaderContract: READER,
    RecorderContract: RECORDER,
    TransactionContract: TRANSACTION,
}
CASES = [(contract, name) for contract, each in BREAKAGES.items() for name in each]


def fails(test: Callable[[], None]) -> bool:
    try:
        test()
    except Exception:  # noqa: BLE001  (a contract may fail with any exception)
        return True
    return False


@pytest.mark.parametrize("contract", BREAKAGES)
def test_each_test_can_fail(contract) -> None:
    """The tables above have a breakage for each test of the contracts."""
    tests = {name for name in vars(contract) if name.startswith("test_")}
    assert tests == {f"test_{name}" for name in BREAKAGES[contract]}


@pytest.mark.parametrize(
    ("contract", "name"), CASES, ids=[f"{c.__name__}-{name}" for c, name in CASES]
)
def test_a_broken_backend(fake, monkeypatch, contract, name) -> None:
    """The test fails for a fake that breaks its promise."""

    class OnBrokenFake(OnFake, contract):
        lock_tables = OnFake.lock_tables

    broken = OnBrokenFake()
    broken.server = fake
    monkeypatch.setattr(assertions, "_PATIENCE", 0.5)
    monkeypatch.setattr(*BREAKAGES[contract][name])
    assert fails(getattr(broken, f"test_{name}"))
