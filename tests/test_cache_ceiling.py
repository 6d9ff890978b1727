"""What all caches hold together under a ceiling, whoever fills them and when."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import lowtide
import pytest
from lowtide import _keep

LIFTED_BY_THE_AGENT = 2**64 - 1


@pytest.fixture(autouse=True)
def nothing_else_is_held() -> Iterator[None]:
    gc.collect()
    _keep.ceiling(None)
    _keep.shrink(_keep.total_bytes())
    yield
    _keep.ceiling(None)


def fill(cache: lowtide.Cache[int, bytes], count: int, first: int = 0) -> None:
    for key in range(first, first + count):
        cache[key] = bytes(1000)


@pytest.mark.parametrize("lift", [None, LIFTED_BY_THE_AGENT])
def test_a_cache_that_was_emptied_while_it_was_held_grows_again_when_the_ceiling_is_lifted(lift: int | None) -> None:
    cache = lowtide.Cache[int, bytes](max_bytes="4MB")
    fill(cache, 1000)
    _keep.ceiling(_keep.total_bytes() // 4)
    cache.clear()
    _keep.ceiling(lift)
    fill(cache, 3000)
    assert len(cache) == 3000


@pytest.mark.parametrize("bounds", [{"max_bytes": "10MB"}, {"max_items": 10_000}, {}])
def test_the_ceiling_holds_whatever_the_other_caches_are_bounded_in(bounds: dict[str, Any]) -> None:
    busy, other = lowtide.Cache[int, bytes](max_bytes="10MB"), lowtide.Cache[int, bytes](**bounds)
    fill(busy, 1000)
    fill(other, 1000)
    held = _keep.total_bytes()
    _keep.ceiling(held)
    for round in range(20):
        for key in range(10_000 * round, 10_000 * round + 500):
            fill(busy, 1, key)
            busy.get(key), busy.get(key - 10)
            fill(other, 1, key)
        assert _keep.total_bytes() <= held * 1.01
        assert busy._is_valid() and other._is_valid()  # type: ignore[attr-defined]


def test_caches_that_are_made_or_filled_after_the_ceiling_was_set_are_under_it_too() -> None:
    old, empty = lowtide.Cache[int, bytes](max_bytes="10MB"), lowtide.Cache[int, bytes](max_bytes="10MB")
    fill(old, 2000)
    held = _keep.total_bytes()
    _keep.ceiling(held)
    later = [lowtide.Cache[int, bytes](max_bytes="10MB"), lowtide.Cache[int, bytes](max_items=5000), empty]
    for round in range(5):
        for cache in (*later, old):
            fill(cache, 1000, 10_000 * round)
            for key in range(10_000 * round, 10_000 * round + 1000):
                cache.get(key)
            assert len(cache) > 400
        assert _keep.total_bytes() <= held * 1.01
    assert _keep.total_bytes() > held * 0.9


def test_what_a_cache_gave_up_under_a_ceiling_is_for_the_others() -> None:
    emptied, gone, busy = (lowtide.Cache[int, bytes](max_bytes="10MB") for _ in range(3))
    for cache in (emptied, gone, busy):
        fill(cache, 1000)
    held = _keep.total_bytes()
    _keep.ceiling(held)
    emptied.clear()
    del gone, cache
    fill(busy, 5000, 1000)
    assert len(busy) > 2900 and _keep.total_bytes() <= held * 1.01


def test_a_function_cached_under_a_ceiling_still_remembers_its_last_results() -> None:
    full = lowtide.Cache[int, bytes](max_bytes="100MB")
    for key in range(20):
        full[key] = bytes(4_000_000)
    for _ in range(3):
        assert all(map(full.get, range(20)))
    _keep.ceiling(_keep.total_bytes())
    calls = 0

    @lowtide.cache(maxsize=1000)
    def fibonacci(n: int) -> int:
        nonlocal calls
        calls += 1
        return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2) if calls < 10_000 else 0

    fibonacci(100)
    assert calls < 200


def test_a_value_larger_than_the_share_of_a_held_cache_is_not_kept_and_leaves_the_others() -> None:
    cache, worthy = lowtide.Cache[int, bytes](max_bytes="10MB"), lowtide.Cache[int, bytes](max_bytes="10MB")
    fill(cache, 100)
    fill(worthy, 1000)
    for _ in range(3):
        assert all(map(worthy.get, range(1000)))
    _keep.ceiling(_keep.total_bytes())
    cache[1000] = bytes(5_000_000)
    assert 1000 not in cache and len(cache) >= 99 and cache.stats().rejections == 1
    cache[99] = bytes(5_000_000)
    assert 99 not in cache and len(cache) >= 98 and cache.stats().rejections == 2
    assert cache._is_valid() and len(worthy) == 1000  # type: ignore[attr-defined]


def test_what_came_after_a_measurement_is_measured_by_the_next() -> None:
    cache = lowtide.Cache[int, bytes](max_items=1000)
    fill(cache, 100)
    one = _keep.total_bytes() // 100
    assert cache.bytes == 100 * one
    fill(cache, 200, 50)
    assert _keep.total_bytes() == cache.bytes == 250 * one
    del cache[100]
    cache[100] = bytes(1000 + one)
    assert cache.bytes == 251 * one
