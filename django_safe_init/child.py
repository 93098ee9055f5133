"""`safe_migrate` as a child of a server: `python -m django_safe_init.child`.

It ends with its parent, however that ends: its standard input is a pipe which only the parent
can write to, and nobody does.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

from django.core.management import execute_from_command_line

#: For how long it may clean up: close its run, and free the lock.
_SECONDS = 10.0


def main() -> None:
    """Initialize the databases; print one JSON object."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    execute_from_command_line([sys.argv[0], "safe_migrate", "--json", "--no-color"])


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
