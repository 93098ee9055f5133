"""Tell how far migrations are that were left half done, and how the next start goes on."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Any

from django_safe_init.core.records import EntryKind, EntryState, JournalEntry


def describe_half_done(
    entries: Iterable[JournalEntry], policy: str, error: str = ""
) -> list[str]:
    """Return a line for each migration of the journal.

    `policy` is the setting `UNFINISHED`, and `error` is why the last run has failed.
    """
    by_migration = groupby(entries, key=lambda each: each.migration)
    return [_describe(name, list(found), policy, error) for name, found in by_migration]


def _describe(name: str, entries: list[JournalEntry], policy: str, error: str) -> str:
    header = _header(entries)
    names = [str(each) for each in header.get("operations", ())]
    policy = str(header.get("policy", policy))
    found = [each for each in entries if each.kind in _OF_OPERATIONS]
    finished = [each for each in found if not each.part and _is_done(each)]
    is_reversal = entries[0].recorded
    verb = "undone" if is_reversal else "done"
    line = f"{name}: {len(finished)} of {len(names)} operations are {verb}"
    if any(f"{name} is half {each}" in error for each in ("done", "undone")):
        return f"{line}; the last start has refused to go on, see its error"
    for entry in found:
        if not _is_done(entry):
            return f"{line}; {_doubt(entry, names, policy, is_reversal)}"
    left = sorted({*range(1, len(names) + 1)} - {each.position for each in finished})
    if not left:
        return f"{line}; the next start executes the deferred SQL and records it"
    if is_reversal:
        return f"{line}; the next start applies these again"
    return f"{line}; the next start continues with {_title(left[0], names)}"


_OF_OPERATIONS = (EntryKind.OPERATION, EntryKind.STATEMENT)


def _is_done(entry: JournalEntry) -> bool:
    return entry.state is EntryState.DONE


def _header(entries: list[JournalEntry]) -> dict[str, Any]:
    for entry in entries:
        if entry.kind is EntryKind.MIGRATION and isinstance(entry.detail, dict):
            return entry.detail
    return {}


def _title(number: int, names: list[str]) -> str:
    name = f" ({names[number - 1]})" if number <= len(names) else ""
    return f"operation {number}{name}"


def _doubt(
    entry: JournalEntry, names: list[str], policy: str, is_reversal: bool
) -> str:
    title = f"{_title(entry.position, names)} was begun and did not end"
    again = "applies it again" if is_reversal else "does it again"
    detail = entry.detail if isinstance(entry.detail, dict) else {}
    if detail.get("index") is not None:
        return f"{title}: the next start cleans up, and {again}"
    if detail.get("repeatable") or policy == "rerun":
        return f"{title}: the next start {again}"
    return (
        f"{title}, and its effect is unknown: the next start stops, and names the commands to "
        "choose from"
    )
