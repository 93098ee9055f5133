"""A child process that initializes, and ends with its parent: both ends of the pipe in between.

In the child `main` of this module is the program. Its standard input is a pipe that only the
parent can write to: where it ends, the parent has ended. What the parent has written before that,
if anything, is the process with which the child is to end instead.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from multiprocessing.spawn import get_executable
from typing import IO, cast

import django
from django.conf import ENVIRONMENT_VARIABLE
from django.core.management import execute_from_command_line

from django_safe_init.conf import get_settings
from django_safe_init.core.build import current_build
from django_safe_init.exceptions import ConfigurationError
from django_safe_init.serving.background.backoff import seconds_until_due
from django_safe_init.serving.background.host_lock import HostLock

#: For how long a child may clean up (close its run, free the lock) before it is killed.
SECONDS_TO_CLEAN_UP = 5.0
#: The exit code of a child that has found nothing to do: the EX_TEMPFAIL of sysexits.h.
NOT_DUE = 75
_IF_DUE, _HOLDING = "--if-due", "--holding"
#: Between two looks whether the process lives with which the child is to end, where the system
#: cannot tell.
_SECONDS_BETWEEN_LOOKS = 0.1
#: The child finds modules where its parent does, and nowhere else. Not by PYTHONPATH, which can
#: hold no folder with a colon in its name, and would be handed on to what the child starts.
_PROGRAM = (
    "import sys; here = sys.argv.index('--'); sys.path[:] = sys.argv[here + 1 :]; "
    "del sys.argv[here:]; from django_safe_init.serving.background import child_process; "
    "child_process.main()"
)


class InitializationProcess:
    """A process that runs `safe_migrate`; as a context manager it is gone afterwards.

    With `if_due` it exits with `NOT_DUE` if it is not, or no longer, time to initialize when it
    has started. It inherits the lock `holding`, and removes it at its end. Python is what
    `multiprocessing.set_executable` says, by default `sys.executable`. Raises
    `ConfigurationError` unless the settings are named in the environment.
    """

    def __init__(
        self, *, if_due: bool = False, holding: HostLock | None = None
    ) -> None:
        arguments = [_IF_DUE] if if_due else []
        inherited = []
        if holding is not None and holding.file is not None:
            inherited = [holding.file]
            arguments.append(f"{_HOLDING}={holding.file}:{holding.path}")
        _require_settings()
        path = [entry or os.getcwd() for entry in sys.path]
        self._process = subprocess.Popen(
            [get_executable(), "-c", _PROGRAM, *arguments, "--", *path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=inherited,
        )
        self.pid = self._process.pid
        self._lifeline = cast(IO[bytes], self._process.stdin)
        self._stdout = cast(IO[bytes], self._process.stdout)

    def __enter__(self) -> InitializationProcess:
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

    def leave_to(self, server: int) -> None:
        """Let it go on when this process ends, and end with that one; it is told so at once."""
        self._lifeline.write(str(server).encode())
        self._lifeline.close()

    def end(self) -> None:
        """Let it end as by SIGTERM, from any thread; returns when it is gone."""
        self._lifeline.close()
        try:
            self._process.wait(SECONDS_TO_CLEAN_UP + 1)
        except subprocess.TimeoutExpired:  # it is stopped, or otherwise deaf
            self._process.kill()
            self._process.wait()


def _require_settings() -> None:
    if not os.environ.get(ENVIRONMENT_VARIABLE):
        raise ConfigurationError(
            f"Set {ENVIRONMENT_VARIABLE} in the server's environment: the child process that "
            "initializes finds the project's settings by it alone."
        )


def _error(printed: bytes) -> str:
    """What went wrong, from the line with the JSON object; nothing if there is none.

    The project may have printed before it, while its settings were loaded, and after it.
    """
    for line in reversed(printed.splitlines()):
        try:
            value = json.loads(line)
            databases = value.get("databases", [value])
            return " ".join(each["error"] for each in databases if each["error"])
        except (ValueError, LookupError, AttributeError, TypeError):
            continue
    return ""  # it was killed, or could not be started


def main() -> None:
    """Initialize the databases; print one JSON object."""
    lifeline = os.dup(0)
    with open(os.devnull) as nothing:  # what else reads standard input meets its end
        os.dup2(nothing.fileno(), 0)
    held = [
        _hold(*argument.partition("=")[2].split(":", 1))
        for argument in sys.argv
        if argument.startswith(_HOLDING)
    ]
    threading.Thread(
        target=_end_with_parent, args=[lifeline, *held], daemon=True
    ).start()
    if _IF_DUE in sys.argv and not _is_due():
        sys.exit(NOT_DUE)
    execute_from_command_line([sys.argv[0], "safe_migrate", "--json", "--no-color"])


def _hold(file: str, path: str) -> str:
    """Keep the lock for this process, and from those that it starts; returns its path."""
    os.set_inheritable(int(file), False)
    atexit.register(_remove, path)
    return path


def _remove(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)


def _is_due() -> bool:
    """Whether it is still time: to start took a while, and another process may have been faster."""
    django.setup()
    build = current_build()
    aliases = get_settings().databases
    return min(seconds_until_due(alias, build) for alias in aliases) <= 0


def _end_with_parent(lifeline: int, held: str = "") -> None:
    with open(lifeline, "rb") as parent:
        server = parent.read()
    if server:
        _await_end(int(server))
    _remove(held)  # now: by SIGTERM a process may end without its cleaning up
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SECONDS_TO_CLEAN_UP)
    os.kill(os.getpid(), signal.SIGKILL)


def _await_end(pid: int) -> None:
    """Return when that process has ended, although nobody may have waited for it yet."""
    try:
        process = os.pidfd_open(pid)
    except (AttributeError, OSError):  # the system has none, or the process has ended
        while _is_alive(pid):
            time.sleep(_SECONDS_BETWEEN_LOOKS)
    else:
        select.select([process], [], [])
        os.close(process)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # gunicorn's master may be root
        return True
    return True
