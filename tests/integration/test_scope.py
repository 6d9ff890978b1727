"""lowtide.scope: what a block left behind, and what holds it."""

from __future__ import annotations

from pathlib import Path

from conftest import Python
from test_free import INTACT, SPARSE
from test_package_inside import inside, package  # noqa: F401


def test_survivors_are_told_with_counts_bytes_and_holders(
    local_python: Python,
    package: Path,  # noqa: F811
    lowtide_exe: Path,
    tmp_path: Path,
) -> None:
    code = """
import sys, lowtide
class Session: pass
sessions = {'old': Session()}
def handle(size=1000000):
    for i in range(1000):
        sessions[i] = Session()
    junk = [b'x' * size for _ in range(30)]
with lowtide.scope(free=True) as s:
    handle()
mine = [x for x in s.survivors if x.type == '__main__.Session'][0]
print((mine.count, mine.bytes >= 1000 * sys.getsizeof(sessions['old']), s.bytes == sum(x.bytes for x in s.survivors),
       mine.paths[0].startswith('sessions['), s.peak_bytes > 20_000_000, s.bytes < 1_000_000, s.freed_bytes >= 0))
"""
    assert inside(local_python, package, lowtide_exe, code, tmp_path) == (1000, *[True] * 6)


def test_a_block_that_leaves_nothing_has_no_survivors_of_the_program(
    local_python: Python,
    package: Path,  # noqa: F811
    lowtide_exe: Path,
    tmp_path: Path,
) -> None:
    code = """
import lowtide
class Mine: pass
with lowtide.scope(holders=0) as s:
    things = [Mine() for _ in range(100)]
    del things
print([x for x in s.survivors if 'Mine' in x.type], s.bytes < 20000, sep=', ')
"""
    assert inside(local_python, package, lowtide_exe, code, tmp_path) == ([], True)


def test_what_the_block_left_free_goes_back_at_its_end_when_asked_for(
    local_python: Python,
    package: Path,  # noqa: F811
    lowtide_exe: Path,
    tmp_path: Path,
) -> None:
    code = f"""
import lowtide
def block(free):
    with lowtide.scope(free=free, holders=0) as s:
        {SPARSE.strip()}
    return s.freed_bytes, kept, lowtide.rss().rss_bytes
start = lowtide.rss().rss_bytes
plain, first, held = block(False)
assert held - start > 15 << 20
freed, kept, left = block(True)  # what the first one left goes as well
{INTACT.strip()}
print(plain, freed > 15 << 20, held - left > 10 << 20, sep=', ')
"""
    assert inside(local_python, package, lowtide_exe, code, tmp_path) == (0, True, True)


def test_an_error_in_the_block_passes_through(
    local_python: Python,
    package: Path,  # noqa: F811
    lowtide_exe: Path,
    tmp_path: Path,
) -> None:
    code = """
import lowtide
s = lowtide.scope()
try:
    with s:
        1 / 0
except ZeroDivisionError:
    print(s.bytes >= 0)
"""
    assert inside(local_python, package, lowtide_exe, code, tmp_path) is True


def test_blocks_nest_and_run_in_threads_at_the_same_time(
    local_python: Python,
    package: Path,  # noqa: F811
    lowtide_exe: Path,
    tmp_path: Path,
) -> None:
    code = """
import threading
import lowtide
class Session: pass
def counts(scope): return [r.count for r in scope.survivors if r.type.endswith('Session')]
with lowtide.scope() as outer:
    first = [Session() for _ in range(5)]
    with lowtide.scope() as inner:
        second = [Session() for _ in range(3)]
kept, told, both = [], [], threading.Barrier(2)
def work():
    both.wait()
    with lowtide.scope() as s:
        both.wait()
        kept.append([Session() for _ in range(7)])
        both.wait()
    told.append(counts(s))
threads = [threading.Thread(target=work) for _ in range(2)]
for t in threads: t.start()
for t in threads: t.join()
with lowtide.scope() as nothing: pass
print((counts(inner), counts(outer), told, [r.type for r in nothing.survivors]))
"""
    inner, outer, told, nothing = inside(local_python, package, lowtide_exe, code, tmp_path)
    assert (inner, outer, nothing) == ([3], [8], [])
    assert told == [[14], [14]]  # what the other thread made meanwhile is among them
