"""lowtide.limit: memory is given back before it runs out, and callbacks that misbehave harm nobody."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Python
from test_package_inside import inside, package  # noqa: F401

PRELUDE = """
import gc, os, sys, threading, time, warnings
import lowtide
from lowtide import _core
MIB, SIZE = 1 << 20, 4000
def wait_for(condition):
    while not condition():
        time.sleep(0.01)
def hold(mib):
    kept.extend(b'x' * SIZE for _ in range(mib * MIB // 4033))
kept = []
def limit(over, **options):
    return lowtide.limit(_core.rss_bytes() + over * MIB, **options)
"""


@pytest.fixture
def caches(local_python: Python) -> None:
    if local_python.minor != sys.version_info.minor:
        pytest.skip("caches are built for one Python")


@pytest.fixture
def run(local_python: Python, package: Path, lowtide_exe: Path, tmp_path: Path) -> Any:  # noqa: F811
    return lambda code: inside(local_python, package, lowtide_exe, PRELUDE + code, tmp_path)


def test_caches_stop_growing_before_the_limit_and_grow_again_when_there_is_room(run: Any, caches: None) -> None:
    code = """
cache, other, unbounded = lowtide.Cache(max_bytes='1GiB'), lowtide.Cache(max_bytes='1MiB'), lowtide.Cache()
with limit(60) as l:
    i = 0
    while l.stats.held_bytes is None:
        cache[i] = b'x' * (2 * SIZE)
        unbounded[i] = i
        if i % 100 == 0: time.sleep(0.005)  # the watch looks every 5 ms
        i += 1
    held = lowtide._keep.total_bytes()
    for i in range(i, i + 20000):
        cache[i] = b'x' * (2 * SIZE)
        unbounded[i] = i
    grown = lowtide._keep.total_bytes() / held
    other[0] = 1
    used = l.state.used_bytes / l.limit_bytes
    cache.clear(); unbounded.clear(); lowtide.free()
    wait_for(lambda: l.stats.held_bytes is None)
    for i in range(1000): cache[i] = b'x'
stats = l.stats
print((stats.freed_bytes['caches'] > 0, stats.held_bytes, 0.9 < grown < 1.1, used < 1, len(cache), other.max_bytes == MIB))
"""
    assert run(code) == (True, None, True, True, 1000, True)


def test_a_ceiling_is_gone_with_its_limit_and_in_a_forked_child(run: Any, caches: None) -> None:
    code = """
cache = lowtide.Cache(max_bytes='1GiB')
l = limit(60)
i = 0
while l.stats.held_bytes is None:
    cache[i] = b'x' * (2 * SIZE)
    if i % 100 == 0: time.sleep(0.005)
    i += 1
with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    child = os.fork()
if not child:
    l.close()
    for n in range(i, i + 20000): cache[n] = b'x' * (2 * SIZE)
    os._exit(0 if len(cache) > 20000 else 1)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
l.close()
for n in range(i, i + 20000): cache[n] = b'x' * (2 * SIZE)
print((status, l.stats.held_bytes, len(cache) > 20000))
"""
    assert run(code) == (0, None, True)


def test_over_the_limit_caches_give_and_pages_go_back(run: Any, caches: None) -> None:
    code = """
cache = lowtide.Cache(max_bytes='1GiB')
for i in range(12000): cache[i] = b'x' * (2 * SIZE)
with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # more is in use already
    l = limit(-20)
wait_for(lambda: l.state.used_bytes < l.limit_bytes * 9 // 10)
l.close()
print((l.stats.freed_bytes['caches'] > 15 * MIB, len(cache) < 12000))
"""
    assert run(code) == (True, True)


def test_a_collection_comes_when_caches_do_not_do(run: Any) -> None:
    code = """
gc.disable()
class Node: pass
with limit(60) as l:
    for _ in range(8000):
        node = Node(); node.me = node; node.data = b'x' * (2 * SIZE)
    del node
    wait_for(lambda: l.stats.freed_bytes['collect'] + l.stats.freed_bytes['trim'] > 30 * MIB)
print(l.state.used_bytes < l.limit_bytes * 9 // 10)
"""
    assert run(code) is True


def test_callbacks_that_raise_hang_or_allocate_hold_up_nobody(run: Any) -> None:
    code = """
told, warned, called = [], [], []
sys.unraisablehook = lambda u: told.append((u.exc_type.__name__, str(u.exc_value)))
warnings.showwarning = lambda message, *rest: warned.append(str(message))
for_ever = threading.Event()
def raises(p): raise KeyError('mine')
def exits(p): sys.exit(3)
def hangs(p): for_ever.wait()
def allocates(p): kept.append(b'x' * (1000 * SIZE)); called.append(p)
def frees(p): kept.clear()
l = limit(60, on_pressure=[raises, exits, hangs, allocates], callback_timeout_s=2, max_time_share=1)
hold(58)
wait_for(lambda: called and warned)
before = l.stats.pressures
l.on_pressure(frees)
wait_for(lambda: l.stats.pressures > before and len(kept) < 1000)
l.close()
p = called[0]
print((told[:2], sum('hangs' in line for line in warned), p.source, p.used_bytes > p.limit_bytes * 0.8, p.wanted_bytes > 0))
"""
    assert run(code) == ([("KeyError", "'mine'"), ("SystemExit", "3")], 1, "rss", True, True)


def test_near_the_limit_one_recording_is_written(run: Any, tmp_path: Path, lowtide_exe: Path) -> None:
    code = """
sys.stderr = open(os.devnull, 'w')
l = limit(80, dump_near_limit='near.tide')
hold(82)
wait_for(lambda: l.stats.dumps)
size = os.stat('near.tide').st_mtime_ns
hold(4); time.sleep(0.1)
print((l.stats.dumps, os.stat('near.tide').st_mtime_ns == size))
l.close()
"""
    assert run(code) == (1, True)
    done = subprocess.run([lowtide_exe, "report", tmp_path / "near.tide"], capture_output=True, text=True)
    assert (done.returncode, "kept" in done.stdout) == (0, True)


@pytest.fixture
def group() -> Iterator[Path]:
    """A memory cgroup of the kernel's, of version 2 or 1, with a limit of 150 MiB."""
    for mount, name in (
        (Path("/sys/fs/cgroup"), "memory.max"),
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
    ):
        place = mount / f"lowtide-test-{os.getpid()}"
        try:
            place.mkdir()
        except OSError:
            continue
        try:
            if (place / name).exists():
                (place / name).write_text(str(150 << 20))
                yield place
                return
        finally:
            place.rmdir()
    pytest.skip("this machine grants no memory cgroup: see the unit tests' files as a cgroup has them")


def test_a_program_that_its_cgroup_would_kill_lives(run: Any, group: Path) -> None:
    code = f"""
open('{group}/cgroup.procs', 'w').write(str(os.getpid()))
drop = lambda p: (seen.append(p.source), kept.clear())
seen = []
if os.fork() == 0:
    hold(400)
    os._exit(0)
status = os.wait()[1]
l = lowtide.limit('95%', on_pressure=drop)
for _ in range(250):
    hold(1)
    time.sleep(0.003)
print((status, seen[0] in ('rss', 'cgroup'), os.path.basename('{group}') in open('/proc/self/cgroup').read()))
"""
    assert run(code) == (9, True, True)


def test_rlimit_data_is_a_limit_too(run: Any) -> None:
    code = """
import resource
sys.stderr = open(os.devnull, 'w')
data = int(open('/proc/self/statm').read().split()[5]) * os.sysconf('SC_PAGESIZE')
resource.setrlimit(resource.RLIMIT_DATA, (data + 200 * MIB, -1))
seen = []
l = lowtide.limit('90%', on_pressure=lambda p: seen.append(p.source), dump_near_limit='data.tide', dump_every_s=0.1)
while not (seen and l.stats.dumps):
    try:
        hold(1)
        time.sleep(0.005)
    except MemoryError:
        kept.clear()
print((seen[0], os.path.exists('data.tide')))
"""
    assert run(code) == ("data", True)


def test_a_recording_that_could_not_be_written_beside_its_file_is_refused(run: Any) -> None:
    code = """
open('near.tide', 'w').close()
os.access = lambda path, mode: path != os.getcwd()
try:
    limit(80, dump_near_limit='near.tide')
except ValueError as error:
    print(str(error).startswith('dump_near_limit cannot be written to '))
"""
    assert run(code) is True


def test_a_forked_child_has_the_limit_for_itself(run: Any) -> None:
    code = """
warnings.simplefilter('ignore')
seen = []
l = limit(60, on_pressure=lambda p: (seen.append(os.getpid()), kept.clear()))
child = os.fork()
if child == 0:
    hold(58)
    wait_for(lambda: seen)
    os._exit(0 if seen[0] == os.getpid() and l.stats.pressures else 1)
print((os.waitpid(child, 0)[1], seen, l.stats.pressures))
"""
    assert run(code) == (0, [], 0)


def test_what_is_no_limit_is_refused(run: Any) -> None:
    code = """
def refused(*args, **options):
    try:
        lowtide.limit(*args, **options)
    except Exception as e:
        return type(e).__name__, '\\n' not in str(e)
cases = ['', '2 Gigs', '0%', '-200%', '500%', '1000TiB', 0, -5, True, 1.5, None]
print([refused(c) for c in cases] + [refused('50%', max_time_share=0), refused('50%', on_pressure=3),
      refused('50%', on_pressure=[3]), refused('50%', dump_every_s=-1)])
"""
    value, kind = ("ValueError", True), ("TypeError", True)
    assert run(code) == [value] * 8 + [kind] * 3 + [value, kind, kind, value]


def test_a_limit_below_what_is_in_use_warns_and_acts_at_once(run: Any) -> None:
    code = """
seen = []
with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter('always')
    l = lowtide.limit('1MiB', on_pressure=seen.append)
wait_for(lambda: seen)
l.close(); l.close()
print([str(w.message) for w in warned][0].endswith('more than the limit of 1048576'))
"""
    assert run(code) is True


def test_a_program_that_closes_every_descriptor_keeps_its_limit(run: Any) -> None:
    code = """
seen = []
l = limit(60, on_pressure=lambda p: seen.append(p))
os.closerange(3, 1000)
hold(58)
wait_for(lambda: seen)
print(repr(seen[0].source))
"""
    assert run(code) == "rss"


def test_a_limit_costs_no_exit_and_ends_with_the_program(
    local_python: Python,
    package: Path,  # noqa: F811
    lowtide_exe: Path,
    tmp_path: Path,
) -> None:
    code = "import lowtide, sys; lowtide.limit('50%'); sys.exit(7)"
    env = {**os.environ, "PYTHONPATH": str(package), "LOWTIDE_EXE": str(lowtide_exe)}
    done = subprocess.run(local_python.command("-c", code), env=env, cwd=tmp_path, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (7, b"", b"")
