"""Where a dump's recording goes, and what is said when it cannot go there."""

from __future__ import annotations

import os
import pty
import resource
import subprocess
from pathlib import Path

import pytest
from conftest import Lowtide, Python, Spawn, Target
from tide_decoder import read_recording


@pytest.fixture
def target(spawn: Spawn, this_python: Python) -> Target:
    return spawn(this_python, "rows = [[str(i)] for i in range(20_000)]")


def one_line(stderr: str, *parts: str) -> None:
    assert stderr.startswith("lowtide: ")
    assert stderr.count("\n") == 1
    for part in parts:
        assert part in stderr


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty directory."""
    path = tmp_path / "place"
    path.mkdir()
    return path


def test_it_is_named_after_the_pid(target: Target, lowtide: Lowtide, place: Path) -> None:
    done = lowtide("dump", target.pid, cwd=place)
    name = f"lowtide-{target.pid}.tide"
    assert done.stdout.startswith(f"{name}: ")
    assert f"process {target.pid} stood still for" in done.stdout
    assert os.listdir(place) == [name]


def test_a_second_one_that_nobody_named_leaves_the_first(target: Target, lowtide: Lowtide, place: Path) -> None:
    first, second, third = (f"lowtide-{target.pid}{more}.tide" for more in ("", "-2", "-3"))
    assert lowtide("dump", target.pid, cwd=place).status == 0
    before = (place / first).read_bytes()
    done = lowtide("dump", target.pid, cwd=place)
    assert done.stdout.startswith(f"{second}: ")
    attached = lowtide("attach", target.pid, "--for", "100ms", "--no-heap", cwd=place)
    assert attached.status == 0 and attached.stdout.startswith(f"{third}: "), attached.stderr
    assert sorted(os.listdir(place)) == sorted([first, second, third])
    assert (place / first).read_bytes() == before
    assert lowtide("diff", first, second, cwd=place).status == 0


def test_an_older_file_is_replaced_when_the_new_one_is_whole(target: Target, lowtide: Lowtide, place: Path) -> None:
    file = place / "t.tide"
    file.write_text("old")
    assert lowtide("dump", target.pid, "-o", file).status == 0
    assert read_recording(file.read_bytes()).reached is not None
    assert list(place.iterdir()) == [file]


@pytest.mark.parametrize(
    "where, words",
    [("missing/t.tide", "No such file or directory"), ("", "is a directory"), ("file/t.tide", "Not a directory")],
)
def test_a_place_that_cannot_be_is_one_line(
    where: str, words: str, target: Target, lowtide: Lowtide, place: Path
) -> None:
    (place / "file").write_text("")
    done = lowtide("dump", target.pid, "-o", place / where)
    assert (done.status, done.stdout) == (1, "")
    one_line(done.stderr, words)
    assert os.listdir(place) == ["file"]


def test_a_full_disk_leaves_no_half_file(target: Target, lowtide: Lowtide, place: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    disk = place / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "none", disk], check=True)
    try:
        done = lowtide("dump", target.pid, "-o", disk / "t.tide")
        assert (done.status, done.stdout) == (1, "")
        one_line(done.stderr, "No space left on device")
        assert os.listdir(disk) == []
    finally:
        subprocess.run(["umount", disk], check=True)
    assert target.finish() == (0, "")


def test_a_full_device_is_one_line(target: Target, lowtide: Lowtide) -> None:
    done = lowtide("dump", target.pid, "-o", "/dev/full")
    assert (done.status, done.stdout) == (1, "")
    one_line(done.stderr, "No space left on device")
    assert Path("/dev/full").is_char_device()


def test_a_limit_on_file_sizes_that_may_be_raised_is_none(
    spawn: Spawn, this_python: Python, lowtide: Lowtide, place: Path
) -> None:
    target = spawn(this_python, "rows = [[str(i)] for i in range(20_000)]")
    resource.prlimit(target.pid, resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    done = lowtide("dump", target.pid, "-o", place / "t.tide")
    assert done.status == 0, done.stderr
    assert resource.prlimit(target.pid, resource.RLIMIT_FSIZE)[0] == 100_000
    assert target.finish() == (0, "")


def test_a_limit_on_file_sizes_is_one_line_and_no_signal(
    spawn: Spawn, this_python: Python, lowtide: Lowtide, place: Path
) -> None:
    target = spawn(this_python, "rows = [[str(i)] for i in range(20_000)]")
    resource.prlimit(target.pid, resource.RLIMIT_FSIZE, (100_000, 100_000))
    done = lowtide("dump", target.pid, "-o", place / "t.tide")
    assert done.status == 1
    one_line(done.stderr, "File too large")
    assert os.listdir(place) == []
    assert target.finish() == (0, "")


def test_standard_output_gets_the_recording_and_nothing_else(target: Target, lowtide_exe: Path) -> None:
    done = subprocess.run([lowtide_exe, "dump", str(target.pid), "-o", "-"], capture_output=True)
    recording = read_recording(done.stdout)
    assert done.returncode == 0
    assert recording.reached is not None
    assert done.stderr.decode().startswith(f"standard output: {len(recording.objects):,} objects")


def test_a_reader_that_goes_away_has_what_it_wanted(target: Target, lowtide_exe: Path) -> None:
    process = subprocess.Popen(
        [lowtide_exe, "dump", str(target.pid), "-o", "-"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    assert process.wait() == 0
    process.stderr.close()
    assert target.finish() == (0, "")


def test_a_terminal_is_no_place_for_a_recording(target: Target, lowtide_exe: Path) -> None:
    ours, its = pty.openpty()
    done = subprocess.run([lowtide_exe, "dump", str(target.pid), "-o", "-"], stdout=its, stderr=subprocess.PIPE)
    os.close(its)
    os.close(ours)
    assert done.returncode == 2
    one_line(done.stderr.decode(), "terminal")


@pytest.mark.parametrize(
    "words, said",
    [
        ([], "PID"),
        (["12", "13"], "one process"),
        (["python"], "'python' is not a PID"),
        (["-1"], "no option"),
        (["0"], "not a PID"),
        (["12", "--timeout", "soon"], "'soon'"),
        (["12", "--timeout", "-1s"], "-1s"),
        (["12", "--color"], "--color"),
    ],
)
def test_wrong_usage_is_one_line_with_status_2(words: list[str], said: str, lowtide: Lowtide, tmp_path: Path) -> None:
    done = lowtide("dump", *words, cwd=tmp_path)
    assert (done.status, done.stdout) == (2, "")
    one_line(done.stderr, said, "lowtide dump --help")
    assert os.listdir(tmp_path) == []


def test_a_process_that_is_not_there_is_one_line(lowtide: Lowtide, tmp_path: Path) -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    done = lowtide("dump", process.pid, cwd=tmp_path)
    assert (done.status, done.stdout) == (1, "")
    one_line(done.stderr, str(process.pid))
    assert os.listdir(tmp_path) == []
