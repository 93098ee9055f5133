"""The child process that initializes: how it is started, and its main program.

The child's standard input is a pipe that only the parent can write to. The pipe's end tells the
child that the parent has exited, so the child ends too. A process ID in the pipe tells the child
to end with that process instead.

The child reports its result as a line of JSON. Its exit code says less: where SIGCHLD is ignored,
or the server reaps all children, Python reports the exit code 0 for each of them.
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
from typing import IO, NamedTuple, cast

import django
from django.conf import ENVIRONMENT_VARIABLE
from django.core.management import execute_from_command_line

from django_safe_init.backends import with_lock
from django_safe_init.conf import get_settings
from django_safe_init.core.build import current_build
from django_safe_init.core.text import first_line, stored_hint
from django_safe_init.exceptions import ConfigurationError
from django_safe_init.serving.background.backoff import seconds_until_due
from django_safe_init.serving.background.host_lock import HostLock

#: Seconds that a child may take to close its run and release the lock before it is killed.
SECONDS_TO_CLEAN_UP = 5.0
#: The exit code of a child with nothing to do: EX_TEMPFAIL of sysexits.h.
EXIT_NOTHING_TO_DO = 75
#: The results of a child that did not fail.
READY, NOTHING_TO_DO = "ready", "nothing to do"
_IF_DUE, _LOCK = "--if-due", "--holding"
#: Seconds between two checks whether a process is alive, on systems that cannot wait for it.
_POLL_SECONDS = 0.1
#: The child finds the same modules as its parent. PYTHONPATH would not do: it can hold no folder
#: with a colon in its name, and the programs that the child starts would inherit it.
_PROGRAM = (
    "import sys; here = sys.argv.index('--'); sys.path[:] = sys.argv[here + 1 :]; "
    "del sys.argv[here:]; "
    "from django_safe_init.serving.background.child_process import main; main()"
)


class ChildResult(NamedTuple):
    """The result that a child reported: `READY`, `NOTHING_TO_DO`, or one of `safe_migrate`'s."""

    result: str
    error: str = ""


