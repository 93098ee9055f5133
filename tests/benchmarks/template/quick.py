"""Print the seconds of quick queries in this process, beside slow ones or without them.

    python quick.py SAMPLES THREADS POOL

Each of the THREADS threads runs one slow query after the other in the pool POOL, where "" is the
pool of the quick queries.
"""

import sys
import threading
import time

import django

#: A slow query, which waits as for a disk or another server.
SLOW = "SELECT 1 AS id FROM pg_sleep(0.5)"
PAUSE_SECONDS = 0.005


def main(samples: int, threads: int, pool: str) -> None:
    django.setup()
    quick()  # the first query of a process reads the server's version
    stop = threading.Event()
    busy = [threading.Thread(target=ask, args=(pool, stop)) for _ in range(threads)]
    for thread in busy:
        thread.start()
    time.sleep(1.0 if busy else 0.0)  # until all threads run a query
    for _ in range(samples):
        sys.stdout.write(f"{quick()}\n")
        time.sleep(PAUSE_SECONDS)
    stop.set()
    for thread in busy:
        thread.join()


def ask(pool: str, stop: threading.Event) -> None:
    """Run slow queries until `stop` is set."""
    from django.contrib.contenttypes.models import ContentType
    from django.db import connections

    from django_safe_init import using_pool

    while not stop.is_set():
        with using_pool(pool or None):
            list(ContentType.objects.raw(SLOW))
        connections.close_all()  # as at a request's end


def quick() -> float:
    """Return the seconds of a quick query, with the time to get its connection."""
    from django.contrib.contenttypes.models import ContentType
    from django.db import connections

    started = time.perf_counter()
    ContentType.objects.get(app_label="auth", model="user")
    seconds = time.perf_counter() - started
    connections.close_all()
    return seconds


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
