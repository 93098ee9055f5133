"""`track()` in a migration shows its progress in the status."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from django.core.management import call_command

from django_safe_init import get_status, initialize, track
from django_safe_init.backends.sqlite3.lock_file import (
    FileLock,
    ProgressRecord,
    read_progress,
    with_progress,
)
from django_safe_init.conf import get_settings
from django_safe_init.core.build import current_build
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.progress import ProgressUpdate
from django_safe_init.status import open_reader, read_detail
from tests.support import PATIENCE, wait_until


class Gate:
    """A gate at which a migration's loop waits for the test."""

    def __init__(self) -> None:
        self.arrived = threading.Event()
        self.opened = threading.Event()

    def __call__(self) -> None:
        self.arrived.set()
        assert self.opened.wait(PATIENCE)


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.opened.set()


def fill(gate: Gate, total: int = 4, at: int = 2) -> Callable[[Any], None]:
    """Return a data migration that waits before item number `at`."""

    def run(connection: Any) -> None:
        for number in track(range(total), message="prices"):
            if number == at:
                gate()
            with connection.cursor() as cursor:
                cursor.execute("INSERT INTO shop_product (name) VALUES ('x')")

    return run


def seen() -> tuple[Any, ...]:
    run = get_status().run
    assert run is not None
    return run.item_done, run.item_total, run.item_message


@pytest.mark.parametrize("atomic", [True, False])
def test_progress_of_a_run(
    django_database, small_shop, in_background, gate, atomic
) -> None:
    """The status shows the items and their share of the percentage until the run ends."""
    small_shop.run("0003_fill", fill(gate), atomic=atomic)
    work = in_background(initialize)
    assert gate.arrived.wait(PATIENCE)
    # The status shows it within about a second, or later on a busy machine.
    wait_until(lambda: seen() == (2, 4, "prices"))
    status = get_status()
    operation = "" if atomic else "operation 1 of 1, RunPython 0003_fill: "
    assert status.message == f"migrating 3/3 shop.0003_fill: {operation}prices 2/4"
    assert status.progress == 83  # two steps of three, and half of the third
    assert status.as_json()["run"]["item_done"] == 2
    gate.opened.set()
    work.result()
    assert seen() == (None, None, None)
    assert get_status().progress == 100


def test_progress_ends_with_its_step(
    django_database, small_shop, in_background, gate
) -> None:
    """The items of a finished step do not show while the next step runs."""
    small_shop.run("0003_fill", lambda connection: list(track("ab")))
    small_shop.run("0004_wait", lambda connection: gate())
    work = in_background(initialize)
    assert gate.arrived.wait(PATIENCE)
    wait_until(lambda: get_status().message == "migrating 4/4 shop.0004_wait")
    gate.opened.set()
    work.result()


def test_plain_django(django_database, small_shop, settings) -> None:
    """In a migration that plain Django applies, `track` only iterates."""
    settings.SAFE_INIT = {**settings.SAFE_INIT, "MODE": "off"}
    done: list[str] = []
    small_shop.run("0003_fill", lambda connection: done.extend(track("ab")))
    call_command("migrate", verbosity=0)
    assert done == ["a", "b"]


def test_percent_never_decreases(django_database, small_shop, in_background) -> None:
    """The percentage in the status never decreases during a run."""
    found: list[int] = []

    def read_progress() -> None:
        before = django_database.newest_run()["heartbeat_at"]
        wait_until(lambda: django_database.newest_run()["heartbeat_at"] > before)
        found.append(get_status().progress)

    def work(connection: Any) -> None:
        for _ in track(range(3)):
            for _ in track(range(3)):
                read_progress()

    small_shop.run("0003_fill", work)
    small_shop.run("0004_fill", lambda connection: None)
    initialize()
    assert found == sorted(found)
    assert 50 <= found[0] < found[-1] < 75


# SQLite


def test_sqlite(lite, small_shop, in_background, gate) -> None:
    """On SQLite, the lock file holds the progress while the migration locks the database."""
    small_shop.run("0003_fill", fill(gate))
    work = in_background(initialize)
    assert gate.arrived.wait(PATIENCE)
    wait_until(lambda: seen() == (2, 4, "prices"))
    assert get_status().progress == 83
    assert lite.newest_run()["item_done"] is None
    with closing(
        open_reader("default", get_settings(), Deadline(0), current_build())
    ) as reader:
        found = read_detail("default", reader, None)
        assert found.as_json()["run"]["item_total"] == 4
    gate.opened.set()
    work.result()
    assert seen() == (None, None, None)


ROW = {"id": 7, "done": 2, "progress": 50, "item_done": None}
NOTE = ProgressRecord(7, 2, 60, ProgressUpdate(3, None, "試"))


def test_progress_record() -> None:
    """A reader finds the leader's record, also if other bytes follow it."""
    row = with_progress(ROW, NOTE.encoded() + b"   ")
    assert (row["progress"], row["item_done"], row["item_message"]) == (60, 3, "試")
    assert with_progress(ROW, NOTE._replace(items=None, progress=1).encoded()) == ROW


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff",
        b"{}",
        b"[]",
        b"7",
        b"[7, 2, 60, 5]",
        NOTE._replace(run=6).encoded(),
        NOTE._replace(done=1).encoded(),
        NOTE.encoded()[:-3],
    ],
)
def test_useless_progress_record(text) -> None:
    """A reader ignores a broken record and one of another run, step or version."""
    assert with_progress(ROW, text) == ROW


def test_progress_records_in_the_lock_file(tmp_path, monkeypatch) -> None:
    """Every process can read the holder's last record, until the next holder acquires the lock."""
    path = str(tmp_path / "lock")
    assert read_progress(path) == b""
    lock = FileLock(path)
    assert lock.try_acquire()
    lock.beat(b"one")
    lock.beat()
    assert read_progress(path).rstrip() == b"one"
    lock.beat(b"2")
    assert read_progress(path).rstrip() == b"2"
    lock.release()
    assert read_progress(path).rstrip() == b"2"
    assert lock.try_acquire()
    assert read_progress(path) == b""

    def full(*args: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    lock.beat(b"3")
    assert read_progress(path) == b""
    lock.release()
