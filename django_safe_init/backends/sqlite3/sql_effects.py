"""Tell how a statement of SQLite behaves in a transaction and after an interruption."""

from __future__ import annotations

from django_safe_init.backends.base.sql_effects import (
    SQLEffect,
    combine,
    controls_transaction,
)
from django_safe_init.backends.base.sql_words import SQLStatement, statements

#: Statements that do the same again.
_REPEATABLE = frozenset({"ANALYZE", "REINDEX"})


def effect_of(script: str) -> SQLEffect:
    """Return the effect of a statement, or of a script."""
    return combine(map(_effect, statements(script)))


def _effect(statement: SQLStatement) -> SQLEffect:
    words = statement.words
    first = words[0]
    if controls_transaction(words):
        return SQLEffect(controls_transaction=True, refuses_transaction=True)
    if first == "VACUUM":
        return SQLEffect(refuses_transaction=True, is_repeatable="INTO" not in words)
    if first == "PRAGMA":
        return SQLEffect(
            refuses_transaction=True, is_repeatable=True, session=(statement.text,)
        )
    return SQLEffect(is_repeatable=first in _REPEATABLE)
