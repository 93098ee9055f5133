"""SQL that says who holds an advisory lock on PostgreSQL; anybody may look."""

#: Who holds which 64-bit key, which pg_locks shows as two halves (PostgreSQL manual, 53.13).
HELD = """(
    SELECT pid, (classid::bigint << 32) | objid::bigint AS key FROM pg_locks
    WHERE locktype = 'advisory' AND objsubid = 1 AND granted
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
) AS held"""
HOLDERS = f"SELECT pid FROM {HELD} WHERE key = %(key)s"


def holders_sql(parameter: str) -> str:
    """SQL for the backends that hold the key given as the parameter of that name."""
    return HOLDERS.replace("%(key)s", f"%({parameter})s")
