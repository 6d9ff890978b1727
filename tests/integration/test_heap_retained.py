"""What objects are said to retain, against what Python's allocators gave out while they were made."""

from __future__ import annotations

import json
from pathlib import Path

from conftest import TESTS, Lowtide, Python
from heap import Walk, walk

__all__ = ["walk"]

MAKE = (
    (TESTS / "zoo/heap_kinds.py").read_text()
    + r"""
import gc, tracemalloc
world = types.SimpleNamespace()
made, kept = {}, None  # a name that comes and goes lets the namespace grow
for name, make in KINDS.items():
    make()  # caches, free lists, what a type learns of its instances
    gc.collect()
    tracemalloc.start()
    kept = make()
    gc.collect()
    made[name] = tracemalloc.get_traced_memory()[0], id(kept)
    tracemalloc.stop()
    setattr(world, name.replace(" ", "_"), kept)
    kept = None
walk(1)
print(json.dumps(made), "ready", flush=True)
"""
)


def test_no_kind_of_object_retains_more_or_less_than_was_made_for_it(
    walk: Walk, lowtide: Lowtide, target_python: Python, tmp_path: Path
) -> None:
    heap = walk(target_python, MAKE)
    made = json.loads(heap.said[-1].removesuffix("ready"))
    wanted = ",".join(str(address) for _, address in made.values())
    query = f"select address, retained from objects where type = 'list' and address in ({wanted})"
    rows = json.loads(lowtide("sql", tmp_path / "heap.tide", query, "--json").stdout)["rows"]
    retained = dict(rows)
    share = {name: round(retained[at] / bytes, 3) for name, (bytes, at) in made.items()}
    assert not {name: s for name, s in share.items() if not 0.93 < s < 1.03}
