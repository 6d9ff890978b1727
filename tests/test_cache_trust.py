"""Hostile keys and values, threads, tasks, and references that must not leak."""

from __future__ import annotations

import asyncio
import copy
import gc
import os
import pickle
import random
import signal
import sys
import threading
import tracemalloc
import weakref
from typing import Any

import lowtide
import pytest
from lowtide import _keep


class Reentrant:
    """Its __eq__ and __hash__ change the cache that is just looking for it."""

    cache: lowtide.Cache[Any, Any]
    depth = 0

    def __init__(self, name: int) -> None:
        self.name = name

    def meddle(self) -> None:
        if Reentrant.depth < 2:
            Reentrant.depth += 1
            random.choice([self.insert_many, self.cache.clear, lambda: self.cache.discard(self)])()
            Reentrant.depth -= 1

    def insert_many(self) -> None:
        for i in range(20):
            self.cache[i] = i

    def __hash__(self) -> int:
        return self.name % 3

    def __eq__(self, other: object) -> bool:
        self.meddle()
        return isinstance(other, Reentrant) and self.name == other.name

    def __del__(self) -> None:
        self.meddle()


class Broken:
    def __hash__(self) -> int:
        return 1

    def __eq__(self, other: object) -> bool:
        raise ZeroDivisionError


class Node:
    pass


def test_a_cache_stays_in_order_when_keys_and_values_come_back_into_it() -> None:
    random.seed(11)
    for bounds in ({"max_items": 5}, {"max_bytes": 2000}, {}):
        cache = Reentrant.cache = lowtide.Cache[Any, Any](**bounds)  # type: ignore[arg-type]
        for i in range(400):
            cache[Reentrant(i % 17)] = Reentrant(i)
            cache.get(Reentrant(i % 5))
            assert cache._is_valid()
        cache.clear()


def test_an_error_in_a_comparison_reaches_the_caller_and_changes_nothing() -> None:
    cache = lowtide.Cache[Any, int](max_items=4)
    cache[1] = 1
    for act in (cache.get, cache.__getitem__, cache.discard, cache.pop, lambda key: cache.get_or_compute(key, int)):
        with pytest.raises(ZeroDivisionError):
            act(Broken())
    with pytest.raises(TypeError, match="unhashable"):
        cache[[]] = 1
    assert dict(cache) == {1: 1}


def test_a_key_that_changes_the_cache_at_every_comparison_is_an_error_and_not_a_loop() -> None:
    class Restless:
        def __hash__(self) -> int:
            return 1

        def __eq__(self, other: object) -> bool:
            cache["other"] = 1
            cache.discard("other")
            return False

    cache = lowtide.Cache[Any, int]()
    cache[1] = 1
    with pytest.raises(RuntimeError, match="each time"):
        cache.get(Restless())
    assert cache._is_valid() and dict(cache) == {1: 1}


