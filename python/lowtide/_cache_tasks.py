"""Computing once among asyncio tasks, of one event loop or of several in several threads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from concurrent.futures import Future
from typing import Any, TypeVar

from lowtide import _keep

_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")

MISSING = object()


async def compute_once(
    flights: dict[Any, Any],
    key: Hashable,
    look_up: Callable[[], Any],
    insert: Callable[[Any], None],
    f: Callable[[], Awaitable[Any]],
) -> Any:
    """The value that ``look_up`` finds, or what ``f`` gives to the first task that asks; the others wait for that one.

    An exception goes to all who wait. When the first task is cancelled, another computes.
    """
    while True:
        if (value := look_up()) is not MISSING:
            return value
        mine: Future[Any] = Future()
        flight = flights.setdefault(key, mine)
        if flight is mine:
            return await _compute(flights, key, mine, insert, f)
        try:
            return await asyncio.shield(asyncio.wrap_future(flight))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not flight.cancelled() or (task and task.cancelling()):
                raise


async def _compute(
    flights: dict[Any, Any],
    key: Hashable,
    flight: Future[Any],
    insert: Callable[[Any], None],
    f: Callable[[], Awaitable[Any]],
) -> Any:
    try:
        value = await f()
        insert(value)
    except BaseException as error:
        flights.pop(key, None)
        if isinstance(error, Exception):
            flight.set_exception(error)
        else:
            flight.cancel()
        raise
    flights.pop(key, None)
    flight.set_result(value)
    return value


async def get_or_compute(cache: _keep.Cache[_K, _V], key: _K, f: Callable[[], Awaitable[_V]]) -> Any:
    """What ``Cache.get_or_compute`` returns for an async function."""
    return await compute_once(
        cache._tasks, key, lambda: cache.get(key, MISSING), lambda value: cache.__setitem__(key, value), f
    )
