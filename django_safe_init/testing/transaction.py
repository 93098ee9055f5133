"""State the promises of a migration's transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from django.db import connections, transaction
from django.db.migrations.recorder import MigrationRecorder

from django_safe_init.backends.base.transaction import MigrationTransaction, Names
from django_safe_init.exceptions import InitializationFailed, LockLost
from django_safe_init.testing.assertions import raises
from django_safe_init.testing.backend import BackendContract, Undo


class TransactionContract(BackendContract):
    """The promises of a `MigrationTransaction`."""

    def test_a_migration_is_committed_with_its_record(self) -> None:
        """Work and record become visible together, when the transaction is closed."""
        with self._transaction() as migration, self._reader() as reader:
            self._begin(migration)
            assert migration.is_intact
            assert not migration.has_ended()
            self._migrate(migration)
            assert reader.read().missing == ("shop.0001", "shop.0002")
            migration.close()
            assert reader.read().missing == ("shop.0002",)
            assert migration.has_ended()
            assert migration.is_intact
        assert self._tables() == {"made"}

    def test_an_error_undoes_the_migration(self) -> None:
        """An error rolls work and record back, also outside of the schema editor."""
        with self._transaction() as migration:
            self._begin(migration)
            self._migrate(migration)
            migration.close(Undo())
            assert migration.has_ended()
            migration.close()  # nothing is open any more
        assert (self._tables(), self._recorded()) == (set(), set())

    def test_each_migration_has_its_own_transaction(self) -> None:
        """A later migration's error does not undo an earlier one."""
        with self._transaction() as migration:
            self._begin(migration)
            self._migrate(migration)
            migration.close()
            self._begin(migration, "0002")
            self._migrate(migration, "0002", "more")
            migration.close(Undo())
        assert (self._tables(), self._recorded()) == ({"made"}, {("shop", "0001")})

    def test_a_migration_that_commits(self) -> None:
        """A migration that commits its transaction itself goes on, and is not intact."""
        with self._transaction() as migration:
            self._begin(migration)
            self._execute(migration, "CREATE TABLE made (x integer)", "COMMIT")
            assert not migration.is_intact
            self._record(migration, "0001")
            migration.close()
        assert (self._tables(), self._recorded()) == ({"made"}, {("shop", "0001")})

    def test_a_migration_that_rolls_back(self) -> None:
        """A migration that undoes its transaction itself fails."""
        with self._transaction() as migration:
            self._begin(migration)
            undo = ("CREATE TABLE made (x integer)", "ROLLBACK")
            with raises(InitializationFailed):
                self._execute(migration, *undo)
            migration.close(Undo())
        assert (self._tables(), self._recorded()) == (set(), set())

    def test_a_broken_transaction(self) -> None:
        """A migration that leaves a transaction to roll back fails, and is undone."""
        with self._transaction() as migration:
            self._begin(migration)
            self._migrate(migration)
            transaction.set_rollback(True, self.alias)
            with raises(InitializationFailed):
                migration.close()
        assert (self._tables(), self._recorded()) == (set(), set())

    def test_another_attempt(self) -> None:
        """`retry` begins a transaction for the same migration, and checks again."""
        checked: list[Names] = []
        with self._transaction() as migration:
            self._begin(migration, check=checked.append)
            self._migrate(migration)
            migration.close(Undo())
            migration.retry()
            assert not migration.has_ended()
            self._migrate(migration)
            migration.close()
        assert checked == [set(), set()]
        assert (self._tables(), self._recorded()) == ({"made"}, {("shop", "0001")})

    def test_recorded_names(self) -> None:
        """The check gets the names that are recorded, among those it asked for."""
        self._record_migrations("shop.0001", "shop.0003", "blog.0002")
        checked: list[Names] = []
        with self._transaction() as migration:
            names = {("shop", "0001"), ("shop", "0002"), ("blog", "0001")}
            migration.begin("shop.0002", names, checked.append, runs_custom_code=True)
            assert checked == [{("shop", "0001")}]
            migration.close()

    def test_no_names(self) -> None:
        """A step has no record of Django's, whose table may be missing."""
        checked: list[Names] = []
        with self._transaction(recorded=False) as migration:
            migration.begin("shop.seed", set(), checked.append, runs_custom_code=True)
            assert checked == [set()]
            migration.close()

    def test_a_check_that_fails(self) -> None:
        """A check that fails prevents the first statement of a migration."""
        for custom in (True, False):
            with self._transaction() as migration:
                with raises(LockLost):
                    self._begin(migration, check=_fail, custom=custom)
                    assert not custom  # such code must not run before the check
                    self._migrate(migration)
                migration.close(Undo())
            assert (self._tables(), self._recorded()) == (set(), set())

    def test_on_commit(self) -> None:
        """Functions for `on_commit` run after a commit, and not after a rollback."""
        ran: list[bool] = []
        with self._transaction() as migration:
            for error in (Undo(), None):
                self._begin(migration)
                transaction.on_commit(
                    lambda: ran.append(migration.has_ended()), self.alias
                )
                migration.close(error)
                assert ran == [True] * (error is None)

    @contextmanager
    def _transaction(self, *, recorded: bool = True) -> Iterator[MigrationTransaction]:
        """Yield the transactions of a run, with or without Django's table."""
        if recorded:
            self._record_migrations()
        with self._lead() as session:
            yield session.transaction(connections[self.alias])

    def _begin(
        self,
        migration: MigrationTransaction,
        name: str = "0001",
        check: Callable[[Names], None] = lambda names: None,
        *,
        custom: bool = True,
    ) -> None:
        names = {("shop", name)}
        migration.begin(f"shop.{name}", names, check, runs_custom_code=custom)

    def _migrate(
        self, migration: MigrationTransaction, name: str = "0001", table: str = "made"
    ) -> None:
        """Create a table and record a migration, as Django's executor does."""
        with migration.connection.schema_editor(atomic=True) as editor:
            editor.execute(f"CREATE TABLE {table} (x integer)")
        self._record(migration, name)

    def _record(self, migration: MigrationTransaction, name: str) -> None:
        MigrationRecorder(migration.connection).record_applied("shop", name)

    def _execute(self, migration: MigrationTransaction, *statements: str) -> None:
        with migration.connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def _tables(self) -> set[str]:
        """Return the tables that a migration has created."""
        return {"made", "more"} & set(
            connections[self.alias].introspection.table_names()
        )

    def _recorded(self) -> set[tuple[str, str]]:
        return set(MigrationRecorder(connections[self.alias]).applied_migrations())


def _fail(names: Names) -> None:
    raise LockLost
