"""What validation has found, for a person."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from django_safe_init.validation import ValidationReport


def format_findings(found: ValidationReport) -> Iterator[str]:
    """The findings by their kind; a repair follows all that it puts right."""
    yield f"{found.database}: {_headline(found)}"
    by_kind = groupby(found.findings, lambda each: f"{each.kind} ({each.level})")
    for title, findings in by_kind:
        yield f"\n{title}"
        for repair, alike in groupby(findings, lambda each: each.repair):
            yield from (f"  {each.message}" for each in alike)
            yield from (f"    {line}" for line in repair)


def _headline(found: ValidationReport) -> str:
    if not found.findings:
        return f"{found.tables} tables are what this build's models need"
    errors = sum(each.is_error for each in found.findings)
    warnings = len(found.findings) - errors
    return f"{_count(errors, 'error')}, {_count(warnings, 'warning')}"


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
