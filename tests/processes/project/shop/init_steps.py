"""The step of a scenario, if `SCENARIO_STEP` is "atomic" or "open"."""

from collections.abc import Callable
from typing import Any

from django.db import transaction

import acts
import tables
from django_safe_init import init_step, privileged, track
from django_safe_init.steps import StepContext


def die_when_recorded(execute: Callable[..., Any], sql: str, *args: Any) -> Any:
    result = execute(sql, *args)
    if sql.startswith("UPDATE") and "django_safe_init_step" in sql:
        acts.die_once("recorded")
    return result


if acts.chosen("STEP"):

    @init_step(atomic=acts.chosen("STEP") == "atomic")
    def seed(context: StepContext) -> None:
        """Enter one row, and die if the test requests it."""
        acts.note("seed")
        if acts.chosen("COUNTS"):
            for _ in track(range(10), message="seeds"):
                acts.wait_for("seed")
        with context.connection.schema_editor() as editor:
            tables.enter(editor, "seed")
        acts.die_once("in the step")
        if acts.chosen("STEP") == "atomic":
            context.connection.execute_wrappers.append(die_when_recorded)
            transaction.on_commit(lambda: acts.die_once("committed"))


if role := acts.chosen("ROLE"):
    privileged.ensure_role(role, password_env="SCENARIO_SECRET")
    privileged.grant_application(role, owner="postgres")
