"""What a leader on SQLite notes in its lock's file while nobody else can write to the database."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from django_safe_init.core.progress import ProgressUpdate


class ProgressRecord(NamedTuple):
    """How far a leader's run is, and its running step."""

    run: int
    done: int
    progress: int
    items: ProgressUpdate | None

    def encoded(self) -> bytes:
        """For the file."""
        return json.dumps(self, ensure_ascii=False).encode()


def _decoded(text: bytes) -> ProgressRecord | None:
    try:
        run, done, progress, items = json.loads(text)
        return ProgressRecord(run, done, progress, items and ProgressUpdate(*items))
    except (ValueError, TypeError):  # none, or one of another version
        return None


def with_note(values: dict[str, Any], text: bytes) -> dict[str, Any]:
    """The columns of an open run, with what its leader has noted since they were written."""
    note = _decoded(text)
    if note is None or (note.run, note.done) != (values["id"], values["done"]):
        return values
    told = note.items._asdict() if note.items else {}
    return {
        **values,
        "progress": max(values["progress"], note.progress),
        **{f"item_{name}": value for name, value in told.items()},
    }
