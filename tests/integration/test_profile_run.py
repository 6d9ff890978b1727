"""`lowtide run` profiles a program and its children, however each of them ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from conftest import PATIENCE_S, Lowtide, Python
from tide_decoder import Recording, read_recording

APP = """
import time
def build():
    return [{"i": i} for i in range(50_000)]
kept = build()
passing = bytearray(80_000_000)
time.sleep(0.3)
del passing
"""
# What is known is written anew every second, after a look at the process: the second time after one that saw it as it is here.
LOOKED_AT = f"""
import os
def written():
    try: return os.stat("t.tide.partial")
    except OSError: return None
def again(before):
    deadline = time.monotonic() + {PATIENCE_S / 2}
    while (now := written()) == before or not now:
        assert time.monotonic() < deadline, "the recorder does not look"
        time.sleep(0.02)
    return now
again(again(written()))
"""


def run(lowtide: Lowtide, tmp_path: Path, code: str, *options: object, status: int = 0) -> Recording:
    (tmp_path / "app.py").write_text(code)
    out = tmp_path / "t.tide"
    done = lowtide("run", "--no-report", "-o", out, *options, tmp_path / "app.py", cwd=tmp_path)
    assert done.status == status, done.stderr
    assert sorted(path.name for path in tmp_path.glob("t.tide*")) == ["t.tide"]
    return read_recording(out.read_bytes())


def live_bytes(recording: Recording, name: str, column: str = "live_bytes") -> int:
    """Of the sites whose innermost frame is in the function of that name."""
    frames, stacks = list(recording.table_rows("frames")), list(recording.table_rows("stacks"))
    return sum(
        int(row[column])
        for row in recording.table_rows("allocations")
        if name in str(frames[int(stacks[int(row["stack"])]["frame"])]["function"])
    )


@pytest.mark.parametrize("mode", ["sampled", "exact"])
def test_the_lines_that_made_it_the_peak_and_the_timeline_stand_beside_the_heap(
    mode: str, local_python: Python, lowtide: Lowtide, tmp_path: Path
) -> None:
    options = ["--exact"] if mode == "exact" else []
    app = APP.replace("time.sleep(0.3)\n", LOOKED_AT)
    recording = run(lowtide, tmp_path, app, *options, "--python", local_python.executable)
    assert recording.objects
    assert recording.meta["exit_status"] == "0"
    assert 1e6 < live_bytes(recording, "build") < 30e6
    # The kernel counts what is resident to some dozens of pages a processor.
    assert live_bytes(recording, "<module>", "rss_peak_bytes") >= 78e6
    assert live_bytes(recording, "<module>") < 1e6
    report = json.loads(lowtide("report", "--json", tmp_path / "t.tide").stdout)
    assert "kept" in {site["held_by"] for site in report["allocations"]["sites"] if "build" in site["function"]}
    points = list(recording.table_rows("timeline"))
    assert max(int(point["rss_bytes"]) for point in points) > 80_000_000
    (process,) = recording.table_rows("processes")
    assert (process["how"], process["status"], process["mode"]) == (1, 1, 2 if options else 1)


@pytest.mark.parametrize("mode", ["sampled", "exact"])
def test_memory_of_every_kind_stands_in_the_report(mode: str, lowtide: Lowtide, tmp_path: Path) -> None:
    pytest.importorskip("numpy")
    code = """
import mmap
import numpy
def of_libc(): return numpy.arange(5_000_000)
def mapped():
    pages = mmap.mmap(-1, 30_000_000)
    pages.write(bytes(30_000_000))
    return pages
def of_objects(): return b"." * kept_size
kept_size = 20_000_000
kept = of_libc(), mapped(), of_objects()
"""
    run(lowtide, tmp_path, code, *(["--exact"] if mode == "exact" else []), "--python", sys.executable)
    report = json.loads(lowtide("report", "--json", tmp_path / "t.tide").stdout)
    for function, expected in (("of_libc", 40e6), ("mapped", 30e6), ("of_objects", 20e6)):
        sites = [site for site in report["allocations"]["sites"] if site["function"] == function]
        assert abs(sum(site["live_bytes"] for site in sites) - expected) < 2e6, sites


@pytest.mark.parametrize("mode", ["sampled", "exact"])
def test_what_was_set_aside_and_never_touched_is_no_memory(mode: str, lowtide: Lowtide, tmp_path: Path) -> None:
    pytest.importorskip("numpy")
    code = """
