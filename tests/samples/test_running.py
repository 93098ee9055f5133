"""The documentation's samples that a test can run: commands, SQL, Python, migrations."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any

import psycopg
import pytest

from django_safe_init import initialize
from tests.samples.blocks import BLOCKS, TUTORIAL, Block, of_kind
from tests.samples.conftest import SHOP, Shell
from tests.support import PATIENCE, Database, wait_until

WAITERS = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'advisory'"


def matches(pattern: str, output: str) -> bool:
    """Return True if the output fits the sample. Numbers, column widths and `…` may differ."""
    free = {"…": ".*", " ": "[ ]+", "0": r"[\d.]+"}
    parts = re.split(r"(…|[ ]+|\d+(?:\.\d+)?)", pattern.strip())
    regex = "".join(
        re.escape(part) if number % 2 == 0 else free.get(part[0], free["0"])
        for number, part in enumerate(parts)
    )
    return re.fullmatch(regex, output.strip(), re.DOTALL) is not None


def output_after(block: Block) -> str | None:
    """Return the expected output of the block, if the next block contains it."""
    after = BLOCKS[BLOCKS.index(block) + 1 :][:1]
    return after[0].text if after and after[0].kind == "output" else None


def run(shell: Shell, block: Block) -> None:
    """Run the block and compare its output, repeatedly if the mark says `until`."""
    expected = output_after(block)
    code = int(block.option("exit", "0"))
    if "until" not in block.words:
        output = shell.run(block.text, code)
        assert expected is None or matches(expected, output), output
        return
    assert expected is not None
    seen = [""]

    def is_expected() -> bool:
        seen.append(shell.run(block.text, None))
        return matches(expected, seen[-1])

    wait_until(is_expected, 40, lambda: f"{block}: {seen[-1]}")


def test_matching() -> None:
    """Numbers, column widths and `…` may differ, other text may not."""
    assert matches("run 3 of … ended", "run   17 of host:12 ended\n")
    assert not matches("run 3 ended", "run 3 failed")


@pytest.mark.parametrize("block", of_kind("run"), ids=str)
def test_commands(block: Block, project: Callable[..., Shell]) -> None:
    """A shell sample prints the page's output, in the situation that the page describes."""
    run(project(block.option("on", "ready")), block)


@pytest.mark.parametrize("block", of_kind("sql"), ids=str)
def test_sql(block: Block, project: Callable[..., Shell]) -> None:
    """The server accepts every statement, and a new role can wait for readiness."""
    shell = project(block.option("on", "ready"))
    (shell.folder / "sample.sql").write_text(block.text)
    shell.run("psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --file sample.sql")
    if role := block.option("role"):
        try:
            wait = "python manage.py safe_migrate --mode external --timeout 30"
            assert "ready" in shell.run(f"PGUSER={role} {wait}")
        finally:
            shell.run(f"psql -q -c 'DROP OWNED BY {role}' -c 'DROP ROLE {role}'")


@pytest.mark.parametrize("block", of_kind("migration"), ids=str)
def test_migrations(block: Block, project: Callable[..., Shell]) -> None:
    """A migration of the documentation can be applied and reversed."""
    shell = project("ready")
    (shell.folder / SHOP / "0003_sample.py").write_text(block.text)
    shell.run("python manage.py safe_migrate")
    shell.run("python manage.py migrate shop 0002")


@pytest.mark.parametrize("block", of_kind("steps"), ids=str)
def test_steps(block: Block, project: Callable[..., Shell]) -> None:
    """The steps of a sample run once, in a project with the files that the sample names."""
    shell = project("ready")
    (shell.folder / "shop/sql").mkdir()
    (shell.folder / "shop/sql/search.sql").write_text("SELECT 1;\nSELECT 2;\n")
    (shell.folder / "shop/fixtures").mkdir()
    (shell.folder / "shop/fixtures/currencies.json").write_text("[]")
    name = block.option("file", "init_steps.py")
    (shell.folder / "shop" / name).write_text(block.text)
    if "privileged" in block.words:
        run_privileged(shell)
        return
    assert "shop." in shell.run("python manage.py safe_migrate --plan")
    assert "leader" in shell.run("python manage.py safe_migrate")
    assert "nothing to do" in shell.run("python manage.py safe_migrate")


def run_privileged(shell: Shell) -> None:
    """The privileged steps are pending, then run, and `safe_migrate` succeeds."""
    settings = shell.folder / "mysite" / "settings.py"
    administrator = '{**DATABASES["default"], "NAME": "postgres"}'
    with settings.open("a") as file:
        file.write(f'DATABASES["admin"] = {administrator}\n')
        file.write('SAFE_INIT["PRIVILEGED_DATABASE"] = "admin"\n')
    shell.environment.update(OWNER_PASSWORD="one", APP_PASSWORD="two")
    assert "--phase privileged" in shell.run("python manage.py safe_migrate", 2)
    shell.run("python manage.py safe_migrate --phase privileged")
    try:
        shell.run("python manage.py safe_migrate")
    finally:
        for role in ("shop_app", "shop_owner", "reporting"):
            owned = f"REASSIGN OWNED BY {role} TO postgres; DROP OWNED BY {role};"
            shell.run(f"psql -q -c '{owned}' -c 'DROP ROLE {role}'", None)


@pytest.mark.parametrize("block", of_kind("python"), ids=str)
def test_python(block: Block, django_database: Database, add_pools: Any) -> None:
    """Python samples run against a database, at the top level or in an event loop."""
    if block.option("on") == "pools":
        add_pools()
        initialize()
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    code = compile(block.text, str(block), "exec", flags=flags)
    names: dict[str, Any] = {"__name__": "sample"}
    result = eval(code, names)
    if inspect.iscoroutine(result):
        asyncio.run(result)


@pytest.mark.parametrize("block", of_kind("sessions"), ids=str)
def test_sessions(block: Block, database: Database) -> None:
    """A blocking lock and a concurrent index build end in the deadlock that the page describes."""
    text = re.sub(r"^--.*$", "", block.text, flags=re.MULTILINE)
    create, lock, wait, index = [part for part in text.split(";") if part.strip()]
    errors: list[type[Exception]] = []

    def attempt(session: Any, statement: str) -> None:
        try:
            session.execute(statement)
        except psycopg.Error as exc:
            errors.append(type(exc))

    with closing(database.connect()) as follower, closing(database.connect()) as leader:
        leader.execute(create)
        leader.execute(lock)
        waiting = threading.Thread(target=attempt, args=(follower, wait))
        waiting.start()
        wait_until(lambda: database.value(WAITERS))
        attempt(leader, index)
        leader.close()
        waiting.join(PATIENCE)
    assert errors == [psycopg.errors.DeadlockDetected]


def test_tutorial(
    make_shell: Callable[..., Shell], make_database: Callable[..., Database]
) -> None:
    """The tutorial works as written, from an empty folder to the end."""
    shell = make_shell(PGDATABASE=make_database().name)
    for block in [block for block in BLOCKS if block.page == TUTORIAL]:
        if block.kind == "file":
            path = shell.folder / block.words[1]
            append = "append" in block.words
            path.write_text((path.read_text() if append else "") + block.text)
        elif block.kind == "run":
            run(shell, block)
