"""A forked program is one of its own: arguments, environment, files, signals and exit code."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fork_server import Program, can_start
from tests.support import wait_until

REPORT = """
import json, os, signal, sys
print(json.dumps({
    "argv": sys.argv,
    "name": __name__,
    "path": sys.path[0],
    "environment": os.environ.get("FORKED"),
    "home": "HOME" in os.environ,
    "interrupt": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
    "child": signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL,
    "ours": [each for each in sys.modules if each.startswith("django_safe_init")],
    "random": __import__("random").random(),
    "pid": os.getpid(),
    "files": sorted(int(each) for each in os.listdir("/proc/self/fd")),
}))
"""


@pytest.fixture
def start(tmp_path: Path) -> Any:
    """Return a function that starts a program with this text."""

    def start(text: str, *arguments: str, **options: Any) -> Program:
        script = tmp_path / "program.py"
        script.write_text(text)
        environment = {**os.environ, "FORKED": "yes"}
        environment.pop("HOME", None)
        with (
            (tmp_path / "out").open("wb") as out,
            (tmp_path / "err").open("wb") as err,
        ):
            files = (out.fileno(), err.fileno())
            command = [sys.executable, str(script), *arguments]
            return Program(command, environment, *files, **options)

    return start


def test_a_program_of_its_own(start: Any, tmp_path: Path) -> None:
    """A program sees its own arguments, environment and signals, and nothing of the server."""
    reports = []
    for _ in range(2):
        program = start(REPORT, "a", "b")
        assert program.wait() == 0, (tmp_path / "err").read_text()
        reports.append(json.loads((tmp_path / "out").read_text()))
        assert reports[-1]["pid"] == program.pid
    first, second = reports
    assert first["argv"] == [str(tmp_path / "program.py"), "a", "b"]
    assert (first["name"], first["path"]) == ("__main__", str(tmp_path))
    assert (first["environment"], first["home"]) == ("yes", False)
    assert first["child"]
    interrupt = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert first["interrupt"] == interrupt  # ignored if the tests run in the background
    # A web process keeps times and files of its own.
    assert not any(".serving" in name for name in first["ours"])
    assert first["random"] != second["random"]
    assert first["files"][:3] == [0, 1, 2]


def test_passed_files(start: Any) -> None:
    """A file that is passed has the same number in the program."""
    receiver, sender = os.pipe()
    program = start(f"import os; os.write({sender}, b'x')", pass_fds=[sender])
    os.close(sender)
    assert program.wait() == 0
    assert os.read(receiver, 10) == b"x"
    assert os.read(receiver, 10) == b""  # no other process has it open
    os.close(receiver)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("raise SystemExit(3)", 3),
        ("raise ValueError", 1),
        ("import os; os._exit(4)", 4),
        ("import os, sys; os.execv(sys.executable, [sys.executable, '-c', '1/0'])", 1),
        ("import os, signal; os.kill(os.getpid(), signal.SIGINT)", -signal.SIGINT),
    ],
)
def test_exit_codes(start: Any, text: str, code: int) -> None:
    """A program has the exit code that it has without a fork server."""
    program = start(text)
    assert program.wait() == code
    assert program.poll() == code


def test_a_signal(start: Any, tmp_path: Path) -> None:
    """A running program has no exit code, and receives signals."""
    program = start("import signal; print('up', flush=True); signal.pause()")
    wait_until(lambda: "up" in (tmp_path / "out").read_text())
    assert program.poll() is None
    program.kill()
    assert program.wait() == -signal.SIGKILL
    program.kill()  # it has ended: nothing is killed


def test_what_cannot_be_forked() -> None:
    """Only a script or a module of this interpreter, without options, is forked."""
    assert can_start([sys.executable, "manage.py"])
    assert can_start([sys.executable, "-m", "gunicorn"])
    assert not can_start([sys.executable, "-c", "pass"])
    assert not can_start([sys.executable])
    assert not can_start(["sh", "manage.py"])
