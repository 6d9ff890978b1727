"""`lowtide run` whose recording cannot be written: the program's status, one line that says why, and no file."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import PATIENCE_S, Lowtide
from tide_decoder import read_recording

APP = """
import os, shutil, sys, time
kept = [[i] for i in range(50_000)]
print("ran")
{more}
sys.exit(5)
"""
WAIT = f"""
deadline = time.monotonic() + {PATIENCE_S / 2}
while not os.path.exists("place/t.tide.partial") or not os.path.getsize("place/t.tide.partial"):
    assert time.monotonic() < deadline, "nothing is recorded"
    time.sleep(0.05)
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(lowtide_exe: Path, tmp_path: Path) -> Run:
    """run(more, before): `lowtide run -o place/t.tide` of APP; before: what is done in the process that becomes it."""

    def run(more: str = "", before: Callable[[], None] | None = None) -> subprocess.CompletedProcess[str]:
        (tmp_path / "app.py").write_text(APP.format(more=more))
        words = [lowtide_exe, "run", "--no-report", "-o", "place/t.tide", "app.py"]
        return subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, preexec_fn=before)

    (tmp_path / "place").mkdir()
    return run


def limit(soft: int, hard: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("limit_bytes", [0, 1000, 100_000])
def test_a_limit_on_the_size_of_files_is_one_line(limit_bytes: int, run: Run, tmp_path: Path) -> None:
    done = run("", limit(limit_bytes, limit_bytes))
    assert (done.returncode, done.stdout) == (5, "ran\n")
    assert re.fullmatch(r"lowtide: [^\n]+: File too large[^\n]*\n", done.stderr)
    if "no heap was captured" not in done.stderr:
        assert not (tmp_path / "place/t.tide").exists()


def test_one_that_may_be_raised_is_the_programs_alone(run: Run, tmp_path: Path) -> None:
    more = "import resource; assert resource.getrlimit(resource.RLIMIT_FSIZE) == (1000, resource.RLIM_INFINITY)"
    done = run(more, limit(1000, resource.RLIM_INFINITY))
    assert (done.returncode, done.stdout) == (5, "ran\n")
    assert done.stderr == (
        "lowtide: allocations were not watched: the profile's memory is larger than a file of this process may be; "
        "raise that limit (ulimit -f)\n"
    )
    assert os.listdir(tmp_path / "place") == ["t.tide"]
    assert len(read_recording((tmp_path / "place/t.tide").read_bytes()).objects) > 50_000


@pytest.mark.parametrize("more", ["", WAIT], ids=["at once", "behind the first second"])
def test_a_folder_that_was_removed_is_one_line_that_names_no_file_in_it(more: str, run: Run, tmp_path: Path) -> None:
    done = run(more + "shutil.rmtree('place')")
    assert (done.returncode, done.stdout) == (5, "ran\n")
    assert done.stderr == "lowtide: cannot write place/t.tide: No such file or directory\n"
    assert sorted(os.listdir(tmp_path)) == ["app.py"]


@pytest.mark.parametrize("size, said", [("4k", "cannot write the recording"), ("64k", "no heap was captured")])
def test_a_small_disk_is_one_line(size: str, said: str, lowtide_exe: Path, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP.format(more=""))
    (tmp_path / "place").mkdir()
    script = f"""
        mount -t tmpfs -o size={size} none place || exit 99
        "$1" run --no-report -o place/t.tide app.py; echo "status $?"; ls place
    """
    words = ["unshare", "-m", "sh", "-c", script, "sh", lowtide_exe]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    if done.returncode in (1, 99):
        pytest.skip("nobody may mount here")
    assert done.stdout.split("\n")[:2] == ["ran", "status 5"]
    assert re.fullmatch(rf"lowtide: [^\n]*{said}[^\n]*: No space left on device[^\n]*\n", done.stderr)


def test_a_folder_that_is_read_only_is_told_before_the_program_runs(lowtide_exe: Path, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP.format(more=""))
    (tmp_path / "place").mkdir()
    script = """
        mount -t tmpfs -o ro none place || exit 99
        "$1" run --no-report -o place/t.tide app.py; echo "status $?"
    """
    words = ["unshare", "-m", "sh", "-c", script, "sh", lowtide_exe]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    if done.returncode in (1, 99):
        pytest.skip("nobody may mount here")
    assert done.stdout == "status 1\n"
    assert done.stderr == "lowtide: cannot write place/t.tide: Read-only file system\n"


def test_an_older_recording_stays_where_there_is_no_new_one(run: Run, tmp_path: Path) -> None:
    (tmp_path / "place/t.tide").write_text("older")
    done = run("", limit(0, 0))
    assert (done.returncode, done.stderr.count("\n")) == (5, 1)
    assert (tmp_path / "place/t.tide").read_text() == "older"


@pytest.mark.parametrize("ignored", [set(), {signal.SIGPIPE}, {signal.SIGPIPE, signal.SIGXFSZ}])
def test_a_program_ignores_the_signals_that_it_would_ignore_without(
    ignored: set[signal.Signals], lowtide: Lowtide, lowtide_exe: Path
) -> None:
    def before() -> None:
        for one in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(one, signal.SIG_IGN if one in ignored else signal.SIG_DFL)

    words = ["grep", "SigIgn", "/proc/self/status"]
    alone = subprocess.run(words, capture_output=True, text=True, preexec_fn=before, restore_signals=False)
    told = subprocess.run(
        [lowtide_exe, "run", "--no-report", "--", *words],
        capture_output=True,
        text=True,
        preexec_fn=before,
        restore_signals=False,
    )
    assert told.stdout == alone.stdout != ""
