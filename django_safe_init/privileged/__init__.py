"""Work that needs an administrator: roles, databases, extensions, grants.

Each call in an app's `init_steps.py` registers a step of the privileged phase, which only
`safe_migrate --phase privileged` does, on the alias that `PRIVILEGED_DATABASE` names:

    from django_safe_init import privileged

    privileged.ensure_role("shop_owner", password_env="OWNER_PASSWORD")
    privileged.ensure_database(owner="shop_owner")
    privileged.ensure_extension("pg_trgm")
    privileged.ensure_role("shop_app", password_env="APP_PASSWORD")
    privileged.grant_application("shop_app", owner="shop_owner")

Whether they are done is read from the server's catalogue, never from a record: a dump that was
restored on another server has the record and not the role. Each may be done again at any time.
Names of the calling app's steps are made of what they ensure, `role_shop_owner` for example.
"""

from __future__ import annotations

from django_safe_init.privileged.databases import ensure_database, ensure_extension
from django_safe_init.privileged.grants import grant_application
from django_safe_init.privileged.roles import ensure_role

__all__ = ["ensure_database", "ensure_extension", "ensure_role", "grant_application"]
