"""Actions of the scenarios' migrations: report to the test, wait for the test, die.

They communicate through files in `SCENARIO_DIR`, because a file is visible at once and survives a
rollback and SIGKILL.
"""

import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

PATIENCE = 120.0 * float(os.environ.get("TEST_PATIENCE", "1"))


def _directory() -> Path:
    return Path(os.environ["SCENARIO_DIR"])


def note(text: str) -> None:
    """Add one line, `<pid> <text>`, to the notes of the scenario."""
    with open(_directory() / "notes", "ab", buffering=0) as notes:
        notes.write(f"{os.getpid()} {text}\n".encode())


def first_time(name: str) -> bool:
    """Return True to exactly one caller among all processes."""
    try:
        (_directory() / f"once-{name}").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def reap_children() -> None:
    """Wait for all children in a thread, faster than code that waits for one of them."""

    def reap() -> None:
        while True:
            with suppress(ChildProcessError):
                os.wait()
            time.sleep(0.001)

    threading.Thread(target=reap, daemon=True).start()


def wait_for(name: str) -> None:
    """Return once the test has allowed `name`."""
    deadline = time.monotonic() + PATIENCE
    while not (_directory() / f"allowed-{name}").exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"the test never allowed {name!r}")
        time.sleep(0.01)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(point: str) -> None:
    """Kill this process if `SCENARIO_KILL_AT` is this point and no process has died here yet."""
    if os.environ.get("SCENARIO_KILL_AT") == point and first_time(f"kill-{point}"):
        note(f"dies {point}")
        die()


def chosen(name: str, default: str = "") -> str:
    """Return the variant of the scenario that the test requests."""
    return os.environ.get(f"SCENARIO_{name}", default)
