"""Hooks for gunicorn, to be named in `gunicorn.conf.py`. Needs the extra `gunicorn`.

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
from django_safe_init.serving.background.child_process import InitializationProcess
from django_safe_init.serving.background.readiness import readiness


class NotInitialized(InitializationFailed, RuntimeError):
    """The database is not initialized, so gunicorn must not start.

    A `RuntimeError` is shown by gunicorn's master as one line, with exit code 1; in a worker it
    ends gunicorn, as every ordinary exception does. On `SystemExit` a worker would be started
    again, for ever.
    """


def initialize(server: Any) -> None:
    """For `on_starting`: initialize, or wait until somebody has, before gunicorn listens.

    Nothing answers meanwhile, neither a probe nor a person: a container needs a startup probe, or
    a start period, that allows for the longest run. It happens in a child process, so nothing
    of it is left in the master, nor in the workers. Raises `NotInitialized`. SIGTERM and SIGINT
    end both, before gunicorn handles signals itself.
    """
    try:
        with interruptible(), InitializationProcess() as child:
            code, error = child.result()
    except ConfigurationError as exc:
        raise NotInitialized(str(exc)) from None
    except Interrupted as exc:
        sys.exit(exc.exit_code)
    if code:
        raise NotInitialized(error)


def watch(worker: Any) -> None:
    """For `post_worker_init`: look at the databases from the worker's start.

    Without it a worker begins with its first request. With `SERVE` "initialize" that is also
    when the initialization begins. Does nothing with `SERVE` or `MODE` "off".
    """
    if effective_serve_mode(get_settings()) != "off":
        readiness.watch()


def close_connections(server: Any, worker: Any) -> None:
    """For `pre_fork`: close the master's connections and pools, which a worker must not share.

    A worker that closes a connection of its master ends the master's session, and a pool's
    threads are not there after a fork. Does nothing where the application is not loaded before
    the fork.
    """
    if not django_settings.configured:
        return
    for connection in connections.all(initialized_only=True):
        connection.close()
        if hasattr(connection, "close_pool"):
            connection.close_pool()