class InitializationProcess:
    """A child process that runs `safe_migrate`. Leaving the context ends it.

    With `if_due` its result is `NOTHING_TO_DO` if no initialization is due once it has started.
    It inherits the lock `holding`, and deletes the lock's file when it ends. Python is
    `multiprocessing.set_executable`'s, by default `sys.executable`. Raises `ConfigurationError`
    unless the environment names the settings module.
    """

    def __init__(
        self, *, if_due: bool = False, holding: HostLock | None = None
    ) -> None:
        arguments = [_IF_DUE] if if_due else []
        inherited = []
        if holding is not None and holding.file is not None:
            inherited = [holding.file]
            arguments.append(f"{_LOCK}={holding.file}:{holding.path}")
        _check_settings_module()
        path = [entry or os.getcwd() for entry in sys.path]
        self._process = subprocess.Popen(
            [get_executable(), "-c", _PROGRAM, *arguments, "--", *path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=inherited,
        )
        self.pid = self._process.pid
        self._parent_pipe = cast(IO[bytes], self._process.stdin)
        self._stdout = cast(IO[bytes], self._process.stdout)

    def __enter__(self) -> InitializationProcess:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.end()

    def result(self) -> ChildResult:
        """Wait until the child ends; return the result that it reported.

        A child that reported none has failed, whatever its exit code.
        """
        with self._stdout:
            output = self._stdout.read()
        code = self._process.wait()
        self._parent_pipe.close()
        return _reported(output) or ChildResult("failed", _without_result(code))

    def close_in_fork(self) -> None:
        """Close the pipe in a forked process, which would keep the child alive."""
        self._parent_pipe.close()

    def detach_to(self, server: int) -> None:
        """Make the child end with the process `server` instead of this one."""
        self._parent_pipe.write(str(server).encode())
        self._parent_pipe.close()

    def end(self) -> None:
        """End the child as SIGTERM does, from any thread, and wait until it has exited."""
        self._parent_pipe.close()
        try:
            self._process.wait(SECONDS_TO_CLEAN_UP + 1)
        except subprocess.TimeoutExpired:  # it is stopped, or ignores signals
            self._process.kill()
            self._process.wait()


def _check_settings_module() -> None:
    if not os.environ.get(ENVIRONMENT_VARIABLE):
        raise ConfigurationError(
            f"Set {ENVIRONMENT_VARIABLE} in the server's environment: the child process that "
            "initializes finds the project's settings by it alone."
        )


def _reported(output: bytes) -> ChildResult | None:
    """Return the result from the line with the JSON object, or None if no line has one.

    The project may print after that line, when the process exits.
    """
    for line in reversed(output.splitlines()):
        try:
            value = json.loads(line)
            databases = value.get("databases", [value])
            errors = [each["error"] for each in databases if each["error"]]
            lines = [first_line(stored_hint(each)) for each in errors]
            return ChildResult(value["result"], " ".join(lines))
        except (ValueError, LookupError, AttributeError, TypeError):
            continue
    return None


def _without_result(code: int) -> str:
    # An exit code of 0 may mean that the code is lost.
    exit_code = f", with exit code {code}" if code else ""
    return f"the process ended without a result{exit_code}"


def main() -> None:
    """Initialize the databases; print one JSON object."""
    _reset_signals()
    parent_pipe = os.dup(0)
    with open(os.devnull) as empty:  # for other code that reads standard input
        os.dup2(empty.fileno(), 0)
    locks = [
        _inherit_lock(*argument.partition("=")[2].split(":", 1))
        for argument in sys.argv
        if argument.startswith(_LOCK)
    ]
    threading.Thread(
        target=_end_with_parent, args=[parent_pipe, *locks], daemon=True
    ).start()
    _load_project()
    options = ["--json", "--no-color"]
    if _IF_DUE in sys.argv:
        aliases = _due_databases()
        if not aliases:
            sys.stdout.write(json.dumps({"result": NOTHING_TO_DO, "error": None}))
            sys.exit(EXIT_NOTHING_TO_DO)
        options += [f"--database={alias}" for alias in aliases]
    execute_from_command_line([sys.argv[0], "safe_migrate", *options])


def _reset_signals() -> None:
    """Undo what was inherited from the server: ignored signals, and the mask of its thread.

    Otherwise a step that starts a program would not learn its exit code, or the child would not
    receive SIGTERM.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def _load_project() -> None:
    """Load the settings and apps, whose output and helper processes do not get the parent's pipe.

    A helper process that kept it would keep the parent waiting for the result.
    """
    sys.stdout.flush()
    pipe = os.dup(1)
    os.dup2(2, 1)
    django.setup()
    sys.stdout.flush()
    os.dup2(pipe, 1)
    os.close(pipe)


def _inherit_lock(file: str, path: str) -> str:
    """Keep the lock until this process exits, but not for its children; return its path."""
    os.set_inheritable(int(file), False)
    atexit.register(_remove, path)
    return path


def _remove(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)


def _due_databases() -> list[str]:
    """Return the databases to initialize; none if nothing is due after this process's start."""
    build = current_build()
    aliases = with_lock(get_settings().databases)
    due = any(seconds_until_due(alias, build) <= 0 for alias in aliases)
    return aliases if due else []


def _end_with_parent(parent_pipe: int, lock_path: str = "") -> None:
    with open(parent_pipe, "rb") as pipe:
        server = pipe.read()
    if server:
        _wait_for_exit(int(server))
    _remove(lock_path)  # before SIGTERM, which may end this process without its cleanup
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SECONDS_TO_CLEAN_UP)
    os.kill(os.getpid(), signal.SIGKILL)


def _wait_for_exit(pid: int) -> None:
    """Wait until the process has exited, even if its parent has not reaped it yet."""
    try:
        process = os.pidfd_open(pid)
    except (AttributeError, OSError):  # not Linux, or the process has exited
        while _is_alive(pid):
            time.sleep(_POLL_SECONDS)
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
