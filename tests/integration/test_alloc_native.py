"""`--native`: the C functions between the Python ones, by name and line, from each program to each view."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import TESTS, Lowtide, Python
from tide_decoder import Recording, read_recording

SOURCE = TESTS / "integration" / "native_chain.c"
CHAIN = ["chain_leaf", "chain_growing", "chain_aligned", "chain_many", "chain_begin"]

APP = """
import ctypes, threading
chain = ctypes.CDLL("./chain.so").chain_begin
chain.argtypes, chain.restype = [ctypes.c_size_t], ctypes.c_void_p
def calls():
    return [chain(100_000) for i in range(100)]
kept = calls()
def in_a_thread():
    kept.extend(calls())
t = threading.Thread(target=in_a_thread)
t.start()
t.join()
"""


def build(cc: str, folder: Path, *options: str) -> Path:
    library = folder / "chain.so"
    flags = ["-shared", "-fPIC", "-O2", "-fomit-frame-pointer", "-fno-optimize-sibling-calls"]
    subprocess.run([cc, *flags, *options, "-o", str(library), str(SOURCE)], check=True)
    return library


def record(lowtide: Lowtide, folder: Path, python: str, *options: str, before: str = "") -> Path:
    """before: what the program does before its first call."""
    folder.joinpath("app.py").write_text(APP.replace("def calls", before + "def calls"))
    out = folder / "t.tide"
    done = lowtide(
        "run", "--native", "--no-report", *options, "-o", out, "--python", python, folder / "app.py", cwd=folder
    )
    assert done.status == 0, done.stderr
    return out


def stacks_through(recording: Recording, function: str) -> list[tuple[int, list[dict[str, object]]]]:
    """Live bytes and frames, leaf first, of the sites that have the function on their stack."""
    frames, stacks = list(recording.table_rows("frames")), list(recording.table_rows("stacks"))
    found = []
    for row in recording.table_rows("allocations"):
        at, stack = int(row["stack"]) + 1, []
        while at:
            stack.append(frames[int(stacks[at - 1]["frame"])])
            at = int(stacks[at - 1]["parent"])
        if any(frame["function"] == function for frame in stack):
            found.append((int(row["live_bytes"]), stack))
    return found


@pytest.mark.parametrize("mode", ["--exact", "--interval=64KiB"])
def test_functions_with_frames_of_every_kind_stand_in_order_with_their_lines(
    mode: str, local_python: Python, lowtide: Lowtide, cc: str, tmp_path: Path
) -> None:
    library = build(cc, tmp_path, "-g")
    recording = read_recording(record(lowtide, tmp_path, local_python.executable, mode).read_bytes())
    found = stacks_through(recording, "chain_leaf")
    assert len(found) == 2
    assert sum(size for size, _ in found) == pytest.approx(20_000_000, rel=0.001 if mode == "--exact" else 0.3)
    leaf_line = next(n for n, line in enumerate(SOURCE.read_text().splitlines(), 1) if "LEAF" in line)
    for _, stack in found:
        names = [str(frame["function"]) for frame in stack]
        assert names[: len(CHAIN)] == CHAIN
        python = [str(frame["function"]) for frame in stack if frame["kind"] == 1]
        assert python[-1] == ("<module>" if "in_a_thread" not in python else "Thread._bootstrap")
        assert "calls" in python
        leaf = stack[0]
        assert (leaf["kind"], leaf["module"]) == (2, str(library))
        assert len(str(leaf["build_id"])) == 40
        assert leaf["line"] in (0, leaf_line)  # 0: there is no libdw here
        assert str(leaf["file"]).endswith("native_chain.c" if leaf["line"] else "chain.so")


def test_functions_without_a_symbol_are_called_by_module_and_address(
    lowtide: Lowtide, cc: str, this_python: Python, tmp_path: Path
) -> None:
    build(cc, tmp_path, "-s", '-DPLAIN=__attribute__((noinline,visibility("hidden")))', "-DFIRST=PLAIN")
    recording = read_recording(record(lowtide, tmp_path, this_python.executable, "--exact").read_bytes())
    ((_, stack), *_) = stacks_through(recording, "chain_begin")
    assert str(stack[0]["function"]).startswith("chain.so+0x")
    assert int(str(stack[0]["function"]).split("+")[1], 16) == stack[0]["offset"]
    assert (stack[0]["line"], stack[0]["file"]) == (0, stack[0]["module"])


def test_a_file_that_was_built_anew_names_nothing(
    lowtide: Lowtide, cc: str, this_python: Python, tmp_path: Path
) -> None:
    build(cc, tmp_path)
    build(cc, tmp_path, "-O1").rename(tmp_path / "other.so")
    build(cc, tmp_path)
    anew = "import os\nos.rename('other.so', 'chain.so')\n"
    recording = read_recording(record(lowtide, tmp_path, this_python.executable, "--exact", before=anew).read_bytes())
    assert not stacks_through(recording, "chain_leaf")
    unnamed = [str(f["function"]) for f in recording.table_rows("frames") if str(f["module"]).endswith("chain.so")]
    assert unnamed and all(name.startswith("chain.so+0x") for name in unnamed)


def test_flame_graphs_and_pprof_show_them(lowtide: Lowtide, cc: str, this_python: Python, tmp_path: Path) -> None:
    build(cc, tmp_path)
    out = record(lowtide, tmp_path, this_python.executable, "--interval=64KiB")
    collapsed = lowtide("export", out, "--format", "collapsed", "-o", "-").stdout
    line = next(line for line in collapsed.splitlines() if "chain_leaf" in line and "in_a_thread" not in line)
    names = [frame.split(" (")[0] for frame in line.split(";")]
    assert names.index("<module>") < names.index("calls") < names.index("chain_begin") < names.index("chain_leaf")
    assert lowtide("export", out, "--format", "pprof", "-o", tmp_path / "p.gz").status == 0
    assert b"chain_aligned" in gzip.decompress((tmp_path / "p.gz").read_bytes())
    report = lowtide("report", out, "--html", tmp_path / "r.html")
    assert report.status == 0, report.stderr
    assert b"chain_aligned" in (tmp_path / "r.html").read_bytes()
    text = lowtide("report", out).stdout
    assert "calls" in text


INLINED = """
#include <stdlib.h>
static void *volatile last;
static inline __attribute__((always_inline)) void *innermost(size_t bytes) {
    return last = malloc(bytes); /* INNERMOST */
}
static inline __attribute__((always_inline)) void *between(size_t bytes) {
    void *p = innermost(bytes); /* BETWEEN */
    last = p;
    return p;
}
static __attribute__((noinline)) void *hidden(size_t bytes) {
    void *p = between(bytes + (last == 0)); /* HIDDEN */
    last = p;
    return p;
}
void *chain_begin(size_t bytes) {
    void *p = hidden(bytes); /* BEGIN */
    last = p;
    return p;
}
"""
MARKS = ["INNERMOST", "BETWEEN", "HIDDEN", "BEGIN"]
CALLED = ["innermost", "between", "hidden", "chain_begin"]


def build_apart(cc: str, folder: Path, optimization: str = "-O2") -> tuple[Path, Path]:
    """The library as it is shipped, and its debug information at its place below folder/debug."""
    source, library, debug = folder / "inlined.c", folder / "chain.so", folder / "chain.debug"
    source.write_text(INLINED)
    words = [cc, "-g", optimization, "-shared", "-fPIC", "-fno-optimize-sibling-calls", "-Wl,--build-id"]
    subprocess.run([*words, "-o", library, source], check=True)
    notes = subprocess.run(["readelf", "-n", library], capture_output=True, text=True, check=True).stdout
    build_id = re.search(r"Build ID: ([0-9a-f]+)", notes)
    assert build_id
    place = folder / "debug" / ".build-id" / build_id[1][:2] / f"{build_id[1][2:]}.debug"
    place.parent.mkdir(parents=True)
    subprocess.run(["objcopy", "--only-keep-debug", library, debug], check=True)
    subprocess.run(["strip", library], check=True)
    debug.rename(place)
    return library, place


def chain_of(lowtide: Lowtide, out: Path, *options: str, **more: object) -> list[tuple[str, str, int]]:
    """function, file and line of the innermost native frames of most of the memory."""
    query = """with recursive up(stack, depth) as (
        select (select stack from allocations where domain = 'libc' order by live_bytes desc limit 1), 0
        union all select parent, depth + 1 from up join stacks on id = stack)
        select function, file, line from up join stacks on id = stack order by depth"""
    done = lowtide("sql", out, query, "--json", *options, **more)
    assert done.status == 0, done.stderr
    return [tuple(row) for row in json.loads(done.stdout)["rows"]]


needs_objcopy = pytest.mark.skipif(
    not shutil.which("objcopy"), reason="there is no objcopy to part a library from its debug information"
)


@needs_objcopy
def test_names_and_lines_come_after_the_fact_from_a_debug_file_elsewhere(
    lowtide: Lowtide, cc: str, this_python: Python, tmp_path: Path
) -> None:
    library, debug = build_apart(cc, tmp_path)
    out = record(lowtide, tmp_path, this_python.executable, "--exact")
    library.unlink()
    plain = chain_of(lowtide, out)
    assert plain[0][0].startswith("chain.so+0x")
    assert plain[:2] == chain_of(lowtide, out, "--debug-path", "/nowhere")[:2]
    tmp_path.joinpath("inlined.c").unlink()
    found = chain_of(lowtide, out, "--debug-path", str(tmp_path / "debug"))
    lines = [next(n for n, line in enumerate(INLINED.splitlines(), 1) if mark in line) for mark in MARKS]
    functions = [function for function, _, _ in found]
    assert functions[functions.index("hidden") :][:2] == CALLED[2:]
    if found[0][2]:  # libdw is here
        assert [(function, line) for function, _, line in found[:4]] == list(zip(CALLED, lines))
        assert all(file.endswith("inlined.c") for _, file, _ in found[:4])
    by_environment = {"env": {**os.environ, "LOWTIDE_DEBUG_PATH": f"/nowhere:{tmp_path / 'debug'}"}}
    assert chain_of(lowtide, out, **by_environment) == found
    for command in (["report", "--html", "-"], ["export", "--format", "collapsed", "-o", "-"], ["export", "-f", "csv"]):
        shown = lowtide(command[0], out, *command[1:], "--debug-path", str(tmp_path / "debug"))
        assert shown.status == 0, shown.stderr
        assert ("hidden" in shown.stdout) == ("csv" not in command)  # of sites there are only lines of Python
    shutil.copy(debug, tmp_path / "chain.so.debug")
    assert chain_of(lowtide, out, "--debug-path", str(tmp_path)) == found


@needs_objcopy
def test_what_was_inlined_is_in_the_recording_where_debug_information_was_there(
    lowtide: Lowtide, cc: str, this_python: Python, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_apart(cc, tmp_path)
    monkeypatch.setenv("LOWTIDE_DEBUG_PATH", str(tmp_path / "debug"))
    out = record(lowtide, tmp_path, this_python.executable, "--exact")
    monkeypatch.delenv("LOWTIDE_DEBUG_PATH")
    shutil.rmtree(tmp_path / "debug")
    found = chain_of(lowtide, out)
    functions = [function for function, _, _ in found]
    assert functions[functions.index("hidden") :][:2] == CALLED[2:]
    assert functions[: len(CALLED)] == CALLED or not found[0][2]  # 0: there is no libdw here


@needs_objcopy
def test_a_debug_file_of_another_build_or_a_damaged_one_names_nothing_and_breaks_nothing(
    lowtide: Lowtide, cc: str, this_python: Python, tmp_path: Path
) -> None:
    library, debug = build_apart(cc, tmp_path)
    out = record(lowtide, tmp_path, this_python.executable, "--exact")
    options = ["--debug-path", str(tmp_path / "debug")]
    (tmp_path / "other").mkdir()
    _, other = build_apart(cc, tmp_path / "other", "-O1")
    whole = debug.read_bytes()
    debug.write_bytes(other.read_bytes())
    unnamed = chain_of(lowtide, out)
    assert chain_of(lowtide, out, *options) == unnamed
    for n in range(0, len(whole), max(1, len(whole) // 12)):
        debug.write_bytes(whole[:n])
        chain_of(lowtide, out, *options)
        debug.write_bytes(whole[:n] + bytes(64) + whole[n + 64 :])
        chain_of(lowtide, out, *options)
    debug.write_bytes(whole)
    assert chain_of(lowtide, out, *options) != unnamed


def run_stacks(lowtide: Lowtide, cc: str, folder: Path, python: str, function: str, *options: str) -> Path:
    library, out = folder / "stacks.so", folder / "t.tide"
    source = TESTS / "integration" / "native_stacks.c"
    flags = ["-shared", "-fPIC", "-O2", "-fno-optimize-sibling-calls"]
    subprocess.run([cc, *flags, "-o", str(library), str(source)], check=True)
    (folder / "app.py").write_text(f"import ctypes\nprint('ran', ctypes.CDLL('./stacks.so').{function}())\n")
    done = lowtide("run", "--no-report", *options, "-o", out, "--python", python, folder / "app.py", cwd=folder)
    assert done.status == 0, done.stderr
    assert done.stdout.startswith("ran ")
    return out


def test_a_coroutine_whose_neighbours_have_gone_is_walked_without_harm(
    local_python: Python, lowtide: Lowtide, cc: str, tmp_path: Path
) -> None:
    out = run_stacks(lowtide, cc, tmp_path, local_python.executable, "run_coroutines", "--native")
    assert stacks_through(read_recording(out.read_bytes()), "coroutines")


def test_callers_of_a_function_that_aligns_its_frame_are_not_taken_for_each_other(
    local_python: Python, lowtide: Lowtide, cc: str, tmp_path: Path
) -> None:
    out = run_stacks(lowtide, cc, tmp_path, local_python.executable, "run_paths", "--native", "--exact")
    recording = read_recording(out.read_bytes())
    made = {}
    for path in ("small_path", "big_path"):
        found = stacks_through(recording, path)
        made[path] = sum(size for size, _ in found)
        assert all({"small_path", "big_path"} - {frame["function"] for frame in stack} for _, stack in found)
    assert made == {"small_path": 81 * 2000, "big_path": 81 * 1000}
