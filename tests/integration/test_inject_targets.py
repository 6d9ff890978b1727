"""The injector against real processes that do what processes do: afterwards each is as it was."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from conftest import PATIENCE_S, Python, Spawn, Target
from inject_tools import AGENT, DRIVER, inject

# What main does until standard input ends, which another thread waits for.
FRAME = """
import os, signal, sys, threading, time
done = threading.Event()
def watch():
    sys.stdin.read()
    done.set()
threading.Thread(target=watch, daemon=True).start()
{setup}
print("ready", flush=True)
turns = 0
while not done.is_set():
    {body}
    turns += 1
print("fine" if turns else "never ran")
"""

BUSY = {
    "in a Python loop": ("", "assert sum(range(1000)) == 499500"),
    "allocating bytes": ("", "[b'x' * n for n in range(1, 5000, 7)]"),
    "parsing JSON": (
        "import json; doc = json.dumps([{'k%d' % i: [i, 'v' * i]} for i in range(200)])",
        "assert json.dumps(json.loads(doc)) == doc",
    ),
    "in C that keeps the GIL": ("a = 7 ** 30000", "assert a * a == 7 ** 60000"),
    "in C without the GIL": (
        "import hashlib; data = bytes(1 << 22); first = hashlib.sha256(data).digest()",
        "assert hashlib.sha256(data).digest() == first",
    ),
    "compressing": (
        "import zlib; data = os.urandom(1 << 16) * 20; first = zlib.compress(data)",
        "assert zlib.compress(data) == first",
    ),
    "doing arithmetic": (
        "import math",
        "assert abs(math.fsum(math.sin(x / 7) ** 2 + math.cos(x / 7) ** 2 for x in range(500)) - 500) < 1e-9",
    ),
    "sleeping briefly": ("", "time.sleep(0.001)"),
    "starting threads": (
        "",
        "t = [threading.Thread(target=len, args=('',)) for _ in range(5)]; [x.start() for x in t]; [x.join() for x in t]",
    ),
    "importing extensions": (
        "import importlib",
        "[sys.modules.pop(m, None) or importlib.import_module(m) for m in ('_json', '_csv', '_bisect')]",
    ),
}


@pytest.mark.parametrize("what", BUSY)
def test_a_busy_target_goes_on_as_before(target_python: Python, spawn: Spawn, what: str) -> None:
    setup, body = BUSY[what]
    target = spawn(target_python, FRAME.format(setup=setup, body=body))
    done = inject(target.pid, 10)
    assert (done.returncode, done.stderr) == (0, "")
    assert target.finish() == (0, "fine\n"), target.stderr()
    assert target.stderr() == ""


BLOCKED = {
    "sleep": "time.sleep(3600)",
    "accept": "import socket; socket.create_server(('127.0.0.1', 0)).accept()",
    "read": "r, w = os.pipe(); os.read(r, 1)",
    "select": "import select; select.select([sys.stdin], [], [], 3600)",
    "poll": "import select; p = select.poll(); p.register(os.pipe()[0]); p.poll(3600_000)",
    "epoll": "import select; p = select.epoll(); p.register(os.pipe()[0]); p.poll(3600)",
    "lock": "l = threading.Lock(); l.acquire(); l.acquire()",
    "lock with a time limit": "l = threading.Lock(); l.acquire(); l.acquire(timeout=3600)",
    "sigwait": "signal.pthread_sigmask(0, [10]); signal.sigwait([10])",
    "wait": "os.waitpid(os.posix_spawn('/bin/sleep', ['sleep', '3600'], {}), 0)",
    "asyncio": "import asyncio; asyncio.run(asyncio.sleep(3600))",
}


@pytest.mark.parametrize("what", BLOCKED)
def test_a_target_that_waits_is_reached_and_waits_on(target_python: Python, spawn: Spawn, what: str) -> None:
    program = f"import os, signal, sys, threading, time\nprint('ready', flush=True)\n{BLOCKED[what]}"
    target = spawn(target_python, program)
    done = inject(target.pid, 5)
    assert (done.returncode, done.stderr) == (0, "")
    assert target.process.poll() is None, target.stderr()


def state_of(target: Target) -> dict[str, object]:
    """What must be the same afterwards."""
    proc = Path(f"/proc/{target.pid}")
    status = dict(line.split(":\t", 1) for line in (proc / "status").read_text().splitlines())
    signals = {key: int(status[key], 16) for key in ("SigBlk", "SigPnd", "ShdPnd")}
    for key in ("SigCgt", "SigIgn"):  # but for glibc's own two, which it catches from the first thread on
        signals[key] = int(status[key], 16) & ~(3 << 31)
    maps = (proc / "maps").read_text()
    return {
        "fds": {link.name: link.readlink() for link in (proc / "fd").iterdir()},
        "signals": signals,
        "threads": status["Threads"],
        "files": re.findall(r"^\S+ \S+ \S+ \S+ [1-9]\d* .*$", maps, re.M),
        "code": re.findall(r"^\S+ ..x. .*$", maps, re.M),
    }


def mappings(target: Target) -> list[str]:
    return Path(f"/proc/{target.pid}/maps").read_text().splitlines()


def test_nothing_stays_behind(target_python: Python, spawn: Spawn) -> None:
    target = spawn(target_python, "import signal\nsignal.signal(10, print)\nimport os; os.open('/dev/null', 0)")
    before = state_of(target)
    assert inject(target.pid).returncode == 0
    assert state_of(target) == before
    after_one = mappings(target)
    assert inject(target.pid, 50).returncode == 0
    assert state_of(target) == before
    assert mappings(target) == after_one
    assert target.finish() == (0, "")
    assert target.stderr() == ""


MANY = """
import hashlib, json, socket, sys, threading, time, zlib
stop = threading.Event()
errors = []
def run(f):
    try:
        while not stop.is_set():
            f()
    except BaseException as error:
        errors.append(repr(error))
