"""`lowtide attach`: watches a live process for a while, and leaves it as it was."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import PATIENCE_S, Lowtide, Python, Spawn, Target
from tide_decoder import Recording, read_recording

# Keeps 100 dicts at a time, and goes on until its standard input says something.
GROW = """
import select, sys
kept = []
def grow():
    kept.append([{"i": i} for i in range(5000)])
    del kept[:-20]
print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0.005)[0]:
    grow()
while len(kept) < 20: grow()  # a busy machine may have let it do less
print("still", len(kept) == 20)
"""


# A thread that waits in open(), until somebody writes there.
WAITS = """
import os, select, sys, threading
kept = []
def grow():
    kept.append([{"i": i} for i in range(5000)])
    del kept[:-20]
def in_open(thread):
    with open(f"/proc/self/task/{thread.native_id}/syscall") as said:
        return said.read().split()[0] in ("2", "56", "257")
print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0.005)[0]:
    grow()
waiting = threading.Thread(target=os.open, args=(sys.stdin.readline().strip(), os.O_RDONLY))
waiting.start()
while not in_open(waiting):
    grow()
print("waits", flush=True)
while not select.select([sys.stdin], [], [], 0.005)[0]:
    grow()
sys.stdin.readline()
waiting.join()
print("goes on", flush=True)
while not select.select([sys.stdin], [], [], 0.005)[0]:
    grow()
while len(kept) < 20: grow()  # a busy machine may have let it do less
print("still", len(kept) == 20)
"""


def functions(recording: Recording) -> set[str]:
    return {str(row["function"]) for row in recording.table_rows("frames")}


def made_bytes(recording: Recording) -> int:
    return sum(int(row["total_bytes"]) for row in recording.table_rows("allocations"))


def grows(recording: Recording) -> bool:
    return any("grow" in name for name in functions(recording))


Attach = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def attach(lowtide_exe: Path) -> Iterator[Attach]:
    """attach(target, out, *options): lowtide, which has seen the target grow and watches it until it is interrupted."""
    started: list[subprocess.Popen[str]] = []

    def start(target: Target, out: Path, *options: str) -> subprocess.Popen[str]:
        words = [lowtide_exe, "attach", str(target.pid), "--for", "1h", *options, "-o", out]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        partial, data = out.with_name(out.name + ".partial"), b""  # what it would leave if it were killed
        while b"allocations" not in data or not grows(read_recording(data)):
            assert process.poll() is None
            time.sleep(0.05)
            data = partial.read_bytes() if partial.exists() else b""
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def interrupt(process: subprocess.Popen[str]) -> tuple[str, str]:
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    return out, errors


def attach_until(
    seen: Callable[[Recording], object],
    lowtide: Lowtide,
    target: Target,
    out: Path,
    *options: str,
    least: str = "300ms",
) -> Recording:
    """Longer and longer: a busy machine may have let the target do nothing in a short while."""
    for span in (least, "4s", "30s"):
        done = lowtide("attach", target.pid, "--for", span, *options, "-o", out)
        assert (done.status, done.stderr) == (0, "")
        recording = read_recording(out.read_bytes())
        if seen(recording):
            return recording
    pytest.fail("nothing was seen of what the target does")


def maps(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text()


def wait_until_left(pid: int) -> None:
    """By an agent that had something to wait for when its lowtide ended."""
    end = time.monotonic() + PATIENCE_S
    while "memfd:lowtide" in maps(pid):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_what_a_process_allocates_meanwhile_is_told_by_line(
    target_python: Python, lowtide: Lowtide, spawn: Spawn, tmp_path: Path
) -> None:
    target = spawn(target_python, GROW)
    before = sorted(os.listdir(f"/proc/{target.pid}/fd"))

    def seen(recording: Recording) -> bool:
        points = list(recording.table_rows("timeline"))
        return grows(recording) and made_bytes(recording) > 1 << 20 and len(points) > 5

    recording = attach_until(seen, lowtide, target, tmp_path / "a.tide", least="1s")
    assert sorted(os.listdir(f"/proc/{target.pid}/fd")) == before
    assert "memfd:lowtide" not in maps(target.pid)
    assert target.finish() == (0, "still True\n")
    assert target.stderr() == ""
    (process,) = recording.table_rows("processes")
    assert (process["pid"], process["how"], process["mode"]) == (target.pid, 4, 1)
    assert recording.objects


@pytest.mark.parametrize("words", [["dump"], ["attach", "--for", "100ms", "--no-heap"]])
def test_a_recording_is_whole_without_a_standard_output(
    words: list[str], this_python: Python, lowtide_exe: Path, spawn: Spawn, tmp_path: Path
) -> None:
    target = spawn(this_python, GROW)
    shell = ["sh", "-c", 'exec "$@" >&-', "sh", lowtide_exe, *words, str(target.pid), "-o", tmp_path / "a.tide"]
    done = subprocess.run(shell, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert read_recording((tmp_path / "a.tide").read_bytes()).meta["pid"] == str(target.pid)
    assert target.finish() == (0, "still True\n")


def test_a_profile_can_be_taken_again_and_again(
    this_python: Python, lowtide: Lowtide, spawn: Spawn, tmp_path: Path
) -> None:
    target = spawn(this_python, GROW)
    for turn in range(5):
        mode = ["--exact"] if turn % 2 else []
        done = lowtide("attach", target.pid, "--for", "200ms", "--no-heap", *mode, "-o", tmp_path / "a.tide")
        assert (done.status, done.stderr) == (0, "")
    assert "memfd:lowtide" not in maps(target.pid)
    assert target.finish() == (0, "still True\n")


GILS = """
import os, select, sys, threading
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
begun, say = os.pipe()
over, end = os.pipe()
code = f'''
import os, select
def churn():
    return sum(map(len, [bytes(700) for i in range(2000)]))
os.write({say}, b".")
while not select.select([{over}], [], [], 0)[0]:
    assert churn() == 1400000
'''
results = []
def one():
    i = interpreters.create()
    results.append(interpreters.run_string(i, code))
    interpreters.destroy(i)
