"""The command after `--`."""

from __future__ import annotations

import subprocess
import sys

import pytest

from django_safe_init.exceptions import ConfigurationError
from django_safe_init.management.exec import check_command, split_argv


@pytest.mark.parametrize(
    ("argv", "own", "command"),
    [
        (["m", "safe_migrate"], ["m", "safe_migrate"], []),
        (["m", "--", "a", "--", "b"], ["m"], ["a", "--", "b"]),
        (["m", "--json", "--"], ["m", "--json"], []),
    ],
)
def test_split(argv, own, command) -> None:
    """The first `--` separates the arguments from the command."""
    assert split_argv(argv) == (own, command)


def test_check_command() -> None:
    """A program that does not exist is a configuration error."""
    check_command([])
    check_command(["sh", "-c", "true"])
    check_command([sys.executable])
    with pytest.raises(ConfigurationError):
        check_command(["no-such-program"])


def refusal(program: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        check_command([program])
    return str(caught.value)


def test_not_on_path(monkeypatch, tmp_path) -> None:
    """The error of a program that is not on PATH says so, and how to name it."""
    monkeypatch.setenv("PATH", "/nowhere:/elsewhere")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    missing = "The command 'gunicorn' after `--` is not on PATH (/nowhere:/elsewhere). "
    assert refusal("gunicorn") == (
        f"{missing}Use its absolute path, or add its folder to PATH."
    )
    beside = tmp_path / "gunicorn"
    beside.touch(mode=0o755)
    assert refusal("gunicorn") == f"{missing}Use its absolute path: {beside}"


def test_a_path_that_cannot_start(tmp_path) -> None:
    """The error of a path names the missing file, or the missing right."""
    program = tmp_path / "serve"
    assert refusal(str(program)) == (
        f"There is no file '{program}' to start after `--`. Correct its path."
    )
    program.touch(mode=0o644)
    assert refusal(str(program)) == (
        f"The file '{program}' after `--` is not executable. Run chmod +x on it."
    )


@pytest.mark.parametrize(
    ("first_line", "hint"),
    [
        ("#!/no/such/interpreter", "Correct the interpreter in its first line."),
        ("no interpreter", "It needs a first line such as #!/bin/sh."),
    ],
)
def test_a_program_that_the_system_refuses(tmp_path, first_line, hint) -> None:
    """A file that is executable and cannot be run ends with 2, and a hint at its first line."""
    program = tmp_path / "serve"
    program.write_text(f"{first_line}\n")
    program.chmod(0o755)
    code = "import sys; from django_safe_init.management.exec import exec_command;"
    ended = subprocess.run(
        [sys.executable, "-c", f"{code} exec_command(sys.argv[1:])", str(program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(
        f"The command {program} after `--` cannot be started"
    )
    assert ended.stderr.endswith(f". {hint}\n")
