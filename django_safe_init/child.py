"""A child process that initializes, and ends with its parent: both ends of the pipe in between.

In the child this module is the program: `python -m django_safe_init.child`. Its standard input is
a pipe that only the parent can write to, and nobody does: where it ends, the parent has ended.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing.spawn import get_executable
from typing import IO, cast

import django
from django.conf import ENVIRONMENT_VARIABLE
from django.core.management import execute_from_command_line

from django_safe_init.build import current_build
from django_safe_init.conf import get_settings
from django_safe_init.exceptions import ConfigurationError

#: For how long a child may clean up (close its run, free the lock) before it is killed.
SECONDS_TO_CLEAN_UP = 5.0
#: The exit code of a child that has found nothing to do: the EX_TEMPFAIL of sysexits.h.
NOT_DUE = 75
_IF_DUE = "--if-due"
#: The working directory is no place for modules, unless it was one for the server.
_SAFE_PATH = ["-P"] if sys.version_info >= (3, 11) else []


class Child:
    """A process that runs `safe_migrate`; as a context manager it is gone afterwards.

    With `if_due` it exits with `NOT_DUE` if it is not, or no longer, time to initialize when it
    has started. Python is what `multiprocessing.set_executable` says, by default
    `sys.executable`. Raises `ConfigurationError` unless the settings are named in the
    environment.
    """

    def __init__(self, *, if_due: bool = False) -> None:
        arguments = [_IF_DUE] if if_due else []
        self._process = subprocess.Popen(
            [get_executable(), *_SAFE_PATH, "-m", "django_safe_init.child", *arguments],
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.pid = self._process.pid
        self._lifeline = cast(IO[bytes], self._process.stdin)
        self._stdout = cast(IO[bytes], self._process.stdout)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.end()

    def result(self) -> tuple[int, str]:
        """Wait for its end; the exit code, and the error of `safe_migrate` if there was one."""
        with self._stdout:
            printed = self._stdout.read()
        code = self._process.wait()
        self._lifeline.close()
        return code, _error(printed) or f"the process ended with exit code {code}"

    def disown(self) -> None:
        """In a forked process: give up what would keep the child alive after its parent's end."""
        self._lifeline.close()

    def end(self) -> None:
        """Let it end as by SIGTERM, from any thread; returns when it is gone."""
        self._lifeline.close()
        try:
            self._process.wait(SECONDS_TO_CLEAN_UP + 1)
        except subprocess.TimeoutExpired:  # it is stopped, or otherwise deaf
            self._process.kill()
            self._process.wait()


def _environment() -> dict[str, str]:
    """Where this process has found the project, whatever its server is."""
    if not os.environ.get(ENVIRONMENT_VARIABLE):
        raise ConfigurationError(
            f"Set {ENVIRONMENT_VARIABLE} in the server's environment: the child process that "
            "initializes finds the project's settings by it alone."
        )
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return {**os.environ, "PYTHONPATH": path}


def _error(printed: bytes) -> str:
    """What went wrong, from the JSON object; nothing if there is none."""
    try:
        value = json.loads(printed)
    except ValueError:  # it was killed, or could not be started
        return ""
    databases = value.get("databases", [value])
    return " ".join(each["error"] for each in databases if each["error"])


def main() -> None:
    """Initialize the databases; print one JSON object."""
    lifeline = os.dup(0)
    with open(os.devnull) as nothing:  # what else reads standard input meets its end
        os.dup2(nothing.fileno(), 0)
    threading.Thread(target=_end_with_parent, args=[lifeline], daemon=True).start()
    if _IF_DUE in sys.argv and not _is_due():
        sys.exit(NOT_DUE)
    execute_from_command_line([sys.argv[0], "safe_migrate", "--json", "--no-color"])


def _is_due() -> bool:
    """Whether it is still time: to start took a while, and another process may have been faster."""
    from django_safe_init.background import seconds_until_due

    django.setup()
    build = current_build()
    aliases = get_settings().databases
    return min(seconds_until_due(alias, build) for alias in aliases) <= 0


def _end_with_parent(lifeline: int) -> None:
    while os.read(lifeline, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SECONDS_TO_CLEAN_UP)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