threads = [threading.Thread(target=one) for i in range(3)]
for t in threads: t.start()
for t in threads: os.read(begun, 1)
print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0.005)[0]:
    sum(map(len, [bytes(700) for i in range(2000)]))
os.close(end)
for t in threads: t.join()
print("still", results)
"""


def test_interpreters_with_gils_of_their_own_are_watched_and_left_alone(
    target_python: Python, lowtide: Lowtide, spawn: Spawn, tmp_path: Path
) -> None:
    target = spawn(target_python, GILS)
    threads = len(os.listdir(f"/proc/{target.pid}/task"))
    modes = [[], ["--exact"], ["--native"], ["--exact", "--native"]]
    seen: set[str] = set()

    def told() -> bool:
        # Up to 3.11 a thread in such an interpreter shows the frames that it came from: there is one GIL, and one state for it.
        return target_python.minor == 11 or any("churn" in name for name in seen)

    turn = 0
    while turn < 8 or (turn < 200 and not told()):  # a busy machine may let nobody run for a while
        done = lowtide("attach", target.pid, "--for", "50ms", "--no-heap", *modes[turn % 4], "-o", tmp_path / "a.tide")
        assert (done.status, done.stderr) == (0, "")
        seen |= functions(read_recording((tmp_path / "a.tide").read_bytes()))
        turn += 1
    assert told()
    assert "memfd:lowtide" not in maps(target.pid)
    assert len(os.listdir(f"/proc/{target.pid}/task")) == threads
    assert target.finish() == (0, "still [None, None, None]\n")
    assert target.stderr() == ""


def test_an_interrupt_ends_it_early_and_keeps_what_was_recorded(
    this_python: Python, attach: Attach, spawn: Spawn, tmp_path: Path
) -> None:
    target = spawn(this_python, GROW)
    out = tmp_path / "a.tide"
    said, _ = interrupt(attach(target, out))
    assert str(target.pid) in said
    assert read_recording(out.read_bytes()).objects
    assert os.listdir(tmp_path).count("a.tide") == 1
    assert not list(tmp_path.glob("*.part*"))
    assert target.finish() == (0, "still True\n")


def test_a_process_that_ends_meanwhile_leaves_its_profile(
    this_python: Python, attach: Attach, spawn: Spawn, tmp_path: Path
) -> None:
    target = spawn(this_python, GROW)
    out = tmp_path / "a.tide"
    process = attach(target, out)
    target.process.kill()
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert "no heap was captured" in stderr
    assert grows(read_recording(out.read_bytes()))


# Waits in C with the GIL, until somebody writes.
HOLDS = (
    GROW.replace('print("still"', "#")
    + """
import ctypes, os
os.read(0, 100)
print("holds", flush=True)
ctypes.PyDLL(None).read(0, ctypes.create_string_buffer(9), 9)
while not select.select([sys.stdin], [], [], 0.005)[0]:
    grow()
