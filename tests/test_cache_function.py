"""The decorator's time to live, and what it takes for a method."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import lowtide
import pytest
from lowtide import _keep

SECOND = 10**9


@pytest.fixture
def pass_time() -> Iterator[Callable[[float], None]]:
    now = SECOND

    def go_on(seconds: float) -> None:
        nonlocal now
        now += int(seconds * SECOND)
        _keep.stop_clock(now)

    go_on(0)
    yield go_on
    _keep.stop_clock(-1)


def test_a_result_is_good_for_its_time_and_is_computed_anew_after_it(pass_time: Callable[[float], None]) -> None:
    calls: list[Any] = []

    @lowtide.cache(ttl=5)
    def double(n: int) -> int:
        calls.append(n)
        return 2 * n

    assert double(1) == double(1) == 2 and calls == [1]
    pass_time(3)
    assert double(2) == 4 and double(1) == 2 and calls == [1, 2]
    pass_time(2)  # a hit does not make it younger
    assert double(1) == 2 and double(2) == 4 and calls == [1, 2, 1]
    assert double.cache_info() == (3, 3, 128, 2)
    pass_time(4)
    assert double.cache_info().currsize == 1
    pass_time(1)
    assert double.cache_info().currsize == 0 and double.cache_bytes() == 0
    assert double(1) == 2 and calls == [1, 2, 1, 1]


def test_it_is_so_for_async_functions_and_methods_too(pass_time: Callable[[float], None]) -> None:
    calls: list[Any] = []

    class Shop:
        @lowtide.cache(ttl=5)
        async def fetch(self, item: str) -> str:
            calls.append(item)
            return item

        @lowtide.cache(ttl=1.5, max_bytes="1MiB")
        def price(self, item: str) -> int:
            calls.append(item)
            return len(item)

    shop = Shop()
    assert asyncio.run(shop.fetch("salt")) == asyncio.run(shop.fetch("salt")) == "salt"
    assert shop.price("oil") == shop.price("oil") == 3
    assert calls == ["salt", "oil"]
    pass_time(1.5)
    assert shop.price("oil") == 3 and asyncio.run(shop.fetch("salt")) == "salt"
    assert calls == ["salt", "oil", "oil"]
    pass_time(3.5)
    assert asyncio.run(shop.fetch("salt")) == "salt" and calls == ["salt", "oil", "oil", "salt"]
    assert Shop.fetch.cache_info().currsize == 1 and Shop.price.cache_info().currsize == 0
