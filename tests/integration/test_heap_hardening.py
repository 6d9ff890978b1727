"""What the walk does with broken memory, and what it leaves as it was."""

from __future__ import annotations

from conftest import Python
from heap import IN_PLACE, NO_VALUES, SKIPPED, Heap, Walk, walk

__all__ = ["walk"]

# Writes words into the program's own memory for the time of the walk.
POKE = """
import contextlib, collections
WORD = ctypes.sizeof(ctypes.c_void_p)
@contextlib.contextmanager
def poked(*changes):
    cells = [(ctypes.c_size_t.from_address(at), value) for at, value in changes]
    before = [cell.value for cell, _ in cells]
    for cell, value in cells:
        cell.value = value
    try:
        yield
    finally:
        for (cell, _), value in zip(cells, before):
            cell.value = value
def items(a_list):
    return ctypes.c_size_t.from_address(id(a_list) + 3 * WORD).value
UNMAPPED = 0x1000_0000_0000
class Sound: pass
sound = [Sound() for _ in range(10)]
"""


def sound(heap: Heap) -> None:
    """The rest of the heap is there."""
    assert len(heap.of_type("Sound")) == 10
    assert heap.figures["objects"] == len(heap.rec.objects) > 5000


def test_a_reference_to_memory_that_is_not_there_is_marked_and_passed_over(walk: Walk, target_python: Python) -> None:
    heap = walk(
        target_python,
        POKE
        + """
broken = ["before", None, "after"]
with poked((items(broken) + WORD, UNMAPPED)):
    walk()
""",
    )
    sound(heap)
    before, gone, after = heap.items(heap.main("broken"))
    assert before["value"][2] == "before"
    assert after["value"][2] == "after"
    assert gone["flags"] & SKIPPED
    assert heap.name(gone) == "unreadable memory"
    assert heap.figures["skipped"] == heap.rec.skipped == 1


def test_words_that_cannot_be_addresses_are_counted_and_left_out(walk: Walk, target_python: Python) -> None:
    heap = walk(
        target_python,
        POKE
        + """
broken = [None, None, None, "last"]
at = items(broken)
with poked((at, 17), (at + WORD, 2**63 + 16), (at + 2 * WORD, id(broken) + 3)):
    walk()
""",
    )
    sound(heap)
    (last,) = heap.items(heap.main("broken"))
    assert last["value"][2] == "last"
    assert heap.figures["nonsense"] == 3
    assert heap.figures["skipped"] == 0


def test_an_object_without_a_type_is_marked_and_passed_over(walk: Walk, target_python: Python) -> None:
    heap = walk(
        target_python,
        POKE
        + """
objects = [type("Odd", (), {})() for _ in range(3)]
data = ctypes.create_string_buffer(4096)
inside = (ctypes.addressof(data) + 63) & ~63
with poked((id(objects[0]) + WORD, UNMAPPED), (id(objects[1]) + WORD, 0), (id(objects[2]) + WORD, inside)):
    walk()
""",
    )
    sound(heap)
    assert [o["flags"] & SKIPPED for o in heap.items(heap.main("objects"))] == [SKIPPED] * 3
    assert heap.figures["skipped"] == 3


def test_a_traverse_that_crashes_costs_only_its_own_objects(walk: Walk, target_python: Python) -> None:
    heap = walk(
        target_python,
        POKE
        + """
TRAVERSE = 184
queues = [collections.deque([Sound(), 1]) for _ in range(5)]
del sound[5:]
for q in queues:
    q.append(q)
with poked((id(collections.deque) + TRAVERSE, UNMAPPED)):
    walk()
""",
    )
    queues = heap.items(heap.main("queues"))
    assert len(queues) == 5
    assert all(heap.name(q) == "deque" and q["flags"] & SKIPPED for q in queues)
    assert heap.figures["skipped"] == len([o for o in heap.rec.objects if o["flags"] & SKIPPED]) >= 5
    assert len(heap.of_type("Sound")) >= 5


def test_in_place_the_heap_is_the_same_and_handlers_are_put_back(walk: Walk, target_python: Python) -> None:
    heap = walk(
        target_python,
        POKE
        + f"""
import faulthandler, gc
faulthandler.enable()
def counts():
    return [sys.getrefcount(o) for o in sound], len(gc.get_objects())
broken = ["before", None, "after"]
before = counts()
with poked((items(broken) + WORD, UNMAPPED)):
    walk({IN_PLACE})
assert counts()[0] == before[0]
gc.collect()
print("still", faulthandler.is_enabled())
""",
    )
    sound(heap)
    assert heap.figures["skipped"] == 1
    assert heap.said[0] == "still True"


def test_without_values_only_names_are_written(walk: Walk, target_python: Python) -> None:
    heap = walk(
        target_python,
        f"""
class Account:
    def __init__(self):
        self.secret = "hunter2 " + str(len("hunter2"))
        self.number = 424242424242
        self.ratio = 0.123
account = Account()
table = {{"private" + " key": b"private bytes"}}
walk({NO_VALUES})
""",
    )
    account = heap.main("account")
    assert heap.follow(account, "secret")["value"] is None
    assert heap.follow(account, "number")["value"] is None
    assert heap.follow(account, "ratio")["value"] is None
    assert [o["value"] for o in heap.items(heap.main("table"))] == [None, None]
    assert {o["value"][0] for o in heap.rec.objects if o["value"]} <= {1, 6}


def test_an_allocation_that_fails_ends_the_walk_with_a_line_at_worst(walk: Walk, target_python: Python) -> None:
    heap = walk(
        target_python,
        """
walk()
probe.probe_failures.restype = ctypes.c_char_p
print(probe.probe_failures().decode())
""",
    )
    allocations, wrong, how = map(int, heap.said[0].split())
    assert allocations > 20
    assert wrong == how == 0


def test_the_walk_leaves_the_target_and_its_memory_as_they_were(walk: Walk, target_python: Python) -> None:
    heap = walk(
        target_python,
        """
import gc, os
class Record:
    def __init__(self, i):
        self.id, self.name, self.items, self.page = i, f"record {i}", [i], bytes(2000)
records = [Record(i) for i in range(20_000)]
def look():
    return [sys.getrefcount(records[i]) for i in range(0, 20_000, 997)], len(os.listdir("/proc/self/fd")), gc.get_count()[1:]
before = look()
walk()
assert look() == before, (before, look())
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("no child")
gc.collect()
print("rss", int(open("/proc/self/statm").read().split()[1]) * 4)
""",
    )
    assert heap.said[0] == "no child"
    rss_kib = int(heap.said[1].split()[1])
    assert heap.figures["dirty_after"] - heap.figures["dirty_before"] <= rss_kib / 100
    assert len(heap.of_type("Record")) == 20_000
