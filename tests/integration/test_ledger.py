"""The ledger against what the kernel and Python themselves count."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

from conftest import Lowtide, Python, Spawn
from test_free import SPARSE, package, run

__all__ = ["package"]


def smaps_rss(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps").read_text()
    return sum(int(n) for n in re.findall(r"^Rss:\s+(\d+) kB", text, re.M)) * 1024


def test_the_lines_of_a_live_process_add_up_to_smaps(target_python: Python, spawn: Spawn, lowtide: Lowtide) -> None:
    target = spawn(target_python, SPARSE)
    lowtide("rss", target.pid)  # the agent's own traces are there from here on
    before = smaps_rss(target.pid)
    done = lowtide("rss", target.pid, "--json")
    assert (done.status, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert sum(line["bytes"] for line in told["ledger"]) == told["memory"]["rss_bytes"]
    assert abs(told["memory"]["rss_bytes"] - before) < 3 << 20  # the agent itself, while it looks
    lines = {line["name"]: line for line in told["ledger"]}
    assert lines["unexplained"]["bytes"] < told["memory"]["rss_bytes"] * 0.03, told
    assert lines["empty pools"]["returnable_bytes"] > 15 << 20
    assert all(line["returnable_bytes"] <= line["bytes"] for line in told["ledger"])
    assert "tuple" in lines["empty pools"]["note"]
    pin = told["pins"][0]
    assert pin["type"] == "tuple" and pin["arenas"] > 20, told["pins"]
    assert sum(pin["bytes"] for pin in told["pins"]) <= told["memory"]["rss_bytes"]
    assert sum(pin["returnable_bytes"] for pin in told["pins"]) > 15 << 20
    text = lowtide("rss", target.pid).stdout
    assert "lowtide free" in text and f"{pin['arenas']} arenas: " in text, text
    target.finish()


def test_pools_and_arenas_are_as_many_as_python_itself_counts(local_python: Python, package: Path) -> None:
    code = f"""import lowtide, os, re, sys, tempfile
{SPARSE}lowtide.rss()
with tempfile.TemporaryFile() as f:
    saved = os.dup(2); os.dup2(f.fileno(), 2)
    sys._debugmallocstats()
    os.dup2(saved, 2)
    f.seek(0); text = f.read().decode()
note = lowtide.rss().lines[0].note
arenas, pools = map(int, re.match(r"(\\d+) arenas, (\\d+) pools", note).groups())
assert arenas == int(re.search(r"# arenas allocated current\\s*=\\s*([\\d,]+)", text)[1].replace(",", "")), (note, text)
counted = sum(int(row.split()[2]) for row in text.split("-----\\n")[1].split("\\n\\n")[0].splitlines())
assert abs(pools - counted) <= 3, (note, text)"""
    run(local_python, package, code)


def test_what_is_freed_of_libcs_heap_is_told_apart_and_given_back(local_python: Python, package: Path) -> None:
    code = """import lowtide
made = [bytes(2000 + i % 1000) for i in range(20_000)]; kept = made[::100]; del made
lines = {line.name: line for line in lowtide.rss().lines}
free = lines["malloc: free, but held"]
assert free.bytes > 30 << 20 and free.returnable_bytes > 30 << 20, lines
told = {l.name: l.returned_bytes for l in lowtide.free(dry_run=True).layers}["malloc"]
gave = {l.name: l.returned_bytes for l in lowtide.free().layers}["malloc"]
assert abs(gave - free.returnable_bytes) < 3 << 20, (gave, free)
assert abs(gave - told) < 3 << 20, (gave, told)"""
    run(local_python, package, code)


def test_memory_of_others_has_lines_of_its_own(this_python: Python, package: Path) -> None:
    code = """import lowtide, mmap, threading
