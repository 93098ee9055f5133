"""What a catalogue says of itself, whatever the models need."""

from __future__ import annotations

from typing import NamedTuple

from django_safe_init.core.findings import FindingKind


class CatalogIssue(NamedTuple):
    """Something that the server itself calls unfinished."""

    kind: FindingKind
    object: str
    message: str
    #: None if no statement alone puts it right.
    repair: str | None
