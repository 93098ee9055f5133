"""Tell how a statement behaves in a transaction, and after a process died during it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from django_safe_init.backends.base.sql_words import Words

_TRANSACTION_CONTROL = frozenset({"BEGIN", "COMMIT", "END", "ABORT", "START"})


@dataclass(frozen=True)
class SQLEffect:
    """The behavior of one SQL statement, or of a script."""

    #: It begins or ends a transaction itself.
    controls_transaction: bool = False
    #: It never runs in a transaction.
    refuses_transaction: bool = False
    #: It may commit a part of its work, if it runs outside of a transaction.
    may_commit: bool = False
    #: It has the same result if it runs again.
    is_repeatable: bool = False
    #: The statements that change the session, which ends with its process.
    session: tuple[str, ...] = ()
    #: The index that it creates, drops or rebuilds concurrently, as written; None without one.
    concurrent_index: str | None = None
    #: CREATE, DROP or REINDEX, for the index.
    action: str = ""


def controls_transaction(words: Words) -> bool:
    """Return True if the statement begins or ends a transaction."""
    if words[0] == "ROLLBACK":
        return "TO" not in words
    if words[0] == "PREPARE":
        return words[1:2] == ("TRANSACTION",)
    return words[0] in _TRANSACTION_CONTROL


def combine(effects: Iterable[SQLEffect]) -> SQLEffect:
    """Return the effect of statements that run one after another."""
    found = list(effects)
    if len(found) == 1:
        return found[0]
    return SQLEffect(
        controls_transaction=any(each.controls_transaction for each in found),
        refuses_transaction=any(each.refuses_transaction for each in found),
        may_commit=any(each.may_commit for each in found),
        is_repeatable=all(each.is_repeatable for each in found),
        session=tuple(text for each in found for text in each.session),
    )
