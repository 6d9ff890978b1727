"""`lowtide attach` follows the processes below: those that are there, and those that are born; and leaves all of them as they were."""

from __future__ import annotations

import os
import signal
import subprocess
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import PATIENCE_S, Lowtide, Python, Spawn, Target
from test_attach import maps
from tide_decoder import Recording, read_recording

Row = dict[str, Any]

# What all processes of these tests do until their standard input ends, and how they are told apart.
WORK = """
import os, select, signal, subprocess, sys, time
def grow(kept=[]):
    kept.append([str(i) for i in range(5000)])
    del kept[:-20]
def going():
    return not select.select([sys.stdin], [], [], 0.005)[0]
def stay():
    while going(): grow()
    os._exit(0)
"""


def processes(recording: Recording) -> dict[int, Row]:
    """By PID: of one that called exec the last row."""
    rows: dict[int, Row] = {}
    for row in recording.table_rows("processes"):
        rows[int(row["process"])] = dict(row)
    return {int(row["pid"]): row for row in rows.values()}


def made_bytes(recording: Recording, row: Row) -> int:
    rows = recording.table_rows("allocations")
    return max((int(r["total_bytes"]) for r in rows if r["process"] == row["process"]), default=0)


class Attached:
    """`lowtide attach PID --for 1h`, which is told when to end."""

    def __init__(self, exe: Path, pid: int, out: Path, *options: str) -> None:
        self.out = out
        self.partial = out.with_name(out.name + ".partial")
        words = [exe, "attach", str(pid), "--for", "1h", "-o", out, *options]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def wait_until(self, seen: Callable[[Recording], object]) -> None:
        end, before = time.monotonic() + PATIENCE_S, b""
        while True:
            assert self.process.poll() is None and time.monotonic() < end
            data = self.partial.read_bytes() if self.partial.exists() else b""
            if data != before and b"allocations" in data and seen(read_recording(data)):
                return
            before = data
            time.sleep(0.1)

    def wait_for(self, *pids: int) -> None:
        """Until what each of them makes is told."""

        def told(recording: Recording) -> bool:
            rows = processes(recording)
            return all(pid in rows and made_bytes(recording, rows[pid]) > 1 << 20 for pid in pids)

        self.wait_until(told)

    def end(self) -> Recording:
        self.process.send_signal(signal.SIGINT)
        _, stderr = self.process.communicate(timeout=PATIENCE_S)
        assert (self.process.returncode, stderr) == (0, "")
        return read_recording(self.out.read_bytes())


Attach = Callable[..., Attached]
# From 3.12 on os.fork tells of a second thread, which may be the agent's; debug builds tell of what is still open.
QUIET = {"PYTHONWARNINGS": "ignore"}


@pytest.fixture
def attach(lowtide_exe: Path, tmp_path: Path) -> Iterator[Attach]:
    running: list[Attached] = []

    def start(target: Target, *options: str) -> Attached:
        running.append(Attached(lowtide_exe, target.pid, tmp_path / "a.tide", *options))
        return running[-1]

    yield start
    for one in running:
        if one.process.poll() is None:
            one.process.kill()
            one.process.communicate()


def ask(target: Target, line: str) -> list[str]:
    """What the target answers to a line on its standard input."""
    target.head.clear()
    target.say(line)
    target.wait_for("ready")
    return target.head


# Carries out what it is told, line by line, allocating meanwhile; its children end with its standard input.
SERVE = (
    WORK
    + """
def child(*last):
    pid = os.fork()
    if pid == 0:
        for _ in range(30): grow()
        for what in last: exec(what)
        stay()
    return pid
script = [sys.executable, "-c", "WORK = '''" + WORK + "'''; exec(WORK); stay()"]
EARLY
print("ready", flush=True)
while True:
    while going(): grow()
    line = sys.stdin.buffer.raw.readline().decode()
    if not line: break
    exec(line)
    print("ready", flush=True)
print("still", sum(range(10)))
"""
)


def serve(early: str = "") -> str:
    return "WORK = " + repr(WORK) + "\n" + SERVE.replace("EARLY", early)


def test_children_that_are_there_or_are_born_are_followed_and_left_as_they_were(
    target_python: Python, spawn: Spawn, attach: Attach
) -> None:
    target = spawn(target_python, serve("print(child())"), env=QUIET)
    early = int(target.head[0])
    attached = attach(target)
    attached.wait_for(target.pid, early)
    words = "print(child(), child('os._exit(3)'), child('os.kill(os.getpid(), 9)'), subprocess.Popen(script).pid)"
    late, left, killed, started = map(int, ask(target, words)[0].split())
    attached.wait_for(late, started)
    attached.wait_until(
        lambda recording: all(processes(recording).get(pid, {"end_us": 0})["end_us"] for pid in (left, killed))
    )
    recording = attached.end()
    rows = processes(recording)
    assert {pid: rows[pid]["how"] for pid in (target.pid, early, late, left, killed, started)} == {
        target.pid: 4,
        early: 4,
        late: 2,
        left: 2,
        killed: 2,
        started: 4,
    }
    assert rows[left]["status"] == (3 << 8) + 1
    assert rows[killed]["status"] == 9 + 1
    assert all(made_bytes(recording, rows[pid]) for pid in (left, killed))
    assert "not_followed" not in recording.meta
    for pid in (target.pid, early, late, started):
        assert "memfd:lowtide" not in maps(pid)
    assert target.finish() == (0, "still 45\n")
    assert target.stderr() == ""