shared = mmap.mmap(-1, 40 << 20); shared.write(b"x" * (40 << 20))
large = bytearray(b"y") * (30 << 20)
ledger = lowtide.rss()
lines = {line.name: line.bytes for line in ledger.lines}
assert lines["shared memory"] >= 40 << 20, lines
assert lines["malloc: large blocks, each mapped"] >= 30 << 20, lines
assert sum(lines.values()) == ledger.rss_bytes
assert str(ledger).splitlines()[-1].split()[-1] == "resident" """
    run(this_python, package, code)


OWNED = """
import mmap, sys
class Cache: pass
cache = Cache()
cache.private = mmap.mmap(-1, 40 << 20, flags=mmap.MAP_PRIVATE); cache.private.write(b"x" * (40 << 20))
cache.shared = mmap.mmap(-1, 20 << 20); cache.shared.write(b"x" * (20 << 20))
cache.text = "x" * (36 << 20)
cache.items = [None] * 5_000_000
"""


def test_large_blocks_and_mappings_are_named_by_the_object_that_owns_them(
    target_python: Python, spawn: Spawn, lowtide: Lowtide, tmp_path: Path
) -> None:
    target = spawn(target_python, OWNED)
    told = json.loads(lowtide("rss", target.pid, "--json").stdout)
    lines = {line["name"]: line["bytes"] for line in told["ledger"]}
    assert 40 << 20 <= lines["private mappings"] < 42 << 20, lines
    assert lines["unexplained"] < told["memory"]["rss_bytes"] * 0.03, lines
    file = tmp_path / "a.tide"
    assert lowtide("dump", target.pid, "-o", file).status == 0
    told = json.loads(lowtide("report", file, "--json").stdout)
    owners = {owner["path"]: owner for owner in told["owners"]}
    for path, layer, kind, mib in (
        ("cache.private", "private mappings", "mmap.mmap", 40),
        ("cache.shared", "shared memory", "mmap.mmap", 20),
        ("cache.text", "malloc: large blocks, each mapped", "str", 36),
        ("cache.items", "malloc: large blocks, each mapped", "list", 38),
    ):
        owner = owners[path]
        assert (owner["layer"], owner["type"]) == (layer, kind), told["owners"]
        assert abs(owner["bytes"] - (mib << 20)) < 1 << 20, owner
    lines = {line["name"]: line["bytes"] for line in told["ledger"]}
    assert sum(owner["bytes"] for owner in told["owners"]) <= sum(lines.values())
    assert "of it mmap.mmap cache.private" in " ".join(lowtide("report", file).stdout.split())
    target.finish()


def test_an_arrays_data_is_the_arrays(this_python: Python, spawn: Spawn, lowtide: Lowtide, tmp_path: Path) -> None:
    target = spawn(
        this_python, "import numpy\nclass Cache: pass\ncache = Cache()\ncache.matrix = numpy.ones((5000, 1000))\n"
    )
    file = tmp_path / "a.tide"
    assert lowtide("dump", target.pid, "-o", file).status == 0
    told = json.loads(lowtide("report", file, "--json").stdout)
    owner = told["owners"][0]
    assert (owner["path"], owner["type"]) == ("cache.matrix", "numpy.ndarray"), told["owners"]
    assert abs(owner["bytes"] - 40_000_000) < 64 << 10, owner
    target.finish()


def test_buffers_of_c_libraries_are_named_by_the_object_that_owns_them(
    this_python: Python, spawn: Spawn, lowtide: Lowtide, tmp_path: Path
) -> None:
    code = """import array, ctypes
class Cache: pass
cache = Cache()
cache.ints = (ctypes.c_int * 8_000_000)(); ctypes.memset(cache.ints, 1, 32_000_000)
cache.words = array.array("q", [1]) * 4_000_000
try:
    import pyarrow
    cache.buffer = pyarrow.allocate_buffer(30 << 20); ctypes.memset(cache.buffer.address, 1, 30 << 20)
    cache.table = pyarrow.table({"a": pyarrow.array(range(2_000_000)), "b": pyarrow.array(["x" * 9] * 1_000_000 * 2)})
except ImportError: pass
"""
    target = spawn(this_python, code)
    file = tmp_path / "a.tide"
    assert lowtide("dump", target.pid, "-o", file).status == 0
    owners = {owner["path"]: owner for owner in json.loads(lowtide("report", file, "--json").stdout)["owners"]}
    wanted = {"cache.ints": ("__main__.c_int_Array_8000000", 32_000_000), "cache.words": ("array.array", 32_000_000)}
    if importlib.util.find_spec("pyarrow"):
        wanted["cache.buffer"] = ("pyarrow.lib.Buffer", 30 << 20)
        wanted["cache.table"] = ("pyarrow.lib.Table", 16_000_000 + 8_000_000 + 18_000_000)
    for path, (kind, size) in wanted.items():
        assert owners[path]["type"] == kind, owners
        assert abs(owners[path]["bytes"] - size) < 2 << 20, owners[path]
    target.finish()
