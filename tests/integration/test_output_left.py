"""What a killed lowtide leaves of the file that it was to write: nothing that has nothing in it."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import PATIENCE_S

APP = "print('ready', flush=True)\nimport sys\nsys.stdin.read()\n"

# A file system that has no files without a name: as NFS, or overlayfs before Linux 6.1.
SHIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
static int go(const char *name, const char *path, int flags, mode_t mode) {
    int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, name);
    if ((flags & O_TMPFILE) == O_TMPFILE) return errno = EOPNOTSUPP, -1;
    return real(path, flags, mode);
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


@pytest.fixture(params=["anywhere", "without O_TMPFILE"])
def run(request: pytest.FixtureRequest, cc: str, lowtide_exe: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """run(place): begins `lowtide run -o place/t.tide` of a program that waits for the end of its input."""
    env = dict(os.environ)
    if request.param != "anywhere":
        place = tmp_path_factory.mktemp("shim")
        (place / "shim.c").write_text(SHIM)
        subprocess.run([cc, "-shared", "-fPIC", "-o", place / "shim.so", place / "shim.c"], check=True)
        env["LD_PRELOAD"] = str(place / "shim.so")

    def start(place: Path, *options: str) -> subprocess.Popen[str]:
        (place / "app.py").write_text(APP)
        words = [lowtide_exe, "run", "--no-report", *options, "-o", place / "t.tide", place / "app.py"]
        pipe = subprocess.PIPE
        process = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=env)
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        return process

    start.named = request.param != "anywhere"  # type: ignore[attr-defined]
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