import mmap, time
import numpy
def zeros(): return numpy.zeros(100_000_000)
def reserve(): return mmap.mmap(-1, 1 << 30)
kept = zeros(), reserve()
kept[0][:5_000_000] = 1
kept[1].write(bytes(50_000_000))
time.sleep(1)
"""
    recording = run(lowtide, tmp_path, code, *(["--exact"] if mode == "exact" else []), "--python", sys.executable)
    for column in ("live_bytes", "rss_peak_bytes"):
        # A huge page at its end may be touched in part.
        assert abs(live_bytes(recording, "zeros", column) - 40e6) < 2.5e6
        assert abs(live_bytes(recording, "reserve", column) - 50e6) < 2.5e6
    assert live_bytes(recording, "zeros", "total_bytes") > 700e6
    last = list(recording.table_rows("timeline"))[-1]
    assert int(last["heap_bytes"]) < int(last["rss_bytes"])


@pytest.mark.parametrize(
    "end, status",
    [("import os; os.kill(os.getpid(), 9)", -9), ("import os; os.abort()", -6)],
)
@pytest.mark.parametrize("mode", ["sampled", "exact"])
def test_a_program_that_just_dies_leaves_its_profile(
    mode: str, end: str, status: int, lowtide: Lowtide, tmp_path: Path
) -> None:
    last = "\ndef last(): return bytes(3_000_000)\nlast_words = last()\n"
    options = ["--exact"] if mode == "exact" else []
    recording = run(lowtide, tmp_path, APP + last + end, *options, status=status)
    assert not recording.objects
    if mode == "exact":
        assert live_bytes(recording, "last") == 3_000_033  # to the last line: nobody wrote a file for it
    assert live_bytes(recording, "build") > 1e6
    assert recording.meta["exit_status"] == str(status if status > 0 else 128 - status)


TREE = """
import multiprocessing, os, signal, subprocess, sys
def child(n=0):
    global kept
    kept = [{"i": i} for i in range(50_000)]
if __name__ == "__main__":
    assert not [name for name in os.environ if name == "LOWTIDE_RUN"]
    if os.fork() == 0:
        child(); os._exit(3)
    os.wait()
    if os.fork() == 0:
        child(); os.kill(os.getpid(), signal.SIGKILL)
    os.wait()
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            pool.map(child, [1])
    subprocess.run(["sh", "-c", sys.executable + " -c 'x = list(range(10**6))'; true"], check=True)