def wait_a_little(lock=threading.Lock()):
    with lock:
        time.sleep(0.0005)
work = [lambda: hashlib.sha256(bytes(100_000)).digest(), lambda: json.loads("[1,2,{}]" ), lambda: sum(range(500)),
        lambda: zlib.compress(bytes(50_000)), lambda: time.sleep(0.002), wait_a_little]
threads = [threading.Thread(target=run, args=(work[i % len(work)],)) for i in range(30)]
[t.start() for t in threads]
print("ready", flush=True)
sys.stdin.read()
stop.set()
[t.join() for t in threads]
print(errors or "fine")
"""


# Each counts on the numbers of its file descriptors, in a loop beside main.
COUNTING_ON_NUMBERS = {
    "that closes a number and counts on getting it again": """
import os, sys, threading
wrong, turns, done = 0, 0, False
def replug():
    global wrong, turns
    while not done:
        saved = os.dup(1)
        os.close(1)
        new = os.open("/dev/null", os.O_WRONLY)
        wrong += new != 1
        os.dup2(saved, 1)
        os.close(saved)
        if new != 1: os.close(new)
        turns += 1
""",
    "that closes all that it does not know": """
import os, sys, threading
wrong, turns, done = 0, 0, False
def replug():
    global wrong, turns
    while not done:
        os.closerange(3, 1 << 20)
        wrong += os.dup(0) != 3
        turns += 1
""",
}
REPLUG_FRAME = """
print("ready", flush=True)
t = threading.Thread(target=replug); t.start()
sys.stdin.read()
done = True
t.join()
print("wrong numbers", wrong, "turns", turns > 0)
"""
LINUX = tuple(int(n) for n in os.uname().release.split("-")[0].split(".")[:2])


@pytest.mark.skipif(LINUX < (6, 9), reason="only since Linux 6.9 nothing of ours is ever in the program's table")
@pytest.mark.parametrize("what", COUNTING_ON_NUMBERS)
def test_no_number_is_taken_from_a_target(target_python: Python, spawn: Spawn, what: str) -> None:
    target = spawn(target_python, COUNTING_ON_NUMBERS[what] + REPLUG_FRAME)
    done = inject(target.pid, 100)
    assert (done.returncode, done.stderr) == (0, "")
    assert target.finish() == (0, "wrong numbers 0 turns True\n")


def test_a_target_that_closes_our_socket_is_visited_again_and_not_harmed(local_python: Python, spawn: Spawn) -> None:
    """As before Linux 6.9, when the socket was among the program's descriptors for a moment."""
    code = COUNTING_ON_NUMBERS["that closes all that it does not know"].replace(
        "turns += 1", "turns += 1; threading.Event().wait(0.002)"
    )
    target = spawn(local_python, code + REPLUG_FRAME)
    outcomes = {inject(target.pid, shared_files=True).returncode for _ in range(20)}
    assert 0 in outcomes
    status, said = target.finish()
    assert (status, said.split()[-2:]) == (0, ["turns", "True"])


