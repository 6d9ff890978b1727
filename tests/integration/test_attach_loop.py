"""Attaching and detaching in a loop: nothing of it stays in the target, however often."""

from __future__ import annotations

import os
import re
import signal
import struct
import subprocess
import time
from pathlib import Path

import pytest
from conftest import PATIENCE_S, Lowtide, Python, Spawn, Target

# Three threads allocate, by Python's allocators and by libc's, while the main thread tells which functions Python allocates by.
BUSY = """
import ctypes, json, sys, threading, time
def grow():
    kept, rows = [], json.dumps([{"id": i, "name": str(i)} for i in range(200)])
    while going:
        kept.append((json.loads(rows), bytearray(100_000)))
        del kept[:-10]
        time.sleep(0.001)
def allocators():
    said = []
    for domain in range(3):
        words = (ctypes.c_void_p * 5)()
        ctypes.pythonapi.PyMem_GetAllocator(domain, words)
        said += [hex(word or 0) for word in words]
    words = (ctypes.c_void_p * 3)()
    ctypes.pythonapi.PyObject_GetArenaAllocator(words)
    return said + [hex(word or 0) for word in words]
going = True
threads = [threading.Thread(target=grow) for _ in range(3)]
for thread in threads: thread.start()
print("ready", flush=True)
for line in sys.stdin.buffer.raw:
    print(*allocators())
    print("ready", flush=True)
going = False
for thread in threads: thread.join()
print("still here")
"""


def allocators(target: Target) -> str:
    target.head.clear()
    target.say("")
    target.wait_for("ready")
    return target.head[0]


def ends_of_objects(said: str) -> list[str]:
    """The functions that free, of the domains mem and object: the last of five words each."""
    words = said.split()
    return [words[9], words[14]]


def mappings(pid: int) -> list[tuple[int, int, str, str]]:
    """(begin, end, rights, file)"""
    found = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        span, rights, *_, name = [*line.split(maxsplit=5), ""][:6]
        begin, end = (int(x, 16) for x in span.split("-"))
        found.append((begin, end, rights, name.strip()))
    return found


def trampolines(pid: int) -> list[int]:
    """Pages of code that are no file's: what the hooks of libc's functions jump by."""
    return [b for b, e, rights, name in mappings(pid) if rights == "r-xp" and not name and e - b == 4096]


def pointers_into(pid: int, pages: list[int]) -> int:
    """From the tables of libraries by which they call others. The loader is never patched, and remembers where a file once was."""
    count = 0
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for begin, end, rights, name in mappings(pid):
            tables = re.match("r[w-]-p", rights) and re.search(r"\.so|python", name) and "/ld-" not in name
            if not tables or end - begin > 8 << 20:
                continue
            memory.seek(begin)
            data = memory.read(end - begin)
            words = struct.unpack(f"<{len(data) // 8}Q", data)
            count += sum(page <= word < page + 4096 for page in pages for word in words if word >> 12 == page >> 12)
    return count


def state(pid: int) -> tuple[list[str], int, int]:
    """Descriptors, threads, and how many mappings there are that the program does not make itself."""
    own = [name for _, _, rights, name in mappings(pid) if name and not name.startswith("[")]
    return sorted(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task")), len(own)


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


OPTIONS: list[list[str]] = [
    ["--no-heap"],
    ["--no-heap", "--exact"],
    ["--no-heap", "--native"],
    ["--no-heap", "--no-children"],
]


def attach_often(target: Target, lowtide: Lowtide, out: Path, times: int) -> None:
    settled_bytes = 0
    before, by = state(target.pid), allocators(target)
    for turn in range(times):
        options = [] if turn % 25 == 24 else OPTIONS[turn % len(OPTIONS)]
        done = lowtide("attach", target.pid, "--for", "5ms", "-o", out, *options)
        assert (done.status, done.stderr) == (0, ""), turn
        if turn == times // 4:
            settled_bytes = resident_bytes(target.pid)
    assert state(target.pid) == before
    assert allocators(target) == by
    pages = trampolines(target.pid)
    assert len(pages) == 1
    assert pointers_into(target.pid, pages) == 0
    # What it holds itself comes and goes by some MiB.
    assert resident_bytes(target.pid) < settled_bytes + (8 << 20)


def look_while_attached(target: Target, lowtide_exe: Path, out: Path) -> None:
    """What is looked for afterwards is there meanwhile."""
    by = allocators(target)
    with subprocess.Popen([lowtide_exe, "attach", str(target.pid), "--for", "1h", "-o", out]) as process:
        end = time.monotonic() + PATIENCE_S
        while not pointers_into(target.pid, trampolines(target.pid)):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.05)
        assert allocators(target) != by
        # Of small objects the end passes no hook, once one has been sampled.
        while ends_of_objects(allocators(target)) != ends_of_objects(by):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
    assert process.returncode == 0


def test_nothing_stays_after_hundreds_of_visits(
    this_python: Python, lowtide: Lowtide, lowtide_exe: Path, spawn: Spawn, tmp_path: Path
) -> None:
    target = spawn(this_python, BUSY)
    look_while_attached(target, lowtide_exe, tmp_path / "a.tide")
    attach_often(target, lowtide, tmp_path / "a.tide", 200)
    assert target.finish() == (0, "still here\n")
    assert target.stderr() == ""


@pytest.mark.soak
def test_nothing_stays_after_thousands_of_visits(
    local_python: Python, lowtide: Lowtide, spawn: Spawn, tmp_path: Path
) -> None:
    target = spawn(local_python, BUSY)
    attach_often(target, lowtide, tmp_path / "a.tide", 3000)
    assert target.finish() == (0, "still here\n")
    assert target.stderr() == ""
