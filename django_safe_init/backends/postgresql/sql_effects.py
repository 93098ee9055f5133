"""Tell how a statement of PostgreSQL behaves in a transaction and after an interruption."""

from __future__ import annotations

from django_safe_init.backends.base.sql_effects import (
    SQLEffect,
    combine,
    controls_transaction,
)
from django_safe_init.backends.base.sql_words import SQLStatement, Words, statements

#: Statements that run outside of transactions, and do the same again.
_MAINTENANCE = frozenset({"VACUUM", "CHECKPOINT"})
#: Statements that run anywhere, and do the same again.
_REPEATABLE = frozenset({"ANALYZE", "ANALYSE", "CLUSTER", "REINDEX", "REFRESH"})
#: What `SET` does not change for the session.
_WITHIN_TRANSACTION = frozenset({"LOCAL", "TRANSACTION", "CONSTRAINTS"})


def effect_of(script: str) -> SQLEffect:
    """Return the effect of a statement, or of a script that is sent as one message."""
    return combine(map(_effect, statements(script)))


def _effect(statement: SQLStatement) -> SQLEffect:
    words = statement.words
    first = words[0]
    if controls_transaction(words):
        return SQLEffect(controls_transaction=True, refuses_transaction=True)
    if first in _MAINTENANCE:
        return SQLEffect(refuses_transaction=True, is_repeatable=True)
    if first == "RESET" or (
        first == "SET" and _WITHIN_TRANSACTION.isdisjoint(words[1:2])
    ):
        return SQLEffect(is_repeatable=True, session=(statement.text,))
    if "CONCURRENTLY" in words and first in ("CREATE", "DROP", "REINDEX", "ALTER"):
        return _concurrent(words)
    return SQLEffect(
        may_commit=first in ("CALL", "DO"), is_repeatable=first in _REPEATABLE
    )


def _concurrent(words: Words) -> SQLEffect:
    """Return the effect of a statement with CONCURRENTLY, which needs its own transactions."""
    action = words[0]
    name = _index_name(words) if "INDEX" in words else None
    return SQLEffect(
        refuses_transaction=True,
        may_commit=True,
        is_repeatable=action == "REINDEX",
        concurrent_index=name,
        action=action if name else "",
    )


def _index_name(words: Words) -> str | None:
    """Return the index that the statement names, with its schema; None if it has no name.

    A new index has the schema of its table.
    """
    rest = list(words)
    rest = rest[max(rest.index("CONCURRENTLY"), rest.index("INDEX")) + 1 :]
    if rest[:1] == ["IF"]:
        rest = rest[rest.index("EXISTS") + 1 :]
    name, rest = _qualified(rest)
    if name in ((), ("ON",)) or rest[:1] == [","]:
        return None
    if words[0] == "CREATE" and rest[:1] == ["ON"]:
        table, _ = _qualified(rest[2:] if rest[1:2] == ["ONLY"] else rest[1:])
        name = (*table[:-1], name[-1])
    return ".".join(map(_folded, name))


def _qualified(words: list[str]) -> tuple[tuple[str, ...], list[str]]:
    """Return the name at the beginning, by its parts, and the words behind it."""
    name = tuple(words[:1])
    rest = words[1:]
    while rest[:1] == ["."] and len(rest) > 1:
        name, rest = (*name, rest[1]), rest[2:]
    return name, rest


def _folded(word: str) -> str:
    return word if word.startswith('"') else f'"{word.lower()}"'
