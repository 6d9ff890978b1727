"""The caches leave no reference behind: counted by a debug build of Python, for which the extension is built here."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import REPOSITORY, TESTS, all_pythons

DEBUG = [python for python in all_pythons() if python.debug]


@pytest.mark.skipif(not DEBUG, reason="no debug build of Python here: tools/get_sid.sh brings some")
def test_no_use_of_the_caches_leaves_a_reference_behind(tmp_path: Path) -> None:
    python = DEBUG[-1]
    root = python.root or Path("/")
    name = f"python3.{python.minor}d"
    headers = root / "usr/include" / name
    if not (headers / "Python.h").exists():
        pytest.skip(f"{headers} has no Python.h")
    # The headers look for <x86_64-linux-gnu/python3.14d/pyconfig.h>, beside those of the chroot's own libc.
    for own in (root / "usr/include").glob(f"*-linux-gnu/python3.{python.minor}*"):
        (tmp_path / own.parent.name).mkdir(exist_ok=True)
        (tmp_path / own.parent.name / own.name).symlink_to(own)
    shutil.copytree(REPOSITORY / "python/lowtide", tmp_path / "lowtide")
    sources = sorted((REPOSITORY / "src/keep").glob("*.c"))
    flags = ["-O0", "-std=gnu17", "-fPIC", "-shared", "-fvisibility=hidden", "-DPy_DEBUG=1"]
    where = [f"-I{REPOSITORY}/src", f"-I{REPOSITORY}/include", "-isystem", tmp_path, "-isystem", headers]
    subprocess.run(["cc", *flags, *where, *sources, "-o", tmp_path / "lowtide/_keep.so"], check=True)
    program = shutil.copy(TESTS / "cache_leaks.py", tmp_path)
    ran = subprocess.run(python.command(program), capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
