"""Is the work done, and sound? Looked at before a run may call itself ready."""

from __future__ import annotations

from django_safe_init.connections import Session

_INVALID_INDEXES = """
    SELECT i.indexrelid::regclass::text
    FROM pg_index i
    WHERE NOT i.indisvalid
      AND pg_table_is_visible(i.indrelid)
      AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index p
                      WHERE p.index_relid = i.indexrelid)
    ORDER BY 1
"""


def invalid_indexes(session: Session) -> list[str]:
    """Indexes that PostgreSQL keeps up to date and does not use: a concurrent build failed.

    An index that is being built at this moment is not one of them.
    """
    return [name for (name,) in session.rows(_INVALID_INDEXES)]


def repair(index: str) -> str:
    """The SQL that makes an invalid index valid (PostgreSQL manual, REINDEX)."""
    return f"REINDEX INDEX CONCURRENTLY {index};"
