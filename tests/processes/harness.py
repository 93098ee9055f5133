"""`manage.py` processes that the harness starts together, observes and kills at the end."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from tests.fork_server import Program, can_start
from tests.support import PATIENCE, Records, validate_json, wait_until

T = TypeVar("T")
PROJECT = Path(__file__).parent / "project"


class Replica:
    """One process of `manage.py`."""

    def __init__(
        self,
        command: Sequence[str],
        environment: dict[str, str],
        output: Path,
        pass_fds: Iterable[int] = (),
    ) -> None:
        self._stdout, self._stderr = (
            output.with_suffix(".out"),
            output.with_suffix(".err"),
        )
        self.command = command
        with self._stdout.open("wb") as stdout, self._stderr.open("wb") as stderr:
            files = {"stdout": stdout.fileno(), "stderr": stderr.fileno()}
            self._process: Program | subprocess.Popen[bytes]
            if can_start(command):
                self._process = Program(
                    command, environment, **files, pass_fds=pass_fds
                )
            else:
                self._process = subprocess.Popen(
                    command,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    pass_fds=tuple(pass_fds),
                    **files,
                )
        self.pid = self._process.pid

    def wait(self, timeout: float = PATIENCE) -> int:
        """Wait for the end. Return the exit code as a shell counts it, such as 137 for SIGKILL."""
        wait_until(
            lambda: self._process.poll() is not None, timeout, lambda: f"runs: {self}"
        )
        code = self._process.returncode
        return 128 - code if code < 0 else code

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def kill(self, number: int = signal.SIGKILL) -> None:
        self._process.send_signal(number)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop the process with SIGSTOP inside the block, and continue it afterwards."""
        self.kill(signal.SIGSTOP)
        try:
            yield
        finally:
            self.kill(signal.SIGCONT)

    def end(self) -> None:
        """Kill the process if it still runs."""
        with suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()

    @property
    def stdout(self) -> str:
        return self._stdout.read_text()

    @property
    def stderr(self) -> str:
        return self._stderr.read_text()

    @property
    def written_at(self) -> float:
        """The time of the process's last write to standard output, in seconds since the epoch."""
        return self._stdout.stat().st_mtime

    @property
    def json(self) -> dict[str, Any]:
        """The only JSON object on standard output, validated by the published schema."""
        document = json.loads(self.stdout)
        assert isinstance(document, dict)
        command = next(word for word in self.command if word.startswith("safe_"))
        validate_json(command, document)
        return document

    def __repr__(self) -> str:
        code = self._process.poll()
        return (
            f"{' '.join(self.command[1:])} (pid {self.pid}, exit {code})\n"
            f"--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"
        )