@pytest.mark.parametrize("what", ["in a Python loop", "starting threads"])
def test_where_threads_cannot_be_reached_it_is_as_well(target_python: Python, spawn: Spawn, what: str) -> None:
    setup, body = BUSY[what]
    target = spawn(target_python, FRAME.format(setup=setup, body=body))
    before = sorted(fd.name for fd in Path(f"/proc/{target.pid}/fd").iterdir())
    done = inject(target.pid, 20, shared_files=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(fd.name for fd in Path(f"/proc/{target.pid}/fd").iterdir()) == before
    assert target.finish() == (0, "fine\n")


def test_a_target_with_thirty_threads_goes_on(target_python: Python, spawn: Spawn) -> None:
    target = spawn(target_python, MANY)
    done = inject(target.pid, 30)
    assert (done.returncode, done.stderr) == (0, "")
    assert target.finish() == (0, "fine\n"), target.stderr()


SIGNALS = """
import os, signal, sys, threading, time
seen = 0
def count(*_):
    global seen
    seen += 1
signal.signal(signal.SIGUSR1, count)
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 0.0007, 0.0007)
print("ready", flush=True)
text = sys.stdin.read()
signal.setitimer(signal.ITIMER_REAL, 0)
print(seen)
"""


def test_no_signal_is_swallowed(target_python: Python, spawn: Spawn) -> None:
    """Signals of one kind melt together while they are pending, so each is sent once the one before was seen."""
    counting = "n = 0\ndef h(*_):\n    global n\n    n += 1\n    os.write(1, b'.')\n"
    program = f"import os, signal, time\n{counting}signal.signal(10, h)\nprint('ready', flush=True)\nwhile n < 300: time.sleep(0.05)\n"
    target = spawn(target_python, program)
    sender = subprocess.Popen(
        ["python3", "-c", SENDER, str(target.pid)], stdin=target.process.stdout, stdout=subprocess.PIPE
    )
    done = inject(target.pid, 100)
    assert (done.returncode, done.stderr) in [(0, ""), (1, done.stderr)]
    assert sender.wait(PATIENCE_S) == 0
    assert target.process.wait(PATIENCE_S) == 0, target.stderr()


SENDER = """
import os, select, sys
for i in range(300):
    os.kill(int(sys.argv[1]), 10)
    assert select.select([0], [], [], 240)[0], f"signal {i} did not arrive"
    assert os.read(0, 1) == b"."
"""


def test_a_storm_of_signals_does_no_harm(target_python: Python, spawn: Spawn) -> None:
    target = spawn(target_python, SIGNALS)
    done = inject(target.pid, 20)
    assert (done.returncode, done.stderr) == (0, "")
    assert target.finish() == (0, "0\n"), target.stderr()


def test_two_lowtides_at_once_do_not_meet(target_python: Python, spawn: Spawn) -> None:
    target = spawn(target_python, "")
    first = subprocess.Popen([DRIVER, str(target.pid), AGENT, "1", "90000", "-1"], stdin=subprocess.PIPE)
    while b"memfd:lowtide" not in Path(f"/proc/{target.pid}/maps").read_bytes():
        assert first.poll() is None
    assert inject(target.pid, 5).returncode == 0
    assert b"memfd:lowtide" in Path(f"/proc/{target.pid}/maps").read_bytes()
    first.communicate(timeout=PATIENCE_S)
    assert first.returncode == 0
    assert b"memfd:lowtide" not in Path(f"/proc/{target.pid}/maps").read_bytes()
    assert target.finish() == (0, "")


def test_a_guest_answers_when_the_target_changes_its_user(target_python: Python, spawn: Spawn) -> None:
    """glibc has every thread change it, and waits for each: also for the guest."""
    program = (
        "import os, sys\nprint('ready', flush=True)\n"
        "while line := sys.stdin.readline():\n    os.seteuid(os.geteuid()); print('changed', flush=True)\n"
    )
    target = spawn(target_python, program)
    guest = subprocess.Popen([DRIVER, str(target.pid), AGENT, "1", "9000", "120000"])
    try:
        while "memfd:lowtide" not in Path(f"/proc/{target.pid}/maps").read_text():
            assert guest.poll() is None
        target.say("change")
        target.wait_for("changed")
        assert guest.poll() is None
    finally:
        guest.kill()
        guest.wait()
    assert target.finish() == (0, ""), target.stderr()


def test_lowtides_wait_for_one_another(local_python: Python, spawn: Spawn, tmp_path: Path) -> None:
    target = spawn(local_python, "")
    lowtide = tmp_path / "lowtide"
    lowtide.symlink_to(DRIVER)
    command = [lowtide, str(target.pid), AGENT, "40", "200000"]
    several = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    assert [(p.communicate()[1], p.returncode) for p in several] == [("", 0)] * 4
    assert target.finish() == (0, ""), target.stderr()
