"""`lowtide run` captures heaps at their peaks, and the program does not notice."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest
from conftest import Lowtide, Python
from tide_decoder import Recording, read_recording

# Holds 100 MB for a while, in which it allocates, and lets it go. In few objects: the decoder here is slow. In large ones: a snapshot of
# those is cheap enough for so short a program; its own time counts, not what it waits for a processor.
PEAK = """
import sys, time
def build():
    return [b"x" * 2_000_000 for i in range(50)]
def wait(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        str([i for i in range(1000)])
def peak():
    wait(0.5)
    held_at_the_peak = build()
    wait(2.5)
"""


def run(lowtide: Lowtide, tmp_path: Path, code: str, *options: object, status: int = 0) -> Recording:
    (tmp_path / "app.py").write_text(PEAK + textwrap.dedent(code))
    words = ["run", "--no-report", "-o", tmp_path / "t.tide", *options, tmp_path / "app.py"]
    done = lowtide(*words, env={"PYTHONWARNINGS": "error"})
    assert (done.status, done.stdout) == (status, ""), done.stderr
    assert status or not done.stderr
    return read_recording((tmp_path / "t.tide").read_bytes())


def peaks(recording: Recording) -> list[Recording]:
    assert all(name == "peak" for name, _ in recording.nested)
    return [read_recording(data) for _, data in recording.nested]


def highest(recording: Recording, process: int) -> int:
    rows = recording.table_rows("allocations")
    return sum(int(row["peak_bytes"]) for row in rows if int(row["process"]) == process)


def test_the_heap_near_its_peak_is_in_the_recording_with_who_held_it(
    local_python: Python, lowtide: Lowtide, tmp_path: Path
) -> None:
    recording = run(lowtide, tmp_path, "peak()", "--python", local_python.executable)
    (peak,) = peaks(recording)
    assert peak.meta["process"] == "0"
    assert peak.meta["pid"] == recording.meta["pid"]
    assert peak.meta["mode"] == "fork"
    assert int(peak.meta["heap_bytes"]) > highest(recording, 0) / 4
    # Not above the RSS at the end: a busy machine may see the list half made, and malloc keeps what was freed.
    at_the_end = sum(int(row["live_bytes"]) for row in recording.table_rows("allocations"))
    assert int(peak.meta["heap_bytes"]) > 2 * at_the_end
    assert int(peak.meta["rss_bytes"]) > int(peak.meta["heap_bytes"]) / 2
    assert 0 < int(peak.meta["t_us"]) < float(recording.meta["duration_s"]) * 1e6
    assert "held_at_the_peak" in peak.strings
    stacks = len(list(recording.table_rows("stacks")))
    samples = list(peak.table_rows("samples"))
    assert samples
    assert all(int(row["stack"]) < stacks for row in samples)


def test_it_is_not_captured_on_demand_and_not_where_the_end_holds_as_much(lowtide: Lowtide, tmp_path: Path) -> None:
    assert not run(lowtide, tmp_path, "peak()", "--no-peak-snapshot").nested
    assert not run(lowtide, tmp_path, "wait(0.5); kept = build(); wait(2)").nested


# The collector runs not again once hold() has returned: at the end all is there still.
CYCLES = """
class Node:
    def __init__(self): self.me, self.data = self, []
def hold():
    node = Node()
    for i in range(50): node.data.append(b"x" * 2_000_000)
    wait(2.5)
def drop():
    for i in range(50): Node().data.append(b"x" * 2_000_000)
    wait(2.5)
import gc
gc.disable()
wait(0.5)
"""


def test_who_held_at_the_peak_what_is_garbage_at_the_end_is_told(lowtide: Lowtide, tmp_path: Path) -> None:
    assert len(peaks(run(lowtide, tmp_path, CYCLES + "hold()"))) == 1
    report = json.loads(lowtide("report", "--json", tmp_path / "t.tide").stdout)
    (finding,) = (f for f in report["findings"] if f["kind"] == "garbage-cycle")
    assert finding["bytes"] > 90_000_000
    assert "> hold() > node" in finding["held_at_peak"]
    assert finding["fix"].startswith(f"let go of it sooner: at the peak {finding['held_at_peak']} held it; ")
    assert finding["confidence"] == "medium"


def test_what_was_garbage_at_the_peak_already_is_told_by_the_end_alone(lowtide: Lowtide, tmp_path: Path) -> None:
    assert not run(lowtide, tmp_path, CYCLES + "drop()").nested
    report = json.loads(lowtide("report", "--json", tmp_path / "t.tide").stdout)
    (finding,) = (f for f in report["findings"] if f["kind"] == "garbage-cycle")
    assert finding["held_at_peak"] is None and "gc.collect()" in finding["fix"]


@pytest.mark.parametrize("end", ["pass", "import os; os._exit(0)", "import os; os.kill(os.getpid(), 9)"])
def test_the_peak_of_a_child_is_the_childs(end: str, lowtide: Lowtide, tmp_path: Path) -> None:
    recording = run(lowtide, tmp_path, f"import os\nif os.fork() == 0:\n    peak()\n    {end}\nelse: os.wait()")
    (peak,) = peaks(recording)
    assert peak.meta["process"] == "1"
    assert peak.meta["pid"] == str(list(recording.table_rows("processes"))[1]["pid"])


def test_a_program_that_is_killed_at_its_peak_leaves_who_held_it(lowtide: Lowtide, tmp_path: Path) -> None:
    recording = run(
        lowtide, tmp_path, "import os, signal\nwait(0.5); held = build(); wait(2.5); os.kill(os.getpid(), 9)", status=-9
    )
    assert len(peaks(recording)) == 1


def test_forks_and_threads_meanwhile_are_as_ever(lowtide: Lowtide, tmp_path: Path) -> None:
    """Warnings are errors: of a fork beside a thread of ours Python would warn; no child of ours is there to be waited for."""
    code = """
        import os, threading
        stop = threading.Event()
        def work():
            while not stop.is_set(): str(list(range(1000)))
        def fork():
            if os.fork() == 0: os._exit(0)
            assert os.wait()[1] == 0
            try: os.waitpid(-1, os.WNOHANG)
            except ChildProcessError: return
            raise AssertionError("a child that is not ours to wait for")
        held = []
        for round in range(40):
            held += [bytes(10_000) for i in range(1000)]
            fork()
        del held
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads: thread.start()
        peak()
        stop.set()
        for thread in threads: thread.join()
    """
    assert len(peaks(run(lowtide, tmp_path, code))) <= 4


def test_memory_that_is_reserved_and_never_touched_is_no_peak(lowtide: Lowtide, tmp_path: Path) -> None:
    recording = run(
        lowtide,
        tmp_path,
        """
        import mmap
        reserved = mmap.mmap(-1, 1 << 32)
        wait(1)
        reserved.close()
        wait(1)
        peak()
        """,
    )
    (peak,) = peaks(recording)
    assert "held_at_the_peak" in peak.strings
    assert "allocated, while most was resident, by line" in lowtide("report", tmp_path / "t.tide").stdout
    report = json.loads(lowtide("report", "--json", tmp_path / "t.tide").stdout)
    most = max(report["allocations"]["sites"], key=lambda site: site["peak_bytes"])
    assert most["function"].startswith("build")
    assert most["peak_bytes"] > 70_000_000
    (told,) = [f for f in report["findings"] if f["kind"] == "temporary-peak"]
    assert 70_000_000 < told["bytes"] < 140_000_000
