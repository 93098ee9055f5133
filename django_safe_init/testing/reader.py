"""State the promises of a reader."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import AbstractContextManager
from dataclasses import replace

from django.db import connections
from django.db.migrations.recorder import MigrationRecorder

from django_safe_init.core.records import (
    Activity,
    LeaderSnapshot,
    TablesLocked,
    TablesUnreadable,
)
from django_safe_init.core.states import State
from django_safe_init.testing.assertions import raises, wait_until
from django_safe_init.testing.backend import (
    BUILD,
    OTHER_BUILD,
    SEED,
    BackendContract,
    latest,
    with_steps,
)


class ReaderContract(BackendContract):
    """The promises of a `BaseReader`."""

    @abstractmethod
    def lock_tables(self) -> AbstractContextManager[None]:
        """Return a context manager that locks the status tables, as a migration can.

        It must not wait for a lock: a reader holds none.
        """

    def test_an_empty_database(self) -> None:
        """Everything is missing in an empty database, and a reader creates nothing in it."""
        with self._reader(with_steps(SEED)) as reader:
            snapshot = reader.read()
            assert snapshot.missing == ("shop.0001", "shop.0002", "shop.seed")
            assert (snapshot.latest, snapshot.own, snapshot.unknown) == (None, None, ())
            assert (snapshot.finished, snapshot.superseded) == (False, False)
            assert reader.peek() == LeaderSnapshot(None, None)
            assert reader.leader_pid() is None
            assert reader.history(9) == []
            assert reader.find_run(1) is None
            with raises(TablesUnreadable):
                reader.finished_run()
        assert connections[self.alias].introspection.table_names() == []

    def test_missing_and_unknown_migrations(self) -> None:
        """A snapshot names what is missing, and unknown migrations of the same apps."""
        self._record_migrations("shop.0002", "shop.0004", "shop.0003", "blog.0001")
        with self._reader() as reader:
            snapshot = reader.read()
            assert snapshot.missing == ("shop.0001",)
            assert snapshot.unknown == ("shop.0003", "shop.0004")
            self._record_migrations("shop.0001")
            assert (reader.read().missing, reader.read().unknown) == ((), ())

    def test_replaced_migrations(self) -> None:
        """A squashed migration is applied if the migrations that it replaces are recorded."""
        build = replace(
            BUILD,
            migrations=frozenset({"shop.0001_squashed", "shop.0003"}),
            read_replacements=lambda: {
                "shop.0001_squashed": frozenset({"shop.0001", "shop.0002"})
            },
        )
        with self._reader(build) as reader:
            assert reader.read().missing == ("shop.0001_squashed", "shop.0003")
            self._record_migrations("shop.0001")
            assert reader.read().missing == ("shop.0001_squashed", "shop.0003")
            self._record_migrations("shop.0002", "shop.0004")
            assert reader.read().missing == ("shop.0003",)
            assert reader.read().unknown == ("shop.0004",)
            self._record_migrations("shop.0003")
            assert reader.read().ready

    def test_missing_steps(self) -> None:
        """A step is missing until a run has completed it in the version of the build."""
        newer = replace(SEED, version=2)
        self._record_migrations(*BUILD.migrations)
        with self._reader(with_steps(newer)) as reader:
            self._record_run("ready", complete=SEED)
            assert reader.read().missing == ("shop.seed",)
            assert reader.finished_run() is None
            run = self._record_run("ready", complete=newer)
            assert reader.read().missing == ()
            assert reader.finished_run() == run

    def test_the_runs_of_a_snapshot(self) -> None:
        """A snapshot has the newest run of all builds and the newest one of this build."""
        own = self._record_run("failed")
        with self._reader() as reader:
            assert not reader.read().superseded
            other = self._record_run("ready", OTHER_BUILD)
            snapshot = reader.read()
            assert snapshot.latest is not None
            assert snapshot.own is not None
            assert (snapshot.latest.id, snapshot.own.id) == (other, own)
            assert (snapshot.finished, snapshot.superseded) == (False, True)
            own = self._record_run("ready")
            snapshot = reader.read()
            assert snapshot.own is not None
            assert snapshot.own.id == own
            assert (snapshot.finished, snapshot.superseded) == (True, False)

    def test_finished_run(self) -> None:
        """The fast path returns the build's newest run only if it ended ready."""
        self._record_migrations(*BUILD.migrations)
        with self._reader() as reader, self._reader(OTHER_BUILD) as other:
            assert reader.read().ready
            run = self._record_run("ready")
            assert reader.finished_run() == run
            assert other.finished_run() is None
            self._record_run("failed")
            assert reader.finished_run() is None
            run = self._record_run("ready")
            assert reader.finished_run() == run
            self._record_death()
            assert reader.finished_run() is None

    def test_finished_run_of_a_release(self) -> None:
        """The fast path of a release needs its run, and no later one of another release."""
        self._record_migrations(*BUILD.migrations)
        with self._reader() as reader:
            run = self._record_run("ready", release="one")
            assert reader.finished_run("one") == reader.finished_run() == run
            assert reader.finished_run("two") is None
            assert reader.read().is_released("one")
            assert reader.history(1)[0].release == "one"
            self._record_run("ready", OTHER_BUILD, release="two")
            assert reader.finished_run("one") is None
            assert reader.finished_run() == run
            assert not reader.read().is_released("one")
            self._record_run("ready", OTHER_BUILD, release="one")
            assert reader.finished_run("one") == run
            self._record_run("failed", OTHER_BUILD, release="two")
            assert reader.finished_run("one") is None
            self._record_run("failed", OTHER_BUILD, release="one")
            assert reader.finished_run("one") == run

    def test_finished_run_with_a_missing_migration(self) -> None:
        """The fast path refuses a build with a migration that is not recorded any more."""
        self._record_migrations(*BUILD.migrations)
        run = self._record_run("ready")
        with self._reader() as reader:
            assert reader.finished_run() == run
            recorder = MigrationRecorder(connections[self.alias])
            recorder.record_unapplied("shop", "0002")
            assert reader.finished_run() is None

    def test_the_leader(self) -> None:
        """A leader is visible from its election to its end, by the id of its run's row."""
        with self._reader() as reader:
            with self._lead() as session:
                pid = reader.leader_pid()
                assert pid is not None
                assert reader.peek() == LeaderSnapshot(None, pid)
                session.recorder.open_run("test")
                snapshot, peeked = reader.read(), reader.peek()
                assert peeked.latest is not None
                assert peeked.latest.id == session.recorder.run_id
                assert peeked.at_work_for(BUILD.fingerprint)
                assert snapshot.leader_pid == peeked.leader_pid == pid
                assert peeked.latest.backend_pid == pid
            assert reader.leader_pid() is None
            assert reader.read().leader_pid is None
            assert not reader.peek().at_work_for(BUILD.fingerprint)

    def test_the_activity_without_a_leader(self) -> None:
        """Without a leader a reader reports no statement and no progress."""
        self._record_death()
        with self._reader() as reader:
            assert reader.activity() == Activity(None, 0.0, None, False, ())

    def test_the_history(self) -> None:
        """The history has the newest runs of all builds of one `LOCK_KEY`, newest first."""
        first = self._record_run("ready")
        self._record_run("ready", lock_key="other")
        second = self._record_run("partial", OTHER_BUILD)
        third = self._record_run("failed")
        with self._reader() as reader:
            assert [run.id for run in reader.history(9)] == [third, second, first]
            assert [run.outcome for run in reader.history(2)] == ["failed", "partial"]
            assert reader.history(0) == []

    def test_a_run_by_its_number(self) -> None:
        """A run of any build is found by its number; another `LOCK_KEY`'s run is not."""
        first = self._record_run("failed", OTHER_BUILD)
        second = self._record_run("ready")
        other = self._record_run("ready", lock_key="other")
        with self._reader() as reader:
            found = [reader.find_run(number) for number in (first, second)]
            assert [run and (run.id, run.outcome) for run in found] == [
                (first, "failed"),
                (second, "ready"),
            ]
            assert reader.find_run(other) is None
            assert reader.find_run(other + 1) is None

    def test_a_lock_key_has_its_own_runs(self) -> None:
        """A reader ignores the runs and steps of another `LOCK_KEY`."""
        self._record_migrations(*BUILD.migrations)
        build = with_steps(SEED)
        self._record_run("ready", build, complete=SEED)
        with self._reader(build, "other") as reader:
            assert reader.read().missing == ("shop.seed",)
            assert reader.read().latest is None
            assert reader.peek().latest is None
            assert reader.finished_run() is None
            assert reader.completed_steps() == []

    def test_the_steps_of_a_run(self) -> None:
        """A reader returns the newest steps of a run in the order of their start."""
        self._record_run("ready", complete=SEED)
        with self._lead() as session, self._reader() as reader:
            session.recorder.open_run("test")
            for name in ("shop.0001", "shop.0002", "shop.0003"):
                session.recorder.start_step(name, backwards=False, atomic=False)
                session.recorder.finish_step("done")
            run = latest(reader)
            names = [step.name for step in reader.run_detail(run, 2).steps]
            assert names == ["shop.0002", "shop.0003"]
            assert len(reader.run_detail(run, 9).steps) == 3
            assert reader.run_detail(run, None).steps == ()

    def test_a_step_that_was_broken_off(self) -> None:
        """A step without an end lasts until its run ended."""
        with self._lead() as session, self._reader() as reader:
            session.recorder.open_run("test")
            session.recorder.start_step("shop.0001", backwards=False, atomic=False)
            session.recorder.finish_run("interrupted", State.ERROR)
            run = latest(reader)
            [step] = reader.run_detail(run, 9).steps
            assert step.outcome is None
            wait_until(lambda: latest(reader).age_seconds > run.duration_seconds + 0.1)
            [later] = reader.run_detail(run, 9).steps
            assert later.seconds == step.seconds <= run.duration_seconds

    def test_seconds_left(self) -> None:
        """The time of steps is estimated from earlier runs, if they all were timed."""
        with self._lead() as session, self._reader() as reader:
            session.recorder.open_run("test")
            session.recorder.start_step("shop.0001", backwards=False, atomic=False)
            run = latest(reader)
            wait_until(lambda: reader.run_detail(run, 1).steps[0].seconds > 0.05)
            session.recorder.finish_step("done")
            session.recorder.finish_run("ready", State.READY)
            [step] = reader.run_detail(run, 1).steps
            session.recorder.open_run("test")
            run = latest(reader)
            left = reader.seconds_left(run, ["shop.0001"])
            assert left is not None
            assert abs(left - step.seconds) < 0.005
            assert reader.seconds_left(run, ["shop.0001", "shop.0002"]) is None

    def test_locked_tables(self) -> None:
        """A reader holds no lock; while a migration locks the tables, it sees the leader."""
        with self._lead() as session, self._reader() as reader:
            session.recorder.open_run("test")
            pid = reader.leader_pid()
            assert reader.read().leader_pid == pid
            with self.lock_tables():
                with raises(TablesLocked):
                    reader.read()
                with raises(TablesLocked):
                    reader.peek()
                assert reader.leader_pid() == pid
            assert reader.read().leader_pid == pid
