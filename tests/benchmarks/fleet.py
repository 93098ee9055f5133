"""Waiters that have finished their imports: forked processes with threads.

    python -m tests.benchmarks.fleet PROCESSES THREADS

Prints `imported` and waits for a line on standard input. Then each thread of each process calls
`initialize()`. Each waiter prints a JSON object with the time when it enters one of `STATES` and
when it ends. The processes stay until standard input ends, as a replica does, so that the cost of
their exit is part of no figure.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
import time
from typing import Any

STATES = ("acquiring_lock", "migrating")
STDIN, STDOUT = 0, 1
PIPE_BUF = 4096


def main(processes: int, threads: int) -> None:
    """Fork the waiters, start them all at once, and wait for their end."""
    import_everything()
    gc.freeze()  # or the garbage collection of each child copies all of these objects
    waiting, go = os.pipe()
    children = [fork(number, threads, waiting, go) for number in range(processes)]
    os.close(waiting)
    tell("imported")
    sys.stdin.readline()
    os.close(go)
    for child in children:
        os.waitpid(child, 0)


def import_everything() -> None:
    import django

    django.setup()

    import django.db.backends.postgresql.base

    import django_safe_init.initialization.election
    import django_safe_init.initialization.initializer  # noqa: F401  (imported to fork faster)
    from django_safe_init.signals import state_changed

    state_changed.connect(report_state)


def fork(number: int, threads: int, waiting: int, go: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    os.close(go)
    os.read(waiting, 1)  # returns when the parent closes the other end
    try:
        run_threads(number, threads)
        os.read(STDIN, 1)
    finally:
        os._exit(0)


def run_threads(number: int, threads: int) -> None:
    names = [f"{number}.{thread}" for thread in range(threads)]
    started = [threading.Thread(target=wait, name=name) for name in names]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()


def wait() -> None:
    """Run one waiter, from its call of `initialize()` to its report."""
    from django_safe_init import initialize

    try:
        outcome = initialize()
    except Exception as error:  # noqa: BLE001 - after any error the waiter has failed
        report(error=f"{type(error).__name__}: {error}"[:1000])
    else:
        report(role=str(outcome.role), error=None)


def report_state(new: object, **kwargs: object) -> None:
    if new in STATES:
        report(state=str(new))


def report(**content: Any) -> None:
    content = {"at": time.time(), "waiter": threading.current_thread().name, **content}
    tell(json.dumps(content))


def tell(line: str) -> None:
    """Write the line in one call, so that a pipe does not mix it with lines of other processes."""
    os.write(STDOUT, f"{line}\n".encode()[-PIPE_BUF:])


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
