"""Tasks whose computations need each other, or themselves: they compute or fail, but never wait for ever."""

from __future__ import annotations

import asyncio
import collections
import contextvars
import functools
import os
import signal
import threading
from collections.abc import Coroutine
from typing import Any

import lowtide
import pytest
from lowtide import _cache_tasks


def end(awaited: Coroutine[Any, Any, Any]) -> Any:
    """What it gives; a failure where it waits for ever."""

    async def bounded() -> Any:
        done, waiting = await asyncio.wait([asyncio.ensure_future(awaited)], timeout=120)
        if waiting:
            pytest.fail("it waits for itself")
        return done.pop().result()

    return asyncio.run(bounded())


def test_a_computation_that_awaits_itself_is_a_recursion_error_as_it_is_in_a_thread() -> None:
    cache = lowtide.Cache[str, int]()

    async def f() -> int:
        return await cache.get_or_compute("a", f)

    @lowtide.cache
    async def g(n: int) -> int:
        return await g(n)

    def in_thread() -> int:
        return cache.get_or_compute("a", in_thread)

    with pytest.raises(RecursionError):
        in_thread()
    with pytest.raises(RecursionError):
        end(cache.get_or_compute("a", f))
    with pytest.raises(RecursionError):
        end(g(1))
    assert not cache and not cache._tasks and g.cache_info().currsize == 0


@pytest.mark.parametrize("way", ["gather", "wait_for", "create_task"])
def test_it_is_so_too_where_the_computation_waits_for_another_task_that_asks(way: str) -> None:
    cache = lowtide.Cache[str, int]()

    async def f() -> int:
        asked = cache.get_or_compute("a", f)
        if way == "gather":
            return (await asyncio.gather(asked))[0]
        if way == "wait_for":
            return await asyncio.wait_for(asked, 300)
        return await asyncio.create_task(asked)

    with pytest.raises(RecursionError):
        end(cache.get_or_compute("a", f))
    assert not cache._tasks
    assert end(cache.get_or_compute("a", functools.partial(asyncio.sleep, 0, 7))) == 7


def test_two_tasks_that_need_each_other_compute_and_those_that_do_without_end_fail() -> None:
    cache = lowtide.Cache[str, int]()

    async def main(first: Any, second: Any) -> Any:
        asked = cache.get_or_compute("a", first), cache.get_or_compute("b", second)
        return await asyncio.gather(*asked, return_exceptions=True)

    async def three() -> int:
        return 3

    async def a_of_b() -> int:
        await asyncio.sleep(0)
        return 1 + await cache.get_or_compute("b", three)

    async def b_of_a() -> int:
        await asyncio.sleep(0)
        return 1 + await cache.get_or_compute("a", three)

    first, second = end(main(a_of_b, b_of_a))
    assert first == 1 + second == 5
    cache.clear()

    async def a_for_ever() -> int:
        await asyncio.sleep(0)
        return await cache.get_or_compute("b", b_for_ever)

    async def b_for_ever() -> int:
        await asyncio.sleep(0)
        return await cache.get_or_compute("a", a_for_ever)

    assert all(isinstance(error, RecursionError) for error in end(main(a_for_ever, b_for_ever)))
    assert not cache and not cache._tasks


