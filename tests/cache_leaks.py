"""What each use of the caches leaves behind, in references and blocks; a debug build of Python runs it (test_cache_debug.py)."""

import asyncio
import contextlib
import copy
import gc
import pickle
import sys
import threading
import weakref

import lowtide
from lowtide import _keep


class Node:
    pass


class Bad:
    def __hash__(self):
        return 1

    def __eq__(self, other):
        raise ZeroDivisionError


class Own(lowtide.Cache):
    pass


def attempt(f, *args):
    with contextlib.suppress(Exception):
        f(*args)


def evictions():
    for bounds in ({"max_items": 5}, {"max_bytes": 3000}, {"max_items": 5, "ttl": 100}, {}):
        cache = lowtide.Cache(**bounds, on_evict=lambda key, value: None)
        for i in range(60):
            cache[i % 40] = [i]
            cache.get(i % 7)
        cache[1] = "x" * 5000
        cache.clear()


def methods():
    cache = lowtide.Cache(max_items=9)
    cache.update(a=1, b=2)
    cache.setdefault("c", [])
    cache.pop("a")
    cache.discard("z")
    attempt(cache.pop, "z")
    cache.popitem()
    attempt(cache.__getitem__, (1, 2))
    (
        list(cache),
        list(cache.items()),
        list(reversed(cache)),
        len(cache),
        cache.stats(),
        cache.bytes,
        repr(cache),
        cache | {1: 2},
        cache == {},
    )
    iter(cache), next(iter(cache.items()))
    sys.getsizeof(cache)
    cache.expire()
    cache.copy(), copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))


def errors():
    cache = lowtide.Cache(max_items=4)
    cache[1] = 1
    for act in (
        cache.get,
        cache.discard,
        cache.pop,
        lambda key: cache.get_or_compute(key, int),
        lambda key: cache.__setitem__(key, 1),
    ):
        attempt(act, Bad())
    attempt(cache.__setitem__, [], 1)
    attempt(cache.get_or_compute, 5, lambda: 1 // 0)
    attempt(cache.get_or_compute, 5)
    attempt(lowtide.Cache, 5)
    attempt(lambda: lowtide.Cache(max_bytes="x"))
    attempt(lambda: lowtide.Cache(getsizeof=lambda v: -1).__setitem__(1, 1))
    attempt(lambda: lowtide.Cache(weak=True).__setitem__(1, 1))
    attempt(lambda: lowtide.Cache(getsizeof=lambda v: 1 // 0).__setitem__(1, 1))


def weak():
    cache = lowtide.Cache(weak=True)
    nodes = [Node() for _ in range(20)]
    for i, node in enumerate(nodes):
        cache[i] = node
    del nodes[5:]
    node = None
    list(cache.items()), cache.get(3), cache.get(15), cache.pop(2)
    ref = weakref.getweakrefs(nodes[0])
    del cache
    nodes.clear()
    del ref


def cycles():
    own = Own(max_items=3)
    own["me"] = own
    own[1] = Node()
    function = lowtide.cache(lambda x: function)
    function(1)
    function.me = function
    shop = type("Shop", (), {"price": lowtide.cache(lambda self, x=1: self)})
    one = shop()
    one.price()
    one.price(x=2)
    one.self = one
    shop.price.cache_info()


def functions():
    f = lowtide.cache(maxsize=3, typed=True)(lambda *a, **k: (a, k))
    for i in range(9):
        f(i), f(i, named=str(i)), f(float(i))
    attempt(f, []), f.cache_info(), f.cache_bytes(), f.cache_parameters(), f.cache_clear(), pickle.dumps(evictions)
    g = lowtide.cache(max_bytes=2000, ttl=5)(lambda x: 1 // x)
    attempt(g, 0)
    [g(i) for i in range(1, 50)]


def threads():
    cache = lowtide.Cache(max_items=10)
    workers = [threading.Thread(target=lambda: [cache.get_or_compute(i, list) for i in range(30)]) for _ in range(4)]
    [w.start() for w in workers]
    [w.join() for w in workers]


def tasks():
    cache = lowtide.Cache()

    async def f():
        await asyncio.sleep(0)
        return Node()

    async def broken():
        raise ValueError

    @lowtide.cache
    async def g(x):
        await asyncio.sleep(0)
        return x

    async def main():
        await asyncio.gather(*(cache.get_or_compute(i % 3, f) for i in range(9)), *(g(i % 2) for i in range(6)))
        await asyncio.gather(*(cache.get_or_compute("b", broken) for _ in range(3)), return_exceptions=True)

    asyncio.run(main())


def process_wide():
    cache = lowtide.Cache(max_items=50)
    cache.update((i, [i] * 10) for i in range(50))
    _keep.total_bytes()
    _keep.shrink(2000)
    _keep.ceiling(4000)
    cache.update((i, [i] * 10) for i in range(50, 80))
    _keep.ceiling(None)
    _keep.deep_size([cache, {1: 2}])


RUNS = 60
failed = False
for act in (evictions, methods, errors, weak, cycles, functions, threads, tasks, process_wide):
    for _ in range(3 * RUNS):  # until the interpreter's own tables have grown
        act()
    grown = []
    for _ in range(4):
        gc.collect()
        references, blocks = sys.gettotalrefcount(), sys.getallocatedblocks()
        for _ in range(RUNS):
            act()
        gc.collect()
        grown.append((sys.gettotalrefcount() - references, sys.getallocatedblocks() - blocks))
    least = min(max(pair) for pair in grown)
    print(act.__name__, "references and blocks:", *grown)
    failed |= least >= RUNS
sys.exit(failed)
