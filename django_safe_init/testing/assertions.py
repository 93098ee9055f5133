"""Assert without a test framework."""

from __future__ import annotations

from collections.abc import Callable

from django_safe_init.core.cancellation import sleep
from django_safe_init.core.deadline import Deadline

#: The longest wait, in seconds.
_PATIENCE = 30.0


class raises:
    """Context manager that fails unless its block raises an exception of this kind."""

    def __init__(self, kind: type[Exception]) -> None:
        self.kind = kind

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, *exc_info: object) -> bool:
        assert kind is not None, f"{self.kind.__name__} was not raised"
        return issubclass(kind, self.kind)


def wait_until(condition: Callable[[], bool]) -> None:
    """Return as soon as the condition is true; fail if it stays false."""
    deadline = Deadline(_PATIENCE)
    while not condition():
        assert not deadline.passed()
        sleep(0.01)
