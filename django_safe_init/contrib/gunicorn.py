"""Hooks for gunicorn's configuration file. Needs the extra `gunicorn`.

from django_safe_init.contrib.gunicorn import close_connections as pre_fork
from django_safe_init.contrib.gunicorn import watch as post_worker_init
"""

from __future__ import annotations

import sys
from typing import Any

from django.conf import settings as django_settings
from django.db import connections

from django_safe_init.conf import effective_serve_mode, get_settings
from django_safe_init.core.signal_handling import Interrupted, interruptible
from django_safe_init.exceptions import ConfigurationError, InitializationFailed
from django_safe_init.serving.background.child_process import (
    READY,
    InitializationProcess,
)
from django_safe_init.serving.background.readiness import readiness


class NotInitialized(InitializationFailed, RuntimeError):
    """The database is not initialized, so gunicorn must not start.

    gunicorn's master prints a `RuntimeError` as one line, and exits with code 1. In a worker,
    any ordinary exception stops gunicorn; after `SystemExit` it would restart the worker forever.
    """


def initialize(server: Any) -> None:
    """Initialize the databases, or wait for the leader, before gunicorn listens: `on_starting`.

    Until then no request is answered: a container needs a startup probe or a start period that
    allows for the longest run. A child process does the work, so the master and the workers
    inherit nothing from it. SIGTERM and SIGINT end both processes.

    Raises `NotInitialized`.
    """
    try:
        with interruptible(), InitializationProcess() as child:
            result, error = child.result()
    except ConfigurationError as exc:
        raise NotInitialized(str(exc)) from None
    except Interrupted as exc:
        sys.exit(exc.exit_code)
    if result != READY:
        raise NotInitialized(error)


def watch(worker: Any) -> None:
    """Start polling the databases when a worker starts: `post_worker_init`.

    Without this hook a worker starts polling, and with `SERVE` "initialize" initializing, at its
    first request. Does nothing with `SERVE` or `MODE` "off".
    """
    if effective_serve_mode(get_settings()) != "off":
        readiness.start()


def close_connections(server: Any, worker: Any) -> None:
    """Close the master's connections and pools before a worker inherits them: `pre_fork`.

    A worker that closes an inherited connection ends the master's session, and an inherited
    pool has lost its threads. Does nothing if gunicorn does not preload the application.
    """
    if not django_settings.configured:
        return
    for connection in connections.all(initialized_only=True):
        connection.close()
        if hasattr(connection, "close_pool"):
            connection.close_pool()
