"""`lowtide dump`, against targets in all sorts of moments: they go on as if nothing had been."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import subprocess
import time
from pathlib import Path

import pytest
from conftest import PATIENCE_S, Lowtide, Python, Spawn, Target
from tide_decoder import read_recording

# Each goes on until its standard input ends, counts what it does, and says at the end whether all was right.
BUSY = """
import select, sys, threading
print("ready", flush=True)
total = 0
while total == 0 or not select.select([sys.stdin], [], [], 0)[0]:
    for i in range(20000):
        total += i * i % 7
print("sum", total > 0)
"""

IDLE = """
import sys
print("ready", flush=True)
sys.stdin.read()
print("idle to the end")
"""

THREADED = """
import sys, threading, time, queue
work, done = queue.Queue(), []
def worker():
    while (item := work.get()) is not None:
        done.append(sum(range(item)))
def sleeper():
    time.sleep(3600)
threads = [threading.Thread(target=worker) for _ in range(8)]
for t in threads: t.start()
for _ in range(4): threading.Thread(target=sleeper, daemon=True).start()
stop = threading.Event()
def feed():
    while not stop.is_set():
        work.put(2000)
        if work.qsize() > 100: time.sleep(0.001)
feeder = threading.Thread(target=feed); feeder.start()
print("ready", flush=True)
sys.stdin.read()
stop.set(); feeder.join()
for _ in threads: work.put(None)
for t in threads: t.join()
print("workers right", set(done) <= {sum(range(2000))}, threading.active_count())
"""

# -W ignore: from 3.12 on os.fork() warns where a process has more than one thread, and counts the agent's.
FORKING = """
import os, select, signal, sys
heard = []
signal.signal(signal.SIGCHLD, lambda *a: heard.append(1))
print("ready", flush=True)
made = 0
while made == 0 or not select.select([sys.stdin], [], [], 0)[0]:
    pid = os.fork()
    if pid == 0: os._exit(7)
    made += 1
    got, status = os.waitpid(-1, 0)
    assert (got, os.waitstatus_to_exitcode(status)) == (pid, 7), (got, status)
    try: os.waitpid(-1, os.WNOHANG); print("a stranger's child")
    except ChildProcessError: pass
print("children right", 0 < len(heard) <= made)
"""

# Sleeps in a way that a signal would cut short, and looks for children that it did not make.
CHILDLESS = """
import os, select, signal, sys
heard = []
for s in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}:
    try: signal.signal(s, lambda n, f: heard.append(n))
    except OSError: pass
signal.signal(signal.SIGPIPE, signal.SIG_IGN)
print("ready", flush=True)
strangers = 0
while not select.select([sys.stdin], [], [], 0.001)[0]:
    try: os.waitpid(-1, os.WNOHANG); strangers += 1
    except ChildProcessError: pass
print("signals", heard, "strangers", strangers)
"""

GENERATORS = """
import asyncio, sys, threading
async def child(n):
    await asyncio.sleep(0.001)
    return n
async def main():
    loop = asyncio.get_running_loop()
    end = loop.run_in_executor(None, sys.stdin.read)
    rounds = 0
    while rounds == 0 or not end.done():
        assert sum(await asyncio.gather(*[child(i) for i in range(50)])) == 1225
        rounds += 1
    print("tasks right", rounds > 0)
print("ready", flush=True)
asyncio.run(main())
"""

COLLECTING = """
import gc, select, sys
class Node:
    def __del__(self): Node.gone += 1
Node.gone = 0
made = 0
print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    for _ in range(100):
        a, b = Node(), Node()
        a.other, b.other = b, a
        made += 2
    a = b = None
    gc.collect()
print("collected right", Node.gone == made)
"""

# Closes its standard output and counts on the number, as a daemon or a shell does.
REPLUGGING = """
import os, select
os.write(1, b"ready\\n")
wrong = 0
while not select.select([0], [], [], 0.001)[0]:
    saved = os.dup(1)
    os.close(1)
    new = os.open("/dev/null", os.O_WRONLY)
    wrong += new != 1
    os.write(new, b"hidden")
    os.dup2(saved, 1)
    os.close(saved)
    if new != 1: os.close(new)