"""


def test_children_are_in_it_however_they_come_and_go(lowtide: Lowtide, tmp_path: Path) -> None:
    recording = run(lowtide, tmp_path, TREE)
    processes = list(recording.table_rows("processes"))
    first, *children = processes
    assert first["parent"] == 0
    assert {child["parent"] for child in children} == {1}
    assert [child["how"] for child in children].count(2) >= 3
    assert [child["how"] for child in children].count(3) >= 2
    made = {int(row["process"]) for row in recording.table_rows("allocations") if int(row["total_bytes"]) > 1_000_000}
    assert made >= {1, 2, 3}


def test_children_are_left_alone_on_demand(lowtide: Lowtide, tmp_path: Path) -> None:
    recording = run(lowtide, tmp_path, TREE, "--no-children")
    assert len(list(recording.table_rows("processes"))) == 1


def test_without_a_profile_there_is_a_timeline_still(lowtide: Lowtide, tmp_path: Path) -> None:
    recording = run(lowtide, tmp_path, APP, "--no-profile")
    assert "allocations" not in recording.tables
    assert recording.tables["timeline"]


@pytest.mark.parametrize(
    "code",
    [
        "import os; os.closerange(3, 1000)",
        "import os; os.chdir('/')",
        "import os; [os.close(i) for i in (0, 1, 2)]; os.closerange(3, 1000)",
        "import signal; signal.signal(15, signal.SIG_IGN)",
    ],
)
def test_what_programs_do_to_their_surroundings_keeps_nothing_out(code: str, lowtide: Lowtide, tmp_path: Path) -> None:
    recording = run(lowtide, tmp_path, code + APP)
    assert live_bytes(recording, "build") > 1e6
    assert recording.objects


def test_a_killed_lowtide_leaves_what_was_known(lowtide_exe: Path, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP + "import sys; sys.stdin.read()\n")
    process = subprocess.Popen(
        [lowtide_exe, "run", "-o", tmp_path / "t.tide", tmp_path / "app.py"], stdin=subprocess.PIPE
    )
    partial = tmp_path / "t.tide.partial"
    end = time.monotonic() + PATIENCE_S

    def is_told() -> bool:  # it may be written while the list is still being made
        data = partial.read_bytes() if partial.exists() else b""
        return b"build" in data and live_bytes(read_recording(data), "build") > 1e6

    while not is_told():
        assert time.monotonic() < end
        time.sleep(0.05)
    pid = next(read_recording(partial.read_bytes()).table_rows("processes"))["pid"]
    process.kill()
    process.wait()
    recording = read_recording(partial.read_bytes())
    assert live_bytes(recording, "build") > 1e6
    os.kill(int(pid), 0)  # the program runs on
    assert process.stdin is not None
    process.stdin.close()
    assert process.returncode == -signal.SIGKILL


def test_marks_are_on_the_timeline_of_who_made_them(lowtide: Lowtide, tmp_path: Path) -> None:
    code = """
        import lowtide, os
        lowtide.mark("loaded")
        if os.fork() == 0:
            lowtide.mark("in a child")
            os._exit(0)
        os.wait()
        try: lowtide.start()
        except RuntimeError: lowtide.mark("and is watched already")
    """
    recording = run(lowtide, tmp_path, textwrap.dedent(code), "--python", sys.executable)
    marks = [(row["process"], row["text"]) for row in recording.table_rows("events") if row["kind"] == 2]
    assert sorted(marks) == [(0, "and is watched already"), (0, "loaded"), (1, "in a child")]


def test_collections_that_take_long_are_on_the_timeline(local_python: Python, lowtide: Lowtide, tmp_path: Path) -> None:
    code = """
        import gc, time
        gc.disable()
        kept = [[i] for i in range(1_000_000)]
        time.sleep(0.3)
        for _ in range(10): gc.collect()
        del kept
        time.sleep(0.3)
    """
    recording = run(
        lowtide,
        tmp_path,
        textwrap.dedent(code),
        "--no-peak-snapshot",
        "--no-values",
        "--python",
        local_python.executable,
    )
    events = [row for row in recording.table_rows("events") if row["kind"] == 1]
    # A short one is seen, too, where the machine stops in the midst of it.
    longest = max(events, key=lambda row: int(row["duration_us"]))
    assert int(longest["value"]) == 2 and int(longest["duration_us"]) > 0


@pytest.mark.parametrize("mode", ["sampled", "exact"])
@pytest.mark.parametrize("path", ["many.py", "named.py"])
def test_memory_of_many_lines_is_told_where_no_line_stands_out(
    mode: str, path: str, lowtide: Lowtide, tmp_path: Path
) -> None:
    """Each of 1,500 lines has a 1,500th; they are in a file of many functions, or in one function."""
    if path == "many.py":
        code = "".join(f"def f{i}(): return bytes(60_000)\n" for i in range(1500))
        code += "K = [globals()[f'f{i}']() for i in range(1500)]\n"
    else:
        code = "def build(k):\n" + " k.append(bytes(60_000))\n" * 1500 + "K = []\nbuild(K)\n"
    (tmp_path / path).write_text(code)
    out = tmp_path / "t.tide"
    how = ["--exact"] if mode == "exact" else ["--interval", "64K"]
    assert lowtide("run", "--no-report", "-o", out, *how, tmp_path / path, cwd=tmp_path).status == 0
    shown = lowtide("report", out, cwd=tmp_path).stdout
    for title in ("AT THE PEAK", "STILL ALIVE AT THE END"):
        (part,) = re.findall(rf"^{title}(.*?)\n\n", shown, re.M | re.S)
        assert re.match(r" +([7-9]\d|10\d)\.\d MiB", part), part
        name = r"many\.py" if path == "many.py" else r"named\.py  build"
        assert re.search(rf"^ +\d+\.\d MiB.*{name}  [\d,]+ lines$", part, re.M), part
    # JSON has the same, of each list.
    groups = json.loads(lowtide("report", out, "--json").stdout)["allocations"]["groups"]
    assert {group["figure"] for group in groups} == {"peak", "live"}
    for group in groups[:1]:
        assert group["file"] == str(tmp_path / path)
        assert group["function"] == (None if path == "many.py" else "build")
        assert group["lines"] > 500 and 60e6 < group["bytes"] < 110e6
        assert (group["error_bytes"] == 0) == (mode == "exact")


def test_memory_that_is_in_no_group_either_is_told_with_its_sum(lowtide: Lowtide, tmp_path: Path) -> None:
    (tmp_path / "small.py").write_text("K = bytes(700_000)\n")
    out = tmp_path / "t.tide"
    done = lowtide("run", "--no-report", "--interval", "64K", "-o", out, tmp_path / "small.py", cwd=tmp_path)
    assert done.status == 0, done.stderr
    whole = lowtide("report", out).stdout
    assert re.search(r"^STILL ALIVE AT THE END  \S+ [KM]iB ± ", whole, re.M), whole
