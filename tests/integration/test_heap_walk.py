"""The walk of the heap, held against what Python itself says of the same objects."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
from conftest import TESTS, Python
from heap import ATTRIBUTE, KEY, Heap, Walk, walk

__all__ = ["walk"]


@pytest.fixture
def world(walk: Walk, tmp_path: Path, target_python: Python) -> tuple[Heap, dict[str, Any]]:
    counts = tmp_path / "counts.json"
    heap = walk(target_python, TESTS / "zoo/heap_world.py", str(counts))
    return heap, json.loads(counts.read_text())


def leaves_out(heap: Heap, o: dict[str, Any], said: int) -> bool:
    """getsizeof leaves out inline values, and counts those of an instance's dict (3.13 and later) there."""
    shape = heap.rec.shapes[o["shape"]]
    attributes = [name for kind, _, name in shape.fixed if kind == ATTRIBUTE]
    if "__dict__" in attributes and o["size"] > said:
        return (o["size"] - said) % 8 == 0 and o["size"] - said <= 8 * (30 + 2) + 32
    return bool(shape.repeat) and shape.repeat[0][:2] == [KEY, 1] and shape.repeat[1][1] == 1


def test_sizes_are_what_getsizeof_says_and_referents_are_among_the_references(
    world: tuple[Heap, dict[str, Any]],
) -> None:
    heap, counted = world
    sizes: dict[str, list[Any]] = defaultdict(list)
    missing: dict[str, list[Any]] = defaultdict(list)
    assert len(counted["counts"]) > 5000
    for address, type, size, referents in counted["counts"]:
        o = heap.at[address]
        if type == "BytesIO":  # the bytes inside are an object; getsizeof adds them where nobody else refers to them
            inside = heap.follow(o, "buffer")
            size -= inside["size"] if size > o["size"] else 0
        if size != o["size"] and not leaves_out(heap, o, size):
            sizes[type].append((size, o["size"]))
        have = Counter(t["address"] for _, t in heap.edges(o) if t is not None)
        lost = Counter(referents) - have
        if lost:
            missing[type].append([heap.at.get(a, {}).get("value") for a in lost])
    # ctypes' metaclasses have a __sizeof__ that tells less than the type's own.
    sizes = {t: s for t, s in sizes.items() if not t.startswith("PyC")}
    assert not sizes
    # Keys stand in an OrderedDict's order, contents of an lru_cache in its links. ctypes, before 3.13, keeps what a
    # metaclass's traverse cannot tell.
    allowed = {"OrderedDict", "_lru_cache_wrapper"}
    assert not {t: m for t, m in missing.items() if t not in allowed and not t.startswith("PyC")}


def test_nothing_is_skipped_and_almost_no_reference_is_unaccounted_for(
    world: tuple[Heap, dict[str, Any]],
) -> None:
    heap, _ = world
    assert heap.figures["skipped"] == heap.figures["nonsense"] == heap.rec.skipped == 0
    surplus = heap.surplus()
    told_twice = {heap.name(heap.rec.objects[i]) for i, n in surplus.items() if n < 0}
    assert not told_twice
    ours = [o for o in surplus if heap.rec.objects[o]["address"] in heap.at]
    assert len(ours) < len(heap.rec.objects) / 200