os.write(1, b"wrong numbers %d\\n" % wrong)
"""

ENDINGS = {
    "busy": (BUSY, "sum True\n"),
    "idle": (IDLE, "idle to the end\n"),
    "threaded": (THREADED, "workers right True 5\n"),
    "forking": (FORKING, "children right True\n"),
    "childless": (CHILDLESS, "signals [] strangers 0\n"),
    "asyncio": (GENERATORS, "tasks right True\n"),
    "replugging": (REPLUGGING, "wrong numbers 0\n"),
    "collecting": (COLLECTING, "collected right True\n"),
}


def start(spawn: Spawn, python: Python, kind: str) -> Target:
    flags = ("-W", "ignore::DeprecationWarning") if kind == "forking" else ()
    return spawn(python, ENDINGS[kind][0], flags=flags)


def children_of(pid: int) -> list[str]:
    """Of all its threads, those that waitpid does not show included."""
    found: list[str] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += (task / "children").read_text().split()
    return found


def wait_until_it_is(pid: int, before: dict[str, object]) -> None:
    """A guest whose lowtide went away leaves by itself, as soon as it is its turn."""
    end = time.monotonic() + PATIENCE_S
    while (now := remains(pid)) != before:
        assert time.monotonic() < end, (now, before)
        time.sleep(0.02)


def remains(pid: int) -> dict[str, object]:
    """What a target has that a dump could leave something in."""
    proc = Path(f"/proc/{pid}")
    status = (proc / "status").read_text()
    wanted = ("SigPnd", "SigBlk", "Shd", "Threads", "Tracer", "NoNewPrivs", "Seccomp", "CoreDumping")
    # Signals 32 and 33 are libc's: it catches them as soon as there is a second thread, also where make had them ignored.
    caught, ignored = (int(status.split(key)[1].split()[0], 16) & ~(3 << 31) for key in ("SigCgt:", "SigIgn:"))
    return {
        "caught": caught,
        "ignored": ignored,
        "descriptors": {fd.name: os.readlink(fd) for fd in (proc / "fd").iterdir()},
        "status": [line for line in status.splitlines() if line.startswith(wanted)],
        "tasks": sorted(task.name for task in (proc / "task").iterdir()),
        "names": (proc / "comm").read_text(),
        "libraries": {line.split()[-1] for line in (proc / "maps").read_text().splitlines() if "/" in line},
        "children": children_of(pid),
        "score": (proc / "oom_score_adj").read_text(),
        "limits": (proc / "limits").read_text(),
    }


@pytest.mark.parametrize("kind", ENDINGS)
def test_a_target_goes_on_as_if_nothing_had_been(
    kind: str, target_python: Python, spawn: Spawn, lowtide: Lowtide, tmp_path: Path
) -> None:
    target = start(spawn, target_python, kind)
    file = tmp_path / "t.tide"
    for _ in range(2):
        done = lowtide("dump", target.pid, "-o", file)
        assert (done.status, done.stderr) == (0, "")
    recording = read_recording(file.read_bytes())
    assert recording.meta["pid"] == str(target.pid)
    assert recording.meta["mode"] == "fork"
    assert recording.meta["python"].startswith(f"3.{target_python.minor}.")
    assert recording.meta["build"] == ("debug" if target_python.debug else "release")
    assert target.finish() == (0, ENDINGS[kind][1])
    assert target.stderr() == ""


def test_nothing_stays_behind(target_python: Python, spawn: Spawn, lowtide: Lowtide, tmp_path: Path) -> None:
    target = start(spawn, target_python, "idle")
    before = remains(target.pid)
    for _ in range(5):
        assert lowtide("dump", target.pid, "-o", tmp_path / "t.tide").status == 0
    assert remains(target.pid) == before
    assert target.finish()[0] == 0


def test_memory_does_not_grow_with_dumps(this_python: Python, spawn: Spawn, lowtide: Lowtide, tmp_path: Path) -> None:
    target = start(spawn, this_python, "idle")
    maps = Path(f"/proc/{target.pid}/maps")
    counts = []
    for _ in range(6):
        assert lowtide("dump", target.pid, "-o", tmp_path / "t.tide").status == 0
        counts.append(len(maps.read_text().splitlines()))
    assert counts[2:] == [counts[2]] * 4
    assert target.finish()[0] == 0


KEEPS_GIL = """
import ctypes, sys, threading
library = ctypes.PyDLL(None)
print("ready", flush=True)
library.read(0, ctypes.create_string_buffer(3), 3)
print(len(sys._current_frames()), threading.active_count(), flush=True)
print("go", flush=True)
total = sum(i for i in range(300_000))
sys.stdin.read()
"""


def test_who_keeps_the_gil_is_given_up_on_and_left_as_it_was(
    target_python: Python, spawn: Spawn, lowtide: Lowtide, tmp_path: Path
) -> None:
    target = spawn(target_python, KEEPS_GIL)
    target.wait_until_it_reads()  # from where on it keeps the GIL
    before = remains(target.pid)
    for timeout in ("1s", "10s", "60s"):
        done = lowtide("dump", target.pid, "--timeout", timeout, "-o", tmp_path / "t.tide")
        assert (done.status, done.stdout) == (1, "")
        assert done.stderr.count("\n") == 1
        if "in time" not in done.stderr:  # a busy machine may not even let the agent in
            break
    assert "GIL" in done.stderr
    assert list(tmp_path.glob("*tide*")) == []
    wait_until_it_is(target.pid, before)
    target.say("go")
    target.wait_for("go")
    assert target.head[-1] == "1 1"
    assert lowtide("dump", target.pid, "-o", tmp_path / "t.tide").status == 0
    assert target.finish() == (0, "")


def test_ctrl_c_while_waiting_leaves_nothing(
    this_python: Python, spawn: Spawn, lowtide_exe: Path, tmp_path: Path
) -> None:
    target = spawn(this_python, KEEPS_GIL)
    target.wait_until_it_reads()
    before = remains(target.pid)
    process = subprocess.Popen(
        [lowtide_exe, "dump", str(target.pid), "-o", tmp_path / "t.tide"], stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + PATIENCE_S
    while len(os.listdir(f"/proc/{target.pid}/task")) == 1:  # the guest, which waits for the GIL
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.005)
    process.send_signal(2)
    assert process.communicate(timeout=PATIENCE_S)[1] == ""
    assert process.returncode == 130
    assert list(tmp_path.glob("*tide*")) == []
    wait_until_it_is(target.pid, before)
    target.say("go")
    target.wait_for("go")
    assert target.finish() == (0, "")


BIG = "rows = [[str(i)] for i in range(1_500_000)]\n"


@pytest.mark.parametrize("signal", [2, 15, 9])
def test_a_dump_that_is_killed_in_the_middle_takes_its_child_along(
    signal: int, this_python: Python, spawn: Spawn, lowtide_exe: Path, tmp_path: Path
) -> None:
    target = spawn(this_python, BIG)
    process = subprocess.Popen([lowtide_exe, "dump", str(target.pid), "-o", tmp_path / "t.tide"])
    end = time.monotonic() + PATIENCE_S
    while not children_of(target.pid) and process.poll() is None:
        assert time.monotonic() < end
    process.send_signal(signal)
    process.wait(PATIENCE_S)
    tasks = Path(f"/proc/{target.pid}/task")
    while children_of(target.pid) or len(list(tasks.iterdir())) > 1:
        assert time.monotonic() < end, "a child or a thread is still there"
        time.sleep(0.02)
    assert not (tmp_path / "t.tide").exists()
    if signal != 9:
        assert process.returncode == 128 + signal
        assert list(tmp_path.glob("*.part")) == []
    assert target.finish() == (0, "")


def test_a_target_killed_in_the_middle_is_one_line_or_a_whole_recording(
    this_python: Python, spawn: Spawn, lowtide: Lowtide, lowtide_exe: Path, tmp_path: Path
) -> None:
    outcomes = set()
    for delay in (0.0, 0.02, 0.05, 0.1, 0.2):
        target = spawn(this_python, BIG)
        process = subprocess.Popen(
            [lowtide_exe, "dump", str(target.pid), "-o", tmp_path / "t.tide"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        time.sleep(delay)
        target.process.kill()
        out, err = process.communicate(timeout=PATIENCE_S)
        outcomes.add(process.returncode)
        if process.returncode == 0:
            assert json.loads(lowtide("report", tmp_path / "t.tide", "--json").stdout)["cut"] is None
            (tmp_path / "t.tide").unlink()
        else:
            assert (process.returncode, out, err.count("\n")) == (1, "", 1)
            assert list(tmp_path.glob("*tide*")) == []
    assert outcomes <= {0, 1}


def test_a_target_that_ends_or_execs_meanwhile_does_so_as_ever(
    this_python: Python, spawn: Spawn, lowtide: Lowtide, tmp_path: Path
) -> None:
    chance = random.Random(7)
    exec_code = (
        "import os, sys, time\nprint('ready', flush=True)\ntime.sleep(float(sys.argv[1]))\n"
        "os.execv(sys.executable, [sys.executable, '-c', 'print(\"after\"); raise SystemExit(5)'])"
    )
    exit_code = (
        "import sys, time\nprint('ready', flush=True)\ntime.sleep(float(sys.argv[1]))\nprint('after')\nsys.exit(5)"
    )
    for code, _ in itertools.product((exec_code, exit_code), range(8)):
        target = spawn(this_python, code, str(chance.random() * 0.04))
        done = lowtide("dump", target.pid, "-o", tmp_path / "t.tide")
        assert done.status in (0, 1)
        assert done.stderr.count("\n") == done.status
        assert target.finish() == (5, "after\n")
        assert target.stderr() == ""


def test_two_dumps_at_once_both_end_well(this_python: Python, spawn: Spawn, lowtide_exe: Path, tmp_path: Path) -> None:
    target = start(spawn, this_python, "threaded")
    dumps = [
        subprocess.Popen([lowtide_exe, "dump", str(target.pid), "-o", tmp_path / f"{i}.tide"], stderr=subprocess.PIPE)
        for i in range(3)
    ]
    # One that finds the target traced by another says so.
    assert {dump.wait(PATIENCE_S) for dump in dumps} <= {0, 1}
    assert any(dump.returncode == 0 for dump in dumps)
    for dump in dumps:
        assert dump.stderr is not None
        assert dump.stderr.read().count(b"\n") == dump.returncode
        dump.stderr.close()
    assert target.finish() == (0, ENDINGS["threaded"][1])


def test_figures_and_recording_agree(this_python: Python, spawn: Spawn, lowtide: Lowtide, tmp_path: Path) -> None:
    target = start(spawn, this_python, "idle")
    file = tmp_path / "t.tide"
    done = lowtide("dump", target.pid, "--json", "-o", file)
    said = json.loads(done.stdout)
    recording = read_recording(file.read_bytes())
    assert said["file"] == str(file)
    assert said["process"] == {"pid": target.pid}
    assert said["capture"]["objects"] == len(recording.objects)
    assert said["capture"]["file_bytes"] == file.stat().st_size
    assert said["capture"]["mode"] == "fork"
    started = recording.meta["started"]
    assert started[:4].isdigit()
    assert started.endswith("Z")
    assert recording.meta["command"].split("\x1f")[0] == this_python.executable
    assert recording.meta["hostname"] == os.uname().nodename
    assert int(recording.meta["peak_rss_bytes"]) >= int(recording.meta["rss_bytes"]) > 5_000_000


def test_no_values_leaves_contents_out(this_python: Python, spawn: Spawn, lowtide: Lowtide, tmp_path: Path) -> None:
    code = "secret = ['hush' + str(i) for i in range(3)]\nnumber = 1234567890123456"
    target = spawn(this_python, code)
    texts = {}
    for name, flags in (("with", []), ("without", ["--no-values"])):
        file = tmp_path / f"{name}.tide"
        assert lowtide("dump", target.pid, "-o", file, *flags).status == 0
        recording = read_recording(file.read_bytes())
        texts[name] = str(recording.objects)
        assert recording.meta["values"] == ("prefix" if name == "with" else "none")
    assert "hush2" in texts["with"]
    assert "1234567890123456" in texts["with"]
    assert "hush2" not in texts["without"]
    assert "1234567890123456" not in texts["without"]
    assert "secret" in texts["without"]


ENDING = """
import os, sys
class Late:
    def __del__(self, out=sys.stdout.fileno(), wait=sys.stdin.fileno(), write=os.write, read=os.read):
        write(out, b"late\\n")
        read(wait, 1)
        write(out, b"gone\\n")
late = Late()
print("ready", flush=True)
"""


def test_a_python_that_is_shutting_down_is_one_line_and_shuts_down(
    target_python: Python, spawn: Spawn, lowtide: Lowtide, tmp_path: Path
) -> None:
    target = spawn(target_python, ENDING)
    target.wait_for("late")
    done = lowtide("dump", target.pid, "-o", tmp_path / "t.tide", "--timeout", "20s")
    assert (done.status, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert target.finish() == (0, "gone\n")
    assert target.stderr() == ""
