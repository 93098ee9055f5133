"""Write the statements with which a person ends the holder of a lock."""

from __future__ import annotations

import re

from django_safe_init.core.text import printable

#: The prepared transactions, by the virtual transaction of their locks. It is -1/<xid> only after
#: a restart of PostgreSQL. The lock on the transaction's own id leads to its row in any case.
PREPARED = """
    SELECT DISTINCT own.virtualtransaction, x.gid, x.owner, x.database, x.prepared
    FROM pg_locks AS own JOIN pg_prepared_xacts AS x ON x.transaction = own.transactionid
    WHERE own.locktype = 'transactionid' AND own.pid IS NULL AND own.granted
"""

#: White space that a line of output would not keep.
_LOST_SPACE = re.compile(r"[^\S ]|(?<= ) ")


def how_to_terminate(pid: int) -> str:
    """Return the statement that terminates the session, for a person."""
    return f"SELECT pg_terminate_backend({pid});"


def how_to_roll_back(gid: str) -> str:
    """Return the statement that ends the prepared transaction, for a person.

    Its owner or a superuser can execute the statement, in the transaction's database.
    """
    return f"ROLLBACK PREPARED {literal(gid)};"


def literal(text: str) -> str:
    """Return the text as a printable literal of SQL."""
    quoted = text.replace("'", "''")
    escaped = _LOST_SPACE.sub(_escape, quoted.replace("\\", "\\\\"))
    escaped = "".join(
        each if printable(each) == each else _escape_one(each) for each in escaped
    )
    return f"'{quoted}'" if escaped == quoted else f"E'{escaped}'"


def _escape(match: re.Match[str]) -> str:
    return _escape_one(match[0])


def _escape_one(character: str) -> str:
    code = ord(character)
    return f"\\U{code:08x}" if code > 0xFFFF else f"\\u{code:04x}"