# Of what fork calls in the child, it comes before the agent's.
STOPPED = """
#include <pthread.h>
#include <signal.h>
static void stop(void) { raise(SIGSTOP); }
int stop_at_birth(void) { return pthread_atfork(0, 0, stop); }
"""


def test_a_child_that_had_no_turn_yet_is_waited_for(
    this_python: Python, spawn: Spawn, attach: Attach, tmp_path: Path, cc: str
) -> None:
    (tmp_path / "s.c").write_text(STOPPED)
    subprocess.run([cc, "-shared", "-fPIC", "-o", tmp_path / "s.so", tmp_path / "s.c"], check=True)
    early = f"import ctypes; ctypes.CDLL({str(tmp_path / 's.so')!r}).stop_at_birth()"
    target = spawn(this_python, serve(early), env=QUIET)
    attached = attach(target, "--no-heap")
    attached.wait_for(target.pid)
    child = int(ask(target, "print(child())")[0])
    end = time.monotonic() + PATIENCE_S
    while Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[0] != "T":
        assert time.monotonic() < end
        time.sleep(0.02)
    time.sleep(3)  # in which it is looked at more often than one that refuses an agent
    os.kill(child, signal.SIGCONT)
    attached.wait_for(child)
    recording = attached.end()
    assert [row["how"] for row in recording.table_rows("processes") if row["pid"] == child] == [2]
    assert "not_followed" not in recording.meta
    assert "memfd:lowtide" not in maps(child)
    assert target.finish() == (0, "still 45\n")


def test_children_are_left_alone_on_demand(this_python: Python, spawn: Spawn, attach: Attach) -> None:
    target = spawn(this_python, serve("print(child())"))
    attached = attach(target, "--no-children")
    attached.wait_for(target.pid)
    late, started = map(int, ask(target, "print(child(), subprocess.Popen(script).pid)")[0].split())
    recording = attached.end()
    assert list(processes(recording)) == [target.pid]
    for pid in (target.pid, int(target.head[-1].split()[0]), late, started):
        assert "memfd:lowtide" not in maps(pid)
    assert target.finish() == (0, "still 45\n")


def test_what_is_no_python_is_a_line_in_the_report(
    this_python: Python, spawn: Spawn, attach: Attach, lowtide: Lowtide
) -> None:
    target = spawn(this_python, serve("other = subprocess.Popen(['sleep', '1234'])"))
    attached = attach(target, "--no-heap")
    attached.wait_for(target.pid)
    attached.wait_for(int(ask(target, "print(subprocess.Popen(script).pid)")[0]))
    attached.wait_until(lambda recording: "not_followed" in recording.meta)
    recording = attached.end()
    assert "(sleep) is not a Python" in recording.meta["not_followed"]
    said = lowtide("report", attached.out).stdout
    assert said.count("not followed: process ") == 1
    target.say("other.kill(); other.wait()")
    assert target.finish()[0] == 0


VFORK = """
#define _GNU_SOURCE
#include <unistd.h>
int hold(int fd, const char *path) {
    char *argv[] = {(char *)path, NULL}, byte;
    pid_t pid = vfork();
    if (pid == 0) {
        while (read(fd, &byte, 1) < 0) {}
        execv(path, argv);
        _exit(1);
    }
    return pid;
}
"""


