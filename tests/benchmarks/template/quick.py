"""Print what quick queries take in this process, beside slow ones or alone.

    python quick.py SAMPLES THREADS POOL

THREADS threads ask for one slow query after the other, in the pool POOL ("" for the pool of the
quick ones).
"""

import sys
import threading
import time

import django

#: What a slow query does; it waits, as for a disk or another server.
SLOW = "SELECT 1 AS id FROM pg_sleep(0.5)"
PAUSE_SECONDS = 0.005


def main(samples: int, threads: int, pool: str) -> None:
    django.setup()
    quick()  # the first query of a process finds out the server's version
    stop = threading.Event()
    busy = [threading.Thread(target=ask, args=(pool, stop)) for _ in range(threads)]
    for thread in busy:
        thread.start()
    time.sleep(1.0 if busy else 0.0)  # until all of them ask
    for _ in range(samples):
        sys.stdout.write(f"{quick()}\n")
        time.sleep(PAUSE_SECONDS)
    stop.set()
    for thread in busy:
        thread.join()


def ask(pool: str, stop: threading.Event) -> None:
    """Slow queries, until it is time to stop."""
    from django.contrib.contenttypes.models import ContentType
    from django.db import connections

    from django_safe_init import using_pool

    while not stop.is_set():
        with using_pool(pool or None):
            list(ContentType.objects.raw(SLOW))
        connections.close_all()  # as at a request's end


def quick() -> float:
    """Seconds for a quick query, with the connection that it needs."""
    from django.contrib.contenttypes.models import ContentType
    from django.db import connections

    started = time.perf_counter()
    ContentType.objects.get(app_label="auth", model="user")
    seconds = time.perf_counter() - started
    connections.close_all()
    return seconds


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
