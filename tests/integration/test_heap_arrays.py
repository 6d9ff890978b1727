"""Arrays of NumPy and Arrow, whose data lies outside Python's objects."""

from __future__ import annotations

from conftest import Python
from heap import Walk, walk

__all__ = ["walk"]


def test_an_array_that_owns_its_data_has_it_as_a_buffer_and_a_view_leads_to_it(walk: Walk, this_python: Python) -> None:
    heap = walk(
        this_python,
        """
import numpy as np
owner = np.zeros((1000, 8))
view = owner[10:20]
fortran = np.asfortranarray(np.ones((10, 200), dtype="int16"))
empty = np.zeros((0, 5))
scalar = np.array(7.0)
class Sub(np.ndarray): pass
sub = np.ones(100).view(Sub)
sub.note = ["note"]
borrowed = np.frombuffer(bytearray(800), dtype="uint8")
walk()
print([a.__sizeof__() - a.nbytes for a in (owner, fortran, empty)])
""",
    )
    owner = heap.main("owner")
    assert owner["buffers"] == 64000
    assert heap.main("view")["buffers"] == 0
    assert heap.follow(heap.main("view"), "base") is owner
    assert heap.main("fortran")["buffers"] == 4000
    assert heap.main("empty")["buffers"] == 0
    assert heap.main("scalar")["buffers"] == 8
    assert heap.name(heap.main("sub")) == "Sub"
    assert heap.follow(heap.main("sub"), "base")["buffers"] == 800
    assert heap.items(heap.get(heap.follow(heap.main("sub"), "__dict__"), "note"))[0]["value"][2] == "note"
    assert heap.main("borrowed")["buffers"] == 0
    said = [heap.main(name)["size"] for name in ("owner", "fortran", "empty")]
    assert heap.said[0] == str(said)
    surplus = heap.surplus()
    ours = ["owner", "view", "fortran", "empty", "scalar", "sub", "borrowed"]
    assert not [name for name in ours if heap.main(name)["id"] in surplus]


def test_elements_of_an_array_of_objects_are_found(walk: Walk, this_python: Python) -> None:
    heap = walk(
        this_python,
        """
import numpy as np
class Held: pass
objects = np.array([Held() for _ in range(100)], dtype=object)
part = objects[50:]
walk()
""",
    )
    held = heap.of_type("Held")
    assert len(held) == 100
    assert [o["address"] for o in heap.items(heap.main("objects"))] == [o["address"] for o in held]
    assert not heap.items(heap.main("part"))
    surplus = heap.surplus()
    assert not [o for o in held if o["id"] in surplus]


def test_a_frame_of_pandas_leads_to_its_columns(walk: Walk, this_python: Python) -> None:
    heap = walk(
        this_python,
        """
import pandas as pd
frame = pd.DataFrame({"a": range(10_000), "b": [f"text {i}" for i in range(10_000)]})
frame["b"] = frame["b"].astype(object)
walk()
""",
    )
    inside = heap.reach(heap.main("frame"))
    texts = [o for o in heap.rec.objects if o["id"] in inside and heap.name(o) == "str"]
    assert len(texts) >= 10_000
    assert sum(heap.rec.objects[i]["buffers"] for i in inside) >= 10_000 * 16


def test_buffers_of_arrow_are_counted_once(walk: Walk, this_python: Python) -> None:
    heap = walk(
        this_python,
        """
import pyarrow as pa
before = pa.total_allocated_bytes()
array = pa.array([f"text {i}" for i in range(10_000)])
part = array.slice(100, 200)
chunked = pa.chunked_array([pa.array(range(5000)), pa.array([None, 15] * 500)])
nested = pa.array([[i, i] for i in range(1000)])
named = pa.array(["x", "y"] * 1000).dictionary_encode()
table = pa.table({"a": [1.0] * 3000})
batch = pa.RecordBatch.from_pydict({"b": [True] * 9000})
plain = pa.allocate_buffer(12_345)
borrowed = pa.py_buffer(bytes(100_000))
walk()
print(pa.total_allocated_bytes() - before)
""",
    )
    names = ["array", "part", "chunked", "nested", "named", "table", "batch", "plain", "borrowed"]
    counted = {name: heap.main(name)["buffers"] for name in names}
    assert counted["array"] + counted["part"] >= 10_000 * 4
    assert counted["borrowed"] == 0
    assert min(n for name, n in counted.items() if name not in ("array", "part", "borrowed")) > 0
    assert sum(counted.values()) == int(heap.said[0])


def test_memory_that_mmap_and_ctypes_hold_is_theirs(walk: Walk, target_python: Python) -> None:
    heap = walk(
        target_python,
        """
import mmap
mapped = mmap.mmap(-1, 65536)
text = ctypes.create_string_buffer(10_000)
numbers = (ctypes.c_double * 100)()
number = ctypes.c_int(5)
aliased = (ctypes.c_char * 500).from_buffer(bytearray(500))
walk()
""",
    )
    names = ["mapped", "text", "numbers", "number", "aliased"]
    assert [heap.main(name)["buffers"] for name in names] == [65536, 10_000, 800, 0, 0]
