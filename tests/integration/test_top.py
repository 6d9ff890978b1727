"""`lowtide top`: a live screen of what a process allocates."""

from __future__ import annotations

import os
import pty
import select
import time
from pathlib import Path

from conftest import Lowtide, Python, Spawn
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
    said, sent, end = b"", False, time.monotonic() + 60
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
