"""The comparison of two databases ignores ids and times, and nothing besides."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.packages.contents import Contents
from tests.resume.engines import SqliteEngine
from tests.support import SqliteDatabase

TABLES = (
    "CREATE TABLE shelf (id INTEGER PRIMARY KEY, label TEXT, made TEXT)",
    "CREATE TABLE book (id INTEGER PRIMARY KEY, shelf_id INTEGER REFERENCES shelf (id),"
    " code BLOB)",
)
ROWS = (
    "INSERT INTO shelf VALUES (1, 'a', '2026-01-01 10:00:00.5'), (2, 'b', NULL)",
    "INSERT INTO book VALUES (1, 1, x'00'), (2, 2, NULL)",
)


def texts(folder: Path, *statements: str) -> dict[str, list[str]]:
    database = SqliteDatabase(folder / f"{len(list(folder.iterdir()))}.sqlite3")
    for statement in (*TABLES, *statements):
        database.rows(statement)
    return Contents(SqliteEngine(folder), database).texts()


def test_ids_and_times_are_ignored(tmp_path: Path) -> None:
    """Other ids, times and secrets make no difference."""
    assert texts(tmp_path, *ROWS) == texts(
        tmp_path,
        "INSERT INTO shelf VALUES (8, 'b', NULL), (5, 'a', '2027-01-01 11:00:00')",
        "INSERT INTO book VALUES (3, 5, x'01'), (4, 8, NULL)",
    )


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE shelf SET label = 'c' WHERE id = 2",
        "UPDATE shelf SET made = NULL",
        "UPDATE book SET shelf_id = 3 - shelf_id",
        "UPDATE book SET shelf_id = NULL",
        "UPDATE book SET code = x'0000'",
        "DELETE FROM book WHERE id = 2",
        "INSERT INTO book SELECT 3, shelf_id, code FROM book WHERE id = 1",
    ],
)
def test_a_change_is_found(tmp_path: Path, change: str) -> None:
    """A changed value, reference or number of rows is a difference."""
    assert texts(tmp_path, *ROWS) != texts(tmp_path, *ROWS, change)