def test_a_child_that_has_its_parents_memory_is_left_alone(
    this_python: Python, spawn: Spawn, attach: Attach, tmp_path: Path, cc: str
) -> None:
    (tmp_path / "v.c").write_text(VFORK)
    subprocess.run([cc, "-shared", "-fPIC", "-o", tmp_path / "v.so", tmp_path / "v.c"], check=True)
    begin = f"""
import ctypes, threading
hold = ctypes.CDLL({str(tmp_path / "v.so")!r}).hold
ours, theirs = os.pipe()
held = threading.Thread(target=lambda: print("status", os.waitstatus_to_exitcode(os.waitpid(hold(ours, b"/bin/true"), 0)[1]), flush=True))
held.start()
while not open(f"/proc/self/task/{{held.native_id}}/children").read(): pass
"""
    target = spawn(this_python, serve(begin))
    attached = attach(target, "--no-heap")
    attached.wait_for(target.pid)
    attached.wait_for(int(ask(target, "print(subprocess.Popen(script).pid)")[0]))
    assert len(processes(attached.end())) == 2
    target.head.clear()
    target.say("os.write(theirs, b'x'); held.join()")
    assert target.finish() == (0, "status 0\nready\nstill 45\n")


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_pool_whose_workers_come_and_go_is_followed(
    method: str, this_python: Python, spawn: Spawn, attach: Attach, tmp_path: Path
) -> None:
    program = f"""
        import multiprocessing, os, select, sys, time
        def work(n):
            global kept
            kept = [str(i) for i in range(n)]
            time.sleep(0.05)
            return os.getpid()
        if __name__ == "__main__":
            with multiprocessing.get_context({method!r}).Pool(2, maxtasksperchild=10) as pool:
                pool.map(work, [20_000] * 2)
                print("ready", flush=True)
                done = 0
                while not select.select([sys.stdin], [], [], 0)[0]:
                    done += len(pool.map(work, [20_000] * 4))
                print(done % 4)
    """
    (tmp_path / "pool.py").write_text(textwrap.dedent(program))
    target = spawn(this_python, tmp_path / "pool.py", env=QUIET)
    attached = attach(target)

    def workers(recording: Recording) -> bool:
        rows = processes(recording)
        born = [row for row in rows.values() if row["pid"] != target.pid and made_bytes(recording, row) > 3 << 20]
        return len(born) > 3 and any(row["end_us"] for row in born)

    attached.wait_until(workers)
    attached.end()
    assert target.finish() == (0, "0\n")
    assert target.stderr() == ""


def test_children_of_a_lowtide_that_was_killed_go_on_and_can_be_attached_to_again(
    this_python: Python, spawn: Spawn, attach: Attach, lowtide: Lowtide
) -> None:
    target = spawn(this_python, serve())
    attached = attach(target)
    attached.wait_for(target.pid)
    child = int(ask(target, "print(child())")[0])
    attached.wait_for(child)
    attached.process.kill()
    attached.process.wait()
    end = time.monotonic() + PATIENCE_S
    while "memfd:lowtide" in maps(target.pid):
        assert time.monotonic() < end
        time.sleep(0.05)
    attached.partial.unlink()
    again = attach(target)
    again.wait_for(target.pid, child)
    rows = processes(again.end())
    assert [rows[pid]["how"] for pid in (target.pid, child)] == [4, 4]
    assert "memfd:lowtide" not in maps(child)
    assert target.finish() == (0, "still 45\n")


def test_what_a_process_becomes_by_exec_is_followed(this_python: Python, spawn: Spawn, attach: Attach) -> None:
    target = spawn(this_python, serve())
    attached = attach(target, "--no-heap")
    attached.wait_for(target.pid)
    child = int(ask(target, "print(child('os.execv(script[0], script)'))")[0])

    def became(recording: Recording) -> bool:
        row = processes(recording).get(child)
        if row is None or row["how"] != 3:
            return False
        return "-c" in row["command"].split("\x1f") and made_bytes(recording, row) > 1 << 20

    attached.wait_until(became)
    recording = attached.end()
    first, second = [row for row in recording.table_rows("processes") if row["pid"] == child]
    assert (first["how"], second["how"]) == (2, 3)
    assert "memfd:lowtide" not in maps(child)
    assert target.finish() == (0, "still 45\n")


# Holds 100 MB for a while, in which it allocates, again and again; in few objects, for the decoder.
PEAKS = """
import select, sys, time
def going():
    return not select.select([sys.stdin], [], [], 0)[0]
def wait(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end and going():
        str([i for i in range(1000)])
def peak():
    held_at_the_peak = []
    for i in range(10_000):
        held_at_the_peak.append(bytes(10_000))
    wait(1)
print("ready", flush=True)
while going():
    peak()
    wait(0.3)
print("still here")
"""


def test_the_heap_at_a_peak_is_captured_of_an_attached_process_too(
    this_python: Python, spawn: Spawn, lowtide: Lowtide, tmp_path: Path
) -> None:
    target = spawn(this_python, PEAKS)
    threads = os.listdir(f"/proc/{target.pid}/task")
    # On a busy machine a capture may come when the peak is over: then there is another.
    for seconds in (4, 15, 60):
        done = lowtide("attach", target.pid, "--for", f"{seconds}s", "-o", tmp_path / "a.tide")
        assert (done.status, done.stderr) == (0, "")
        recording = read_recording((tmp_path / "a.tide").read_bytes())
        # The end, too, may be at a peak, and then tells as much.
        held = [read_recording(data) for name, data in recording.nested if name == "peak"] or [recording]
        if "held_at_the_peak" in held[0].strings:
            break
    else:
        pytest.fail("no capture while the peak was held")
    done = lowtide("attach", target.pid, "--for", "2s", "--no-peak-snapshot", "-o", tmp_path / "a.tide")
    assert not read_recording((tmp_path / "a.tide").read_bytes()).nested
    assert os.listdir(f"/proc/{target.pid}/task") == threads
    assert "memfd:lowtide" not in maps(target.pid)
    assert target.finish() == (0, "still here\n")
