"""`lowtide run` follows children that come all at once, with few descriptors, and says whom it could not."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from conftest import Lowtide
from tide_decoder import Recording, read_recording

# All are alive together: they hold on until the pipe is closed.
MANY = """
import os, resource, signal, sys
count, stop = int(sys.argv[1]), sys.argv[2] == "stop"
if stop: os.kill(os.getppid(), signal.SIGSTOP)
reader, writer = os.pipe()
children = []
for i in range(count):
    child = os.fork()
    if child == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    children.append(child)
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
if stop: os.kill(os.getppid(), signal.SIGCONT)
os.close(writer)
for child in children: os.waitpid(child, 0)
"""


def run(
    lowtide_exe: Path, tmp_path: Path, code: str, *arguments: str, limits: str = "true"
) -> tuple[Recording, subprocess.CompletedProcess[str]]:
    (tmp_path / "app.py").write_text(code)
    words = [lowtide_exe, "run", "--no-report", "-o", tmp_path / "t.tide", tmp_path / "app.py", *arguments]
    done = subprocess.run(
        ["sh", "-c", f'{limits}; exec "$@"', "sh", *words], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    return read_recording((tmp_path / "t.tide").read_bytes()), done


def test_children_that_come_while_lowtide_cannot_answer_are_all_followed(lowtide_exe: Path, tmp_path: Path) -> None:
    recording, done = run(lowtide_exe, tmp_path, MANY, "300", "stop")
    assert not done.stderr
    assert [row["how"] for row in recording.table_rows("processes")].count(2) == 300


@pytest.mark.parametrize("limits, told", [("ulimit -n 40", "40 40"), ("ulimit -S -n 40; ulimit -H -n 400", "40 400")])
def test_few_descriptors_keep_no_child_out_and_are_the_programs_own(
    limits: str, told: str, lowtide_exe: Path, tmp_path: Path
) -> None:
    recording, done = run(lowtide_exe, tmp_path, MANY, "60", "go", limits=limits)
    assert (done.stdout.strip(), done.stderr) == (told, "")
    processes = list(recording.table_rows("processes"))
    assert [(row["how"], row["mode"], bool(row["end_us"])) for row in processes[1:]] == [(2, 1, True)] * 60
    assert recording.objects


def test_a_python_is_known_below_a_dozen_descriptors(lowtide_exe: Path, tmp_path: Path) -> None:
    recording, done = run(lowtide_exe, tmp_path, "kept = list(range(1000))", limits="ulimit -n 12")
    assert recording.objects
    assert not done.stderr


NO_DESCRIPTORS = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))"
NO_NETWORK = "import ctypes, os; assert ctypes.CDLL(None).unshare(0x40000000) == 0 or os._exit(7)"
REASONS = [
    (NO_DESCRIPTORS, "no file descriptor was free (ulimit -n)"),
    (NO_NETWORK, "in another network namespace"),
]


def needs_right(code: str) -> None:
    if code == NO_NETWORK and subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode:
        pytest.skip("this machine gives out no network namespace")


@pytest.mark.parametrize("code, reason", REASONS)
def test_children_that_cannot_call_are_counted_with_their_reason(
    code: str, reason: str, lowtide_exe: Path, tmp_path: Path, lowtide: Lowtide
) -> None:
    needs_right(code)
    below = """
import os
def forked(then):
    child = os.fork()
    if child == 0:
        then()
        os._exit(0)
    os.waitpid(child, 0)
def middle():
    cannot_call()
    for i in range(3): forked(lambda: None)
"""
    cannot = f"def cannot_call():\n    {code}\n"
    recording, done = run(lowtide_exe, tmp_path, cannot + below + "forked(middle)\n")
    assert not done.stderr
    _, middle = recording.table_rows("processes")
    assert recording.meta["not_followed"] == f"3 forked from process {middle['pid']}: {reason}"
    said = lowtide("report", tmp_path / "t.tide").stdout
    assert "not followed: 3 forked from" in said


@pytest.mark.parametrize("code, reason", REASONS)
def test_a_program_that_cannot_call_at_its_end_is_told_why(
    code: str, reason: str, lowtide_exe: Path, tmp_path: Path
) -> None:
    needs_right(code)
    recording, done = run(lowtide_exe, tmp_path, code)
    assert not recording.objects
    assert done.stderr == (
        f"lowtide: no heap was captured: {tmp_path / 'app.py'} did not reach lowtide at its end: {reason}\n"
    )
