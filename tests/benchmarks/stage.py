"""The synthetic project and the embedded servers that the measures share."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

from example_project.embedded import EmbeddedServer
from tests.support import Database

from .project import INITIALIZED, Project, generate

#: `max_connections`: enough for all waiters of a measure, or PostgreSQL's default.
ROOMY, SCARCE = 400, 100
#: As in production, the server writes commits to disk.
DURABLE = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "128MB",
}
TEMPLATE = "initialized"


class Stage:
    """The project and the servers, which are created on demand and removed at the end."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._servers: dict[int, EmbeddedServer] = {}

    def __enter__(self) -> Stage:
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        self.project: Project = generate(self.folder / "project")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def server(self, slots: int = ROOMY) -> EmbeddedServer:
        """Return the running server with this `max_connections`."""
        if slots not in self._servers:
            settings = {**DURABLE, "max_connections": str(slots)}
            server = EmbeddedServer(settings=settings)
            self._servers[slots] = self._stack.enter_context(server)
        return self._servers[slots]

    @contextmanager
    def database(self, slots: int = ROOMY, *, initialized: bool) -> Iterator[Database]:
        """Yield a new database, either empty or initialized by the project's `safe_migrate`."""
        server = self.server(slots)
        template = self._template(server) if initialized else None
        name = f"benchmark_{os.urandom(4).hex()}"
        server.create_database(name, template=template)
        database = Database(name, server.params())
        try:
            yield database
        finally:
            database.close()
            server.drop_database(name)

    def _template(self, server: EmbeddedServer) -> str:
        with server.connect() as session:
            query = "SELECT 1 FROM pg_database WHERE datname = %s"
            made = session.execute(query, [TEMPLATE]).fetchone()
        if not made:
            server.create_database(TEMPLATE)
            settings = Database(TEMPLATE, server.params()).settings()
            self.project.run(
                "manage.py",
                "safe_migrate",
                environment=self.project.environment(INITIALIZED, settings),
            )
        return TEMPLATE

    def version(self) -> str:
        """Return the version of the servers."""
        with self.server().connect() as session:
            return session.execute("SHOW server_version").fetchone()[0]
