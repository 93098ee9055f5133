"""Open a backend for its contracts, as separate processes would."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

from django.db import connections, transaction
from django.db.migrations.recorder import MigrationRecorder

from django_safe_init.backends.base.backend import LockingBackend
from django_safe_init.backends.base.context import Context
from django_safe_init.backends.base.reader import BaseReader
from django_safe_init.backends.base.recorder import Fence
from django_safe_init.backends.base.run_session import RunSession
from django_safe_init.conf import Settings
from django_safe_init.core.build import Build
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.records import LostRuns, RunRow, StepRow
from django_safe_init.core.states import State
from django_safe_init.core.step import DONE, StepDefinition

BUILD = Build(frozenset({"shop.0001", "shop.0002"}), "a build")
OTHER_BUILD = Build(frozenset(), "another build")
SEED = StepDefinition("shop", "seed", lambda context: None)


class Undo(Exception):
    """Rolls a transaction back."""


def with_steps(*steps: StepDefinition) -> Build:
    """Return `BUILD` with steps."""
    return replace(BUILD, steps=steps)


def start(session: RunSession, step: StepDefinition) -> Fence:
    """Record the start of an atomic step."""
    return session.recorder.start_step(
        step.label, backwards=False, atomic=True, detail=step.detail, kind="step"
    )


def latest(reader: BaseReader) -> RunRow:
    """Return the newest run, which must exist."""
    run = reader.peek().latest
    assert run is not None
    return run


class BackendContract(ABC):
    """Opens the backend for the contracts below, as separate processes would.

    Each test needs an empty database as `alias`, also for Django's own connection.
    """

    alias = "default"

    @abstractmethod
    def open_backend(self, context: Context) -> LockingBackend:
        """Return the backend for the context."""

    def _backend(
        self, build: Build = BUILD, lock_key: str | None = None
    ) -> LockingBackend:
        settings = Settings(lock_key=lock_key)
        return self.open_backend(Context(self.alias, build, settings, Deadline(None)))

    @contextmanager
    def _campaign(
        self, build: Build = BUILD, lock_key: str | None = None
    ) -> Iterator[tuple[LockingBackend, Any]]:
        """Yield a backend, and the lock or None."""
        backend = self._backend(build, lock_key)
        with (
            closing(backend.observer()) as observer,
            backend.leadership(observer) as lock,
        ):
            yield backend, lock

    @contextmanager
    def _lead(
        self, build: Build = BUILD, lock_key: str | None = None
    ) -> Iterator[RunSession]:
        """Lead a run; yield its session, while Django's connections are the run's."""
        with self._campaign(build, lock_key) as (backend, lock):
            assert lock is not None
            with closing(backend.open_run_session(lock)) as session:
                session.recorder.ensure_tables()
                with session.connections():
                    yield session

    @contextmanager
    def _reader(
        self, build: Build = BUILD, lock_key: str | None = None
    ) -> Iterator[BaseReader]:
        with closing(self._backend(build, lock_key).reader()) as reader:
            yield reader

    def _history(self, lock_key: str | None = None) -> list[RunRow]:
        """Return all runs, oldest first."""
        with self._reader(lock_key=lock_key) as reader:
            return reader.history(1000)[::-1]

    def _outcomes(self, lock_key: str | None = None) -> list[str | None]:
        return [run.outcome for run in self._history(lock_key)]

    def _steps(self, run: RunRow) -> list[StepRow]:
        with self._reader() as reader:
            return list(reader.run_detail(run, 1000).steps)

    def _record_run(
        self,
        outcome: str,
        build: Build = BUILD,
        lock_key: str | None = None,
        complete: StepDefinition | None = None,
        release: str | None = None,
    ) -> int:
        """Record a run that ends, and return its id."""
        with self._lead(build, lock_key) as session:
            assert session.recorder.open_run("test", release=release) is None
            if complete is not None:
                self._complete(session, complete)
            state = State.READY if outcome == "ready" else State.ERROR
            session.recorder.finish_run(outcome, state)
            return session.recorder.run_id

    def _record_death(
        self,
        message: str = "",
        build: Build = BUILD,
        lock_key: str | None = None,
        lost: LostRuns | None = None,
    ) -> int:
        """Record a run whose leader dies, so that it stays open; return its id."""
        with self._lead(build, lock_key) as session:
            assert session.recorder.open_run("test", lost) is None
            if message:
                session.recorder.update(State.MIGRATING, message)
            return session.recorder.run_id

    def _complete(self, session: RunSession, step: StepDefinition) -> None:
        """Record a step that is done."""
        start(session, step)
        with transaction.atomic(using=self.alias):
            session.recorder.complete_step(connections[self.alias])
        session.recorder.finish_step(DONE)

    def _record_migrations(self, *names: str) -> None:
        """Record the migrations as Django does."""
        recorder = MigrationRecorder(connections[self.alias])
        recorder.ensure_schema()
        for name in names:
            recorder.record_applied(*name.split("."))
