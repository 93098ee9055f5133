"""Start Python programs by forking a process that has imported Django already.

Each start is a real process with a new process id, the arguments, environment and files that were
asked for, and its own exit status. It only does without the half second of imports. The module is
both sides: `Program` in the test's process, and the server when it runs as a script.
"""

from __future__ import annotations

import array
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

#: Imported before the fork: what needs no settings and keeps nothing of its process. A module that
#: cannot be imported is left to the program.
PRELOADED = (
    "asyncio",
    "coverage",
    "logging.config",
    "django.contrib.auth.decorators",
    "django.contrib.auth.hashers",
    "django.contrib.auth.management",
    "django.contrib.auth.tokens",
    "django.contrib.postgres.operations",
    "django.contrib.sites.requests",
    "django.core.asgi",
    "django.core.management.commands.check",
    "django.core.management.commands.migrate",
    "django.core.wsgi",
    "django.db.backends.postgresql.base",
    "django.db.backends.sqlite3.base",
    "django.views.debug",
    "django.views.generic",
    "django_safe_init.backends.postgresql.backend",
    "django_safe_init.backends.sqlite3.backend",
    "django_safe_init.initialization.election",
    "django_safe_init.initialization.leader",
    "django_safe_init.management.base",
    "django_safe_init.validation",
    "sqlite3",
)
#: Environment variables with these beginnings count when the interpreter, its libraries or the
#: preloaded modules start, so each combination of their values has its own server.
STARTUP_VARIABLES = ("PYTHON", "LD_", "LC_", "LANG", "TZ", "MALLOC", "PSYCOPG")
#: Each program starts its own measurement of coverage, if the test's process is measured.
MEASUREMENT = "COVERAGE_"
#: Above all file descriptors that a program asks for.
_FIRST_SPARE_FD = 500
_MAX_MESSAGE = 150_000


class Program:
    """A Python program that a fork server has started; it has the interface of `Popen`."""

    def __init__(
        self,
        command: Sequence[str],
        environment: dict[str, str],
        stdout: int,
        stderr: int,
        pass_fds: Iterable[int] = (),
    ) -> None:
        self.returncode: int | None = None
        server = _Server.of(environment)
        self.pid, self._status = server.start(
            command, environment, [stdout, stderr, *pass_fds]
        )

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while the program runs."""
        if self.returncode is None and select.select([self._status], [], [], 0)[0]:
            self._read_status()
        return self.returncode

    def wait(self) -> int:
        """Wait for the end and return the exit code."""
        if self.returncode is None:
            self._read_status()
        assert self.returncode is not None
        return self.returncode

    def _read_status(self) -> None:
        status = os.read(self._status, 8)
        os.close(self._status)
        assert status, f"the fork server of the program {self.pid} is gone"
        self.returncode = os.waitstatus_to_exitcode(int.from_bytes(status, "little"))

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def can_start(command: Sequence[str]) -> bool:
    """Return True for a script, or a module, of this interpreter without further options."""
    if len(command) < 2 or command[0] != sys.executable:
        return False
    return command[1] == "-m" or not command[1].startswith("-")


class _Server:
    """A fork server of this test process."""

    _all: dict[frozenset[tuple[str, str]], _Server] = {}

    @classmethod
    def of(cls, environment: dict[str, str]) -> _Server:
        key = frozenset(
            item
            for item in environment.items()
            if item[0].startswith(STARTUP_VARIABLES)
        )
        if key not in cls._all:
            cls._all[key] = cls(environment)
        return cls._all[key]

    def __init__(self, environment: dict[str, str]) -> None:
        # Tests find processes in /proc by the other variables, so the server has none of them.
        own = {
            name: value
            for name, value in environment.items()
            if name.startswith((*STARTUP_VARIABLES, "PATH"))
        }
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            # It ends with this process, which closes the socket.
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                env=own,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def start(
        self, command: Sequence[str], environment: dict[str, str], files: list[int]
    ) -> tuple[int, int]:
        """Start the program; return its process id and a file with its later exit status."""
        receiver, sender = os.pipe()
        request = {
            "command": list(command),
            "environment": environment,
            "directory": os.getcwd(),
            "files": [1, 2, *files[2:]],
        }
        try:
            message = json.dumps(request).encode()
            assert len(message) < _MAX_MESSAGE
            socket.send_fds(self._socket, [message], [sender, *files])
        finally:
            os.close(sender)
        pid = os.read(receiver, 8)
        assert pid, "the fork server is gone"
        return int.from_bytes(pid, "little"), receiver


def _serve(requests: socket.socket) -> dict[str, Any]:
    """Fork for each request. Return the request in each child."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    children: dict[int, int] = {}
    while True:
        readable, _, _ = select.select([requests, woken], [], [])
        if woken in readable:
            os.read(woken, 1000)
            _report_ended(children)
        if requests in readable:
            message, files = _receive(requests)
            if not message:
                os._exit(0)  # the test process has ended
            pid = os.fork()
            if not pid:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                signal.signal(signal.SIGINT, interrupt)
                requests.detach()
                request: dict[str, Any] = json.loads(message)
                _take_files(request["files"], files[1:])
                return request
            os.write(files[0], pid.to_bytes(8, "little"))
            children[pid] = files[0]
            for file in files[1:]:
                os.close(file)


def _receive(requests: socket.socket) -> tuple[bytes, list[int]]:
    files = array.array("i")
    message, extra, _, _ = requests.recvmsg(_MAX_MESSAGE, socket.CMSG_SPACE(4 * 64))
    for _, _, data in extra:
        files.frombytes(data)
    return message, list(files)


def _report_ended(children: dict[int, int]) -> None:
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            # The test process may have ended.
            with suppress(BrokenPipeError):
                os.write(children[pid], status.to_bytes(8, "little"))
            os.close(children.pop(pid))


def _take_files(numbers: list[int], files: list[int]) -> None:
    """Give the files of the request these numbers, and close all others but standard input."""
    import fcntl

    spare = [fcntl.fcntl(file, fcntl.F_DUPFD, _FIRST_SPARE_FD) for file in files]
    os.closerange(3, _FIRST_SPARE_FD)
    for number, file in zip(numbers, spare, strict=True):
        os.dup2(file, number)
        os.close(file)


def _run(request: dict[str, Any]) -> None:
    """Become the program: everything that it can see of itself is its own."""
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["directory"])
    sys.orig_argv = request["command"]
    if any(name.startswith(MEASUREMENT) for name in os.environ):
        import coverage

        coverage.process_startup()
    _, program, *arguments = request["command"]
    if program == "-m":
        program, *arguments = arguments
        sys.argv = ["-m", *arguments]
        sys.path.insert(0, os.getcwd())
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        sys.argv = [program, *arguments]
        sys.path.insert(0, os.path.dirname(program))
        runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    del sys.path[0]
    for name in PRELOADED:
        with suppress(Exception):  # a program without a driver reports that itself
            importlib.import_module(name)
    # A program's collector then does not touch these objects, so their memory stays shared.
    gc.collect()
    gc.freeze()
    _run(_serve(socket.socket(fileno=int(sys.argv[1]))))