def test_tasks_of_two_event_loops_that_need_each_other_do_not_wait_for_ever() -> None:
    cache, barrier, got = lowtide.Cache[str, int](), threading.Barrier(2), list[int]()

    async def one() -> int:
        return 1

    async def of(other: str) -> int:
        barrier.wait(60)
        return 1 + await cache.get_or_compute(other, one)

    async def ask(key: str, other: str) -> None:
        got.append(await cache.get_or_compute(key, functools.partial(of, other)))

    threads = [
        threading.Thread(target=lambda: asyncio.run(ask("a", "b")), daemon=True),
        threading.Thread(target=lambda: asyncio.run(ask("b", "a")), daemon=True),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert sorted(got) == [2, 3]


def test_a_cached_function_of_its_own_smaller_arguments_computes_each_once() -> None:
    calls: list[int] = []

    @lowtide.cache(maxsize=None)
    async def fibonacci(n: int) -> int:
        calls.append(n)
        await asyncio.sleep(0)
        return n if n < 2 else sum(await asyncio.gather(fibonacci(n - 1), fibonacci(n - 2)))

    assert end(fibonacci(90)) == 2880067194370816120
    assert sorted(calls) == list(range(91))


def test_a_recursion_that_is_too_deep_leaves_nothing_behind_that_others_would_wait_for() -> None:
    @lowtide.cache(maxsize=None)
    async def count_down(n: int) -> int:
        return 0 if n == 0 else 1 + await count_down(n - 1)

    async def upwards() -> list[int]:
        return [await count_down(n) for n in range(2000)]

    with pytest.raises(RecursionError):
        end(count_down(100_000))
    assert end(upwards()) == list(range(2000))


def test_a_task_that_goes_on_after_the_computation_which_began_it_may_ask_for_that_again() -> None:
    cache, generations = lowtide.Cache[str, int](), 3000

    async def main() -> int:
        last: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def again(number: int) -> None:
            cache.discard("a")
            if number < generations:
                await cache.get_or_compute("a", functools.partial(compute, number + 1))
            else:
                last.set_result(number)

        async def compute(number: int) -> int:
            asyncio.get_running_loop().create_task(again(number))
            return number

        await compute(0)
        return await last

    assert end(main()) == generations


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_does_not_wait_for_what_its_parents_tasks_compute() -> None:
    cache = lowtide.Cache[str, str]()

    async def by_parent() -> str:
        if (child := os.fork()) == 0:
            signal.alarm(60)
            thread = threading.Thread(target=lambda: asyncio.run(cache.get_or_compute("key", by_child)))
            thread.start()
            thread.join()
            os._exit(0 if cache["key"] == "by the child" else 1)
        assert os.waitpid(child, 0)[1] == 0
        return "by the parent"

    async def by_child() -> str:
        return "by the child"

    assert asyncio.run(cache.get_or_compute("key", by_parent)) == "by the parent"


def test_an_abandoned_coroutine_that_is_collected_while_needs_are_looked_at_does_not_stop_the_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache, got = lowtide.Cache[str, int](), list[int]()
    kept: list[Any] = []
    reaches = _cache_tasks._Flight.reaches

    async def for_ever() -> int:
        return await asyncio.get_running_loop().create_future()

    async def abandoned() -> int:
        return await lowtide.Cache[str, int]().get_or_compute("inner", for_ever)

    def collect(flight: Any, other: Any) -> bool:
        kept.clear()
        return reaches(flight, other)

    async def one() -> int:
        await asyncio.sleep(0)
        return 1

    async def two() -> int:
        return sum(await asyncio.gather(cache.get_or_compute("one", one), cache.get_or_compute("one", one)))

    async def main() -> None:
        coroutine = lowtide.Cache[str, int]().get_or_compute("outer", abandoned)
        contextvars.copy_context().run(coroutine.send, None)
        kept.append(coroutine)
        del coroutine
        got.append(await cache.get_or_compute("two", two))

    monkeypatch.setattr(_cache_tasks._Flight, "reaches", collect)
    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    thread.join(120)
    assert got == [2] and not kept


@pytest.mark.parametrize("apart", [False, True])
def test_tasks_that_a_computation_begins_and_nobody_awaits_compute_no_multitude(apart: bool) -> None:
    cache, keys = lowtide.Cache[str, str](), "abcd"
    loads, tasks, may_end = collections.Counter[str](), list[asyncio.Task[None]](), asyncio.Event()

    async def warm() -> None:
        for other in keys:
            await cache.get_or_compute(other, functools.partial(load, other))

    async def load(key: str) -> str:
        loads[key] += 1
        context = contextvars.Context() if apart else None
        tasks.append(asyncio.create_task(warm(), context=context))
        await may_end.wait()
        return key

    async def main() -> None:
        asked = asyncio.create_task(cache.get_or_compute("a", functools.partial(load, "a")))
        for _ in range(1000):
            await asyncio.sleep(0)
        may_end.set()
        assert await asked == "a"
        await asyncio.gather(*tasks, return_exceptions=True)

    end(main())
    assert max(loads.values()) <= (1 if apart else 1 + _cache_tasks.DOUBLES)
    assert not cache._tasks


def test_those_that_would_wait_for_themselves_share_what_one_of_them_computes() -> None:
    cache, calls = lowtide.Cache[str, int](), list[int]()

    async def one() -> int:
        calls.append(1)
        await asyncio.sleep(0)
        return 1

    async def sum_of_itself() -> int:
        return sum(await asyncio.gather(*(cache.get_or_compute("a", one) for _ in range(100))))

    assert end(cache.get_or_compute("a", sum_of_itself)) == 100
    assert len(calls) == 1 and not cache._tasks


class Changeable:
    """A key whose hash is another after a computation, or raises a KeyError."""

    def __init__(self) -> None:
        self.hash: int | None = 1

    def __hash__(self) -> int:
        if self.hash is None:
            raise KeyError("no hash")
        return self.hash


@pytest.mark.parametrize("hash_then", [2, None])
def test_a_key_whose_hash_changes_meanwhile_and_back_is_computed_anew(hash_then: int | None) -> None:
    cache, key = lowtide.Cache[Changeable, int](), Changeable()

    def change() -> int:
        key.hash = hash_then
        return 1

    async def change_in_task() -> int:
        return change()

    async def two() -> int:
        return 2

    def ask(function: Any) -> Any:
        """In a thread of its own, for a thread never waits for itself."""
        got: list[Any] = []
        thread = threading.Thread(target=lambda: got.append(function()), daemon=True)
        thread.start()
        thread.join(120)
        return got

    for first in (lambda: cache.get_or_compute(key, change), lambda: end(cache.get_or_compute(key, change_in_task))):
        if hash_then is None:
            with pytest.raises(KeyError):
                first()
        else:
            assert first() == 1
        assert not cache._tasks
        key.hash = 1
    assert ask(lambda: cache.get_or_compute(key, lambda: 2)) == [2]
    cache.clear()
    assert ask(lambda: end(cache.get_or_compute(key, two))) == [2]
