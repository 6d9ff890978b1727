"""What a killed lowtide leaves of the file that it was to write: nothing that has nothing in it."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import PATIENCE_S
from tide_decoder import read_recording

APP = "print('ready', flush=True)\nimport sys\nsys.stdin.read()\n"

# A file system that has no files without a name: as NFS, or overlayfs before Linux 6.1.
SHIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
static int signalled(const char *when, int result) {
    const char *wanted = getenv("SIGNAL");
    int was = errno;
    if (wanted && strcmp(wanted, when) == 0) raise(SIGTERM);
    errno = was;
    return result;
}
static int go(const char *name, const char *path, int flags, mode_t mode) {
    int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, name);
    if ((flags & O_TMPFILE) == O_TMPFILE && !getenv("TMPFILES")) return errno = EOPNOTSUPP, -1;
    if (!(flags & O_EXCL)) return real(path, flags, mode);
    signalled("before", 0);
    return signalled("after", real(path, flags, mode));
}
int linkat(int from, const char *old, int to, const char *new, int flags) {
    int (*real)(int, const char *, int, const char *, int) = dlsym(RTLD_NEXT, "linkat");
    signalled("before", 0);
    return signalled("after", real(from, old, to, new, flags));
}
int open(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = va_arg(more, mode_t);
    va_end(more);
    return go("open", path, flags, mode);
}
int open64(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = va_arg(more, mode_t);
    va_end(more);
    return go("open64", path, flags, mode);
}
"""

Run = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module")
def shim(cc: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("shim")
    (place / "shim.c").write_text(SHIM)
    subprocess.run([cc, "-shared", "-fPIC", "-o", place / "shim.so", place / "shim.c"], check=True)
    return place / "shim.so"


@pytest.fixture(params=["anywhere", "without O_TMPFILE"])
def env(request: pytest.FixtureRequest, shim: Path) -> dict[str, str]:
    return {**os.environ, **({"LD_PRELOAD": str(shim)} if request.param != "anywhere" else {})}


@pytest.fixture
def run(env: dict[str, str], lowtide_exe: Path) -> Run:
    """run(place): begins `lowtide run -o place/t.tide` of a program that waits for the end of its input."""

    def start(place: Path, *options: str) -> subprocess.Popen[str]:
        (place / "app.py").write_text(APP)
        words = [lowtide_exe, "run", "--no-report", *options, "-o", place / "t.tide", place / "app.py"]
        pipe = subprocess.PIPE
        process = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=env)
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        return process

    start.named = "LD_PRELOAD" in env  # type: ignore[attr-defined]
    return start


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    process.communicate(timeout=PATIENCE_S)  # the program has lived on, to the end of its input


def finish(process: subprocess.Popen[str]) -> str:
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    return said


def test_an_empty_half_file_is_not_left_or_is_removed_by_the_next(run: Run, tmp_path: Path) -> None:
    process = run(tmp_path, "--no-profile")
    kill(process)
    left = [path.name for path in tmp_path.iterdir() if path.name != "app.py"]
    named = run.named  # type: ignore[attr-defined]
    assert left == ([f"t.tide.{process.pid}.part"] if named else [])
    said = finish(run(tmp_path, "--no-profile"))
    assert sorted(os.listdir(tmp_path)) == ["app.py", "t.tide"]
    gone = f"{tmp_path}/t.tide.{process.pid}.part"
    assert said == (f"lowtide: {gone} was left empty by a lowtide that was killed; it is removed\n" if named else "")


def test_what_has_something_in_it_is_another_files_or_belongs_to_one_that_lives_stays(run: Run, tmp_path: Path) -> None:
    (tmp_path / "t.tide.1.part").write_text("something")
    others = ["t.tide.part", "t.tide.x.part", "other.tide.1.part", "t.tide.1.parts", "t.tide.1"]
    for name in (*others, "t.tide.2.part"):
        (tmp_path / name).touch()
    with (tmp_path / "t.tide.2.part").open() as living:
        fcntl.flock(living, fcntl.LOCK_EX)
        assert finish(run(tmp_path)) == ""
    kept = [*others, "t.tide.1.part", "t.tide.2.part"]
    assert sorted(os.listdir(tmp_path)) == sorted(["app.py", "t.tide", *kept])


