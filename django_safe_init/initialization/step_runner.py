"""Run the due steps in a leader's run, each exactly once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from django_safe_init.backends.base.recorder import Fence
from django_safe_init.backends.base.run_session import RunSession
from django_safe_init.backends.base.transaction import MigrationTransaction
from django_safe_init.core import cancellation
from django_safe_init.core.step import DONE, StepContext, StepDefinition
from django_safe_init.exceptions import InitializationFailed
from django_safe_init.initialization.interrupted import InterruptedSteps


class StepRunner:
    """Runs the steps of one run."""

    def __init__(
        self,
        connection: BaseDatabaseWrapper,
        transaction: MigrationTransaction,
        session: RunSession,
        interrupted: InterruptedSteps,
        report: Callable[[str], None],
    ) -> None:
        self.connection = connection
        self.transaction = transaction
        self.session = session
        self.recorder = session.recorder
        self.interrupted = interrupted
        self.report = report
        #: The running step.
        self.current: str | None = None
        #: True if a failure rolls the running step back as a whole.
        self.current_is_atomic = False

    def run(self, steps: Sequence[StepDefinition]) -> None:
        """Run the steps in their order. Raises whatever a step raises."""
        for step in steps:
            cancellation.check()
            self.session.verify()
            self.interrupted.prepare_step(step)
            self._run(step)
            self.report(f"step {step.label}: done")

    def _run(self, step: StepDefinition) -> None:
        self.current, self.current_is_atomic = step.label, step.atomic
        fence = self.recorder.start_step(
            step.label,
            backwards=False,
            atomic=step.atomic,
            detail=step.detail,
            kind="step",
        )
        if step.atomic:
            self._run_atomically(step, fence)
        else:
            self._run_openly(step)
        self.current, self.current_is_atomic = None, False
        self.recorder.finish_step(DONE)

    def _run_atomically(self, step: StepDefinition, fence: Fence) -> None:
        transaction = self.transaction

        def check(recorded: Any) -> None:
            fence.verify()

        transaction.begin(step.label, set(), check, runs_custom_code=True)
        try:
            self._call(step)
            if not transaction.is_intact:
                raise InitializationFailed(
                    f"{step.label} has ended its transaction itself, so it cannot be recorded "
                    "together with what it did. Such a step needs atomic=False."
                )
            self.connection.check_constraints()
            self.recorder.complete_step(self.connection)
        except BaseException as exc:
            transaction.close(exc)
            raise
        transaction.close()

    def _run_openly(self, step: StepDefinition) -> None:
        self._call(step)
        self.transaction.require_none(step.label)

    def _call(self, step: StepDefinition) -> None:
        logger = logging.getLogger(f"django_safe_init.steps.{step.label}")
        context = StepContext(self.connection.alias, self.connection, logger)
        step.call(context)
