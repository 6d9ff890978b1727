"""What objects set aside and never touch is address space, and no memory: no figure promises it."""

from __future__ import annotations

import ast
import json
import os
import re
import sys
from pathlib import Path

import pytest
from conftest import Lowtide, Python, Spawn
from test_dump_agent import Start, agent_in
from test_package_inside import inside, package
from tide_decoder import read_recording

import control

__all__ = ["agent_in", "package"]

MIB = 1 << 20
HUGE = 2 * MIB  # the page at an end of what was touched may be a huge one
KERNEL = tuple(int(n) for n in re.findall(r"\d+", os.uname().release)[:2])

# Does each line that it is told and then says how much its RSS has gone down since.
OBEY = """
import sys
def rss():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
print("ready", flush=True)
for line in sys.stdin:
    before = rss()
    exec(line)
    print(before - rss(), flush=True)
"""

QUARTER = """
import numpy
a = numpy.zeros(256 << 20, "u1")
a[: 64 << 20] = 1
"""


def untouched(lowtide: Lowtide, path: Path, name: str) -> tuple[int, int]:
    """What a name of __main__ retains, and what of its own was never touched."""
    told = json.loads(lowtide("why", path, name, "--json").stdout)
    query = f"select retained, untouched from objects where address = {told['address']}"
    ((retained, never),) = json.loads(lowtide("sql", path, query, "--json").stdout)["rows"]
    assert retained == told["retained_bytes"] and never <= told["untouched_bytes"]
    return retained, never


def test_a_finding_promises_what_was_touched_and_its_fix_returns_that(
    this_python: Python, spawn: Spawn, lowtide: Lowtide, tmp_path: Path
) -> None:
    pytest.importorskip("numpy")
    target, path = spawn(this_python, QUARTER + OBEY), tmp_path / "a.tide"
    assert lowtide("dump", target.pid, "-o", path).status == 0
    report = json.loads(lowtide("report", path, "--json").stdout)
    (found,) = report["findings"]
    assert (found["kind"], found["path"]) == ("leak-suspect", "a")
    assert abs(found["bytes"] - 64 * MIB) <= HUGE
    assert "never touched" in found["title"]
    assert abs(report["heap"]["untouched_bytes"] - 192 * MIB) <= HUGE
    assert report["heap"]["shallow_bytes"] < report["memory"]["rss_bytes"]
    assert "never touched" in lowtide("report", path).stdout
    assert "never touched" in lowtide("why", path, "a").stdout
    target.say("del a")
    went = int(target.finish()[1])
    assert abs(went - found["bytes"]) < MIB


def test_what_is_full_of_what_nobody_touched_is_no_finding(
    this_python: Python, spawn: Spawn, lowtide: Lowtide, tmp_path: Path
) -> None:
    pytest.importorskip("numpy")
    code = "import numpy\nrows = [numpy.zeros(1 << 20, 'u1') for _ in range(500)]\nbig = numpy.empty(1 << 30, 'u1')\n"
    target, path = spawn(this_python, code), tmp_path / "a.tide"
    assert lowtide("dump", target.pid, "-o", path).status == 0
    report = json.loads(lowtide("report", path, "--json").stdout)
    assert not report["findings"]
    assert report["heap"]["shallow_bytes"] < 64 * MIB
    assert untouched(lowtide, path, "big")[1] >= (1 << 30) - HUGE
    target.finish()


def test_bytes_of_zeros_are_no_memory_in_any_python(
    target_python: Python, spawn: Spawn, lowtide: Lowtide, tmp_path: Path
) -> None:
    code = "zeros = bytes(100 << 20)\nones = b'1' * (100 << 20)\nfew = [bytes(1000)] * 100_000\n"
    target, path = spawn(target_python, code), tmp_path / "a.tide"
    assert lowtide("dump", target.pid, "-o", path).status == 0
    assert untouched(lowtide, path, "zeros")[0] < MIB
    retained, never = untouched(lowtide, path, "ones")
    assert (retained - 100 * MIB, never) == pytest.approx((0, 0), abs=4096)
    assert untouched(lowtide, path, "few") == (pytest.approx(800_000, abs=4096), 0)
    target.finish()


def test_room_to_grow_and_buffers_of_c_are_told_like_zeros(
    this_python: Python, spawn: Spawn, lowtide: Lowtide, tmp_path: Path
) -> None:
    pytest.importorskip("pyarrow")
    code = """
import array, pyarrow
text = bytearray(b"x" * (64 << 20)); text += b"y"
numbers = array.array("b", bytes(64 << 20)); numbers.append(1)
rows = [None] * (8 << 20); rows.append(None)
buffer = pyarrow.allocate_buffer(64 << 20)
"""
    target, path = spawn(this_python, code), tmp_path / "a.tide"
    assert lowtide("dump", target.pid, "-o", path).status == 0
    # What grows gets an eighth more than it needs, an array a sixteenth.
    for name, whole, never in (("text", 72, 8), ("numbers", 68, 4), ("rows", 72, 8), ("buffer", 64, 64)):
        retained, told = untouched(lowtide, path, name)
        assert abs(told - never * MIB) <= HUGE, (name, told)
        assert abs(retained + told - whole * MIB) < MIB, (name, retained, told)
    target.finish()


@pytest.mark.skipif(KERNEL < (6, 7), reason="the kernel does not tell a page that was only read")
def test_what_was_only_read_was_not_touched(
    this_python: Python, spawn: Spawn, lowtide: Lowtide, tmp_path: Path
) -> None:
    code = "zeros = bytes(64 << 20)\nassert not any(zeros[:: 4096])\n"
    target, path = spawn(this_python, code), tmp_path / "a.tide"
    assert lowtide("dump", target.pid, "-o", path).status == 0
    assert untouched(lowtide, path, "zeros")[1] >= 64 * MIB - 8192
    target.finish()


