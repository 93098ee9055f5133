"""The types of the ES module, checked by TypeScript."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.browser.conftest import missing

USAGE = Path(__file__).parent / "types/usage.ts"


def test_types() -> None:
    """TypeScript accepts the valid usage, and rejects the invalid one."""
    compiler = shutil.which("tsc")
    if compiler is None:
        missing("there is no TypeScript: apt-get install node-typescript")
    strict = ["--strict", "--noEmit", "--module", "esnext", "--target", "es2022"]
    done = subprocess.run(
        [compiler, *strict, "--lib", "es2022,dom", str(USAGE)],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout
