"""What the cache keeps: its hit ratio beside LRU's, on traces of every kind."""

from __future__ import annotations

import copy
import itertools
import pickle
import random
from collections import OrderedDict
from collections.abc import Callable

import lowtide
import pytest

SIZE = 200


def zipf(keys: int, skew: float, count: int, rng: random.Random) -> list[int]:
    weights = list(itertools.accumulate(1 / (rank + 1) ** skew for rank in range(keys)))
    return [key * 977 for key in rng.choices(range(keys), cum_weights=weights, k=count)]


def scan(count: int, rng: random.Random) -> list[int]:
    usual, fresh = iter(zipf(20 * SIZE, 1.0, count, rng)), itertools.count(10**8)
    parts: list[int] = []
    while len(parts) < count:
        parts += [*itertools.islice(usual, 5 * SIZE), *itertools.islice(fresh, 2 * SIZE)]
    return parts[:count]


def mixed(count: int, rng: random.Random) -> list[int]:
    parts: list[int] = []
    while len(parts) < count:
        base = rng.randrange(10**12)
        parts += [base + key for key in zipf(5 * SIZE, 0.9, count // 8, rng)]
        parts += [base + 10**8 + i % (SIZE * 3 // 2) for i in range(count // 16)]
        parts += [base + 2 * 10**8 + i for i in range(2 * SIZE)]
        parts += [base + key for key in zipf(5 * SIZE, 0.9, count // 16, rng)]
    return parts[:count]


def shifting(count: int, rng: random.Random) -> list[int]:
    return [key + i // (10 * SIZE) * 10**8 for i, key in enumerate(zipf(20 * SIZE, 0.9, count, rng))]


def recent(count: int, rng: random.Random) -> list[int]:
    newest, parts = 10 * SIZE, []
    for _ in range(count):
        newest += rng.random() < 0.3
        parts.append(newest - min(int(rng.expovariate(2 / SIZE)), newest))
    return parts


def hits_of_lru(trace: list[int]) -> int:
    kept, hits = OrderedDict[int, None](), 0
    for key in trace:
        if key in kept:
            kept.move_to_end(key)
            hits += 1
            continue
        if len(kept) >= SIZE:
            kept.popitem(last=False)
        kept[key] = None
    return hits


def hits_of(cache: lowtide.Cache[int, bool], trace: list[int]) -> int:
    for key in trace:
        if not cache.get(key):
            cache[key] = True
    assert cache._is_valid()  # type: ignore[attr-defined]
    return cache.stats().hits


def bounded_by_bytes() -> lowtide.Cache[int, bool]:
    full = lowtide.Cache[int, bool](max_bytes="1GiB")
    full.update((10**6 + i, True) for i in range(SIZE))
    return lowtide.Cache(max_bytes=full.bytes)


# How much of the requests more, at least, than LRU hits. On "recent" nothing is better than LRU, and what has to learn
# that is behind it.
@pytest.mark.parametrize(
    ("trace", "fillings", "more"),
    [
        (lambda count, rng: zipf(20 * SIZE, 0.6, count, rng), 20, 0.04),
        (lambda count, rng: zipf(20 * SIZE, 0.8, count, rng), 200, 0.1),
        (lambda count, rng: zipf(20 * SIZE, 1.0, count, rng), 60, 0.06),
        (lambda count, rng: zipf(20 * SIZE, 1.2, count, rng), 60, 0.03),
        (scan, 20, 0.04),
        (scan, 200, 0.08),
        (lambda count, rng: [i % (SIZE * 6 // 5) for i in range(count)], 60, 0.45),
        (lambda count, rng: [i % (SIZE * 2) for i in range(count)], 60, 0.4),
        (lambda count, rng: [i % (SIZE * 5) for i in range(count)], 60, 0.15),
        (mixed, 20, 0.007),
        (mixed, 60, 0.007),
        (mixed, 200, 0.02),
        (shifting, 60, 0.005),
        (recent, 60, -0.04),
    ],
)
@pytest.mark.parametrize("make", [lambda: lowtide.Cache[int, bool](max_items=SIZE), bounded_by_bytes])
def test_the_cache_hits_more_than_lru(
    make: Callable[[], lowtide.Cache[int, bool]],
    trace: Callable[[int, random.Random], list[int]],
    fillings: int,
    more: float,
) -> None:
    requests = trace(fillings * SIZE, random.Random(3))
    ours, lru = hits_of(make(), requests), hits_of_lru(requests)
    assert (ours - lru) / len(requests) >= more, f"{ours} of {len(requests)}, LRU {lru}"


def test_a_cache_that_was_steady_for_long_follows_when_its_keys_change() -> None:
    rng = random.Random(5)
    before, after = zipf(20 * SIZE, 1.0, 100 * SIZE, rng), [key + 10**8 for key in zipf(20 * SIZE, 1.0, 10 * SIZE, rng)]
    cache = lowtide.Cache[int, bool](max_items=SIZE)
    hits_of(cache, before)
    old = cache.stats().hits
    assert hits_of(cache, after) - old >= 0.97 * hits_of_lru(after)


def test_a_cache_that_was_cleared_hits_like_a_new_one() -> None:
    loop, cache = [i % (SIZE * 2) for i in range(60 * SIZE)], lowtide.Cache[int, bool](max_items=SIZE)
    fresh = hits_of(cache, loop)
    cache.clear()
    assert fresh > 0.4 * len(loop) and hits_of(cache, loop) == 2 * fresh


READS: dict[str, Callable[[lowtide.Cache[int, int]], object]] = {
    "iteration": list,
    "items": lambda cache: dict(cache.items()),
    "values": lambda cache: list(cache.values()),
    "copy": lambda cache: cache.copy(),
    "deepcopy": copy.deepcopy,
    "pickle": pickle.dumps,
    "equality": lambda cache: cache == cache.copy(),
    "membership": lambda cache: [key in cache for key in range(SIZE)],
    "items' membership": lambda cache: [(key, key) in cache.items() for key in range(SIZE)],
    "repr": repr,
    "update": lambda cache: lowtide.Cache().update(cache),
    "union": lambda cache: (cache | {}, {} | cache),
    "peek": lambda cache: [cache.peek(key) for key in range(SIZE)],
}


@pytest.mark.parametrize("how", READS)
def test_to_read_a_cache_is_no_hit_and_changes_nothing_in_what_goes_next(how: str) -> None:
    read, untouched = (lowtide.Cache[int, int](max_items=SIZE) for _ in range(2))
    for cache in (read, untouched):
        cache.update((key, key) for key in range(SIZE))
        assert [cache[key] for key in range(0, SIZE, 3)]
    READS[how](read)
    assert read.stats() == untouched.stats()
    for key in range(SIZE, 3 * SIZE):
        read[key] = untouched[key] = key
    assert list(read) == list(untouched)
