"""The walk of the heap, held against what Python itself says of the same objects."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, TESTS, Python, Spawn
from tide_decoder import Recording, read_recording

PROBE = Path(os.environ.get("LOWTIDE_HEAP_PROBE", REPOSITORY / "build/tests/heap_probe.so"))
OBJECT, RUNTIME, INTERPRETER, THREAD, FRAME, OTHER = range(6)
CLASS, ATTRIBUTE, INDEX, KEY, VALUE, ELEMENT, LOCAL, STACK, CELL, FIELD, REFERENCE, ROOT = range(1, 13)
FROZEN, SKIPPED = 2, 4
IN_PLACE, NO_VALUES = 1, 2

# What tests put in front of a program: walk() writes the recording, then the program goes on.
WALK = """
import ctypes, json, sys
probe = ctypes.PyDLL(sys.argv[1])
probe.probe_heap.restype = probe.probe_figures.restype = ctypes.c_char_p
probe.probe_heap.argtypes = [ctypes.c_char_p, ctypes.c_int]
def walk(flags=0):
    error = probe.probe_heap(sys.argv[2].encode(), flags)
    if error:
        sys.exit(error.decode())
    print("figures", probe.probe_figures().decode(), flush=True)
"""


@dataclass
class Heap:
    """A recording with its references counted."""

    rec: Recording
    figures: dict[str, int]
    said: list[str]

    def __post_init__(self) -> None:
        self.at = {
            o["address"]: o for o in self.rec.objects if self.rec.shapes[o["shape"]].kind == OBJECT
        }

    def name(self, o: dict[str, Any]) -> str:
        return self.rec.shapes[o["shape"]].name

    def kind(self, o: dict[str, Any]) -> int:
        return self.rec.shapes[o["shape"]].kind

    def edges(self, o: dict[str, Any]) -> Iterator[tuple[list[Any], dict[str, Any] | None]]:
        shape = self.rec.shapes[o["shape"]]
        n = len(shape.fixed)
        for i, target in enumerate(o["edges"]):
            label = shape.fixed[i] if i < n else shape.repeat[(i - n) % len(shape.repeat)]
            yield label, None if target is None else self.rec.objects[target]

    def named(self, o: dict[str, Any], kind: int = ATTRIBUTE) -> dict[str, dict[str, Any] | None]:
        return {label[2]: target for label, target in self.edges(o) if label[0] == kind}

    def surplus(self) -> dict[int, int]:
        """References held beyond those that the recording accounts for, by id."""
        owned: Counter[int] = Counter()
        for o in self.rec.objects:
            for label, target in self.edges(o):
                if target is not None and not label[1]:
                    owned[target["id"]] += 1
        return {
            o["id"]: o["refcount"] - owned[o["id"]]
            for o in self.rec.objects
            if self.kind(o) == OBJECT and o["refcount"] and o["refcount"] != owned[o["id"]]
        }

    def of_type(self, name: str) -> list[dict[str, Any]]:
        return [o for o in self.rec.objects if self.name(o) == name and self.kind(o) == OBJECT]

    def frame(self, function: str) -> dict[str, Any]:
        (found,) = (
            o
            for o in self.rec.objects
            if self.kind(o) == FRAME and o["value"][1].split("\x1f")[0] == function
        )
        return found


Walk = Callable[..., Heap]


@pytest.fixture
def walk(spawn: Spawn, tmp_path: Path) -> Walk:
    """walk(python, program): the program calls walk() once; what was recorded."""
    if not PROBE.exists():
        pytest.fail(f"{PROBE} is not there: run make build")
    shutil.copy(PROBE, tmp_path)

    def run(python: Python, program: str | Path, *args: str) -> Heap:
        tide = tmp_path / "heap.tide"
        words = [str(tmp_path / PROBE.name), str(tide), *args]
        code = program if isinstance(program, Path) else WALK + program
        target = spawn(python, code, *words, ready=False)
        status, out = target.finish(180)
        assert status == 0, target.stderr() + out
        lines = out.splitlines()
        figures = next((json.loads(s[8:]) for s in lines if s.startswith("figures ")), {})
        said = [s for s in lines if not s.startswith("figures ")]
        return Heap(read_recording(tide.read_bytes()), figures, said)

    return run


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
