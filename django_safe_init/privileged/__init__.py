"""Run work that needs an administrator of PostgreSQL: roles, databases, extensions, grants.

May use psycopg, `backends.postgresql` and the administrator's alias. Must not use a recorder or
`initialization`. On the application's alias it reads PostgreSQL's catalog; only the step that
`grant_application` registers writes there, in the leader's run: it revokes rights.

Each call in an app's `init_steps.py` registers a step of the privileged phase. Only
`safe_migrate --phase privileged` runs these steps, on the alias in `PRIVILEGED_DATABASE`:

    from django_safe_init import privileged

    privileged.ensure_role("shop_owner", password_env="OWNER_PASSWORD")
    privileged.ensure_database(owner="shop_owner")
    privileged.ensure_extension("pg_trgm")
    privileged.ensure_role("shop_app", password_env="APP_PASSWORD")
    privileged.grant_application("shop_app", owner="shop_owner")

PostgreSQL's catalog tells whether a step is done, never a record: a dump that is restored on
another database server contains the record, but not the role. Each step may run again at any
time. Its name contains the object, for example `role_shop_owner`.
"""

from __future__ import annotations

from django_safe_init.privileged.databases import ensure_database, ensure_extension
from django_safe_init.privileged.grants import grant_application
from django_safe_init.privileged.roles import ensure_role

__all__ = ["ensure_database", "ensure_extension", "ensure_role", "grant_application"]
