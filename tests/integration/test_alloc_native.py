"""`--native`: the C functions between the Python ones, by name and line, from each program to each view."""

from __future__ import annotations

import gzip
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
