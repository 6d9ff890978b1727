"""Another malloc in place of glibc's: named in the ledger, asked for its own books, and given back by its own means alone.

Debian's libjemalloc2, libmimalloc2.0 and libtcmalloc-minimal4, where they are installed, or in $LOWTIDE_ALLOCATORS.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from conftest import Lowtide, Python, Spawn
from test_package_inside import package

__all__ = ["package"]

FILES = {"jemalloc": "libjemalloc.so.2", "mimalloc": "libmimalloc.so.2", "tcmalloc": "libtcmalloc_minimal.so.4"}
PLACES = (os.environ.get("LOWTIDE_ALLOCATORS", ""), "/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib")
# Whoever calls glibc's own function is told of on standard error.
SPY = '#include <unistd.h>\nint malloc_trim(unsigned long n) { (void)n; write(2, "trimmed\\n", 8); return 0; }\n'
HELD = "made = [bytes(600 + i % 4400) for i in range(60_000)]; kept = made[::200]; del made\n"
INTACT = "assert all(b == bytes(600 + 200 * i % 4400) for i, b in enumerate(kept))\n"
FREED = """
import lowtide
lines = {line.name: line for line in lowtide.rss().lines}
told = lowtide.free(dry_run=True).layers[-1]
before = lowtide.rss().rss_bytes
gave = lowtide.free().layers[-1]
after = lowtide.rss().rss_bytes
"""


def allocator(name: str) -> str:
    for place in PLACES:
        if place and (Path(place) / FILES[name]).exists():
            return str(Path(place) / FILES[name])
    pytest.skip(f"{FILES[name]} is not on this machine: apt-get install it, or name its folder in LOWTIDE_ALLOCATORS")


@pytest.fixture(scope="module")
def spy(tmp_path_factory: pytest.TempPathFactory, cc: str) -> str:
    folder = tmp_path_factory.mktemp("spy")
    (folder / "spy.c").write_text(SPY)
    subprocess.run([cc, "-shared", "-fPIC", "-o", folder / "spy.so", folder / "spy.c"], check=True)
    return str(folder / "spy.so")


# By themselves they give pages back within 25 ms to ten seconds: how much of it depends on how busy the machine is.
KEEPS = {
    "MALLOC_CONF": "dirty_decay_ms:600000",
    "MIMALLOC_DECOMMIT_DELAY": "600000",  # 2.0
    "MIMALLOC_PURGE_DELAY": "600000",
}


def run(python: Python, package: Path, code: str, *preload: str) -> None:
    env = {**os.environ, **KEEPS, "PYTHONPATH": str(package), "LD_PRELOAD": ":".join(preload)}
    done = subprocess.run(python.command("-c", code), env=env, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["jemalloc", "tcmalloc"])
def test_an_allocator_with_books_is_told_by_them_and_gives_back_what_they_say(
    name: str, this_python: Python, package: Path, spy: str
) -> None:
    code = f"""{HELD}{FREED}
held = lines["malloc: free, but held"]
assert "{name}" in held.note and held.returnable_bytes > 60 << 20, lines
assert lines["malloc: in use"].bytes < 40 << 20, lines
assert abs(told.returned_bytes - gave.returned_bytes) < 6 << 20, (told, gave)
assert before - after > 60 << 20, (before, after, gave)
{INTACT}"""
    run(this_python, package, code, spy, allocator(name))


def test_mimalloc_gives_back_whole_segments_by_its_own_means(this_python: Python, package: Path, spy: str) -> None:
    code = f"""made = [bytes(600 + i % 4400) for i in range(60_000)]; del made
{FREED}
assert "mimalloc" in lines["malloc: in use"].note, lines
assert "mimalloc" in told.note and gave.returned_bytes > 60 << 20, (told, gave)
assert before - after > 60 << 20, (before, after)"""
    run(this_python, package, code, spy, allocator("mimalloc"))


def test_with_glibcs_own_malloc_the_spy_hears_the_trim(this_python: Python, package: Path, spy: str) -> None:
    """The other tests mean something: this spy would have been heard."""
    code = "import ctypes; ctypes.CDLL(None).malloc_trim(0)"
    env = {**os.environ, "LD_PRELOAD": spy}
    done = subprocess.run(this_python.command("-c", code), env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "trimmed\n")


@pytest.mark.parametrize("name", list(FILES))
def test_from_outside_it_is_the_same(name: str, this_python: Python, spawn: Spawn, lowtide: Lowtide, spy: str) -> None:
    preload = f"{spy}:{allocator(name)}"
    target = spawn(
        this_python,
        HELD + "print('ready', flush=True)\nimport sys\nsys.stdin.read()\n" + INTACT,
        env={**KEEPS, "LD_PRELOAD": preload},
    )
    told = json.loads(lowtide("rss", target.pid, "--json").stdout)
    lines = {line["name"]: line for line in told["ledger"]}
    assert name in lines["malloc: in use"]["note"], told
    assert sum(line["bytes"] for line in told["ledger"]) == told["memory"]["rss_bytes"]
    done = lowtide("free", target.pid, "--json")
    assert (done.status, done.stderr) == (0, "")
    gave = {layer["name"]: layer for layer in json.loads(done.stdout)["layers"]}["malloc"]
    assert gave["returned_bytes"] > 60 << 20 or "mimalloc" in gave["note"], gave
    assert target.finish() == (0, "") and target.stderr() == ""