class Fleet:
    """Starts replicas against one database.

    `use()` sets keywords for all replicas. `start(...)`, `run(...)` and `start_together(...)`
    take the same keywords for one call. `_environment` defines the keywords.
    """

    def __init__(self, database: Records, directory: Path) -> None:
        self.database = database
        self.directory = directory
        self.replicas: list[Replica] = []
        #: True if the test expects a traceback, which plain Django prints.
        self.tracebacks = False
        self._defaults: dict[str, Any] = {"scenario": "plain"}

    def use(self, **settings: Any) -> None:
        self._defaults.update(settings)

    def start(
        self, *arguments: str, wrapper: Sequence[str] = (), **settings: Any
    ) -> Replica:
        """Start `manage.py ARGUMENTS`, optionally behind `wrapper`."""
        return self._start(arguments, self.environment(**settings), wrapper=wrapper)

    def run(
        self, *arguments: str, timeout: float = PATIENCE, **settings: Any
    ) -> Replica:
        """Start a replica and wait for its end."""
        replica = self.start(*arguments, **settings)
        replica.wait(timeout)
        return replica

    def start_together(
        self, *commands: Sequence[str], **settings: Any
    ) -> list[Replica]:
        """Start one process for each command. Once loaded, all continue at the same moment."""
        return self.start_mixed(*((command, settings) for command in commands))

    def start_mixed(
        self, *commands: tuple[Sequence[str], dict[str, Any]]
    ) -> list[Replica]:
        """Start processes like `start_together`, each with its own settings."""
        arrived, arrive = os.pipe()
        go, gate = os.pipe()
        barrier = {"SCENARIO_BARRIER": f"{arrive},{go}"}
        try:
            started = [
                self._start(command, self.environment(**each) | barrier, (arrive, go))
                for command, each in commands
            ]
            self._wait_for_arrival(arrived, started)
        finally:
            for end in (arrived, arrive, go, gate):
                os.close(end)
        return started

    def _wait_for_arrival(self, arrived: int, replicas: list[Replica]) -> None:
        missing = len(replicas)
        while missing:
            readable, _, _ = select.select([arrived], [], [], PATIENCE)
            assert readable, f"{missing} replicas were not loaded within {PATIENCE} s"
            missing -= len(os.read(arrived, missing))

    def _start(
        self,
        arguments: Sequence[str],
        environment: dict[str, str],
        pass_fds: Iterable[int] = (),
        wrapper: Sequence[str] = (),
    ) -> Replica:
        command = [*wrapper, sys.executable, str(PROJECT / "manage.py"), *arguments]
        output = self.directory / f"replica-{len(self.replicas)}"
        self.replicas.append(Replica(command, environment, output, pass_fds))
        return self.replicas[-1]

    def environment(self, **settings: Any) -> dict[str, str]:
        """Return the environment for a replica that the test starts in another way."""
        chosen = {"database": self.database, **self._defaults, **settings}
        return _environment(self.directory, **chosen)

    def end(self) -> None:
        for replica in self.replicas:
            replica.end()

    def wait_until(self, condition: Callable[[], T], what: str) -> T:
        """Return the value of `condition` once it is true. Fail if every replica has ended."""

        def check() -> T | None:
            alive = not all(replica.ended for replica in self.replicas)
            value = condition()
            assert value or alive, f"{what}: nobody is left of\n{self}"
            return value

        return wait_until(check, PATIENCE, lambda: f"{what}, of\n{self}")

    # Notes of the scenario's migrations, and events that they wait for

    def allow(self, name: str = "go") -> None:
        """Allow the migrations to continue that wait for `name`."""
        (self.directory / f"allowed-{name}").touch()

    def notes(self, prefix: str = "") -> list[tuple[int, str]]:
        """Return `(pid, text)` of each note whose text starts with `prefix`."""
        file = self.directory / "notes"
        lines = file.read_text().splitlines() if file.exists() else []
        pairs = [line.split(" ", 1) for line in lines]
        return [(int(pid), text) for pid, text in pairs if text.startswith(prefix)]

    def wait_for_note(self, prefix: str, count: int = 1) -> list[tuple[int, str]]:
        """Wait for `count` notes with this prefix, and return them."""
        return self.wait_until(
            lambda: notes if len(notes := self.notes(prefix)) >= count else [],
            f"note {prefix!r}",
        )

    def replica(self, pid: int) -> Replica:
        return next(replica for replica in self.replicas if replica.pid == pid)

    def leader(self) -> Replica:
        """Return the replica that leads the newest run."""
        return self.replica(self.database.leader_pid())

    def wait_for_followers(self, count: int) -> None:
        """Wait until `count` replicas have printed that they wait for a leader."""
        self.wait_until(
            lambda: (
                sum("waiting for" in replica.stderr for replica in self.replicas)
                >= count
            ),
            f"{count} followers",
        )

    def __repr__(self) -> str:
        return "\n".join(str(replica) for replica in self.replicas)


def _environment(
    directory: Path,
    *,
    database: Records,
    scenario: str,
    apps: Sequence[str] = ("django_safe_init",),
    safe_init: dict[str, Any] | None = None,
    database_settings: dict[str, Any] | None = None,
    databases: dict[str, Records] | None = None,
    project: dict[str, Any] | None = None,
    env: dict[str, str | None] | None = None,
    **variables: str,
) -> dict[str, str]:
    """Return the environment of a replica. `kill_at="x"` becomes `SCENARIO_KILL_AT=x`.

    `project` holds further settings of Django. A variable that is None in `env` is removed.
    """
    aliases = {
        "default": database.settings(**(database_settings or {})),
        **{alias: other.settings() for alias, other in (databases or {}).items()},
    }
    values = {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": "always::ResourceWarning",
        "SCENARIO": scenario,
        "SCENARIO_APPS": json.dumps(list(apps)),
        "SCENARIO_DATABASES": json.dumps(aliases),
        "SCENARIO_DIR": str(directory),
        "SCENARIO_PROJECT": json.dumps(project or {}),
        "SCENARIO_SAFE_INIT": json.dumps(safe_init or {}),
        **{f"SCENARIO_{name.upper()}": value for name, value in variables.items()},
        **(env or {}),
    }
    return {name: value for name, value in values.items() if value is not None}


def entries(database: Records) -> list[str]:
    """Return the entries of the scenario's data migrations, in the order of their commits."""
    return [
        row["text"] for row in database.rows("SELECT text FROM shop_entry ORDER BY id")
    ]


def exit_codes(replicas: Iterable[Replica], timeout: float = PATIENCE) -> list[int]:
    """Wait for all replicas. Return their exit codes in the same order."""
    return [replica.wait(timeout) for replica in replicas]