def test_a_walk_in_place_tells_the_same(this_python: Python, agent_in: Start, tmp_path: Path) -> None:
    agent, process = agent_in(this_python, "zeros = bytes(64 << 20)\nones = b'1' * (64 << 20)\n")
    for name, flags in (("a.tide", 0), ("b.tide", control.IN_PLACE)):
        assert agent.capture(tmp_path / name, flags).status == 0
        rec = read_recording((tmp_path / name).read_bytes())
        (row,) = [row for row in rec.tables["untouched"] if int(row["bytes"]) > 32 * MIB]
        assert 64 * MIB - 8192 <= int(row["bytes"]) <= rec.objects[int(row["object"])]["size"]
    agent.bye()
    process.communicate("")


def test_what_the_program_lets_go_of_meanwhile_is_told_as_it_was(
    this_python: Python, spawn: Spawn, lowtide: Lowtide, tmp_path: Path
) -> None:
    """The copy that walks has pages of its own: a program that frees while it is captured is no emptier for it."""
    code = """
import threading, time
def churn():
    global a
    while True:
        a = b"1" * (32 << 20)
        time.sleep(0.02)
        a = None
        time.sleep(0.001)
others = [[i] for i in range(300_000)]
threading.Thread(target=churn, daemon=True).start()
"""
    target = spawn(this_python, code)
    seen = 0
    for i in range(8):
        path = tmp_path / f"{i}.tide"
        assert lowtide("dump", target.pid, "-o", path).status == 0
        query = "select untouched from objects where type = 'bytes' and size > 32 << 20"
        rows = json.loads(lowtide("sql", path, query, "--json").stdout)["rows"]
        assert not [never for (never,) in rows if never]
        seen += len(rows)
    target.kill()
    assert seen


def test_what_is_not_copied_for_the_walk_is_asked_of_the_program(
    this_python: Python, spawn: Spawn, lowtide: Lowtide, tmp_path: Path
) -> None:
    pytest.importorskip("numpy")
    code = """
import ctypes, numpy
a = numpy.zeros(64 << 20, "u1")
a[: 16 << 20] = 1
begin = (a.ctypes.data + 4095) & ~4095
DONTFORK = 10
assert not ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(48 << 20), DONTFORK)
"""
    target, path = spawn(this_python, code), tmp_path / "a.tide"
    assert lowtide("dump", target.pid, "-o", path).status == 0
    assert abs(untouched(lowtide, path, "a")[1] - 48 * MIB) <= HUGE
    target.finish()


def test_inside_a_program_retained_and_scope_count_what_was_touched(
    this_python: Python,
    package: Path,
    lowtide_exe: Path,
    tmp_path: Path,
) -> None:
    pytest.importorskip("numpy")
    code = (
        QUARTER
        + """
import lowtide
with lowtide.scope(holders=0) as s:
    b = bytes(100 << 20)
mine = [x for x in s.survivors if x.type == "bytes"]
print((lowtide.retained(a), sum(x.bytes for x in mine), s.bytes))
"""
    )
    retained, born, all_born = ast.literal_eval(str(inside(this_python, package, lowtide_exe, code, tmp_path)))
    assert abs(retained - 64 * MIB) <= HUGE
    assert born < MIB and all_born < 8 * MIB


def test_a_diff_grows_by_what_is_touched(this_python: Python, spawn: Spawn, lowtide: Lowtide, tmp_path: Path) -> None:
    pytest.importorskip("numpy")
    target = spawn(this_python, QUARTER + OBEY)
    assert lowtide("dump", target.pid, "-o", tmp_path / "a.tide").status == 0
    target.say("a[: 128 << 20] = 1")
    assert target.process.stdout is not None
    target.process.stdout.readline()
    assert lowtide("dump", target.pid, "-o", tmp_path / "b.tide").status == 0
    told = json.loads(lowtide("diff", tmp_path / "a.tide", tmp_path / "b.tide", "--json").stdout)
    (grown,) = [path for path in told["paths"] if path["path"] == "a"]
    assert abs(grown["grown_bytes"] - 64 * MIB) <= HUGE
    target.finish()


@pytest.mark.parametrize("mode", [[], ["--exact"]])
def test_lines_made_what_of_their_blocks_was_touched(mode: list[str], lowtide: Lowtide, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("""
class Row:
    def __init__(self, i):
        self.buffer = bytes(1 << 20)
        self.text = b"%d" % i * 10_000
rows = [Row(100000 + i) for i in range(800)]
""")
    path = tmp_path / "a.tide"
    done = lowtide("run", *mode, "--no-report", "-o", path, "--python", sys.executable, tmp_path / "app.py")
    assert done.status == 0, done.stderr
    told = json.loads(lowtide("why", path, "rows", "--json").stdout)
    (text, *others) = told["made_at"]
    assert (text["function"], text["line"]) == ("Row.__init__", 5)
    assert told["retained_bytes"] < 64 * MIB
    assert abs(text["bytes"] - 800 * 60_033) <= text["error_bytes"] + MIB
    assert sum(made["bytes"] for made in others) < 16 * MIB
    (found,) = json.loads(lowtide("report", path, "--json").stdout)["findings"]
    assert (found["path"], found["site"]["line"]) == ("rows", 5)
    made = lowtide("why", path, "rows").stdout.split("made by ")[1].splitlines()[0]
    assert "app.py:5" in made