def test_the_file_appears_when_it_is_whole(run: Run, tmp_path: Path) -> None:
    (tmp_path / "t.tide").write_text("before")
    (tmp_path / "t.tide").chmod(0o600)
    process = run(tmp_path, "--no-profile")
    assert (tmp_path / "t.tide").read_text() == "before"
    assert finish(process) == ""
    assert (tmp_path / "t.tide").read_bytes()[:4] != b"befo"
    assert sorted(os.listdir(tmp_path)) == ["app.py", "t.tide"]


def written(exe: Path, path: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    words = [exe, "run", "--no-report", "--no-profile", "-o", path, "--", sys.executable, "-c", "print('ran')"]
    return subprocess.run(words, capture_output=True, text=True, env=env, timeout=PATIENCE_S)


def test_every_name_that_the_file_system_takes_gets_its_recording(
    lowtide_exe: Path, env: dict[str, str], tmp_path: Path
) -> None:
    deep = tmp_path
    while len(os.fspath(deep)) < 3950:  # the whole path 4,064 bytes, which is the most: the name has what is left
        deep /= "d" * min(200, 3999 - len(os.fspath(deep)))
    deep.mkdir(parents=True)
    names = [tmp_path / ("a" * length) for length in (100, 101, 240, 245, 255)]
    for path in [*names, deep / ("b" * (4063 - len(os.fspath(deep)))), deep / ("ß" * 30)]:
        done = written(lowtide_exe, path, env)
        assert (done.returncode, done.stdout, done.stderr) == (0, "ran\n", "")
        assert os.listdir(path.parent).count(path.name) == 1
        assert path.stat().st_size > 1000
        path.unlink()
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []


@pytest.mark.parametrize("letter, lengths", [("a", (240, 241, 250, 255)), ("ß", (120, 121, 127))])
def test_what_a_killed_lowtide_knew_is_kept_beside_the_longest_names(
    letter: str, lengths: tuple[int, ...], lowtide_exe: Path, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(APP)
    running = []
    for length in lengths:
        words = [lowtide_exe, "run", "--no-report", "-o", letter * length, "app.py"]
        running.append(subprocess.Popen(words, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
    end = time.monotonic() + PATIENCE_S
    while True:
        found = [path for path in tmp_path.glob("*.partial") if path.stat().st_size > 1000]
        if len(found) == len(lengths):
            break
        assert time.monotonic() < end, os.listdir(tmp_path)
        time.sleep(0.05)
    for process in running:
        process.kill()
        process.communicate(timeout=PATIENCE_S)
    assert (tmp_path / (letter * lengths[0] + ".partial")) in found
    for path in found:
        assert read_recording(path.read_bytes()).table_rows("processes")
        assert path.name.startswith(letter * 100)


def test_a_name_that_no_file_can_have_is_refused_before_anything_runs(
    lowtide_exe: Path, env: dict[str, str], tmp_path: Path
) -> None:
    done = written(lowtide_exe, tmp_path / ("a" * 256), env)
    said = "lowtide: the name after -o is too long; name a shorter one\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", said)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_signal_takes_out_the_half_file_and_never_what_had_its_name_before(
    lowtide_exe: Path, shim: Path, env: dict[str, str], tmp_path: Path, when: str
) -> None:
    path = tmp_path / "t.tide"
    assert written(lowtide_exe, path, dict(os.environ)).returncode == 0
    env = {**env, **({} if "LD_PRELOAD" in env else {"LD_PRELOAD": str(shim), "TMPFILES": "1"}), "SIGNAL": when}
    again = 'echo theirs > "$2.json.$$.part"; exec "$1" report --json "$2" -o "$2.json"'
    process = subprocess.Popen(["sh", "-c", again, "sh", lowtide_exe, path], env=env, stderr=subprocess.PIPE)
    assert process.communicate(timeout=PATIENCE_S) == (None, b"")
    assert process.returncode == 143
    part = tmp_path / f"t.tide.json.{process.pid}.part"
    assert sorted(tmp_path.iterdir()) == [path, part]
    assert part.read_text() == "theirs\n"


def test_a_signal_at_the_half_files_name_leaves_none(
    lowtide_exe: Path, shim: Path, env: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "t.tide"
    assert written(lowtide_exe, path, dict(os.environ)).returncode == 0
    env = {**env, **({} if "LD_PRELOAD" in env else {"LD_PRELOAD": str(shim), "TMPFILES": "1"}), "SIGNAL": "after"}
    words = [lowtide_exe, "report", "--json", path, "-o", tmp_path / "out.json"]
    assert subprocess.run(words, env=env, timeout=PATIENCE_S).returncode == 143
    assert os.listdir(tmp_path) == ["t.tide"]
