"""Tell whether the connection limits of a role, a database and a server admit a run."""

from __future__ import annotations

from typing import NamedTuple

from django_safe_init.backends.postgresql.session import Session
from django_safe_init.exceptions import MissingPrivilege

#: A leader holds the lock on one connection and migrates on another.
_CONNECTIONS_OF_A_LEADER = 2

#: Neither limit applies to superusers. The members of `pg_use_reserved_connections` (PostgreSQL
#: 16) may use the reserved connections.
_LIMITS = """
    SELECT rolname, quote_ident(rolname), quote_ident(datname),
      CASE WHEN rolsuper OR rolconnlimit < 0 THEN NULL ELSE rolconnlimit END,
      CASE WHEN rolsuper OR datconnlimit < 0 THEN NULL ELSE datconnlimit END,
      current_setting('max_connections')::int
        - CASE WHEN rolsuper THEN 0
          ELSE current_setting('superuser_reserved_connections')::int
            + coalesce(current_setting('reserved_connections', true), '0')::int END,
      (SELECT count(*)::int FROM pg_stat_activity
       WHERE usesysid = r.oid AND backend_type = 'client backend'),
      (SELECT count(*)::int FROM pg_stat_activity
       WHERE datid = d.oid AND backend_type = 'client backend'),
      (SELECT sum(numbackends)::int FROM pg_stat_database)
    FROM pg_roles r, pg_database d
    WHERE rolname = session_user AND datname = current_database()
"""

#: Followers may keep their sessions while at most half of each limit is in use. Every follower
#: without a session asks this on a new one, so nothing is counted for a limit that is not set.
FREE_SLOTS = """
    SELECT
      CASE WHEN 2 * (SELECT sum(pg_stat_get_db_numbackends(oid)) FROM pg_database)
                > current_setting('max_connections')::int THEN false
        WHEN rolsuper THEN true
        WHEN datconnlimit >= 0 AND 2 * pg_stat_get_db_numbackends(d.oid) > datconnlimit
          THEN false
        WHEN rolconnlimit >= 0 THEN rolconnlimit >= 2 * (
          SELECT count(*) FROM pg_stat_get_activity(NULL) WHERE usesysid = r.oid)
        ELSE true END,
      pg_backend_pid(), pg_is_in_recovery()
    FROM pg_roles r, pg_database d
    WHERE rolname = session_user AND datname = current_database()
"""


class _Limit(NamedTuple):
    """A limit on connections; None for an unlimited number."""

    owner: str
    maximum: int | None
    used: int
    remedy: str


def _limits(session: Session) -> list[_Limit]:
    [row] = session.rows(_LIMITS)
    name, role, database, of_role, of_database, of_server, *used = row
    return [
        _Limit(
            f"The role {name}", of_role, used[0], f"ALTER ROLE {role} CONNECTION LIMIT"
        ),
        _Limit(
            f"The database {database}",
            of_database,
            used[1],
            f"ALTER DATABASE {database} CONNECTION LIMIT",
        ),
        _Limit(
            f"The server, for the role {name},", of_server, used[2], "max_connections ="
        ),
    ]


def check_limits(session: Session, needed: int = _CONNECTIONS_OF_A_LEADER) -> None:
    """Raise `MissingPrivilege` if a limit can never admit `needed` connections of this process."""
    for limit in _limits(session):
        if limit.maximum is not None and limit.maximum < needed:
            raise MissingPrivilege(
                f"{limit.owner} admits {limit.maximum} connections, and this initialization of "
                f"{session.alias!r} needs {needed} at once. As an administrator, with room for "
                f"the other replicas too: {limit.remedy} {needed + 1};"
            )


def free_connections(session: Session) -> int | None:
    """Return how many more connections the limits admit now; None without a limit."""
    free = [
        max(0, limit.maximum - limit.used)
        for limit in _limits(session)
        if limit.maximum is not None
    ]
    return min(free, default=None)


def is_limit_reached(session: Session) -> bool:
    """Return True if the role, the database or the server has no free connection now.

    The error of the server says so in the server's language.
    """
    return any(
        limit.maximum is not None and limit.used >= limit.maximum
        for limit in _limits(session)
    )
