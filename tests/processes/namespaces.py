"""A process as PID 1 of a PID namespace, as in a container."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.processes.harness import Replica
from tests.support import wait_until

UNSHARE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


def wrapper() -> list[str]:
    """Return the command that makes the next one PID 1. Skip the test if the machine forbids it."""
    if os.geteuid() or not shutil.which("unshare"):
        pytest.skip("a PID namespace needs root and unshare(1)")
    if subprocess.run([*UNSHARE, "true"], capture_output=True).returncode:
        pytest.skip("this machine does not allow PID namespaces")
    return UNSHARE


def pid_one(replica: Replica) -> int:
    """Return the outer process id of the process that is PID 1 in its namespace."""
    children = Path(f"/proc/{replica.pid}/task/{replica.pid}/children")
    return int(wait_until(lambda: children.read_text().split(), message="PID 1")[0])
