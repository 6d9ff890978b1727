"""Keys whose __hash__ raises and values whose __del__ raises: the caller learns of it, and the cache stays in order."""

from __future__ import annotations

import asyncio
import functools
import gc
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import lowtide
import pytest
from lowtide import _keep


class Unsure:
    """Its __hash__ answers so many times, and raises from then on."""

    def __init__(self, times: int = 0) -> None:
        self.left = times

    def __hash__(self) -> int:
        if self.left == 0:
            raise ZeroDivisionError("no hash")
        self.left -= 1
        return 7


class Bitter:
    """Raises when it goes."""

    def __init__(self, size: int = 0) -> None:
        self.padding = bytes(size)

    def __del__(self) -> None:
        raise ZeroDivisionError("not without a word")


@pytest.fixture
def unraisable(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    told: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: told.append(unraisable.exc_type))
    yield told
    _keep.stop_clock(-1)


@pytest.mark.parametrize(
    "act",
    [
        lambda cache, key: cache[key],
        lambda cache, key: cache.__setitem__(key, 1),
        lambda cache, key: cache.__delitem__(key),
        lambda cache, key: key in cache,
        lambda cache, key: cache.get(key),
        lambda cache, key: cache.peek(key),
        lambda cache, key: cache.pop(key, None),
        lambda cache, key: cache.setdefault(key, 1),
        lambda cache, key: cache.discard(key),
        lambda cache, key: cache.get_or_compute(key, lambda: 1),
        lambda cache, key: asyncio.run(cache.get_or_compute(key, functools.partial(asyncio.sleep, 0, 1))),
        lambda cache, key: cache.update([(key, 1)]),
        lambda cache, key: lowtide.cache(lambda key: 1)(key),
    ],
)
@pytest.mark.parametrize("weak", [False, True])
def test_what_a_hash_raises_reaches_whoever_asks_and_nothing_changes(
    act: Callable[[Any, object], object], weak: bool
) -> None:
    value = functools.partial(int)
    cache = lowtide.Cache[Any, Any](max_items=4, max_bytes=10_000, weak=weak)
    cache["other"] = value
    before = cache.bytes
    with pytest.raises(ZeroDivisionError, match="no hash"):
        act(cache, Unsure())
    assert dict(cache) == {"other": value} and cache.bytes == before and cache._is_valid() and not cache._tasks


def test_a_key_that_has_no_hash_any_more_still_leaves_by_eviction_and_by_time(unraisable: list[Any]) -> None:
    _keep.stop_clock(10**9)
    told: list[Any] = []
    cache = lowtide.Cache[Any, int](max_items=3, ttl=5, on_evict=lambda key, value: told.append(value))
    for number in range(5):
        cache[Unsure(1)] = number
        assert cache._is_valid()
    assert len(cache) == 3 and sorted([*cache.values(), *told]) == [0, 1, 2, 3, 4]
    cache.popitem()
    _keep.stop_clock(10 * 10**9)
    assert cache.expire() == 2 and not cache and cache._is_valid() and not unraisable


@pytest.mark.parametrize("times", range(1, 8))
def test_a_key_whose_hash_raises_at_any_moment_of_a_computation_stops_nobody_else(times: int) -> None:
    cache, key = lowtide.Cache[Any, int](), Unsure(times)

    async def two() -> int:
        return 2

    signal.alarm(60)
    try:
        for f in (lambda: 1, two):
            key.left = times
            for _ in range(2):
                try:
                    asked = cache.get_or_compute(key, f)
                    got = asked if isinstance(asked, int) else asyncio.run(asked)
                except ZeroDivisionError:
                    key.left = 1000
                else:
                    assert got in (1, 2)
            key.left = 1000
            cache.clear()
            with ThreadPoolExecutor(1) as others:
                assert others.submit(cache.get_or_compute, key, lambda: 3).result() == 3
            cache.clear()
    finally:
        signal.alarm(0)
    assert not cache._tasks and cache._is_valid()


@pytest.mark.parametrize("bounds", [{"max_items": 3}, {"max_bytes": 3000}, {"ttl": 5}, {"weak": True}])
def test_what_a_value_raises_when_it_goes_is_shown_and_the_rest_happens(
    bounds: dict[str, Any], unraisable: list[Any]
) -> None:
    _keep.stop_clock(10**9)
    cache = lowtide.Cache[int, Bitter](**bounds)
    made = 0
    held: list[Bitter] = []

    def put(key: int) -> None:
        nonlocal made
        cache[key] = value = Bitter(500)
        made += 1
        if "weak" in bounds:
            held.append(value)
            del held[:-3]

    for number in range(20):
        put(number)
        put(number)
        assert number in cache and cache._is_valid()
    assert cache.discard(19) and 19 not in cache
    put(19)
    cache.update({19: cache[19]})
    cache.popitem()
    _keep.stop_clock(60 * 10**9)
    cache.expire()
    put(1)
    cache.clear()
    held.clear()
    gc.collect()
    assert len(cache) == 0 and cache._is_valid()
    assert unraisable == [ZeroDivisionError] * made


def test_results_that_raise_when_they_go_do_not_disturb_a_cached_function(unraisable: list[Any]) -> None:
    class Shop:
        @lowtide.cache(maxsize=2)
        def open(self, number: int) -> Bitter:
            return Bitter()

    shop = Shop()
    for number in range(5):
        assert isinstance(shop.open(number), Bitter)
    assert len(unraisable) == 3 and Shop.open.cache_info().currsize == 2
    del shop
    assert len(unraisable) == 5 and Shop.open.cache_info().currsize == 0


def test_a_pending_exception_survives_what_goes_meanwhile(unraisable: list[Any]) -> None:
    cache = lowtide.Cache[int, Bitter](max_items=1)

    def fail() -> Bitter:
        cache[1] = Bitter()
        cache[2] = Bitter()
        raise KeyError("own")

    with pytest.raises(KeyError, match="own"):
        cache.get_or_compute(3, fail)
    assert unraisable == [ZeroDivisionError] and list(cache) == [2]
    cache.clear()
