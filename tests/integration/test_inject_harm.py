"""Either side ends, forks or becomes another program in the middle: no harm, and one line at most."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path

from conftest import PATIENCE_S, Python, Spawn
from inject_tools import AGENT, DRIVER, REAPER, inject

TICKS = """
import sys, time, select
print("ready", flush=True)
n = 0
while not select.select([sys.stdin], [], [], 0)[0]:
    time.sleep(0.0005)
    n += 1
print("fine")
"""


def is_clean(pid: int) -> bool:
    """Nothing of lowtide's in its threads or libraries."""
    names = []
    for path in Path(f"/proc/{pid}/task").glob("*/comm"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just left
            names.append(path.read_text())
    return "lowtide\n" not in names and "memfd:lowtide" not in Path(f"/proc/{pid}/maps").read_text()


def wait_until_clean(pid: int, seconds: float = PATIENCE_S) -> None:
    end = time.monotonic() + seconds
    while not is_clean(pid):
        assert time.monotonic() < end, "the guest did not leave by itself"
        time.sleep(0.05)


def test_lowtide_killed_at_any_step_leaves_a_target_that_goes_on(target_python: Python, spawn: Spawn) -> None:
    """Each Python starts at a step of its own: together they see more than each alone. All of them: make soak."""
    target = spawn(target_python, TICKS)
    for step in range(1 + len(target_python.name) % 3 * 11 + target_python.minor, 300, 33):
        subprocess.run([REAPER, str(step), DRIVER, str(target.pid), AGENT], timeout=PATIENCE_S)
        assert target.process.poll() is None, (step, target.stderr())
    wait_until_clean(target.pid)
    fds = {link.readlink().name for link in Path(f"/proc/{target.pid}/fd").iterdir()}
    assert not any("socket" in name or "lowtide" in name for name in fds)
    assert inject(target.pid).returncode == 0
    assert target.finish() == (0, "fine\n"), target.stderr()


def test_lowtide_interrupted_at_any_time_leaves_nothing(local_python: Python, spawn: Spawn) -> None:
    target = spawn(local_python, TICKS)
    for turn in range(40):
        process = subprocess.Popen([DRIVER, str(target.pid), AGENT, "1", "9000", "20"], stderr=subprocess.PIPE)
        time.sleep(random.uniform(0, 0.04))
        process.send_signal([signal.SIGINT, signal.SIGTERM, signal.SIGKILL][turn % 3])
        process.communicate()
    wait_until_clean(target.pid)
    assert target.finish() == (0, "fine\n"), target.stderr()


DYING = """
import os, random, sys, threading, time
[threading.Thread(target=time.sleep, args=(9,), daemon=True).start() for _ in range(random.randrange(4))]
print("ready", flush=True)
end = time.monotonic() + random.uniform(0, 0.02)
while time.monotonic() < end:
    sum(range(300))
print("last words", flush=True)
sys.exit(7)
"""


def test_a_target_that_ends_meanwhile_ends_as_it_would(target_python: Python, spawn: Spawn) -> None:
    for _ in range(15):
        target = spawn(target_python, DYING)
        done = inject(target.pid, 20)
        assert done.returncode == 0 or f"process {target.pid}" in done.stderr
        assert done.stderr.count("\n") <= 1
        assert target.finish() == (7, "last words\n"), target.stderr()


def test_a_target_killed_meanwhile_is_said_to_be_gone(local_python: Python, spawn: Spawn) -> None:
    for _ in range(20):
        target = spawn(local_python, TICKS)
        process = subprocess.Popen([DRIVER, str(target.pid), AGENT, "100000"], stderr=subprocess.PIPE, text=True)
        time.sleep(random.uniform(0.005, 0.03))
        os.kill(target.pid, signal.SIGKILL)
        _, said = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 1 and said.startswith("-") and str(target.pid) in said
        assert target.process.wait() == -signal.SIGKILL


FORKING = """
import os, sys, select
print("ready", flush=True)
n = 0
while not select.select([sys.stdin], [], [], 0)[0]:
    pid = os.fork()
    if pid == 0:
        import json
        os._exit(json.loads("5"))
    got, status = os.waitpid(-1, 0)
    assert (got, os.waitstatus_to_exitcode(status)) == (pid, 5), (got, pid, status)
    n += 1
try:
    os.waitpid(-1, 0)
except ChildProcessError:
    print("fine")
"""


def test_a_target_that_forks_sees_only_its_own_children(target_python: Python, spawn: Spawn) -> None:
    # From 3.12 on a fork beside a thread that Python does not know of warns in programs that ask for it.
    flags = ("-W", "ignore::DeprecationWarning")
    target = spawn(target_python, FORKING, flags=flags)
    done = inject(target.pid, 20)
    assert (done.returncode, done.stderr) == (0, "")
    assert target.finish() == (0, "fine\n"), target.stderr()
    assert target.stderr() == ""


SPAWNING = """
import subprocess, sys, select
print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    assert subprocess.run(["/bin/echo", "hello"], capture_output=True).stdout == b"hello\\n"
print("fine")
"""


def test_a_target_that_starts_programs_goes_on(target_python: Python, spawn: Spawn) -> None:
    target = spawn(target_python, SPAWNING)
    done = inject(target.pid, 20)
    assert (done.returncode, done.stderr) == (0, "")
    assert target.finish() == (0, "fine\n"), target.stderr()


EXECING = """
import os, sys, time
turn = int(sys.argv[1])
if turn == 0:
    print("ready", flush=True)
if turn == 25:
    print("fine")
    sys.exit(3)
time.sleep(0.01)
os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:-1], str(turn + 1)])
"""


def test_a_target_that_calls_exec_becomes_what_it_should(target_python: Python, spawn: Spawn) -> None:
    target = spawn(target_python, EXECING, "0")
    while target.process.poll() is None:
        done = inject(target.pid, 50)
        assert done.returncode == 0 or re.search("ended|there is no|; try again", done.stderr), done.stderr
    assert target.finish() == (3, "fine\n"), target.stderr()
    assert target.stderr() == ""


def test_a_target_stopped_meanwhile_stops_and_goes_on(local_python: Python, spawn: Spawn) -> None:
    target = spawn(local_python, TICKS)
    process = subprocess.Popen([DRIVER, str(target.pid), AGENT, "200"], stderr=subprocess.PIPE, text=True)
    for _ in range(30):
        os.kill(target.pid, signal.SIGSTOP)
        time.sleep(random.uniform(0, 0.01))
        os.kill(target.pid, signal.SIGCONT)
        time.sleep(random.uniform(0, 0.01))
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0 or "is stopped" in said
    assert target.finish() == (0, "fine\n"), target.stderr()


def test_a_target_that_is_just_starting_is_waited_for(local_python: Python, spawn: Spawn) -> None:
    for _ in range(10):
        target = spawn(local_python, "", ready=False)
        done = inject(target.pid)
        assert (done.returncode, done.stderr) == (0, "")
        target.wait_for("ready")
        assert target.finish() == (0, ""), target.stderr()
