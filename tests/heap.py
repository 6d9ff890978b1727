"""What the tests of the heap's walk share: a recording with its references counted, and how to make one."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, Python, Spawn
from tide_decoder import Recording, read_recording

PROBE = Path(os.environ.get("LOWTIDE_HEAP_PROBE", REPOSITORY / "build/tests/heap_probe.so"))
OBJECT, RUNTIME, INTERPRETER, THREAD, FRAME, OTHER = range(6)
CLASS, ATTRIBUTE, INDEX, KEY, VALUE, ELEMENT, LOCAL, STACK, CELL, FIELD, REFERENCE, ROOT = range(1, 13)
TRACKED, FROZEN, SKIPPED = 1, 2, 4
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
        self.at = {o["address"]: o for o in self.rec.objects if self.rec.shapes[o["shape"]].kind == OBJECT}

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

    def follow(self, o: dict[str, Any], *labels: str) -> dict[str, Any]:
        """Along fixed labels by name, whatever their kinds."""
        for label in labels:
            found = [t for (_, _, name), t in self.edges(o) if name == label and t is not None]
            assert found, (label, self.name(o), [lab for lab, _ in self.edges(o)][:40])
            o = found[0]
        return o

    def items(self, o: dict[str, Any]) -> list[dict[str, Any]]:
        """What the repeated labels name."""
        n = len(self.rec.shapes[o["shape"]].fixed)
        return [self.rec.objects[t] for t in o["edges"][n:] if t is not None]

    def get(self, o: dict[str, Any], key: str) -> dict[str, Any]:
        """The value of a str key of a dict."""
        items = self.items(o)
        for k, v in zip(items[::2], items[1::2]):
            if k["value"] and k["value"][-1] == key:
                return v
        raise KeyError(key)

    def main(self, name: str) -> dict[str, Any]:
        """A name of __main__."""
        (main,) = (o for o in self.of_type("module") if o["value"] == [6, "__main__"])
        return self.get(self.follow(main, "__dict__"), name)

    def reach(self, start: dict[str, Any]) -> set[int]:
        """Ids reached from an object by owned references, itself too."""
        seen, todo = {start["id"]}, [start]
        while todo:
            for label, target in self.edges(todo.pop()):
                if target is not None and not label[1] and target["id"] not in seen:
                    seen.add(target["id"])
                    todo.append(target)
        return seen

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
        (found,) = (o for o in self.rec.objects if self.kind(o) == FRAME and o["value"][1].split("\x1f")[0] == function)
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
        status, out = target.finish()
        assert status == 0, target.stderr() + out
        lines = out.splitlines()
        figures = next((json.loads(s[8:]) for s in lines if s.startswith("figures ")), {})
        said = [s for s in lines if not s.startswith("figures ")]
        return Heap(read_recording(tide.read_bytes()), figures, said)

    return run
