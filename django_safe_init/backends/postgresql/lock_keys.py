"""Derive the advisory lock keys and the NOTIFY channel from `LOCK_KEY`.

The keys are 64-bit, because two-integer and small fixed keys collide between projects. They are
frozen: two versions of this package that meet in one rollout must exclude each other.
PostgreSQL's advisory locks are per database (PostgreSQL manual, section 13.3.5).
"""

from __future__ import annotations

from hashlib import blake2b

from django_safe_init.core.records import PREPARED_PID

#: The longest wait of a leader's statement for a lock on the status tables. It then tries again.
LOCK_TIMEOUT = "500ms"


def leader_key(lock_key: str | None = None) -> int:
    """Return the key whose exclusive holder leads. `lock_key` is the setting `LOCK_KEY`."""
    return _key("leader", lock_key)


def work_key(lock_key: str | None = None) -> int:
    """Return the key that every connection of a run holds shared. No process waits for it."""
    return _key("work", lock_key)


def privileged_key(lock_key: str | None = None) -> int:
    """Return the key whose exclusive holder runs the privileged phase.

    The holder locks the key in the maintenance database.
    """
    return _key("privileged", lock_key)


def schema_key(schema: str) -> int:
    """Return the key whose exclusive holder migrates a tenant's schema.

    All projects of a database exclude each other, whatever their `LOCK_KEY`: the schema is one.
    """
    return _key("schema", schema)


def remember_key(lock_key: str | None = None) -> int:
    """Return the key of the one process that writes what several have read of schemas."""
    return _key("remember", lock_key)


def channel(lock_key: str | None = None) -> str:
    """Return the NOTIFY channel on which a leader announces that the lock is free."""
    return f"django_safe_init_{leader_key(lock_key) & 0xFFFFFFFFFFFFFFFF:016x}"


def _key(purpose: str, lock_key: str | None) -> int:
    text = f"django_safe_init:{purpose}" + (f":{lock_key}" if lock_key else "")
    return int.from_bytes(
        blake2b(text.encode(), digest_size=8).digest(), "big", signed=True
    )


#: The 64-bit keys and their holders. `pg_locks` shows a key in halves, and a prepared transaction
#: without a process id (PostgreSQL manual, 53.13).
HELD = f"""(
    SELECT coalesce(pid, {PREPARED_PID}) AS pid, virtualtransaction,
           (classid::bigint << 32) | objid::bigint AS key FROM pg_locks
    WHERE locktype = 'advisory' AND objsubid = 1 AND granted
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
) AS held"""


HOLDERS = f"SELECT pid FROM {HELD} WHERE key = %(key)s"


def holders_sql(parameter: str) -> str:
    """Return the query for the sessions that hold the key in the parameter `parameter`."""
    return HOLDERS.replace("%(key)s", f"%({parameter})s")
