"""`track()` counts items and shows progress, and otherwise only iterates."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from django_safe_init import track
from django_safe_init.core.progress import (
    OperationProgress,
    ProgressTracker,
    ProgressUpdate,
    use_tracker,
)


@pytest.fixture
def tracker() -> Iterator[ProgressTracker]:
    """The tracker of an active run."""
    made = ProgressTracker()
    with use_tracker(made):
        yield made


def shown(tracker: ProgressTracker, iterable: Any) -> list[ProgressUpdate | None]:
    return [tracker.current() for _ in iterable]


def test_sized(tracker) -> None:
    """The total of an iterable with a length is its length; the status counts finished items."""
    assert shown(tracker, track(["a", "b"], message="rows")) == [
        ProgressUpdate(0, 2, "rows"),
        ProgressUpdate(1, 2, "rows"),
    ]
    assert tracker.current() is None


@pytest.mark.parametrize("total", [None, 0, -1])
def test_unsized(tracker, total) -> None:
    """Without a length and without a positive total, the total is unknown."""
    found = shown(tracker, track(iter("ab"), total=total))
    assert found == [ProgressUpdate(0, None, ""), ProgressUpdate(1, None, "")]


def test_an_explicit_total(tracker) -> None:
    """An explicit total overrides the length of the iterable."""
    assert shown(tracker, track("a", total=7)) == [ProgressUpdate(0, 7, "")]


def test_nothing_to_do(tracker) -> None:
    """An empty iterable shows no progress."""
    assert shown(tracker, track([])) == []


def test_nested(tracker) -> None:
    """The status shows the inner loop, then the outer one again."""
    found = []
    for _ in track("ab", message="tables"):
        found.append(tracker.current())
        found.extend(shown(tracker, track("xy", message="rows")))
    assert found == [
        ProgressUpdate(0, 2, "tables"),
        ProgressUpdate(0, 2, "rows"),
        ProgressUpdate(1, 2, "rows"),
        ProgressUpdate(1, 2, "tables"),
        ProgressUpdate(0, 2, "rows"),
        ProgressUpdate(1, 2, "rows"),
    ]
    assert tracker.current() is None


def test_break(tracker) -> None:
    """A loop that is left early no longer shows."""
    for _ in track("ab"):
        assert tracker.current() is not None
        break
    assert tracker.current() is None


def test_an_error_inside(tracker) -> None:
    """An error ends a loop and the loops inside it."""

    def work() -> None:
        for _ in track("ab"):
            for _ in track("xy"):
                raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        work()
    assert tracker.current() is None


def test_an_error_of_the_iterable(tracker) -> None:
    """An error of the iterable ends its loop."""
    with pytest.raises(ZeroDivisionError):
        list(track(1 / each for each in (1, 0)))
    assert tracker.current() is None


def test_an_abandoned_loop(tracker) -> None:
    """A loop whose iterator is still referenced ends with the loop around it."""
    kept = []
    for _ in track("a"):
        inner = track("xy")
        next(inner)
        kept.append(inner)
    assert tracker.current() is None
    kept[0].close()
    assert tracker.current() is None


def test_the_end_of_the_step(tracker) -> None:
    """A loop of one step does not show in the next step."""
    kept = track("ab")
    next(kept)
    tracker.clear()
    assert tracker.current() is None
    assert list(kept) == ["b"]


def test_outside_of_a_run() -> None:
    """Outside of a run, `track` only iterates."""
    assert list(track(iter("ab"), message="rows")) == ["a", "b"]


def test_it_begins_with_its_first_item(tracker) -> None:
    """A loop shows nothing before its first item."""
    track("ab")
    assert tracker.current() is None


def test_messages(tracker) -> None:
    """A message is escaped for the database and cut to 200 characters."""
    [items] = shown(tracker, track("a", message="x\0" + "y" * 300))
    assert items is not None
    assert items.message == "x\\x00" + "y" * 195


def test_a_thread_of_a_migration(tracker) -> None:
    """A plain thread shows nothing; one with a copy of the context does."""
    found: list[Any] = []

    def count() -> None:
        found.extend(shown(tracker, track("a")))

    context = contextvars.copy_context()
    for target in (count, lambda: context.run(count)):
        thread = threading.Thread(target=target)
        thread.start()
        thread.join()
    assert found == [None, ProgressUpdate(0, 1, "")]


def test_a_task(tracker) -> None:
    """A coroutine shows its progress, and so does a function that it hands to a thread."""
    found: list[Any] = []

    async def count() -> None:
        for _ in track("a", message="awaited"):
            found.append(tracker.current())
            found.extend(await asyncio.to_thread(shown, tracker, track("b")))

    asyncio.run(count())
    assert found == [ProgressUpdate(0, 1, "awaited"), ProgressUpdate(0, 1, "")]


def test_updates(tracker) -> None:
    """The tracker has an update if the progress differs from the published one."""
    assert not tracker.has_update()
    for _ in track("ab"):
        assert tracker.has_update()
        tracker.publish()
        assert not tracker.has_update()
    assert tracker.has_update()
    assert tracker.publish() is None
    assert not tracker.has_update()


def test_percent(tracker) -> None:
    """The run's percentage includes a fraction for the running step and its nested loops."""
    assert tracker.percent(0, 0) == 0
    assert tracker.percent(1, 4) == 25
    found = []
    for _ in track("ab"):
        for _ in track("xy"):
            found.append(tracker.percent(1, 4))
    assert found == [25, 31, 37, 43]
    assert tracker.percent(2, 4) == 50


def test_percent_never_decreases(tracker) -> None:
    """A second loop or a second attempt of the step does not lower the percentage."""
    for _ in range(2):
        for _ in track("abcd"):
            tracker.percent(0, 1)
        assert tracker.percent(0, 1) == 75


def test_percent_of_more_than_the_total(tracker) -> None:
    """A total that is too small, or a run with all steps finished, does not show 100 percent."""
    for _ in track("abc", total=1):
        assert tracker.percent(0, 2) in (0, 50)
    assert tracker.percent(0, 1) == 50
    assert tracker.percent(1, 1) == 99


def test_percent_without_a_total(tracker) -> None:
    """A loop without a total, and the loops inside it, do not count."""
    for _ in track(iter("ab")):
        for _ in track("xy"):
            assert tracker.percent(1, 2) == 50


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[1, 2, "RunSQL"]', OperationProgress(1, 2, "RunSQL")),
        ('["1", 2, "RunSQL"]', None),
        ("[1, 2]", None),
        ("{", None),
        (None, None),
    ],
)
def test_an_operation_in_a_row(text, expected) -> None:
    """An operation that another program has written wrongly counts as none."""
    assert OperationProgress.from_json(text) == expected
