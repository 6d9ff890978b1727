"""The decorator's time to live, and what it takes for a method."""

from __future__ import annotations

import asyncio
import weakref
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


def test_a_function_assigned_to_a_class_afterwards_is_a_method_whatever_its_parameters_are_called() -> None:
    @lowtide.cache
    def price(shop: Any, item: str) -> int:
        return len(item)

    @lowtide.cache
    async def fetch(shop: Any, item: str) -> str:
        return item

    class Shop:
        @lowtide.cache
        async def weigh(this, item: str) -> int:  # noqa: N805
            return len(item)

    class Larger(Shop):
        pass

    shop, gone = Larger(), list[Any]()
    Shop.price, Shop.fetch = price, fetch  # type: ignore[attr-defined]
    weakref.finalize(shop, gone.append, True)
    for _ in range(30):  # as often as the interpreter specializes it
        assert shop.price("oil") == 3  # type: ignore[attr-defined]
        assert asyncio.run(shop.fetch("salt")) == "salt"  # type: ignore[attr-defined]
        assert asyncio.run(shop.weigh("salt")) == 4
    assert price.cache_info().hits == fetch.cache_info().hits == Shop.weigh.cache_info().hits == 29
    del shop
    assert gone == [True]
    assert price.cache_info().currsize == fetch.cache_info().currsize == Shop.weigh.cache_info().currsize == 0


def test_a_function_that_is_no_method_knows_its_arguments_by_equality_also_in_a_class() -> None:
    class Item:
        def __hash__(self) -> int:
            return 1

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Item)

    class Shop:
        @staticmethod
        @lowtide.cache
        def price(item: Item) -> int:
            return 7

        @staticmethod
        @lowtide.cache
        async def weigh(item: Item) -> int:
            return 3

    @lowtide.cache
    def plain(item: Item) -> int:
        return 7

    for _ in range(3):
        assert Shop.price(Item()) == Shop().price(Item()) == plain(Item()) == 7
        assert asyncio.run(Shop.weigh(Item())) == asyncio.run(Shop().weigh(Item())) == 3
    for function, hits in ((Shop.price, 5), (Shop.weigh, 5), (plain, 2)):
        info = function.cache_info()
        assert (info.hits, info.misses, info.currsize) == (hits, 1, 1)


def test_a_cached_function_stays_one_by_type_when_it_becomes_a_method() -> None:
    @lowtide.cache
    def f(one: Any, two: int = 0) -> int:
        return two

    kind: Any = type(f)
    assert f(1) == 0

    class Named:
        g = f

    assert Named().g(3) == 3 and isinstance(f, kind) and type(f).__name__ == "CachedFunction"
    assert f(1) == 0 and f.cache_info()[:2] == (1, 2)
