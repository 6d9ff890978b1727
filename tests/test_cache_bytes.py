"""The bytes that a cache counts, held against what the allocator gave and what sys.getsizeof says."""

from __future__ import annotations

import array
import gc
import re
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import lowtide
import numpy as np
import pytest
from lowtide import _keep


class Plain:
    def __init__(self, i: int) -> None:
        self.name, self.size, self.parts = f"name-{i}", i * 1.5, [i]


class Slotted:
    __slots__ = ("name", "size")

    def __init__(self, i: int) -> None:
        self.name, self.size = f"name-{i}", i * 1.5


class Liar:
    def __sizeof__(self) -> int:
        raise AssertionError("code of the user ran")

    __class__ = property(lambda self: 1 // 0)  # type: ignore[assignment]

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError("code of the user ran")


MAKERS: dict[str, Callable[[int], Any]] = {
    "str": lambda i: f"value-{i}" * 20,
    "wide str": lambda i: f"värde-{i}-\N{WAVE DASH}" * 20,
    "bytes": lambda i: bytes(i % 50 + 1000),
    "list of floats": lambda i: [i * 0.5 + j for j in range(30)],
    "dict": lambda i: {f"{i}-{j}": j * 0.5 for j in range(10)},
    "tuples in lists": lambda i: [(i * 0.5, f"{i}"), (f"{i}x", i * 1.5)],
    "set": lambda i: {f"{i}-{j}" for j in range(10)},
    "instance": Plain,
    "slotted instance": Slotted,
    "NumPy array": lambda i: np.zeros(500 + i % 10),
    "view of a NumPy array": lambda i: np.zeros(500 + i % 10)[3:5],
    "array.array": lambda i: array.array("d", range(200)),
    "bytearray": lambda i: bytearray(900 + i % 10),
    "large int": lambda i: 7 ** (300 + i % 5),
}


def traced_here() -> int:
    """Without what the thread of pytest-xdist has from its master meanwhile: a list of tests is some kilobytes."""
    names = ("*/execnet/*", "*/xdist/*", "*/queue.py", "*/threading.py")
    snapshot = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(False, name) for name in names])
    return sum(trace.size for trace in snapshot.traces)


@pytest.mark.parametrize("kind", MAKERS)
def test_what_a_cache_counts_is_what_the_allocator_gave(kind: str) -> None:
    make, count = MAKERS[kind], 2000
    make(1)
    cache = lowtide.Cache[int, Any](max_bytes="1GiB")
    gc.collect()
    tracemalloc.start()
    try:
        for i in range(10**6, 10**6 + count):
            cache[i] = make(i)
        given = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert 0.85 * given < cache.bytes < 1.2 * given


