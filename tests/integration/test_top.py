"""`lowtide top`: a live screen of what a process allocates."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import struct
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import PATIENCE_S, Lowtide, Python, Spawn
from test_attach import GROW, maps


def test_what_is_no_terminal_gets_one_screen(this_python: Python, lowtide: Lowtide, spawn: Spawn) -> None:
    target = spawn(this_python, GROW)
    done = lowtide("top", target.pid, "--every", "1s")
    assert (done.status, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{target.pid}  ")
    assert "RSS" in done.stdout
    assert "grow" in done.stdout
    assert "Python objects" in done.stdout
    assert "\x1b" not in done.stdout
    assert "memfd:lowtide" not in maps(target.pid)
    assert target.finish() == (0, "still True\n")


def test_q_leaves_and_the_terminal_is_as_before(this_python: Python, lowtide_exe: Path, spawn: Spawn) -> None:
    target = spawn(this_python, GROW)
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(lowtide_exe, [str(lowtide_exe), "top", str(target.pid)], {**os.environ, "TERM": "xterm"})
    said, sent, end = b"", False, time.monotonic() + PATIENCE_S
    while b"\x1b[?1049l" not in said:
        assert time.monotonic() < end, said
        if select.select([terminal], [], [], 1)[0]:
            said += os.read(terminal, 10000)
        if b"grow" in said and not sent:
            os.write(terminal, b"q")
            sent = True
    assert said.count(b"\x1b[?1049h") == 1
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(terminal)
    assert "memfd:lowtide" not in maps(target.pid)
    assert target.finish() == (0, "still True\n")


def test_wrong_usage_is_one_line(lowtide: Lowtide) -> None:
    for words in (["top"], ["top", "x"], ["top", "1", "--every", "soon"]):
        done = lowtide(*words)
        assert (done.status, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def test_the_processes_below_are_shown_with_what_they_have(this_python: Python, lowtide: Lowtide, spawn: Spawn) -> None:
    child = "import subprocess\nchild = subprocess.Popen(['sleep', '1234'])\n"
    target = spawn(this_python, child + GROW + "child.kill(); child.wait()\n")
    done = lowtide("top", target.pid, "--every", "500ms", env={"COLUMNS": "60"})
    assert (done.status, done.stderr) == (0, "")
    assert "sleep 1234" in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) <= 60
    assert target.finish() == (0, "still True\n")


class Terminal:
    """`lowtide top` on a terminal of so many columns and rows."""

    def __init__(self, exe: Path, pid: int, columns: int, rows: int) -> None:
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
            environment = {k: v for k, v in os.environ.items() if k != "COLUMNS"}
            os.execve(exe, [str(exe), "top", str(pid), "--every", "200ms"], {**environment, "LC_ALL": "C.UTF-8"})
        self.said = b""

    def read_until(self, done: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_S
        while not done():
            assert time.monotonic() < end, self.said[-3000:]
            if select.select([self.terminal], [], [], 1)[0]:
                with contextlib.suppress(OSError):
                    self.said += os.read(self.terminal, 100_000)

    def screens(self) -> list[list[str]]:
        whole = self.said.decode(errors="replace").split("\x1b[H")[1:]
        return [
            [re.sub("\x1b\\[[0-9;]*[A-Za-z]", "", row) for row in s.split("\r\n")] for s in whole if "q leaves" in s
        ]

    def leave(self, keys: bytes) -> int:
        os.write(self.terminal, keys)
        self.read_until(lambda: b"\x1b[?1049l" in self.said)
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.terminal)
        return status


GROWS = "keep = []\n" + GROW.replace("    grow()", "    grow(); keep.append(bytes(100_000))")


@pytest.mark.parametrize("columns, rows", [(80, 24), (60, 24), (40, 8)])
def test_the_screen_fits_and_shows_what_grew_since(
    columns: int, rows: int, this_python: Python, lowtide_exe: Path, spawn: Spawn
) -> None:
    target = spawn(this_python, GROWS)
    top = Terminal(lowtide_exe, target.pid, columns, rows)
    top.read_until(lambda: len(top.screens()) > 3 and "+" in top.screens()[-1][1] and "▂" in "".join(top.screens()[-1]))
    for screen in top.screens():
        assert len(screen) <= rows
        assert max(len(row) for row in screen) <= columns
        assert screen[0].startswith(f"{target.pid}  ")
        assert "RSS" in screen[1]
    if rows > 8:
        last = top.screens()[-1]
        (head,) = (i for i, row in enumerate(last) if re.match(" +live ±err", row))
        figure = r" +[\d.]+ ([KM]i)?B ±[\d.]+M *"
        both = figure + figure if columns > 60 else figure
        assert all(re.match(both + "[^ \\d]", row) for row in last[head + 1 : -1]), last
        assert "±" in last[head].split("err")[-1] and last[head].endswith("/s")
    assert top.leave(b"q") == 0
    assert target.finish() == (0, "still True\n")


def test_keys_that_are_no_commands_leave_no_trace(this_python: Python, lowtide_exe: Path, spawn: Spawn) -> None:
    target = spawn(this_python, GROW)
    top = Terminal(lowtide_exe, target.pid, 80, 24)
    top.read_until(lambda: bool(top.screens()))
    os.write(top.terminal, b"\x1b[A\x1b[Bx\x1a")
    seen = len(top.screens())
    top.read_until(lambda: len(top.screens()) > seen + 1)
    # An arrow and the key behind it may come together.
    assert top.leave(b"\x1b[1;5C\x1bOPq") == 0
    assert b"^[" not in top.said and b"^Z" not in top.said
    assert target.finish() == (0, "still True\n")


def test_as_json_it_is_one_object_with_what_grew(this_python: Python, lowtide: Lowtide, spawn: Spawn) -> None:
    target = spawn(this_python, GROWS)
    for every in ("2s", "10s", "60s"):  # a busy machine may let it grow by little in two seconds
        done = lowtide("top", target.pid, "--every", every, "--json")
        assert (done.status, done.stderr) == (0, "")
        said = json.loads(done.stdout)
        if said["rss_growth_bytes"] > 16 << 20:  # 32 samples of two lines; two of one are needed
            break
    assert said["pid"] == target.pid
    assert said["watched_s"] >= 2
    assert said["rss_growth_bytes"] > 1 << 20
    assert said["timeline"][0]["rss_bytes"] < said["rss_bytes"] <= said["peak_rss_bytes"]
    grown = {line["name"]: line["growth_bytes"] for line in said["ledger"]}
    assert sum(grown.values()) > 1 << 20
    assert max(said["sites"], key=lambda site: site["live_bytes"])["live_bytes"] > 1 << 20
    # Without any sample 1.96 · √3 of the interval, which is 512 KiB; with samples more.
    least = 1779863
    for site in said["sites"]:
        assert site["live_error_bytes"] > least or site["live_bytes"] == 0, site
        assert site["total_error_bytes"] > least or site["total_bytes"] == 0, site
        assert min(site["live_error_bytes"], site["total_error_bytes"]) >= least, site
    assert said["live_error_bytes"] >= max(site["live_error_bytes"] for site in said["sites"])
    assert said["allocated_error_bytes_a_second"] > 0
    assert target.finish() == (0, "still True\n")


# Forks once it finds the agent in itself.
FORKS = """
import os, sys, time
while "memfd:lowtide" not in open("/proc/self/maps").read(): time.sleep(0.01)
time.sleep(0.3)
if os.fork() == 0:
    sys.stdin.read()
    os._exit(0)
os.wait()
"""


def test_a_child_that_is_forked_meanwhile_is_left_as_without_it(
    this_python: Python, lowtide: Lowtide, spawn: Spawn
) -> None:
    target = spawn(this_python, "print('ready', flush=True)\n" + FORKS)
    children = Path(f"/proc/{target.pid}/task/{target.pid}/children")
    while not children.read_text():
        done = lowtide("top", target.pid, "--every", "2s", "--once")
        assert (done.status, done.stderr) == (0, "")
    assert "memfd:lowtide" not in maps(int(children.read_text()))
    assert target.finish() == (0, "")
