"""Replacement of the process by the command after `--`, with exec(3)."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from typing import NoReturn

from django_safe_init.core.text import printable
from django_safe_init.exceptions import ConfigurationError

CANNOT_START = 2


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
        raise ConfigurationError(
            f"There is no command {command[0]!r} to start after `--`."
        )


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
        sys.stderr.write(f"{printable(command[0])} cannot be started: {exc.strerror}\n")
        sys.exit(CANNOT_START)
