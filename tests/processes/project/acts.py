"""What migrations of the scenarios do besides migrating: report, wait, die.

They talk to the test through files in `SCENARIO_DIR`, because a file is there at once and
survives both a rollback and SIGKILL.
"""

import os
import signal
import time
from pathlib import Path

PATIENCE = 120.0


def _directory() -> Path:
    return Path(os.environ["SCENARIO_DIR"])


def note(text: str) -> None:
    """Add one line, `<pid> <text>`, to the notes of the scenario."""
    with open(_directory() / "notes", "ab", buffering=0) as notes:
        notes.write(f"{os.getpid()} {text}\n".encode())


def first_time(name: str) -> bool:
    """True for exactly one caller of all processes."""
    try:
        (_directory() / f"once-{name}").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def wait_for(name: str) -> None:
    """Return when the test has allowed `name`."""
    deadline = time.monotonic() + PATIENCE
    while not (_directory() / f"allowed-{name}").exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"the test never allowed {name!r}")
        time.sleep(0.01)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(point: str) -> None:
    """Die here if `SCENARIO_KILL_AT` is this point and nobody died here before."""
    if os.environ.get("SCENARIO_KILL_AT") == point and first_time(f"kill-{point}"):
        note(f"dies {point}")
        die()


def chosen(name: str, default: str = "") -> str:
    """The variant of the scenario the test asked for."""
    return os.environ.get(f"SCENARIO_{name}", default)
