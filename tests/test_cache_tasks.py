"""Tasks whose computations need each other, or themselves: they compute or fail, but never wait for ever."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import threading
from collections.abc import Coroutine
from typing import Any

import lowtide
import pytest


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
