"""State the promises of a recorder."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from functools import partial
from typing import Any

from django.db import connections, transaction

from django_safe_init.backends.base.reader import BaseReader
from django_safe_init.core.progress import track, use_tracker
from django_safe_init.core.records import InterruptedStep, LostRuns, PreviousFindings
from django_safe_init.core.states import State
from django_safe_init.core.step import CompletedStep
from django_safe_init.testing.assertions import raises, wait_until
from django_safe_init.testing.backend import (
    BUILD,
    OTHER_BUILD,
    SEED,
    BackendContract,
    Undo,
    latest,
    start,
)


class RecorderContract(BackendContract):
    """The promises of a `BaseRecorder`, as a reader sees them."""

    def test_an_open_run(self) -> None:
        """A reader sees a run that is open, and each update of it."""
        with self._lead() as session, self._reader() as reader:
            recorder = session.recorder
            assert recorder.open_run("a command") is None
            run = latest(reader)
            assert (run.id, run.outcome, run.finished_at) == (
                recorder.run_id,
                None,
                None,
            )
            assert (run.build, run.command) == (BUILD.fingerprint, "a command")
            assert run.leader == f"{socket.gethostname()}:{os.getpid()}"
            recorder.total = 4
            recorder.update(State.MIGRATING, "reading")
            run = latest(reader)
            assert (run.state, run.message) == (State.MIGRATING, "reading")
            assert (run.done, run.total, run.progress) == (0, 4, 0)

    def test_steps(self) -> None:
        """A reader sees a step that has started, and its end with the next write."""
        with self._lead() as session, self._reader() as reader:
            recorder = session.recorder
            recorder.open_run("test")
            recorder.total = 4
            recorder.start_step("shop.0001", backwards=False, atomic=True).verify()
            assert latest(reader).message == "shop.0001"
            assert self._recorded_steps(reader) == [(1, "shop.0001", False, None)]
            recorder.finish_step("done")
            recorder.start_step("shop.0002", backwards=True, atomic=False)
            assert self._recorded_steps(reader) == [
                (1, "shop.0001", False, "done"),
                (2, "shop.0002", True, None),
            ]
            assert (latest(reader).done, latest(reader).progress) == (1, 25)
            recorder.finish_step("faked")
            assert self._recorded_steps(reader)[1] == (2, "shop.0002", True, "faked")
            assert (latest(reader).done, latest(reader).progress) == (2, 50)

    def _recorded_steps(self, reader: BaseReader) -> list[tuple[Any, ...]]:
        steps = reader.run_detail(latest(reader), 9).steps
        return [
            (each.position, each.name, each.backwards, each.outcome) for each in steps
        ]

    def test_a_step_that_fails(self) -> None:
        """A step that failed does not count as done."""
        with self._lead() as session, self._reader() as reader:
            session.recorder.open_run("test")
            session.recorder.start_step("shop.0001", backwards=False, atomic=True)
            session.recorder.finish_step("failed")
            session.recorder.finish_run("failed", State.ERROR, "it broke")
            assert latest(reader).done == 0
            assert self._recorded_steps(reader) == [(1, "shop.0001", False, "failed")]

    def test_the_end_of_a_run(self) -> None:
        """A run ends with its outcome, its state and its error."""
        with self._lead() as session, self._reader() as reader:
            recorder = session.recorder
            recorder.open_run("test")
            assert recorder.finish_run("ready", State.READY) == "ready"
            run = latest(reader)
            assert (run.outcome, run.state, run.error) == ("ready", State.READY, None)
            assert run.progress == 100
            assert run.finished_at is not None
            recorder.open_run("test")
            assert recorder.finish_run("failed", State.ERROR, "it broke") == "failed"
            run = latest(reader)
            assert (run.outcome, run.state) == ("failed", State.ERROR)
            assert run.error == "it broke"

    def test_the_traceback_of_a_run(self) -> None:
        """A run keeps the lines of its error's traceback; without one it has none."""
        lines = "Traceback:\n\tline 1\nValueError: it broke"
        with self._lead() as session, self._reader() as reader:
            recorder = session.recorder
            recorder.open_run("test")
            assert reader.traceback(latest(reader)) is None
            recorder.finish_run("failed", State.ERROR, "it broke", lines)
            assert reader.traceback(latest(reader)) == lines
            assert "traceback" not in latest(reader).as_json()
            recorder.open_run("test")
            recorder.finish_run("ready", State.READY)
            assert reader.traceback(latest(reader)) is None

    def test_the_findings_of_a_run(self) -> None:
        """A run keeps keys of findings, for the next run of any build with the `LOCK_KEY`."""
        with self._lead() as session:
            recorder, reader = session.recorder, session.reader
            recorder.open_run("test")
            assert reader.previous_findings(recorder.run_id) is None
            recorder.store_findings(["missing_table b", "missing_table a"])
            assert "findings" not in latest(reader).as_json()
            recorder.finish_run("failed", State.ERROR, "it broke")
            keys = ("missing_table a", "missing_table b")
            recorder.open_run("test")
            found = reader.previous_findings(recorder.run_id)
            assert found == PreviousFindings(finished=False, keys=keys)
        self._record_run("failed")  # it has applied nothing
        with self._lead(OTHER_BUILD) as session:
            session.recorder.open_run("test")
            found = session.reader.previous_findings(session.recorder.run_id)
            assert found == PreviousFindings(finished=False, keys=keys)
        ready = self._record_run("ready")
        with self._lead(lock_key="other") as session:
            assert session.reader.previous_findings(ready + 1) is None
        with self._lead() as session:
            found = session.reader.previous_findings(ready + 1)
            assert found == PreviousFindings(finished=True, keys=())

    def test_the_findings_of_a_partial_run(self) -> None:
        """A part that was done leaves findings; a part that failed leaves its baseline."""
        with self._lead() as session:
            recorder, reader = session.recorder, session.reader
            for error in (None, "it broke"):
                recorder.open_run("test")
                recorder.store_findings(["missing_table a"], ["missing_table b"])
                recorder.finish_run("partial", State.READY, error)
                assert reader.previous_findings(recorder.run_id + 1) == (
                    error is None,
                    ("missing_table a",),
                    ("missing_table b",),
                )

    def test_the_progress_of_a_loop(self) -> None:
        """The heartbeat records the progress of the running step."""
        with self._lead() as session, self._reader() as reader:
            recorder = session.recorder
            recorder.open_run("test")
            recorder.total = 1
            recorder.start_step("shop.0001", backwards=False, atomic=True).verify()
            with session.heartbeat(), use_tracker(recorder.progress):
                for done, _ in enumerate(track(range(2), message="rows")):
                    wait_until(partial(_shows, reader, f"rows {done}/2"))
            assert latest(reader).progress == 50

    # Runs that a leader left open

    def test_a_dead_leaders_run_is_abandoned(self) -> None:
        """The next leader closes the run of a dead one, with the place of its death."""
        self._record_death("shop.0001")
        self._record_run("ready")
        dead, last = self._history()
        assert (dead.outcome, dead.state) == ("abandoned", State.ERROR)
        assert dead.error == f"the leader {dead.leader} died in shop.0001"
        assert dead.finished_at is not None
        assert last.outcome == "ready"

    def test_a_death_without_a_place(self) -> None:
        """A leader that died before its first message died without a place."""
        self._record_death()
        self._record_run("ready")
        dead = self._history()[0]
        assert dead.error == f"the leader {dead.leader} died"

    def test_the_third_death_is_a_failure(self) -> None:
        """After a build's third dead leader in a row no run is opened; the last one failed."""
        for _ in range(3):
            last = self._record_death("shop.0001")
        with self._lead() as session:
            reason = session.recorder.open_run("test")
            assert session.recorder.run_id == last
        run = self._history()[-1]
        died = f"the leader {run.leader} died in shop.0001"
        assert reason is not None
        assert reason.startswith(f"3 times in a row, the last time: {died}. ")
        assert (run.error, run.state) == (reason, State.ERROR)
        assert self._outcomes() == ["abandoned", "abandoned", "failed"]
        self._record_run("ready")  # the failure does not count

    def test_the_third_transient_end_is_a_failure(self) -> None:
        """A build's third transient end in a row is written as "failed"."""
        self._record_death()
        self._record_run("interrupted")
        with self._lead() as session:
            session.recorder.open_run("test")
            written = session.recorder.finish_run("transient", State.ERROR, "again")
            assert session.recorder.error == "3 times in a row, the last time: again"
        assert written == "failed"
        assert self._outcomes() == ["abandoned", "interrupted", "failed"]
        assert self._history()[-1].error == "3 times in a row, the last time: again"

    def test_another_end_resets_the_count(self) -> None:
        """Transient ends count from the last other end of the build."""
        for end in ("ready", "partial", "failed"):
            self._record_run("transient")
            self._record_run("transient")
            self._record_run(end)
        assert self._outcomes() == [
            *("transient", "transient", "ready"),
            *("transient", "transient", "partial"),
            *("transient", "transient", "failed"),
        ]
        self._record_run("transient")
        assert self._outcomes()[-1] == "transient"

    def test_another_builds_runs_do_not_count(self) -> None:
        """A run that another build left open is closed, and counts for that build only."""
        for _ in range(2):
            self._record_run("transient", OTHER_BUILD)
        self._record_death(build=OTHER_BUILD)
        self._record_run("transient")
        assert self._outcomes() == ["transient", "transient", "abandoned", "transient"]
        self._record_run("transient", OTHER_BUILD)
        assert self._outcomes()[-1] == "failed"

    def test_another_lock_keys_runs_do_not_count(self) -> None:
        """Runs of another `LOCK_KEY` are neither closed nor counted."""
        for _ in range(2):
            self._record_run("transient", lock_key="other")
        self._record_death(lock_key="other")
        self._record_run("transient")
        assert self._outcomes() == ["transient"]
        assert self._outcomes("other") == ["transient", "transient", None]

    def test_own_losses_do_not_count(self) -> None:
        """Runs that this process has lost are closed with its reason, and do not count."""
        lost = LostRuns(reason="the connection broke")
        for _ in range(5):
            lost.runs.append(self._record_death("shop.0001", lost=lost))
        runs = self._history()
        assert [run.outcome for run in runs] == [*["transient"] * 4, None]
        assert {run.error for run in runs[:-1]} == {"the connection broke"}
        with self._lead() as session:
            session.recorder.open_run("test", lost)
            assert session.recorder.finish_run("transient", State.ERROR) == "transient"

    # Steps that a later run depends on

    def test_interrupted_steps(self) -> None:
        """A non-atomic step without an end is interrupted; an atomic one was undone."""
        detail = {"indexes_before": ["an_index"]}
        with self._lead() as session:
            session.recorder.open_run("test")
            fence = session.recorder.start_step(
                "shop.0001", backwards=False, atomic=True
            )
            fence.verify()
        with self._lead() as session:
            session.recorder.open_run("test")
            session.recorder.start_step(
                "shop.0002", backwards=True, atomic=False, detail=detail
            )
            run = session.recorder.run_id
        step = InterruptedStep("shop.0002", True, frozenset({"an_index"}), run)
        with self._reader() as reader, self._reader(lock_key="other") as other:
            assert reader.interrupted() == {"shop.0002": step}
            assert other.interrupted() == {}

    def test_a_step_that_was_finished_later(self) -> None:
        """A step is no longer interrupted once a later run has finished it."""
        with self._reader() as reader:
            for outcome in (None, None, "done"):
                with self._lead() as session:
                    session.recorder.open_run("test")
                    session.recorder.start_step(
                        "shop.seed", backwards=False, atomic=False, kind="step"
                    )
                    run = session.recorder.run_id
                    assert reader.interrupted()["shop.seed"].run == run
                    if outcome is not None:
                        session.recorder.finish_step(outcome)
            assert reader.interrupted() == {}

    def test_completed_steps(self) -> None:
        """Completed steps are read newest first, with their version and fingerprint."""
        newer = replace(SEED, version=2, fingerprint=lambda: "b")
        self._record_run("ready", complete=SEED)
        self._record_run("failed", complete=newer)
        with self._reader() as reader:
            assert reader.completed_steps() == [
                CompletedStep("shop.seed", 2, "b"),
                CompletedStep("shop.seed", 1, None),
            ]

    def test_a_migration_is_no_completed_step(self) -> None:
        """Only registered steps that ended as done are completed."""
        with self._lead() as session:
            session.recorder.open_run("test")
            session.recorder.start_step("shop.0001", backwards=False, atomic=False)
            session.recorder.finish_step("done")
            start(session, SEED)
            session.recorder.finish_step("failed")
            session.recorder.finish_run("failed", State.ERROR)
        with self._reader() as reader:
            assert reader.completed_steps() == []

    def test_a_step_is_completed_by_its_transaction(self) -> None:
        """The record of a step is committed, or rolled back, with the step's own work."""
        with self._lead() as session, self._reader() as reader:
            session.recorder.open_run("test")
            start(session, SEED)
            connection = connections[self.alias]
            with raises(Undo), transaction.atomic(using=self.alias):
                session.recorder.complete_step(connection)
                raise Undo
            assert reader.completed_steps() == []
            with transaction.atomic(using=self.alias):
                session.recorder.complete_step(connection)
            assert reader.completed_steps() == [CompletedStep("shop.seed", 1, None)]

    # Old runs

    def test_the_oldest_runs_are_deleted(self) -> None:
        """The newest runs are kept; the others are deleted with their steps."""
        step = replace(SEED, name="again")
        runs = [self._record_run("ready", complete=step) for _ in range(4)]
        first = self._history()[0]
        assert len(self._steps(first)) == 1
        self._prune(4)
        assert self._ids() == runs
        self._prune(2)
        assert self._ids() == runs[2:]
        assert self._steps(first) == []

    def test_an_open_run_is_kept(self) -> None:
        """The open run is kept, even if `keep` is 0."""
        self._record_run("ready")
        run = self._record_death()
        for _ in range(2):
            self._prune(0)
            assert self._ids() == [run]

    def test_needed_runs_are_kept(self) -> None:
        """The runs that the caller needs are kept."""
        runs = [self._record_run("ready") for _ in range(4)]
        self._prune(1, runs[1])
        assert self._ids() == [runs[1], runs[3]]

    def test_the_last_completion_of_a_step_is_kept(self) -> None:
        """The runs that completed a step last are kept; without them it would be due again."""
        other = replace(SEED, name="other")
        self._record_run("ready", complete=SEED)
        last = [self._record_run("ready", complete=step) for step in (SEED, other)]
        newest = self._record_run("ready")
        self._prune(1)
        assert self._ids() == [*last, newest]

    def test_ends_that_count_are_kept(self) -> None:
        """The build's transient ends in a row are kept, but not another build's."""
        self._record_run("transient")
        self._record_run("ready")
        counting = [self._record_run("transient") for _ in range(2)]
        self._record_run("transient", OTHER_BUILD)
        self._prune(0)
        assert self._ids() == counting

    def test_another_lock_keys_runs_are_kept(self) -> None:
        """Runs of another `LOCK_KEY` are neither deleted nor counted."""
        own = [self._record_run("ready") for _ in range(2)]
        self._record_run("ready", lock_key="other")
        self._prune(2)
        assert self._ids() == own
        self._prune(0)
        assert self._ids() == []
        assert self._outcomes("other") == ["ready"]

    def _prune(self, keep: int, *needed: int) -> None:
        with self._lead() as session:
            session.recorder.prune(keep, frozenset(needed))

    def _ids(self) -> list[int]:
        return [run.id for run in self._history()]


def _shows(reader: BaseReader, items: str) -> bool:
    return latest(reader).items == items
