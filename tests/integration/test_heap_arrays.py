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
