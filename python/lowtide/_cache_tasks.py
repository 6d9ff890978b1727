"""Computing once among asyncio tasks, of one event loop or of several in several threads."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Hashable
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Any, TypeVar

from lowtide import _keep

_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")

MISSING = object()
DOUBLES = 8  #: how often a computation that is under way is begun again because it would wait for itself


class _Flight:
    """A computation under way: what others wait on, and which computations it needs itself."""

    __slots__ = ("double", "future", "needs", "parent", "pid")

    def __init__(self, parent: _Flight | None) -> None:
        while parent is not None and parent.future is None:  # a task that outlived the computation that began it
            parent = parent.parent
        self.parent: _Flight | None = parent
        self.future: Future[Any] | None = Future()  #: None when it is over, so that no context keeps the value alive
        self.needs: list[_Flight] = []
        self.double: _Flight | None = None  #: computes the same for those on which this one waits
        self.pid = os.getpid()  #: in a forked child nobody computes it

    def reaches(self, other: _Flight) -> bool:
        """Whether this one, over however many others, needs that one."""
        seen, left = {self}, [self]
        while left:
            flight = left.pop()
            if flight is other:
                return True
            fresh = set(flight.needs) - seen
            seen |= fresh
            left += fresh
        return False


#: In which computation the code runs. Tasks have it of the one that began them: so it goes through gather() and wait_for().
_within: ContextVar[_Flight | None] = ContextVar("lowtide_flight", default=None)
#: The same thread may come again: where a collection that begins under the lock ends a coroutine nobody awaits any more.
_needs_lock = threading.RLock()


def _renew_lock() -> None:
    global _needs_lock
    _needs_lock = threading.RLock()


os.register_at_fork(after_in_child=_renew_lock)


async def compute_once(
    flights: dict[Any, Any],
    key: Hashable,
    look_up: Callable[[], Any],
    insert: Callable[[Any], None],
    f: Callable[[], Awaitable[Any]],
) -> Any:
    """The value that ``look_up`` finds, or what ``f`` gives to the first task that asks; the others wait for that one.

    An exception goes to all who wait. When the first task is cancelled, another computes. One that would wait for itself
    computes instead, as a thread does, and has a RecursionError where that has no end.
    """
    while True:
        if (value := look_up()) is not MISSING:
            return value
        _ask_for_frames(20)
        mine = _Flight(_within.get())
        flight: _Flight = flights.setdefault(key, mine)
        if flight is mine:
            return await _compute(mine, insert, f, flights, key)
        if flight.pid != mine.pid or flight.future is None:
            _take_out(flights, key, flight)
            continue
        if mine.parent is not None and (flight := _begin_to_need(mine.parent, flight, mine)) is mine:
            return await _compute(mine, insert, f)
        try:
            if (future := flight.future) is None:
                continue
            return await asyncio.shield(asyncio.wrap_future(future))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if future is None or not future.cancelled() or (task and task.cancelling()):
                raise
        finally:
            if mine.parent is not None:
                _end_to_need(mine.parent, flight)


def _ask_for_frames(count: int) -> None:
    """A RecursionError now rather than at a computation's end, where nobody could be told of that any more."""
    if count:
        _ask_for_frames(count - 1)


def _begin_to_need(flight: _Flight, other: _Flight, fresh: _Flight) -> _Flight:
    """The one to wait for: the other one, or the first of its doubles that does not need this one already.

    Where there is none, the fresh one, which is not waited for but computed, and is a double from now on. Doubles are
    shared and few, so that tasks that a computation begins and awaits nowhere cannot multiply what is computed.
    """
    with _needs_lock:
        doubles = 0
        while other.reaches(flight):
            while other.double is not None and other.double.future is None:
                other.double = other.double.double
            if doubles == DOUBLES:
                raise RecursionError("the computation of a cached value needs that value itself, over and over")
            doubles += 1
            if other.double is None:
                other.double = fresh
                return fresh
            other = other.double
        flight.needs.append(other)
        return other


def _end_to_need(flight: _Flight, other: _Flight) -> None:
    with _needs_lock:
        flight.needs.remove(other)


async def _compute(
    mine: _Flight,
    insert: Callable[[Any], None],
    f: Callable[[], Awaitable[Any]],
    flights: dict[Any, Any] | None = None,
    key: Hashable = None,
) -> Any:
    """flights: where others find it under its key; None where it computes what another one does, too."""
    future, before = mine.future, _within.get()
    assert future is not None
    if mine.parent is not None:
        with _needs_lock:
            mine.parent.needs.append(mine)
    _within.set(mine)
    try:
        value = await f()
        insert(value)
    except Exception as error:
        future.set_exception(error)
        raise
    except BaseException:
        future.cancel()
        raise
    else:
        future.set_result(value)
        return value
    finally:
        if flights is not None:
            _take_out(flights, key, mine)
        mine.future = None
        if mine.parent is not None:
            _end_to_need(mine.parent, mine)
        if _within.get() is mine:  # and not a context in which a coroutine that nobody awaits any more is collected
            _within.set(before)


def _take_out(flights: dict[Any, Any], key: Hashable, flight: _Flight) -> None:
    try:
        if flights.get(key) is flight:
            flights.pop(key, None)
            return
    except Exception:
        pass
    if flight in list(flights.values()):  # its __hash__ or __eq__ raises by now, or says something else:
        flights.clear()  # better computed twice than waited for in vain


async def get_or_compute(cache: _keep.Cache[_K, _V], key: _K, f: Callable[[], Awaitable[_V]]) -> Any:
    """What ``Cache.get_or_compute`` returns for an async function."""
    return await compute_once(
        cache._tasks, key, lambda: cache.get(key, MISSING), lambda value: cache.__setitem__(key, value), f
    )