def test_a_data_frame_counts_as_much_as_pandas_says_with_its_text_and_index() -> None:
    pd: Any = pytest.importorskip("pandas")
    count = 20_000
    frames = {
        "floats": pd.DataFrame(np.random.rand(count, 3)),
        "text": pd.DataFrame({"name": [f"row-{i}" for i in range(count)]}),
        "objects": pd.DataFrame({"name": pd.Series([f"row-{i}" for i in range(count)], dtype=object)}),
        "times": pd.DataFrame({"x": np.random.rand(count)}, index=pd.date_range("2026-01-01", periods=count, freq="s")),
        "time zones": pd.DataFrame({"x": pd.date_range("2026-01-01", periods=count, freq="s", tz="UTC")}),
        "text index": pd.DataFrame({"x": np.random.rand(count)}, index=[f"row-{i}" for i in range(count)]),
        "categories": pd.DataFrame({"x": pd.Categorical(["a", "b"] * (count // 2))}),
        "nullable": pd.DataFrame({"x": pd.Series(range(count)).astype("Int64")}),
    }
    for name, frame in frames.items():
        told = int(frame.memory_usage(deep=True).sum())
        cache = lowtide.Cache[str, Any](max_bytes="1GiB")
        cache["frame"] = frame
        assert 0.98 * told < cache.bytes < 1.03 * told + 10_000, name


def test_arrow_counts_whole_buffers_also_for_a_slice() -> None:
    pa: Any = pytest.importorskip("pyarrow")
    table = pa.table({"x": np.random.rand(50_000), "name": [f"row-{i}" for i in range(50_000)]})
    held = table.get_total_buffer_size()
    column = table.column(1)
    for value in (table, table.slice(7, 3), table.to_batches()[0]):
        assert held <= _keep.deep_size(value) < held + 1000
    for value in (column, column.chunk(0), column.slice(5, 1)):
        assert column.get_total_buffer_size() <= _keep.deep_size(value) < column.get_total_buffer_size() + 1000
    assert 400_000 <= _keep.deep_size(table.column(0).chunk(0).buffers()[1]) < 401_000


def test_an_entry_costs_90_bytes_at_most_beyond_key_and_value_and_as_much_is_counted() -> None:
    for size in (1030, 5500, 8200, 22_000):
        keys = list(range(10**6, 10**6 + 2 * size))
        tracemalloc.start()
        try:
            cache = lowtide.Cache[int, None](max_items=size)
            for key in keys:
                cache[key] = None
            given = traced_here()
            assert given / size <= 90 and given <= cache.bytes - 28 * size
            assert abs(sys.getsizeof(cache) - given) < 1000
        finally:
            tracemalloc.stop()


def test_measuring_runs_no_code_of_the_user() -> None:
    assert _keep.deep_size([Liar(), Liar()]) > 100


def test_what_is_shared_counts_once_and_what_is_the_programs_not_at_all() -> None:
    text = "x" * 10_000
    assert _keep.deep_size([text] * 50) < 11_000
    assert _keep.deep_size([sys, Plain, len, Plain.__init__, None, True]) < 200
    loop: list[Any] = [text]
    loop.append(loop)
    assert _keep.deep_size(loop) < 11_000


def test_a_deep_nest_of_lists_is_measured_without_recursion() -> None:
    nest: list[Any] = []
    for _ in range(100_000):
        nest = [nest]
    assert _keep.deep_size(nest) > 100_000 * sys.getsizeof([])


def test_bytes_bound_what_is_held_for_small_containers_too() -> None:
    cache = lowtide.Cache[int, Any](max_bytes="1MiB")
    gc.collect()
    tracemalloc.start()
    try:
        for i in range(20_000):
            cache[i] = {"id": i * 0.5, "tags": [f"{i}a", f"{i}b"]}
        assert tracemalloc.get_traced_memory()[0] < 1.2 * 2**20
    finally:
        tracemalloc.stop()


def test_a_weak_cache_counts_and_costs_its_own_share_and_not_what_others_keep() -> None:
    values = [np.zeros(10_000) for _ in range(200)]
    cache = lowtide.Cache[int, Any](weak=True, max_bytes="60kB")
    tracemalloc.start()
    try:
        for number, value in enumerate(values):
            cache[number] = value
        cost = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(cache) == 200 and cache[7] is values[7]
    assert cost * 0.8 < cache.bytes < 200 * 300 and cost < 200 * 300
    del value, values[100:]
    assert len(cache) == 100 and cache.bytes < 100 * 300
    values.clear()
    assert len(cache) == 0 and cache.bytes == 0


def test_getsizeof_of_the_user_counts_in_its_own_unit() -> None:
    cache = lowtide.Cache[str, str](max_bytes=10, getsizeof=len)
    cache.update(a="12345", b="12345")
    assert cache.bytes == 10
    cache["c"] = "1"
    assert cache.bytes <= 10 and "c" in cache
    with pytest.raises(ValueError, match="negative"):
        lowtide.Cache[str, str](getsizeof=lambda value: -1)["a"] = ""


@pytest.mark.parametrize(
    ("given", "expected"), [("256MiB", 2**28), ("1.5 kB", 1500), ("10", 10), (7, 7), ("2gib", 2**31), (None, None)]
)
def test_bounds_are_ints_or_text(given: Any, expected: int | None) -> None:
    assert lowtide.Cache[int, int](max_bytes=given).max_bytes == expected


@pytest.mark.parametrize("given", ["", "MiB", "-5MB", "5 parsecs", "nan", -1, "1e30GB"])
def test_a_bound_that_makes_no_sense_is_refused(given: Any) -> None:
    with pytest.raises(ValueError, match="max_bytes"):
        lowtide.Cache[int, int](max_bytes=given)


@pytest.mark.parametrize(
    "given", [{"max_bytes": 1.5}, {"max_bytes": b"1MB"}, {"max_items": "10"}, {"max_items": 2.0}, {"ttl": "a minute"}]
)
def test_a_bound_of_another_type_is_refused_by_its_name(given: dict[str, Any]) -> None:
    (name, value), *_ = given.items()
    with pytest.raises(TypeError, match=rf"{name} must be .*, not {re.escape(repr(value))}"):
        lowtide.Cache[int, int](**given)


def test_bounds_as_other_caches_have_them_are_told_what_to_write() -> None:
    wrong: list[Callable[[], object]] = [lambda: lowtide.Cache(100), lambda: lowtide.Cache(maxsize=100)]  # type: ignore
    for make in wrong:
        with pytest.raises(
            TypeError, match=r'^Cache takes its bounds by name: max_items=1000, max_bytes="64MiB", ttl=60$'
        ):
            make()
    with pytest.raises(TypeError, match=r"^maxsize takes a number of entries; for bytes write max_bytes='64MiB'$"):
        lowtide.cache("64MiB")  # type: ignore[call-overload]
