"""Replacement of the process by the command after `--`, with exec(3)."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
from typing import NoReturn

from django_safe_init.core.text import printable, shorten
from django_safe_init.exceptions import ConfigurationError

CANNOT_START = 2
#: The remedies of a program that exists and that the operating system refuses.
_HINTS = {
    errno.ENOENT: " Correct the interpreter in its first line.",
    errno.ENOEXEC: " It needs a first line such as #!/bin/sh.",
    errno.EACCES: " Let this user execute it.",
}


def split_argv(argv: list[str]) -> tuple[list[str], list[str]]:
    """Return the arguments before the first `--`, and the command after it."""
    if "--" not in argv:
        return argv, []
    at = argv.index("--")
    return argv[:at], argv[at + 1 :]


def check_command(command: list[str]) -> None:
    """Raise `ConfigurationError` if the program does not exist.

    Called before the initialization, so that a typing error does not follow a long wait.
    """
    if command and shutil.which(command[0]) is None:
        raise ConfigurationError(_cannot_start(command[0]))


def _cannot_start(program: str) -> str:
    """Return why the program after `--` cannot start, and the remedy."""
    if os.path.dirname(program):
        if not os.path.isfile(program):
            return (
                f"There is no file {program!r} to start after `--`. Correct its path."
            )
        return f"The file {program!r} after `--` is not executable. Run chmod +x on it."
    folder = os.path.dirname(sys.executable)
    remedy = "Use its absolute path, or add its folder to PATH."
    if shutil.which(program, path=folder):
        remedy = f"Use its absolute path: {os.path.join(folder, program)}"
    path = shorten(os.environ.get("PATH", os.defpath), 300)
    return f"The command {program!r} after `--` is not on PATH ({path}). {remedy}"


def exec_command(command: list[str]) -> NoReturn:
    """Replace this process by the command, which keeps the PID and so receives its signals.

    Exit with `CANNOT_START` if the operating system cannot run the program.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    # Python ignores these two signals, and the new program would inherit that.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)
    except OSError as exc:
        program = printable(command[0])
        sys.stderr.write(
            f"The command {program} after `--` cannot be started: {exc.strerror}."
            f"{_HINTS.get(exc.errno or 0, '')}\n"
        )
        sys.exit(CANNOT_START)
