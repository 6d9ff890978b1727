"""Cache against a plain dict that knows only what must hold, under random operations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lowtide
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from lowtide import _keep

SECOND = 1_000_000_000
keys = st.integers(0, 30) | st.sampled_from(["a", "b", "c", (1, 2), 2.5, None, True])
values = st.integers(-1000, 1000) | st.text(max_size=300)


@pytest.fixture(autouse=True)
def clock_goes_on() -> Iterator[None]:
    yield
    _keep.stop_clock(-1)


class CacheModel(RuleBasedStateMachine):
    """What is in the cache was put there last under its key, is not over its time, and fits; what left unasked was told."""

    @initialize(
        items=st.none() | st.integers(0, 12),
        size=st.none() | st.integers(0, 3000),
        ttl=st.none() | st.integers(1, 20),
        own_size=st.booleans(),
    )
    def make(self, items: int | None, size: int | None, ttl: int | None, own_size: bool) -> None:
        self.now = SECOND
        _keep.stop_clock(self.now)
        self.evicted: list[tuple[Any, Any]] = []
        self.last: dict[Any, tuple[Any, int]] = {}  # all that was put and not deleted: value, time
        self.untold: dict[Any, Any] = {}  # what was kept, and neither deleted nor told of since
        self.ttl = ttl
        self.bounded = items is not None or size is not None
        self.cache = lowtide.Cache[Any, Any](
            max_items=items,
            max_bytes=size,
            ttl=ttl,
            getsizeof=(lambda value: len(str(value))) if own_size else None,
            on_evict=lambda key, value: self.evicted.append((key, value)),
        )

    def holds(self, key: Any) -> bool:
        """Whether it must not be over its time, as far as the model knows."""
        return key in self.last and (self.ttl is None or self.now - self.last[key][1] < self.ttl * SECOND)

    def listen(self) -> None:
        """Each that left by itself was told once, with its value."""
        for key, value in self.evicted:
            assert self.untold.pop(key) == value
        self.evicted.clear()

    def was_put(self, key: Any, value: Any, rejections: int) -> None:
        """A new value, after whatever was told meanwhile; it may have gone already."""
        for told in [told for told in self.evicted if told[0] != key]:
            self.evicted.remove(told)
            assert self.untold.pop(told[0]) == told[1]
        if len(self.evicted) > 1 or (self.evicted and not self.holds(key)):
            assert self.evicted.pop(0) == (key, self.untold[key])
        self.untold.pop(key, None)
        self.last[key] = (value, self.now)
        if self.cache.stats().rejections == rejections:
            self.untold[key] = value

    @rule(key=keys, value=values)
    def put(self, key: Any, value: Any) -> None:
        rejections = self.cache.stats().rejections
        self.cache[key] = value
        self.was_put(key, value, rejections)

    @rule(key=keys)
    def look_up(self, key: Any) -> None:
        missing = object()
        found = self.cache.get(key, missing)
        assert (found is not missing) == (key in self.cache)
        if found is not missing:
            assert self.holds(key) and found == self.last[key][0]
        elif not self.bounded:
            assert not self.holds(key)

    @rule(key=keys)
    def take_out(self, key: Any) -> None:
        was_there = key in self.cache
        assert self.cache.discard(key) == was_there
        assert key not in self.cache
        if was_there:
            del self.last[key], self.untold[key]

    @rule(key=keys, value=values)
    def compute(self, key: Any, value: Any) -> None:
        was_there, rejections = key in self.cache, self.cache.stats().rejections
        got = self.cache.get_or_compute(key, lambda: value)
        if was_there:
            assert got == self.last[key][0]
        else:
            assert got is value
            self.was_put(key, value, rejections)

    @rule()
    def pop_one(self) -> None:
        if len(self.cache):
            key, value = self.cache.popitem()
            assert self.last.pop(key)[0] == self.untold.pop(key) == value
        else:
            with pytest.raises(KeyError):
                self.cache.popitem()

    @rule(seconds=st.integers(1, 10))
    def wait(self, seconds: int) -> None:
        self.now += seconds * SECOND + 1000  # inserts of one moment are stamped a nanosecond apart
        _keep.stop_clock(self.now)

    @rule()
    def copy(self) -> None:
        assert dict(self.cache.copy().items()) == dict(self.cache.items())

    @rule()
    def clear(self) -> None:
        self.cache.clear()
        self.last.clear()
        self.untold.clear()

    @invariant()
    def is_in_order(self) -> None:
        if not hasattr(self, "cache"):
            return
        assert self.cache._is_valid()
        items = dict(self.cache.items())
        self.listen()
        assert items == self.untold
        assert len(self.cache) == len(list(self.cache)) == len(list(self.cache.items()))
        assert self.cache.max_items is None or len(self.cache) <= self.cache.max_items
        assert self.cache.max_bytes is None or self.cache.bytes <= self.cache.max_bytes
        assert all(self.holds(key) and self.last[key][0] == value for key, value in self.cache.items())


TestCacheModel = pytest.mark.usefixtures("clock_goes_on")(CacheModel.TestCase)
TestCacheModel.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_without_bounds_it_is_a_dict_in_the_order_of_inserts() -> None:
    cache, reference = lowtide.Cache[int, int](), dict[int, int]()
    for i in range(3000):
        key = i * 7919 % 1009
        if i % 5 == 4:
            assert cache.pop(key, None) == reference.pop(key, None)
        else:
            cache[key] = reference[key] = i
    assert list(cache.items()) == list(reference.items())
    assert list(reversed(cache)) == list(reversed(reference))
    assert cache == reference


def test_it_has_what_a_dict_has() -> None:
    cache, reference = lowtide.Cache[Any, Any](), dict[Any, Any]()
    each: Any
    for each in (cache, reference):
        each.update({"a": 1, "b": 2}, c=3)
        each["a"] = 4
    assert {name for name in dir(dict) if not name.startswith("__")} <= set(dir(cache))
    for view in ("keys", "values", "items"):
        own, theirs = getattr(cache, view)(), getattr(reference, view)()
        assert list(own) == list(theirs) and list(reversed(own)) == list(reversed(theirs)) and len(own) == 3
        assert set(dir(theirs)) - set(dir(own)) <= {"__getattribute__"}
        assert own.mapping == reference and not hasattr(own.mapping, "__setitem__")
    assert cache.keys() & {"a", "x"} == {"a"} and cache.items() ^ reference.items() == set()
    assert ("a", 4) in cache.items() and ("a", 5) not in cache.items() and ("x", None) not in cache.items()
    strange: Any = ("a", 4, 4)
    assert strange not in cache.items() and 4 in cache.values() and 5 not in cache.values()
    assert cache.stats().hits == cache.stats().misses == 0
    assert cache == reference and cache != {} and cache | {"d": 5} == reference | {"d": 5}
    assert {"d": 5} | cache == {"d": 5} | reference and dict(**cache) == reference
    with pytest.raises(TypeError, match="unhashable"):
        hash(cache)
    for each in (cache, reference):
        each |= [("e", 6)]
        assert each.setdefault("e", 7) == 6 and each.setdefault("f") is None and each.pop("g", 8) == 8
        with pytest.raises(KeyError, match="'g'"):
            each.pop("g")
        with pytest.raises(KeyError, match="'g'"):
            del each["g"]
    assert cache == reference


def test_fromkeys_takes_the_bounds_and_a_subclass_what_is_missing() -> None:
    class Squares(lowtide.Cache[int, int]):
        def __missing__(self, key: int) -> int:
            if key < 0:
                raise ValueError(key)
            self[key] = key * key
            return key * key

    squares = Squares(max_items=3)
    assert squares[5] == 25 and dict(squares.items()) == {5: 25} and squares.get(6) is None and 6 not in squares
    assert squares.pop(6, 0) == 0 and squares.stats()[:2] == (0, 2)
    with pytest.raises(ValueError, match="-1"):
        squares[-1]
    made = Squares.fromkeys(range(5), 7, max_items=3)
    assert type(made) is Squares and len(made) == made.max_items == 3 and set(made.values()) == {7}
    assert lowtide.Cache.fromkeys("ab") == dict.fromkeys("ab")
    with pytest.raises(KeyError, match="'x'"):
        lowtide.Cache.fromkeys("ab")["x"]