def test_an_error_in_on_evict_is_shown_and_the_insert_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: shown.append(unraisable.exc_type))
    cache = lowtide.Cache[int, int](max_items=1, on_evict=lambda key, value: 1 // 0)
    cache[1] = cache[2] = 0
    assert (list(cache), shown) == ([2], [ZeroDivisionError])


def test_threads_that_hammer_a_cache_leave_it_in_order() -> None:
    cache = lowtide.Cache[Any, Any](max_items=50, max_bytes="40KB", on_evict=lambda key, value: None)
    failed: list[BaseException] = []

    def hammer(seed: int) -> None:
        rng = random.Random(seed)
        try:
            for _ in range(4000):
                key = rng.randrange(100)
                act = rng.randrange(6)
                if act == 0:
                    cache[key] = [key] * rng.randrange(50)
                elif act == 1:
                    cache.discard(key)
                elif act == 2:
                    assert cache.get_or_compute(key, lambda key=key: [key])[:1] in ([key], [])
                elif act == 3 and rng.random() < 0.1:
                    assert len(list(cache.items())) <= 50
                else:
                    assert cache.get(key, [key])[:1] in ([key], [])
        except BaseException as error:
            failed.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=hammer, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert not failed
    assert cache._is_valid() and len(cache) <= 50 and cache.bytes <= 40_000


def test_many_threads_that_ask_for_a_key_compute_it_once() -> None:
    cache, calls, barrier = lowtide.Cache[str, object](), list[int](), threading.Barrier(16)
    got: list[object] = []

    def ask() -> None:
        barrier.wait()
        got.append(cache.get_or_compute("key", compute))

    def compute() -> object:
        calls.append(1)
        threading.Event().wait(0.05)
        return object()

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1 and len(set(map(id, got))) == 1


def test_two_threads_whose_computations_need_each_other_do_not_wait_for_ever() -> None:
    cache, barrier = lowtide.Cache[str, int](), threading.Barrier(2)

    def first_of(other: str) -> int:
        barrier.wait(30)
        return cache.get_or_compute(other, lambda: 1)

    threads = [
        threading.Thread(target=lambda: cache.get_or_compute("a", lambda: first_of("b")), daemon=True),
        threading.Thread(target=lambda: cache.get_or_compute("b", lambda: first_of("a")), daemon=True),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_does_not_wait_for_what_its_parents_threads_compute() -> None:
    cache, begun, go_on = lowtide.Cache[str, str](), threading.Event(), threading.Event()

    def compute() -> str:
        begun.set()
        go_on.wait(240)
        return "by the parent"

    threads = [threading.Thread(target=lambda: cache.get_or_compute("key", compute)) for _ in range(3)]
    for thread in threads:
        thread.start()
    begun.wait(240)
    if (child := os.fork()) == 0:
        signal.alarm(60)
        own = cache.get_or_compute("key", lambda: "by the child")
        os._exit(0 if own == cache["key"] == "by the child" else 1)
    assert os.waitpid(child, 0)[1] == 0
    go_on.set()
    for thread in threads:
        thread.join()
    assert cache["key"] == "by the parent"


def test_an_exception_of_f_reaches_the_caller_and_nothing_is_kept() -> None:
    cache = lowtide.Cache[str, int]()
    with pytest.raises(ZeroDivisionError):
        cache.get_or_compute("key", lambda: 1 // 0)
    assert cache.get_or_compute("key", lambda: 3) == 3


def test_tasks_that_ask_for_a_key_compute_it_once_even_when_the_first_is_cancelled() -> None:
    cache, calls = lowtide.Cache[str, int](), list[int]()

    async def compute() -> int:
        calls.append(1)
        await asyncio.sleep(0.01)
        return 7

    async def main() -> None:
        assert await asyncio.gather(*(cache.get_or_compute("a", compute) for _ in range(50))) == [7] * 50
        assert len(calls) == 1
        tasks = [asyncio.ensure_future(cache.get_or_compute("b", compute)) for _ in range(5)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        assert await asyncio.gather(*tasks[1:]) == [7] * 4
        assert len(calls) == 3

    asyncio.run(main())
    with pytest.raises(TypeError, match="coroutine"):
        coroutine = compute()
        try:
            cache.get_or_compute("c", lambda: coroutine)  # type: ignore[arg-type, return-value]
        finally:
            coroutine.close()


def test_a_cached_method_does_not_keep_its_instance_and_gives_its_entries_back() -> None:
    class Shop:
        @lowtide.cache
        def price(self, item: str, times: int = 1) -> str:
            return item * times

        @lowtide.cache(ttl=60)
        async def fetch(self, item: str) -> str:
            return item

    shop, other = Shop(), Shop()
    assert shop.price("a") == "a" and shop.price("b", times=2) == "bb" and other.price("a") == "a"
    assert asyncio.run(shop.fetch("x")) == "x"
    assert Shop.price.cache_info().currsize == 3
    gone = weakref.ref(shop)
    del shop
    assert gone() is None
    assert Shop.price.cache_info().currsize == 1 and Shop.fetch.cache_info().currsize == 0


def test_a_method_that_misses_again_and_again_takes_no_more_memory() -> None:
    class Shop:
        @lowtide.cache(maxsize=4)
        def price(self, item: int) -> None:
            return None

    shop = Shop()
    for item in range(100):
        shop.price(item)
    tracemalloc.start()
    try:
        for item in range(20_000):
            shop.price(item)
        assert tracemalloc.get_traced_memory()[0] < 10_000
    finally:
        tracemalloc.stop()
    gone = weakref.ref(shop)
    del shop
    assert gone() is None and Shop.price.cache_info().currsize == 0


def test_a_cache_with_a_time_to_live_knows_when_its_oldest_entry_came() -> None:
    for bounds in ({"max_items": 5}, {"max_bytes": 3000}, {}):
        cache = lowtide.Cache[int, int](ttl=1000, **bounds)  # type: ignore[arg-type]
        for i in range(100):
            cache[i] = i
            assert cache._is_valid()  # type: ignore[attr-defined]
        cache.clear()
        cache[1] = 1
        assert cache._is_valid()  # type: ignore[attr-defined]


def test_concurrent_awaits_of_a_cached_function_compute_once() -> None:
    calls = []

    @lowtide.cache(max_bytes="1MiB")
    async def fetch(name: str) -> str:
        calls.append(name)
        await asyncio.sleep(0.01)
        return name * 2

    async def main() -> list[str]:
        return await asyncio.gather(*(fetch(name) for name in "abab" * 10))

    assert set(asyncio.run(main())) == {"aa", "bb"} and sorted(calls) == ["a", "b"]


def test_an_oversized_value_is_returned_and_not_kept() -> None:
    cache = lowtide.Cache[str, str](max_bytes="10kB")
    assert len(cache.get_or_compute("big", lambda: "x" * 20_000)) == 20_000
    cache["small"] = "x"
    cache["small"] = "x" * 20_000
    assert len(cache) == 0 and cache.stats().rejections == 2


def test_copies_and_pickles_have_the_bounds_and_the_entries() -> None:
    cache = lowtide.Cache[str, Any](max_items=9, max_bytes="1MiB", ttl=1000)
    cache.update(a=[1], b=[2])
    for other in (copy.copy(cache), pickle.loads(pickle.dumps(cache)), copy.deepcopy(cache), cache.copy()):
        assert list(other.items()) == list(cache.items()) and other._settings() == cache._settings()
    assert copy.copy(cache)["a"] is cache["a"] and copy.deepcopy(cache)["a"] is not cache["a"]


def test_nothing_leaks() -> None:
    key, value = ("key", 1.5), Node()

    def act() -> None:
        cache = lowtide.Cache[Any, Any](max_items=3, max_bytes=10_000, on_evict=lambda *_: None)
        weak = lowtide.Cache[Any, Any](weak=True)
        function = lowtide.cache(max_bytes=5000, typed=True)(lambda *args, **kwargs: value)
        for i in range(10):
            cache[(*key, i)] = value
            cache[key] = weak[key] = value
            function(key, named=key)
            function(value)
        list(cache.items()), list(weak.values()), cache.pop(key), weak.get(key), cache.popitem()
        cache.get_or_compute(key, lambda: value)
        iter(cache)

    class Own(lowtide.Cache[Any, Any]):
        pass

    def cycle() -> None:
        own = Own(max_items=2)
        own["me"] = own
        own[key] = value

    def run() -> tuple[int, int, int]:
        for _ in range(50):
            act()
            cycle()
        gc.collect()
        return sys.getrefcount(key), sys.getrefcount(value), sys.getrefcount(Node)

    run()
    before, count = run(), len(gc.get_objects())
    assert run() == before
    assert len(gc.get_objects()) <= count + 20


def test_shrink_takes_from_the_cache_whose_bytes_bring_the_fewest_hits() -> None:
    gc.collect()
    _keep.shrink(_keep.total_bytes())
    used, idle = lowtide.Cache[int, bytes](max_bytes="10MB"), lowtide.Cache[int, bytes](max_items=1000)
    for i in range(100):
        used[i] = idle[i] = bytes(1000)
    for _ in range(5):
        for i in range(100):
            assert used[i]
    total = _keep.total_bytes()
    gone = _keep.shrink(50_000)
    assert 50_000 <= gone < 60_000 and _keep.total_bytes() == total - gone
    assert len(used) == 100 and len(idle) < 60


def test_under_a_ceiling_a_busy_cache_takes_from_one_that_nobody_asks() -> None:
    gc.collect()
    _keep.shrink(_keep.total_bytes())
    idle, busy = lowtide.Cache[int, bytes](max_bytes="10MB"), lowtide.Cache[int, bytes](max_bytes="10MB")
    for i in range(500):
        idle[i] = busy[i] = bytes(1000)
    held = _keep.total_bytes()
    _keep.ceiling(held)
    try:
        for i in range(500, 20_000):
            busy[i] = bytes(1000)
            assert busy.get(i - 10)
        assert held * 0.97 < _keep.total_bytes() < held * 1.01
        assert len(busy) > 900 and len(idle) < 100
        assert busy._is_valid() and idle._is_valid()
        assert busy.max_bytes == 10_000_000
        _keep.ceiling(held // 2)
        for i in range(500):
            busy[i] = bytes(1000)
        assert _keep.total_bytes() < held * 0.52
    finally:
        _keep.ceiling(None)
    for i in range(5000):
        busy[i] = bytes(1000)
    assert len(busy) > 4900


def test_under_a_ceiling_a_cache_bounded_in_items_grows_no_more() -> None:
    gc.collect()
    _keep.shrink(_keep.total_bytes())
    cache = lowtide.Cache[int, bytes](max_items=10_000)
    for i in range(1000):
        cache[i] = bytes(1000)
    _keep.ceiling(_keep.total_bytes())
    try:
        for i in range(1000, 5000):
            cache[i] = bytes(1000)
        assert 950 < len(cache) <= 1001
    finally:
        _keep.ceiling(None)


class Meddling:
    """Changes some cache when it goes."""

    __slots__ = ("__weakref__", "padding")
    rng = random.Random()
    caches: list[lowtide.Cache[int, Any]] = []

    def __init__(self, size: int) -> None:
        self.padding = bytes(size)

    def __del__(self) -> None:
        if self.caches and self.rng.random() < 0.05:
            cache, key = self.rng.choice(self.caches), self.rng.randrange(300)
            if self.rng.random() < 0.5:
                cache[key] = Meddling(10)
            else:
                cache.discard(key)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_caches_of_all_kinds_that_meddle_with_each_other_stay_in_order_and_within_their_bounds(seed: int) -> None:
    rng, caches, now = random.Random(seed), Meddling.caches, 10**9
    Meddling.rng = rng

    def make() -> lowtide.Cache[int, Any]:
        return lowtide.Cache(
            max_items=rng.choice([None, 0, 1, 5, 50, 200]),
            max_bytes=rng.choice([None, None, 100, 5000, 100_000]),
            ttl=rng.choice([None, None, 1, 10]),
            weak=rng.random() < 0.15,
            on_evict=rng.choice([None, lambda key, value: rng.choice(caches).discard(key)]),
        )

    try:
        caches.extend(make() for _ in range(6))
        for turn in range(15_000):
            cache, key, act = rng.choice(caches), rng.randrange(300), rng.random()
            if act < 0.5:
                cache[key] = Meddling(rng.choice([0, 10, 100, 1000]))
            elif act < 0.8:
                cache.get(key)
            elif act < 0.85:
                cache.discard(key)
            elif act < 0.88:
                cache.get_or_compute(key, lambda: Meddling(5))
            elif act < 0.89:
                _keep.shrink(rng.randrange(20_000))
            elif act < 0.9:
                _keep.ceiling(rng.choice([None, None, 1000, 100_000]))
            elif act < 0.91:
                now += rng.randrange(3 * 10**9)
                _keep.stop_clock(now)
            elif act < 0.92:
                list(cache.items())
            elif act < 0.925:
                cache.clear()
            elif act < 0.93:
                caches[rng.randrange(6)] = make()
            if turn % 20 == 0:
                for cache in caches:
                    assert cache._is_valid()
                    assert cache.max_items is None or len(cache) <= cache.max_items
                    assert cache.max_bytes is None or cache.bytes <= cache.max_bytes
    finally:
        del cache
        while caches:
            caches.pop()
        _keep.stop_clock(-1)
        _keep.ceiling(None)


def test_a_loop_larger_than_the_cache_still_hits() -> None:
    cache = lowtide.Cache[int, int](max_items=100)
    for _ in range(20):
        for i in range(150):
            cache.get_or_compute(i, int)
    assert cache.stats().hits > 1000
