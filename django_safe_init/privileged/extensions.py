"""Extensions, most of which only a superuser may create."""

from __future__ import annotations

from django_safe_init.core.step import PrivilegedContext
from django_safe_init.privileged.registration import register, rows, run


def ensure_extension(name: str) -> None:
    """The extension, in the database that is initialized, in its default schema."""

    def ensure(context: PrivilegedContext) -> None:
        run(context.target(), "CREATE EXTENSION IF NOT EXISTS {name}", name=name)

    def done(context: PrivilegedContext) -> bool:
        query = "SELECT 1 FROM pg_extension WHERE extname = %s"
        return bool(rows(context.target(), query, name))

    register(f"extension_{name}", ensure, done)
