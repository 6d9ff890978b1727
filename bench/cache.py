"""Benchmarks of the cache: hit ratios on traces beside other policies, and times as ratios within one run.

    python bench/cache.py [--rounds 25] [--requests 20000,60000,200000]

Run with a Python that has lowtide and bench/requirements.txt installed. Prints Markdown tables. Times are medians of
rounds in which all take turns, of the processor's time and not of the clock's, so that other work on the machine disturbs
them less; each candidate has a loop of its own, so that the interpreter specializes it.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import random
import statistics
import threading
import time
import tracemalloc
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Any

import cachebox
import cachetools
import lowtide
from lru import LRU as LruDict


class LRU:
    def __init__(self, size: int) -> None:
        self.size = size
        self.kept: OrderedDict[int, None] = OrderedDict()

    def access(self, key: int) -> bool:
        if key in self.kept:
            self.kept.move_to_end(key)
            return True
        if len(self.kept) >= self.size:
            self.kept.popitem(last=False)
        self.kept[key] = None
        return False


class Sieve:
    """Zhang et al., NSDI 2024: one queue, a bit each, a hand that goes from the oldest to the newest."""

    def __init__(self, size: int) -> None:
        self.size, self.hand = size, 0
        self.queue: list[int] = []  # oldest first
        self.visited: dict[int, bool] = {}

    def access(self, key: int) -> bool:
        if key in self.visited:
            self.visited[key] = True
            return True
        if len(self.queue) >= self.size:
            self.hand %= len(self.queue)
            while self.visited[self.queue[self.hand]]:
                self.visited[self.queue[self.hand]] = False
                self.hand = (self.hand + 1) % len(self.queue)
            del self.visited[self.queue.pop(self.hand)]
        self.queue.append(key)
        self.visited[key] = False
        return False


class S3Fifo:
    """Yang et al., SOSP 2023, as published: what the small queue lets go never fills an empty main queue."""

    def __init__(self, size: int) -> None:
        self.size, self.tenth = size, max(1, size // 10)
        self.small: deque[int] = deque()
        self.main: deque[int] = deque()
        self.hits: dict[int, int] = {}
        self.ghosts: OrderedDict[int, None] = OrderedDict()

    def access(self, key: int) -> bool:
        if key in self.hits:
            self.hits[key] = min(3, self.hits[key] + 1)
            return True
        queue = self.main if key in self.ghosts else self.small
        self.ghosts.pop(key, None)
        while len(self.hits) >= self.size:
            self.evict()
        self.hits[key] = 0
        queue.append(key)
        return False

    def evict(self) -> None:
        if len(self.small) >= self.tenth or not self.main:
            key = self.small.popleft()
            if self.hits[key] > 1:
                self.hits[key] = 0
                self.main.append(key)
                return
            del self.hits[key]
            self.ghosts[key] = None
            if len(self.ghosts) > self.size - self.tenth:
                self.ghosts.popitem(last=False)
            return
        key = self.main.popleft()
        if self.hits[key]:
            self.hits[key] -= 1
            self.main.append(key)
        else:
            del self.hits[key]


class WTinyLfu:
    """Einziger et al., 2017: a window of 1 %, a segmented LRU, admission by counts that are exact here and halved."""

    def __init__(self, size: int) -> None:
        self.size, self.window_size = size, max(1, size // 100)
        self.main_size = size - self.window_size
        self.window: OrderedDict[int, None] = OrderedDict()
        self.probation: OrderedDict[int, None] = OrderedDict()
        self.protected: OrderedDict[int, None] = OrderedDict()
        self.counts: dict[int, int] = {}
        self.counted = 0

    def access(self, key: int) -> bool:
        self.counts[key] = min(15, self.counts.get(key, 0) + 1)
        self.counted += 1
        if self.counted >= 10 * self.size:
            self.counts = {key: count >> 1 for key, count in self.counts.items() if count > 1}
            self.counted //= 2
        for segment in (self.window, self.protected):
            if key in segment:
                segment.move_to_end(key)
                return True
        if key in self.probation:
            del self.probation[key]
            self.protected[key] = None
            if len(self.protected) > self.main_size * 8 // 10:
                self.probation[self.protected.popitem(last=False)[0]] = None
            return True
        self.window[key] = None
        if len(self.window) > self.window_size:
            self.admit(self.window.popitem(last=False)[0])
        return False

    def admit(self, candidate: int) -> None:
        if len(self.probation) + len(self.protected) >= self.main_size:
            segment = self.probation or self.protected
            victim = next(iter(segment))
            if self.counts.get(candidate, 0) <= self.counts.get(victim, 0):
                return
            del segment[victim]
        self.probation[candidate] = None


class Lowtide:
    """The real one."""

    def __init__(self, size: int) -> None:
        self.cache = lowtide.Cache[int, bool](max_items=size)

    def access(self, key: int) -> bool:
        if self.cache.get(key):
            return True
        self.cache[key] = True
        return False


def zipf(keys: int, skew: float, count: int, rng: random.Random) -> list[int]:
    weights = list(itertools.accumulate(1 / (rank + 1) ** skew for rank in range(keys)))
    names = rng.sample(range(keys), keys)
    return [names[rank] for rank in rng.choices(range(keys), cum_weights=weights, k=count)]


def recent(count: int, rng: random.Random) -> Iterator[int]:
    """Three of ten are new; the others come back after a distance that is exponential, half the cache on average."""
    newest = 2000
    for _ in range(count):
        if rng.random() < 0.3:
            newest += 1
            yield newest
        else:
            yield newest - min(int(rng.expovariate(1 / 500)), newest)


def traces(count: int, rng: random.Random) -> Iterator[tuple[str, list[int]]]:
    """For a cache of 1000 entries."""
    yield "Zipf 1.0, 20,000 keys", zipf(20_000, 1.0, count, rng)
    yield "Zipf 0.8, 20,000 keys", zipf(20_000, 0.8, count, rng)
    usual, fresh = iter(zipf(20_000, 1.0, count, rng)), itertools.count(10**6)
    scan: list[int] = []
    while len(scan) < count:
        scan += [*itertools.islice(usual, 5000), *itertools.islice(fresh, 2000)]
    yield "scan: Zipf, and 2000 keys once, in turn", scan[:count]
    for keys in (1200, 2000, 5000):
        yield f"loop of {keys}", [i % keys for i in range(count)]
    mixed: list[int] = []
    while len(mixed) < count:
        base = rng.randrange(10**9)
        mixed += [base + key for key in zipf(5000, 0.9, count // 8, rng)]
        mixed += [base + 10**10 + i % 1500 for i in range(count // 16)]
        mixed += [base + 2 * 10**10 + i for i in range(2000)]
        mixed += [base + key for key in zipf(5000, 0.9, count // 16, rng)]
    yield "mixed: Zipf, loop, scan, and the keys change", mixed[:count]
    shifting = iter(zipf(20_000, 0.9, count, rng))
    yield "Zipf 0.9, all keys change each 10,000", [key + i // 10_000 * 10**6 for i, key in enumerate(shifting)]
    yield "recent: what was used lately, and new keys", list(recent(count, rng))


def hit_ratios(count: int) -> None:
    policies: list[Any] = [Lowtide, LRU, Sieve, S3Fifo, WTinyLfu]
    print(f"\n| hit ratio, %, 1000 entries, {count} requests | {' | '.join(policy.__name__ for policy in policies)} |")
    print("|---|" + "---|" * len(policies))
    for name, trace in traces(count, random.Random(7)):
        ratios = [100 * sum(map(policy(1000).access, trace)) / len(trace) for policy in policies]
        print(f"| {name} | {' | '.join(f'{ratio:.1f}' for ratio in ratios)} |", flush=True)


def compiled(body: str) -> Callable[..., float]:
    """A function of its own over (keys, it), ns for each key; the empty loop is not taken off."""
    source = f"def run(keys, it):\n start = clock()\n for key in keys:\n  {body}\n return (clock() - start) / len(keys) * 1e9"
    scope: dict[str, Any] = {"clock": time.process_time}
    exec(source, scope)
    run: Callable[..., float] = scope["run"]
    return run


def compare(title: str, body: str, makers: dict[str, Callable[[], Any]], keys: list[Any], rounds: int) -> None:
    """makers[name]() gives what a round works on; the first is what the ratios are to."""
    runs = {name: compiled(body) for name in makers}
    times: dict[str, list[float]] = {name: [] for name in makers}
    for _ in range(rounds):
        for name, make in makers.items():
            times[name].append(runs[name](keys, make()))
    medians = {name: statistics.median(some) for name, some in times.items()}
    base = next(iter(medians.values()))
    print(f"\n| {title} | {' | '.join(medians)} |\n|---|{'---|' * len(medians)}")
    print(f"| ns | {' | '.join(f'{ns:.0f}' for ns in medians.values())} |")
    print(f"| ratio | {' | '.join(f'{ns / base:.2f}' for ns in medians.values())} |", flush=True)


def filled(cache: Any, keys: list[Any]) -> Callable[[], Any]:
    for key in keys:
        cache[key] = key
    return lambda: cache


def called(function: Any, keys: list[Any]) -> Callable[[], Any]:
    for key in keys:
        function(key)
    return lambda: function


def times(rounds: int) -> None:
    size = 10_000
    keys = [f"user:{i}" for i in range(size)]
    fresh = [f"new:{i}" for i in range(6 * size)]
    hit = {
        "dict": filled({}, keys),
        "lowtide": filled(lowtide.Cache(max_items=size), keys),
        "lowtide, bytes": filled(lowtide.Cache(max_bytes="1GiB"), keys),
        "lowtide, ttl": filled(lowtide.Cache(max_items=size, ttl=1000), keys),
        "cachebox LRU": filled(cachebox.LRUCache(size), keys),
        "cachebox": filled(cachebox.Cache(size), keys),
        "lru-dict": filled(LruDict(size), keys),
        "cachetools LRU": filled(cachetools.LRUCache(size), keys),
    }
    often = keys * 10  # what is hit is near: the other candidates' tables have left the processor's cache
    compare("hit, `cache[key]`", "it[key]", hit, often, rounds)
    function = {
        "functools.lru_cache": called(functools.lru_cache(size)(lambda x: x), keys),
        "lowtide.cache": called(lowtide.cache(size)(lambda x: x), keys),
        "cachetools": called(cachetools.cached(cachetools.LRUCache(size))(lambda x: x), keys),
        "cachebox": called(cachebox.cached(cachebox.LRUCache(size))(lambda x: x), keys),
    }
    compare("decorator's hit, f(key)", "it(key)", function, often, rounds)
    measured = lowtide.Cache(max_bytes="1GiB")
    filled(measured, fresh[:size])
    as_many = measured.bytes  # so that both of ours hold as many entries as the others
    empty: dict[str, Callable[[], Any]] = {
        "lowtide": lambda: lowtide.Cache(max_items=size),
        "lowtide, bytes": lambda: lowtide.Cache(max_bytes=as_many),
        "lowtide, ttl": lambda: lowtide.Cache(max_items=size, ttl=1000),
        "cachebox LRU": lambda: cachebox.LRUCache(size),
        "cachebox FIFO": lambda: cachebox.FIFOCache(size),
        "lru-dict": lambda: LruDict(size),
        "cachetools LRU": lambda: cachetools.LRUCache(size),
    }
    full = {name: lambda make=make: filled(make(), fresh[:size])() for name, make in empty.items()}
    compare("insert that evicts", "it[key] = None", full, fresh[size:], rounds)


def threads(rounds: int) -> None:
    """Millions of lookups a second, of all threads together; medians of rounds in which all take turns, by the clock."""
    size, lookups, counts = 10_000, 400_000, (1, 2, 8)
    keys = [f"user:{i}" for i in range(size)]
    caches: dict[str, Any] = {
        "lowtide": lowtide.Cache(max_items=size),
        "dict": {},
        "cachebox LRU": cachebox.LRUCache(size),
    }
    rates: dict[tuple[str, int], list[float]] = {(name, count): [] for name in caches for count in counts}
    for cache in caches.values():
        filled(cache, keys)
    for _, (name, count) in itertools.product(range(rounds), rates):

        def work(get: Any = caches[name].get, count: int = count) -> None:
            for i in range(lookups // count):
                get(keys[i % size])

        workers = [threading.Thread(target=work) for _ in range(count)]
        start = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        rates[name, count].append(lookups / (time.perf_counter() - start) / 1e6)
    print("\n| M lookups/s, threads | 1 | 2 | 8 |\n|---|---|---|---|")
    for name in caches:
        row = (f"{statistics.median(rates[name, count]):.1f}" for count in counts)
        print(f"| {name} | {' | '.join(row)} |", flush=True)


def overhead() -> None:
    """Bytes an entry beyond key and value, the most over several sizes."""
    worst = 0.0
    for size in (1030, 5500, 8200, 22_000, 66_000):
        keys = list(range(10**6, 10**6 + 2 * size))
        tracemalloc.start()
        cache = lowtide.Cache[int, None](max_items=size)
        for key in keys:
            cache[key] = None
        worst = max(worst, tracemalloc.get_traced_memory()[0] / size)
        tracemalloc.stop()
    print(f"\nOverhead: at most {worst:.0f} bytes an entry.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--requests", default="20000,60000,200000", help="of each trace; several by commas")
    options = parser.parse_args()
    times(options.rounds)
    threads(options.rounds)
    overhead()
    for count in options.requests.split(","):
        hit_ratios(int(count))


if __name__ == "__main__":
    main()
