"""Hooks for gunicorn, to be named in `gunicorn.conf.py`. Needs the extra `gunicorn`.

    from django_safe_init.contrib.gunicorn import close_connections as pre_fork
    from django_safe_init.contrib.gunicorn import watch as post_worker_init

All of them raise ordinary exceptions, on which gunicorn stops; on a `SystemExit` it would start
the worker again, for ever.
"""

from __future__ import annotations

import os
from typing import Any

import django
from django.apps import apps
from django.conf import ENVIRONMENT_VARIABLE
from django.db import connections

from django_safe_init.background import Child
from django_safe_init.exceptions import ConfigurationError, InitializationFailed
from django_safe_init.readiness import readiness


def initialize(server: Any) -> None:
    """For `on_starting`: initialize, or wait until somebody has, before gunicorn listens.

    Nothing answers meanwhile, neither a probe nor a person: a container needs a startup probe, or
    a start period, that allows for the longest run. It happens in a child process, so nothing
    of it is left in the workers. Raises `InitializationFailed`, which ends gunicorn with exit
    code 1, and `ConfigurationError` unless `DJANGO_SETTINGS_MODULE` is set.
    """
    if not apps.ready:
        if not os.environ.get(ENVIRONMENT_VARIABLE):
            raise ConfigurationError(
                f"{ENVIRONMENT_VARIABLE} is not set where gunicorn starts. Set it in the "
                "environment: the application, which sets it, is imported later."
            )
        django.setup()
    code, error = Child().result()
    if code:
        raise InitializationFailed(error)


def watch(worker: Any) -> None:
    """For `post_worker_init`: look at the databases from the worker's start.

    Without it a worker begins with its first request. With `SERVE` "initialize" that is also
    when the initialization begins.
    """
    readiness.watch()


def close_connections(server: Any, worker: Any) -> None:
    """For `pre_fork`: close the master's connections and pools, which a worker must not share.

    A worker that closes a connection of its master ends the master's session, and a pool's
    threads are not there after a fork.
    """
    for connection in connections.all(initialized_only=True):
        connection.close()
        if hasattr(connection, "close_pool"):
            connection.close_pool()
