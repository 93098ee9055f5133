"""A line tells how far a migration is, and how the next start goes on."""

from __future__ import annotations

from typing import Any

import pytest

from django_safe_init.core.half_done import describe_half_done
from django_safe_init.core.records import EntryKind, EntryState, JournalEntry

NAMES = ["CreateModel Item", "RunPython fill", "RunSQL"]
DONE, STARTED = EntryState.DONE, EntryState.STARTED


def entry(
    position: int,
    state: EntryState = DONE,
    part: int = 0,
    detail: Any = None,
    **changes: Any,
) -> JournalEntry:
    kind = EntryKind.STATEMENT if part else EntryKind.OPERATION
    made = JournalEntry("shop.0007", False, kind, position, part, state, "", detail, 1)
    return made._replace(**changes)


HEAD = entry(0, kind=EntryKind.MIGRATION, detail={"operations": NAMES})
DEFERRED = entry(1, kind=EntryKind.DEFERRED, detail="SELECT 1")


@pytest.mark.parametrize(
    ("entries", "line"),
    [
        (
            [],
            "0 of 3 operations are done; the next start continues with operation 1 "
            "(CreateModel Item)",
        ),
        (
            [DEFERRED, entry(1)],
            "1 of 3 operations are done; the next start continues with operation 2 "
            "(RunPython fill)",
        ),
        (
            [entry(1), entry(2), entry(3)],
            "3 of 3 operations are done; the next start executes the deferred SQL and records it",
        ),
        (
            [entry(1), entry(2, STARTED)],
            "1 of 3 operations are done; operation 2 (RunPython fill) was begun and did not "
            "end: the next start does it again",
        ),
        (
            [entry(1), entry(3, STARTED, 2, {"repeatable": True})],
            "1 of 3 operations are done; operation 3 (RunSQL) was begun and did not end: the "
            "next start does it again",
        ),
        (
            [entry(9, STARTED, detail={"index": '"a"'})],
            "0 of 3 operations are done; operation 9 was begun and did not end: the next start "
            "cleans up, and does it again",
        ),
        (
            [entry(3, recorded=True)],
            "1 of 3 operations are undone; the next start applies these again",
        ),
    ],
)
def test_lines(entries, line) -> None:
    """Each condition has its line."""
    found = [HEAD._replace(recorded=any(each.recorded for each in entries)), *entries]
    assert describe_half_done(found, "rerun") == [f"shop.0007: {line}"]


def test_a_refusal() -> None:
    """After a refused start the line does not say that the next one continues."""
    error = "shop.0007 is half done, and its file was changed: operation 1"
    [line] = describe_half_done([HEAD, entry(1)], "rerun", error)
    assert line.endswith("the last start has refused to go on, see its error")


def test_a_person_decides() -> None:
    """With "report" the line says that the next start stops."""
    [line] = describe_half_done([HEAD, entry(2, STARTED)], "report")
    assert line.endswith("the next start stops, and names the commands to choose from")


def test_the_policy_of_the_class() -> None:
    """The policy of the migration's class comes before the setting."""
    head = HEAD._replace(detail={**HEAD.detail, "policy": "report"})
    [line] = describe_half_done([head, entry(2, STARTED)], "rerun")
    assert "its effect is unknown" in line


def test_several() -> None:
    """Each migration has a line, also without its list of operations."""
    other = entry(1, migration="shop.0008", detail=[])
    assert [
        line.partition(":")[0] for line in describe_half_done([HEAD, other], "")
    ] == [
        "shop.0007",
        "shop.0008",
    ]
