"""`track()`: what it counts, what it shows, and that it never gets into the way."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from django_safe_init import track
from django_safe_init.core.progress import ProgressTracker, ProgressUpdate, use_tracker


@pytest.fixture
def loops() -> Iterator[ProgressTracker]:
    """Those of a run that is under way here."""
    made = ProgressTracker()
    with use_tracker(made):
        yield made


def shown(loops: ProgressTracker, iterable: Any) -> list[ProgressUpdate | None]:
    return [loops.now() for _ in iterable]


def test_sized(loops) -> None:
    """The total of what has a length is its length; what is shown is how many are done."""
    assert shown(loops, track(["a", "b"], message="rows")) == [
        ProgressUpdate(0, 2, "rows"),
        ProgressUpdate(1, 2, "rows"),
    ]
    assert loops.now() is None


@pytest.mark.parametrize("total", [None, 0, -1])
def test_unsized(loops, total) -> None:
    """Without a length, and without a total that makes sense, there is none."""
    found = shown(loops, track(iter("ab"), total=total))
    assert found == [ProgressUpdate(0, None, ""), ProgressUpdate(1, None, "")]


def test_a_total_of_ones_own(loops) -> None:
    """A total that is given counts, also for what has a length."""
    assert shown(loops, track("a", total=7)) == [ProgressUpdate(0, 7, "")]


def test_nothing_to_do(loops) -> None:
    """An empty iterable is no work."""
    assert shown(loops, track([])) == []


def test_nested(loops) -> None:
    """The inner loop shows, then the outer again."""
    found = []
    for _ in track("ab", message="tables"):
        found.append(loops.now())
        found.extend(shown(loops, track("xy", message="rows")))
    assert found == [
        ProgressUpdate(0, 2, "tables"),
        ProgressUpdate(0, 2, "rows"),
        ProgressUpdate(1, 2, "rows"),
        ProgressUpdate(1, 2, "tables"),
        ProgressUpdate(0, 2, "rows"),
        ProgressUpdate(1, 2, "rows"),
    ]
    assert loops.now() is None


def test_break(loops) -> None:
    """A loop that is left early has ended."""
    for _ in track("ab"):
        assert loops.now() is not None
        break
    assert loops.now() is None


def test_an_error_inside(loops) -> None:
    """So has one that an error ends, with those inside it."""

    def work() -> None:
        for _ in track("ab"):
            for _ in track("xy"):
                raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        work()
    assert loops.now() is None


def test_an_error_of_the_iterable(loops) -> None:
    """So has one whose iterable fails."""
    with pytest.raises(ZeroDivisionError):
        list(track(1 / each for each in (1, 0)))
    assert loops.now() is None


def test_a_loop_that_somebody_keeps(loops) -> None:
    """A loop that is neither finished nor forgotten ends with the one around it."""
    kept = []
    for _ in track("a"):
        inner = track("xy")
        next(inner)
        kept.append(inner)
    assert loops.now() is None
    kept[0].close()
    assert loops.now() is None


def test_the_end_of_the_step(loops) -> None:
    """Nothing of one step shows in the next."""
    kept = track("ab")
    next(kept)
    loops.clear()
    assert loops.now() is None
    assert list(kept) == ["b"]


def test_outside_of_a_run() -> None:
    """There it only iterates."""
    assert list(track(iter("ab"), message="rows")) == ["a", "b"]


def test_it_begins_with_its_first_item(loops) -> None:
    """What nobody iterates shows nothing."""
    track("ab")
    assert loops.now() is None


def test_messages(loops) -> None:
    """A message is what the database can store, and fits a line."""
    [items] = shown(loops, track("a", message="x\0" + "y" * 300))
    assert items is not None
    assert items.message == "x\\0" + "y" * 197


def test_a_thread_of_a_migration(loops) -> None:
    """A plain thread shows nothing; one with a copy of the context does."""
    found: list[Any] = []

    def count() -> None:
        found.extend(shown(loops, track("a")))

    context = contextvars.copy_context()
    for target in (count, lambda: context.run(count)):
        thread = threading.Thread(target=target)
        thread.start()
        thread.join()
    assert found == [None, ProgressUpdate(0, 1, "")]


def test_a_task(loops) -> None:
    """A coroutine shows how far it is, and so does what it hands to a thread."""
    found: list[Any] = []

    async def count() -> None:
        for _ in track("a", message="awaited"):
            found.append(loops.now())
            found.extend(await asyncio.to_thread(shown, loops, track("b")))

    asyncio.run(count())
    assert found == [ProgressUpdate(0, 1, "awaited"), ProgressUpdate(0, 1, "")]


def test_news(loops) -> None:
    """What was told is no news, until it changes."""
    assert not loops.has_news()
    for _ in track("ab"):
        assert loops.has_news()
        loops.tell()
        assert not loops.has_news()
    assert loops.has_news()
    assert loops.tell() is None
    assert not loops.has_news()


def test_per_cent(loops) -> None:
    """The run's per cent has the part of the running step, and of the loop inside its item."""
    assert loops.percent(0, 0) == 0
    assert loops.percent(1, 4) == 25
    found = []
    for _ in track("ab"):
        for _ in track("xy"):
            found.append(loops.percent(1, 4))
    assert found == [25, 31, 37, 43]
    assert loops.percent(2, 4) == 50


def test_per_cent_never_falls(loops) -> None:
    """A second loop of the step, or a second attempt, does not take anything back."""
    for _ in range(2):
        for _ in track("abcd"):
            loops.percent(0, 1)
        assert loops.percent(0, 1) == 75


def test_per_cent_of_more_than_all(loops) -> None:
    """A total that was too small, and a run whose steps are all done, are no 100 per cent."""
    for _ in track("abc", total=1):
        assert loops.percent(0, 2) in (0, 50)
    assert loops.percent(0, 1) == 50
    assert loops.percent(1, 1) == 99


def test_per_cent_without_a_total(loops) -> None:
    """Nobody knows what part of the step is done, nor of what is inside it."""
    for _ in track(iter("ab")):
        for _ in track("xy"):
            assert loops.percent(1, 2) == 50
