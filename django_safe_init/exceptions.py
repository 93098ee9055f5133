"""The errors of this package. An error raised without a message has its docstring as message."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import InternalError

from django_safe_init.core.text import printable_hint

if TYPE_CHECKING:
    from django_safe_init.core.findings import Finding


class SafeInitError(Exception):
    """The database could not be initialized."""

    #: Exit code of `safe_migrate`.
    exit_code = 1
    #: The value of `result` in the JSON of `safe_migrate`.
    result = "failed"

    def __init__(self, message: str | None = None) -> None:
        # A message may quote a database, a migration or the environment.
        super().__init__(printable_hint(message) if message else self.__doc__)

    def __str__(self) -> str:
        text: str = self.args[0]  # a hint keeps its commands
        return text


class InitializationFailed(SafeInitError):
    """The initialization failed.

    `applied` names the migrations that this run finished (they stay), `failed_migration` the
    one it was in, if any. The cause is in `__cause__`.
    """

    def __init__(
        self,
        message: str | None = None,
        *,
        applied: tuple[str, ...] = (),
        failed_migration: str | None = None,
        run: int | None = None,
    ) -> None:
        super().__init__(message)
        self.applied = applied
        self.failed_migration = failed_migration
        self.run = run


class LeaderFailed(InitializationFailed):
    """The leader that was followed failed; the message holds its reason."""


class SchemasFailed(InitializationFailed):
    """Schemas of tenants failed; the shared schema and the others are up to date.

    `traceback` is the one of the first failure. Each error was logged when it happened.
    """

    is_logged = True

    def __init__(self, message: str, traceback: str | None = None) -> None:
        super().__init__(message)
        self.traceback = traceback


class UnfinishedMigration(InitializationFailed):
    """A non-atomic migration was interrupted, and `UNFINISHED` is "report"."""


class DDLLockTimeout(InitializationFailed):
    """A migration did not get a lock within `DDL_LOCK_TIMEOUT`; the message says who has it."""


class ValidationFailed(InitializationFailed):
    """The work is done, and the database is not what this build needs.

    `findings` holds what is wrong, each with its repair.
    """

    def __init__(
        self, message: str | None = None, *, findings: tuple[Finding, ...] = ()
    ) -> None:
        super().__init__(message)
        self.findings = findings


class ConfigurationError(SafeInitError):
    """A setting or an argument is wrong."""

    exit_code = 2
    result = "usage"


class ReadOnlyPool(SafeInitError, InternalError):
    """A slow pool of a database is read-only."""


class UnsafeConnection(SafeInitError):
    """Advisory locks on this connection would not exclude other processes."""

    exit_code = 2
    result = "unsafe"


class ReadOnlyServer(UnsafeConnection):
    """The database server accepts no writes: it is a standby, or it is set to be read-only.

    `is_final` is True after the last of `CONNECT_ATTEMPTS`.
    """

    def __init__(self, message: str | None = None, *, is_final: bool = False) -> None:
        super().__init__(message)
        self.is_final = is_final


class UnsupportedEngine(UnsafeConnection):
    """This database engine has no lock that this package knows."""


class MissingPrivilege(UnsafeConnection):
    """The role may not do what an initialization must do; the message holds the GRANT."""


class WaitTimeout(SafeInitError, TimeoutError):
    """Gave up waiting."""

    exit_code = 3
    result = "timeout"


class DatabaseUnreachable(SafeInitError, ConnectionError):
    """The database server cannot be reached."""

    exit_code = 4
    result = "unreachable"


class LoginRefused(DatabaseUnreachable):
    """The database server refuses this role, or its password; trying again will not help."""


class LockLost(SafeInitError):
    """The leader lock, or a connection of the run, was lost."""

    exit_code = 5
    result = "lock_lost"
