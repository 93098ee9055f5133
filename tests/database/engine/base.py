"""The wrapper of the engine, found by Django by the name of this module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.db.backends.postgresql import base


def _connect(wrapper: DatabaseWrapper, params: dict[str, Any]) -> Any:
    return base.DatabaseWrapper.get_new_connection(wrapper, params)


class DatabaseWrapper(base.DatabaseWrapper):
    """A wrapper whose connections a test makes."""

    connect_with: Callable[[DatabaseWrapper, dict[str, Any]], Any] = staticmethod(
        _connect
    )

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        return self.connect_with(self, conn_params)
