"""Results of `safe_migrate` for one or more databases: severity, text and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from django.core.management.base import CommandError

from django_safe_init.initialization.types import Outcome

#: Exit codes by severity. The exit code of a signal is missing here, and worse than all.
WORST_FIRST = (2, 1, 5, 4, 3, 0)


class Result(NamedTuple):
    """Outcome for one database, with its exit code and the error that caused it."""

    outcome: Outcome
    code: int = 0
    error: Exception | None = None

    @property
    def severity(self) -> int:
        """Return the rank of the exit code; the lowest is the worst."""
        return WORST_FIRST.index(self.code) if self.code in WORST_FIRST else -1

    @property
    def summary(self) -> str:
        """Return the line that reports a success."""
        outcome = self.outcome
        applied = ""
        if outcome.role == "leader":
            applied = f", {len(outcome.applied)} migrations applied"
        if outcome.schemas_migrated is not None:
            applied += f", {schemas_migrated(outcome.schemas_migrated)}"
        role = "nothing to do" if outcome.role == "none" else outcome.role
        duration = f"{outcome.duration_seconds:.1f} s"
        result = "done" if outcome.result == "partial" else outcome.result
        return f"{outcome.database}: {result} ({role}{applied}, {duration})"


def schemas_migrated(count: int) -> str:
    """Return the words for the number of schemas that a process has migrated."""
    return f"{count:,} schema{'' if count == 1 else 's'} of tenants migrated"


def as_json(results: Sequence[Result]) -> dict[str, Any]:
    """Return the JSON object of the results, the worst of which comes first.

    A single result is its outcome. Several are a list, with the `result` of the worst.
    """
    outcomes = [result.outcome for result in results]
    if len(outcomes) == 1:
        return outcomes[0].as_json()
    return {
        "result": outcomes[0].result,
        "databases": [outcome.as_json() for outcome in outcomes],
    }


def command_error(results: Sequence[Result]) -> CommandError:
    """Return the error to raise for results of which the first, the worst, failed."""
    failed = [result.outcome for result in results if result.outcome.error]
    text = "\n".join(f"{each.database}: {each.error}" for each in failed)
    error = CommandError(text, returncode=results[0].code)
    error.__cause__ = results[0].error  # shown by --traceback
    return error