print("still", len(kept) == 20)
"""
)


@pytest.mark.parametrize("how", [["--no-heap"], []], ids=["ledger", "heap"])
def test_another_interrupt_ends_the_waiting_for_a_process_that_keeps_the_gil(
    how: list[str], this_python: Python, lowtide: Lowtide, attach: Attach, spawn: Spawn, tmp_path: Path
) -> None:
    target, out = spawn(this_python, HOLDS), tmp_path / "a.tide"
    process = attach(target, out, *how)
    target.say("x")
    target.wait_for("holds")
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert f"process {target.pid} is not left yet: it is in C code that keeps the GIL" in said
    assert grows(read_recording(out.read_bytes()))
    assert "memfd:lowtide" in maps(target.pid)
    target.say("x")
    wait_until_left(target.pid)
    done = lowtide("attach", target.pid, "--for", "300ms", "--no-heap", "-o", out)
    assert (done.status, done.stderr) == (0, "")
    assert target.finish() == (0, "still True\n")


def test_what_cannot_be_attached_is_one_line(lowtide: Lowtide, tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "600"]) as process:
        done = lowtide("attach", process.pid, "-o", tmp_path / "a.tide")
        process.kill()
    assert (done.status, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == []
    assert lowtide("attach").status == 2
    assert lowtide("attach", "1", "--for", "soon").status == 2


def test_two_do_not_watch_one_process(
    this_python: Python, lowtide: Lowtide, attach: Attach, spawn: Spawn, tmp_path: Path
) -> None:
    target = spawn(this_python, GROW)
    out = tmp_path / "a.tide"
    process = attach(target, out, "--no-heap")
    for words in (["attach", "-o", tmp_path / "b.tide"], ["top"]):
        done = lowtide(words[0], target.pid, *words[1:])
        assert (done.status, done.stdout) == (1, "")
        assert "another lowtide watches the process already" in done.stderr
    assert lowtide("dump", target.pid, "-o", tmp_path / "d.tide").status == 0
    interrupt(process)
    assert sorted(os.listdir(tmp_path)) == ["a.tide", "d.tide", "target-0.err"]
    assert "memfd:lowtide" not in maps(target.pid)
    assert target.finish() == (0, "still True\n")


# Closes all that it does not know and leaves for a directory that is gone, as daemons do.
CLOSES = (
    GROW
    + """
os.closerange(3, 70000)
os.mkdir(sys.argv[1]); os.chdir(sys.argv[1]); os.rmdir(sys.argv[1])
print("gone", os.open("/dev/null", os.O_RDONLY), flush=True)
sys.stdin.read(1)
while not select.select([sys.stdin], [], [], 0.005)[0]:
    grow()
"""
)


def test_a_process_that_is_stopped_is_left_when_it_goes_on(
    this_python: Python, lowtide: Lowtide, attach: Attach, spawn: Spawn, tmp_path: Path
) -> None:
    target, out = spawn(this_python, GROW), tmp_path / "a.tide"
    process = attach(target, out)
    target.process.send_signal(signal.SIGSTOP)
    while Path(f"/proc/{target.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.01)
    _, said = interrupt(process)
    assert said == (
        f"lowtide: no heap was captured: process {target.pid} is stopped (SIGSTOP, Ctrl-Z); "
        "lowtide leaves it by itself when it goes on\n"
    )
    assert grows(read_recording(out.read_bytes()))
    told = " ".join(lowtide("report", out).stdout.split())  # behind a finding, where the target had got that far
    assert f"No heap was captured: process {target.pid} is stopped (SIGSTOP" in told and "Nothing" not in told
    target.process.send_signal(signal.SIGCONT)
    wait_until_left(target.pid)
    assert target.finish() == (0, "still True\n")


def test_a_thread_that_waits_in_a_hook_keeps_nobody_waiting_and_no_later_visitor_out(
    this_python: Python, lowtide: Lowtide, attach: Attach, spawn: Spawn, tmp_path: Path
) -> None:
    target = spawn(this_python, WAITS)
    fifo, out = tmp_path / "fifo", tmp_path / "a.tide"
    os.mkfifo(fifo)
    process = attach(target, out, "--no-heap")
    target.say(str(fifo))
    target.wait_for("waits")
    _, said = interrupt(process)
    assert said.count("\n") == 1
    assert f"process {target.pid} is not left yet: a thread is still in a call that was observed" in said
    assert "leaves by itself within seconds of its return" in said
    assert grows(read_recording(out.read_bytes()))
    for _ in range(2):
        attach_until(grows, lowtide, target, out, "--no-heap")
    os.close(os.open(fifo, os.O_WRONLY))
    target.say("go on")
    target.wait_for("goes on")
    wait_until_left(target.pid)
    assert target.finish() == (0, "still True\n")
    assert target.stderr() == ""


def test_a_target_that_closes_everything_and_moves_is_watched_on(
    this_python: Python, attach: Attach, spawn: Spawn, tmp_path: Path
) -> None:
    target = spawn(this_python, "import os\n" + CLOSES, str(tmp_path / "gone"))
    out = tmp_path / "a.tide"
    process = attach(target, out)
    target.say("x")
    target.wait_for("gone 3")
    interrupt(process)
    assert read_recording(out.read_bytes()).objects
    assert "memfd:lowtide" not in maps(target.pid)
    assert target.finish()[0] == 0
