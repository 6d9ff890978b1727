"""The ledger against what the kernel and Python themselves count."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest
from conftest import Lowtide, Python, Spawn, Target
from test_free import SPARSE, package, run

__all__ = ["package"]


def smaps_sum(pid: int, field: str) -> int:
    text = Path(f"/proc/{pid}/smaps").read_text()
    return sum(int(n) for n in re.findall(rf"^{field}:\s+(\d+) kB", text, re.M)) * 1024


def test_the_lines_of_a_live_process_add_up_to_smaps(target_python: Python, spawn: Spawn, lowtide: Lowtide) -> None:
    target = spawn(target_python, SPARSE)
    lowtide("rss", target.pid)  # the agent's own traces are there from here on
    before = smaps_sum(target.pid, "Rss")
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


def told_apart(target: Target, lowtide: Lowtide, field: str) -> tuple[int, int]:
    """What smaps has of it, and the ledger: of moments when the kernel changed nothing between."""
    for _ in range(20):
        before = smaps_sum(target.pid, field)
        memory = json.loads(lowtide("rss", target.pid, "--json").stdout)["memory"]
        if before == smaps_sum(target.pid, field):
            break
    return before, memory["swap_bytes" if field == "Swap" else "huge_page_bytes"]


ADVISED = """import mmap
m = mmap.mmap(-1, 16 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
"""


def test_huge_pages_are_told_as_the_kernel_counts_them(this_python: Python, spawn: Spawn, lowtide: Lowtide) -> None:
    target = spawn(this_python, ADVISED + "m.madvise(mmap.MADV_HUGEPAGE); m.write(b'x' * (16 << 20))")
    theirs, ours = told_apart(target, lowtide, "AnonHugePages")
    if not theirs:
        pytest.skip("this kernel gave no huge page to memory that asked for them: only the parser is tested")
    assert theirs == ours and "huge pages" in lowtide("rss", target.pid).stdout
    plain = spawn(this_python, ADVISED + "m.madvise(mmap.MADV_NOHUGEPAGE); m.write(b'x' * (16 << 20))")
    theirs, ours = told_apart(plain, lowtide, "AnonHugePages")
    assert theirs == ours < 16 << 20


def test_what_is_swapped_out_is_told_as_the_kernel_counts_it(
    this_python: Python, spawn: Spawn, lowtide: Lowtide
) -> None:
    pageout = 21  # MADV_PAGEOUT, Linux 5.4
    target = spawn(this_python, ADVISED + f"m.write(bytes(range(256)) * (16 << 12)); m.madvise({pageout})")
    theirs, ours = told_apart(target, lowtide, "Swap")
    if not theirs:
        pytest.skip("this machine swaps nothing out: only the parser is tested")
    assert theirs == ours


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


def test_from_outside_pools_and_arenas_are_as_many_as_python_itself_counts(
    target_python: Python, spawn: Spawn, lowtide: Lowtide
) -> None:
    counts = "\nimport sys\nsys._debugmallocstats()\n"
    for env in ({},) if target_python.debug else ({}, {"PYTHONMALLOC": "debug"}):
        target = spawn(target_python, SPARSE + counts, env=env)
        text = target.stderr()
        told = json.loads(lowtide("rss", target.pid, "--json").stdout)
        figures = re.match(r"(\d+) arenas, (\d+) pools", told["ledger"][0]["note"])
        theirs = {key: int(n.replace(",", "")) for key, n in re.findall(r"^# (.*?)\s*=\s*([\d,]+)$", text, re.M)}
        pools = sum(int(row.split()[2]) for row in text.split("-----\n")[1].split("\n\n")[0].splitlines())
        assert figures and int(figures[1]) == theirs["arenas allocated current"], (told["ledger"][0], text)
        assert abs(int(figures[2]) - pools) <= 3, (told["ledger"][0], text)
        assert abs(told["ledger"][0]["bytes"] - theirs["bytes in allocated blocks"]) < 64 << 10, (told, text)
        target.finish()


def test_without_pools_the_ledger_has_no_line_of_them(target_python: Python, spawn: Spawn, lowtide: Lowtide) -> None:
    target = spawn(target_python, SPARSE, env={"PYTHONMALLOC": "malloc"})
    told = json.loads(lowtide("rss", target.pid, "--json").stdout)
    lines = {line["name"]: line for line in told["ledger"]}
    assert not any("pool" in name for name in lines), lines
    assert lines["malloc: free, but held"]["returnable_bytes"] > 10 << 20, lines
    assert lines["unexplained"]["bytes"] < told["memory"]["rss_bytes"] * 0.03, lines
    target.finish()


def mappings(pid: int) -> list[tuple[str, int]]:
    """Path ("" where there is none) and resident bytes of each mapping, by address."""
    rows: list[tuple[str, int]] = []
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        words = line.split(maxsplit=5)
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            rows.append((words[5] if len(words) > 5 else "", 0))
        elif words[0] == "Rss:":
            rows[-1] = (rows[-1][0], int(words[1]) * 1024)
    return rows


def test_each_librarys_line_is_what_smaps_has_of_its_file_and_of_the_zeroed_data_behind(
    target_python: Python, spawn: Spawn, lowtide: Lowtide
) -> None:
    target = spawn(target_python, "import ssl, sqlite3, mmap; m = mmap.mmap(-1, 20 << 20); m.write(b'x' * (20 << 20))")
    lowtide("rss", target.pid)
    told = {line["name"]: line["bytes"] for line in json.loads(lowtide("rss", target.pid, "--json").stdout)["ledger"]}
    rows, least, most = mappings(target.pid), {}, {}
    for (name, size), (behind, more) in zip(rows, [*rows[1:], ("", 0)]):
        key = f"library {Path(name).name}"
        least[key] = least.get(key, 0) + size
        most[key] = most.get(key, 0) + size + (0 if behind else more)
    libraries = [name for name in told if name.startswith("library lib")]
    assert len(libraries) >= 3, told
    for name in libraries:
        assert least[name] <= told[name] <= most[name], (name, told[name], least[name], most[name])
    shared = sum(size for name, size in rows if name.startswith("/dev/zero"))
    assert told["shared memory"] == shared >= 20 << 20, (told, rows)
    stack = next(size for name, size in rows if name == "[stack]")
    assert stack <= told["thread stacks"] <= stack + (1 << 20), told
    target.finish()


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


RESERVED = """
import mmap, tempfile
shared = mmap.mmap(-1, 4 << 30); shared[: 3 << 20] = b"x" * (3 << 20)
private = mmap.mmap(-1, 1 << 30, flags=mmap.MAP_PRIVATE); private[5 << 20 : 7 << 20] = b"x" * (2 << 20)
backing = tempfile.TemporaryFile(); backing.truncate(1 << 30)
file = mmap.mmap(backing.fileno(), 1 << 30)
"""


def test_of_a_mapping_counts_what_was_touched(
    target_python: Python, spawn: Spawn, lowtide: Lowtide, tmp_path: Path
) -> None:
    target = spawn(target_python, RESERVED)
    path = tmp_path / "a.tide"
    done = lowtide("dump", target.pid, "-o", path)
    assert done.status == 0, done.stderr
    query = "select buffers from objects where type = 'mmap.mmap' order by 1"
    rows = json.loads(lowtide("sql", path, query, "--json").stdout)["rows"]
    assert rows == [[0], [2 << 20], [3 << 20]]
    assert json.loads(lowtide("report", path, "--json").stdout)["findings"] == []
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


def test_a_live_process_tells_owners_when_asked_as_a_recording_does(
    target_python: Python, spawn: Spawn, lowtide: Lowtide, tmp_path: Path
) -> None:
    rows = "cache.rows = [str(i) * (2 << 20) for i in range(5)]\n"
    target = spawn(target_python, OWNED + "import ctypes; cache.block = bytes(300 << 10)\n" + rows + SPARSE)
    done = lowtide("rss", target.pid, "--owners", "--json")
    assert (done.status, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert told["process"]["pid"] == target.pid and told["pause_ms"] > 0
    assert sum(line["bytes"] for line in told["ledger"]) == told["memory"]["rss_bytes"]
    owners = {owner["path"]: owner for owner in told["owners"]}
    assert {"cache.private", "cache.shared", "cache.text", "cache.items", "cache.block"} <= set(owners)
    for name in {owner["layer"] for owner in told["owners"]}:
        line = next(line for line in told["ledger"] if line["name"] == name)
        assert sum(owner["bytes"] for owner in told["owners"] if owner["layer"] == name) <= line["bytes"]
    assert ("tuple", "kept") in {(pin["type"], pin["path"]) for pin in told["pins"]}, told["pins"]
    text = " ".join(lowtide("rss", target.pid, "--owners").stdout.split())
    assert "private mappings 1, by mmap" in text and "40.0 MiB: mmap.mmap cache.private" in text, text
    assert "10.0 MiB: 5 x str cache.rows[...]" in text.replace("×", "x").replace("…", "..."), text
    file = tmp_path / "a.tide"
    assert lowtide("dump", target.pid, "-o", file).status == 0
    recorded = json.loads(lowtide("rss", file, "--json").stdout)
    assert {owner["path"] for owner in recorded["owners"]} == set(owners)
    assert sum(line["bytes"] for line in recorded["ledger"]) == recorded["memory"]["rss_bytes"]
    assert "gpu" not in recorded and recorded["process"]["pid"] == target.pid
    assert target.finish() == (0, "")


def test_arrays_within_mallocs_heap_are_named_too(
    this_python: Python, package: Path, lowtide_exe: Path, tmp_path: Path
) -> None:
    # A large block that was freed raises the size from which malloc maps blocks.
    code = """import lowtide
big = bytearray(30 << 20); del big
rows = [bytearray(1 << 20) for _ in range(3)]; rows[0][:] = rows[1][:] = rows[2][:] = b"x" * (1 << 20)
ledger = lowtide.rss(owners=True)
assert sum(line.bytes for line in ledger.lines) == ledger.rss_bytes
named = {owner.path: owner for owner in ledger.owners}
assert named["rows[1]"].line == "malloc: in use" and named["rows[1]"].type == "bytearray", ledger.owners
assert abs(named["rows[1]"].bytes - (1 << 20)) < 64 << 10, ledger.owners
assert "rows[1]" in str(ledger) and lowtide.rss().owners is None"""
    run(this_python, package, code, LOWTIDE_EXE=str(lowtide_exe))


def test_text_fits_the_terminal_and_the_first_line_tells_most(
    this_python: Python, spawn: Spawn, lowtide: Lowtide, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    target = spawn(this_python, OWNED + SPARSE)
    for words in ([], ["--owners"]):
        lines = lowtide("rss", target.pid, *words).stdout.splitlines()
        assert (
            lines[0].startswith(f"process {target.pid}: ") and "MiB resident; mostly malloc: large blocks" in lines[0]
        )
        assert max(len(line) for line in lines) <= 80, lines
    target.finish()


def test_a_file_without_a_ledger_is_refused_in_one_line(lowtide: Lowtide, tmp_path: Path) -> None:
    file = tmp_path / "no.tide"
    file.write_text("nothing")
    done = lowtide("rss", file)
    assert done.status == 1 and "is not a lowtide recording" in done.stderr and done.stderr.count("\n") == 1


DEEP = """
import sys, threading
sys.setrecursionlimit(10_000); threading.stack_size(64 << 20)
def deep(n): return sorted([1], key=lambda x: deep(n - 1)) if n else 0
wait, met = threading.Event(), threading.Barrier(3)
def work(): deep(1200); met.wait(); wait.wait()
threads = [threading.Thread(target=work) for _ in range(2)]
for thread in threads: thread.start()
met.wait()
print("ready", flush=True); sys.stdin.read(); wait.set()
for thread in threads: thread.join()
"""


def test_what_waiting_threads_once_used_of_their_stacks_is_told(
    this_python: Python, spawn: Spawn, lowtide: Lowtide, tmp_path: Path
) -> None:
    target = spawn(this_python, DEEP)
    assert lowtide("dump", target.pid, "-o", tmp_path / "a.tide").status == 0
    for of in (target.pid, tmp_path / "a.tide"):
        lines = {line["name"]: line for line in json.loads(lowtide("rss", of, "--json").stdout)["ledger"]}
        stacks = lines["thread stacks"]
        deeper = re.search(r"(\d+) MiB lie deeper than their threads stand now", stacks["note"])
        assert deeper and 0.8 * stacks["bytes"] < int(deeper[1]) << 20 <= stacks["bytes"], stacks
        assert stacks["bytes"] > 4 << 20
    assert target.finish() == (0, "")
