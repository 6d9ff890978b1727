"""lowtide.tracemalloc beside the standard library's: the same figures for the same program, and what only it has to stand."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import PATIENCE_S, TESTS, Python
from test_package_inside import package
from test_tracemalloc_stdlib import package_copied

__all__ = ["package", "package_copied"]

Ask = Callable[..., Any]


@pytest.fixture
def ask(package_copied: Path, tmp_path: Path) -> Ask:
    """ask(python, *args, env=…): runs a script, or code with -c, that prints one literal."""

    def run(python: Python, *args: object, env: dict[str, str] | None = None, errors: str = "") -> Any:
        done = subprocess.run(
            python.command(*map(str, args)),
            env={**os.environ, "PYTHONPATH": str(package_copied), "PYTHONHASHSEED": "0", **(env or {})},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert done.returncode == 0, done.stderr
        assert errors or not done.stderr, done.stderr
        assert errors in done.stderr
        return ast.literal_eval(done.stdout)

    return run


# ── The same as the standard library's ──


@pytest.mark.parametrize("frames", [1, 200])
def test_figures_equal_those_of_the_standard_library(target_python: Python, ask: Ask, frames: int) -> None:
    """Each block's size, stack and depth, and each part's growth and peak, byte for byte."""
    program = TESTS / "integration/tracemalloc_program.py"
    ours = ask(target_python, program, "lowtide", frames)
    theirs = ask(target_python, program, "stdlib", frames)
    assert sum(ours["blocks"].values()) > 9000
    assert ours["figures"][:-1] == theirs["figures"][:-1]  # when a thread's own state goes is a matter of chance
    if target_python.minor >= 13:
        lines = program.read_text().splitlines()
        thread = next(i for i, line in enumerate(lines, 1) if "bytes(100 + i)" in line)
        for told in (ours, theirs):  # one more may be there of what threads make, with either: by the same chance
            told["blocks"] = {k: n if k[1][0][1] != thread else n > 4 for k, n in told["blocks"].items()}
        assert ours["blocks"] == theirs["blocks"]
        return
    # Until 3.12 CPython tells only its own module of objects from free lists: these are other lines'.
    both = ours["blocks"].items() ^ theirs["blocks"].items()
    assert {size for (size, _, _), _ in both} <= {24, 48, 56, 64, 72}  # floats, tuples, lists, dicts


def test_a_snapshot_of_either_is_read_and_compared_by_the_other(local_python: Python, ask: Ask) -> None:
    told = ask(
        local_python,
        "-c",
        """
import gc, tracemalloc as stdlib
from lowtide import tracemalloc
def make(n): return [bytes(1000 + i) for i in range(n)]
gc.disable()  # it would drop the free lists; a list made and dropped now waits there for either turn
make(50)
for module in tracemalloc, stdlib:
    module.start(3)
    kept = make(50)
    module.take_snapshot().dump(module.__name__)
    module.stop()
    del kept
ours, theirs = stdlib.Snapshot.load("lowtide.tracemalloc"), tracemalloc.Snapshot.load("tracemalloc")
keep = [tracemalloc.Filter(True, "<stri*", 4), tracemalloc.DomainFilter(True, 0)]
ours, theirs = ours.filter_traces(keep[:1]), theirs.filter_traces(keep[:1])
drop = ours.filter_traces([tracemalloc.Filter(False, "*", all_frames=True)])
print(repr((
    [[(s.size, s.count) for s in x.statistics("traceback") + x.statistics("lineno", cumulative=True)] for x in (ours, theirs)],
    [(d.size_diff, d.count_diff) for d in ours.compare_to(theirs, "filename")],
    len(drop.traces), ours.traceback_limit, type(ours.traces[0].traceback).__module__,
)))
""",
    )
    (ours, theirs), difference, dropped, limit, module = told
    assert ours == theirs and ours[0][1] >= 50
    assert (difference, dropped, limit, module) == ([(0, 0)], 0, 3, "tracemalloc")


# ── Blocks ──


def test_sums_follow_each_block_through_resizing_failing_and_its_end(local_python: Python, ask: Ask) -> None:
    told = ask(
        local_python,
        "-c",
        """
import ctypes, itertools
from lowtide import tracemalloc
api, size = ctypes.pythonapi, ctypes.c_size_t
for domain, kind in itertools.product(("PyMem_Raw", "PyMem_", "PyObject_"), ("Malloc", "Realloc", "Calloc")):
    getattr(api, domain + kind).restype = ctypes.c_void_p
def bytes_now(): return tracemalloc.get_traced_memory()[0]
found = []
for domain in "PyMem_Raw", "PyMem_", "PyObject_":
    call = lambda name, *args: getattr(api, domain + name)(*args)
    old = call("Malloc", size(100_000))  # not traced
    tracemalloc.start()
    call("Calloc", size(1), size(1)) and None
    base = bytes_now()
    steps = []
    def step(): steps.append(bytes_now() - base)
    a = call("Malloc", size(0)); step()
    b = call("Malloc", size(60_000)); step()
    c = call("Calloc", size(700), size(50)); step()
    b = call("Realloc", ctypes.c_void_p(b), size(5_000_000)); step()
    failed = call("Realloc", ctypes.c_void_p(b), size(1 << 62)); step()
    b = call("Realloc", ctypes.c_void_p(b), size(3)); step()
    old = call("Realloc", ctypes.c_void_p(old), size(200_000)); step()
    n = call("Realloc", None, size(40_000)); step()
    for p in a, b, c, old, n: call("Free", ctypes.c_void_p(p))
    step()
    call("Free", None)
    tracemalloc.stop()
    least = steps[0]
    found.append((failed, [steps[i] - steps[i - 1] for i in range(1, len(steps))]))
print(repr(found))
""",
    )
    for failed, steps in told:
        assert failed is None
        # A step has numbers of its own; it is they that may count, up to a few.
        wanted = [60_000, 35_000, 4_940_000, 0, 3 - 5_000_000, 200_000, 40_000, -275_003]
        assert [abs(a - b) < 2000 for a, b in zip(steps, wanted)] == [True] * 8, steps


def test_what_came_to_lie_where_dead_code_was_is_told_by_its_own_lines(local_python: Python, ask: Ask) -> None:
    """Code objects of one size, one after the other at one address, with an instruction at one place in each."""
    told = ask(
        local_python,
        "-c",
        """
import gc
from lowtide import tracemalloc
tracemalloc.start(2)
wrong = addresses = 0
seen = set()
for i in range(1500):
    space = {}
    exec(compile("\\n" * (i % 50) + "def f(): return bytes(3000)", f"<{i % 7}>", "exec"), space)
    seen.add(id(space["f"].__code__))
    made = space["f"]()
    frame = tracemalloc.get_object_traceback(made)[-1]
    wrong += (frame.filename, frame.lineno) != (f"<{i % 7}>", i % 50 + 1)
    del made, space, frame
print(repr((wrong, len(seen))))
""",
    )
    wrong, addresses = told
    assert addresses < 1300  # some did come to lie there
    assert wrong == 0


def test_names_of_files_are_told_as_they_are(local_python: Python, ask: Ask) -> None:
    names = ["<ascii>", "é.py", "файл.py", "😀.py", "\udcff.py", "\ud83d\ude00.py", "x" * 5000, ""]
    code = f"""
from lowtide import tracemalloc
tracemalloc.start()
found = []
for name in {names!r}:
    space = {{}}
    exec(compile("made = bytes(1000)", name, "exec"), space)
    found.append(ascii(tracemalloc.get_object_traceback(space["made"])[0].filename))
print(repr(found))
"""
    assert ask(local_python, "-c", code) == [ascii(name) for name in names]


# ── Processes, threads, interpreters ──


def test_sums_of_many_threads_come_to_nothing_when_all_is_gone(target_python: Python, ask: Ask) -> None:
    told = ask(
        target_python,
        "-c",
        """
import gc, threading, hashlib, zlib
from lowtide import tracemalloc
data = bytes(range(256)) * 4000
def work(n):
    kept = []
    for i in range(n):
        kept.append([str(i)] * (i % 40))
        if i % 100 == 0: kept.append(zlib.compress(data)); hashlib.sha256(data).digest(); kept.clear()
def round():
    threads = [threading.Thread(target=work, args=(300,)) for _ in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    del threads, thread
    gc.collect()
round()
tracemalloc.start(3)
round()
first = tracemalloc.get_traced_memory()
snapshot = sum(trace.size for trace in tracemalloc.take_snapshot().traces)
round()
print(repr((first, snapshot, tracemalloc.get_traced_memory())))
""",
    )
    (first, peak), snapshot, (second, _) = told
    assert peak > 10_000
    assert abs(first - snapshot) < 10_000 and abs(first - second) < 30_000


def test_a_child_goes_on_with_what_its_parent_had(local_python: Python, ask: Ask) -> None:
    told = ask(
        local_python,
        "-W",
        "ignore",
        "-c",
        """
import os, threading
from lowtide import tracemalloc
tracemalloc.start()
stop = threading.Event()
def busy():
    while not stop.is_set(): threading.Lock(); [str(i) for i in range(100)]
threads = [threading.Thread(target=busy) for _ in range(3)]
for thread in threads: thread.start()
before = bytes(5000)
status = []
for i in range(10):
    pid = os.fork()
    if not pid:
        after = bytes(6000)
        found = [tracemalloc.get_object_traceback(x)[0].lineno for x in (before, after)]
        traced = tracemalloc.get_traced_memory()[0]
        tracemalloc.take_snapshot()
        tracemalloc.stop()
        os._exit(0 if found == [10, 15] and traced > 11000 else 1)
    status.append(os.waitpid(pid, 0)[1])
stop.set()
for thread in threads: thread.join()
print(repr(set(status)))
""",
    )
    assert told == {0}


def test_blocks_of_other_interpreters_count_too(target_python: Python, ask: Ask) -> None:
    told = ask(
        target_python,
        "-W",
        "ignore",
        "-c",
        """
import threading
from lowtide import tracemalloc
try:
    import _interpreters
except ImportError:
    import _xxsubinterpreters as _interpreters
tracemalloc.start(2)
base = tracemalloc.get_traced_memory()[0]
some = [_interpreters.create() for _ in range(3)]
code = "x = [str(i) * 20 for i in range(20_000)]\\nfor _ in range(5): y = [str(i) for i in x]; del y"
threads = [threading.Thread(target=_interpreters.run_string, args=(one, code)) for one in some]
for thread in threads: thread.start()
mine = [str(i) for i in range(20_000)]
for thread in threads: thread.join()
full = tracemalloc.get_traced_memory()[0]
lines = {(s.traceback[0].filename, s.traceback[0].lineno): s.count for s in tracemalloc.take_snapshot().statistics("lineno")}
for one in some: _interpreters.destroy(one)
print(repr((full - base, max(n for (file, line), n in lines.items() if line == 1), tracemalloc.get_traced_memory()[0] - base)))
""",
    )
    full, count, left = told
    assert full > 6_000_000 and count >= 60_000
    assert left < full / 2


@pytest.mark.parametrize("allocator", ["malloc", "debug", "pymalloc_debug"])
def test_any_allocator_of_cpython_is_traced(local_python: Python, ask: Ask, allocator: str) -> None:
    code = """
from lowtide import tracemalloc
for i in range(30):
    tracemalloc.start(i + 1)
    base = tracemalloc.get_traced_memory()[0]
    kept = [bytes(1000) for _ in range(100)]
    full = tracemalloc.get_traced_memory()[0] - base
    del kept
    left = tracemalloc.get_traced_memory()[0] - base
    tracemalloc.stop()
print(repr((full, left, tracemalloc.get_traced_memory())))
"""
    full, left, off = ask(local_python, "-c", code, env={"PYTHONMALLOC": allocator})
    assert 100 * 1033 <= full < 110_000 and left < 1000 and off == (0, 0)


# ── Beside others ──


def test_both_tracers_at_once_and_in_any_order_see_the_same(local_python: Python, ask: Ask) -> None:
    told = ask(
        local_python,
        "-c",
        """
import itertools, tracemalloc as stdlib
from lowtide import tracemalloc
found = []
for first, second in ((stdlib, tracemalloc), (tracemalloc, stdlib)):
    for ends in (first, second), (second, first):
        first.start(); second.start()
        kept = bytes(10_000)
        found.append([m.get_traced_memory()[0] >= 10_000 for m in (first, second)])
        found.append([m._get_object_traceback(kept)[0][1] for m in (first, second)])
        for module in ends: module.stop()
        tracemalloc.start()  # whatever happened before
        kept = bytes(20_000)
        found.append([tracemalloc.get_traced_memory()[0] >= 20_000, tracemalloc.get_object_traceback(kept)[0].lineno])
        tracemalloc.stop()
print(repr(found))
""",
    )
    assert told == [[True, True], [8, 8], [True, 13]] * 4


def test_a_profile_and_a_trace_go_side_by_side(local_python: Python, ask: Ask) -> None:
    told = ask(
        local_python,
        "-c",
        """
import lowtide
from lowtide import tracemalloc
lowtide.start(exact=True)
tracemalloc.start()
kept = [bytes(1000) for _ in range(1000)]
traced = tracemalloc.get_traced_memory()[0]
tracemalloc.stop()
lowtide.stop("both.tide", heap=False)
print(repr(traced))
""",
    )
    assert told > 1_000_000


def test_a_resource_warning_says_where_its_object_was_made(local_python: Python, ask: Ask) -> None:
    code = """
import warnings
from lowtide import tracemalloc
warnings.simplefilter("always")
tracemalloc.start(2)
def lose(): return open("/dev/null")
lose()
print(repr(1))
"""
    ask(local_python, "-c", code, errors="Object allocated at")


def test_arrays_of_numpy_count_in_its_domain(this_python: Python, ask: Ask) -> None:
    pytest.importorskip("numpy")
    told = ask(
        this_python,
        "-c",
        """
from lowtide import tracemalloc
tracemalloc.start()
import numpy  # loaded after the start
def make(): return numpy.empty(1_000_000)
kept = make()
def arrays():
    return [(t.size, t.traceback[0].lineno) for t in tracemalloc.take_snapshot().filter_traces(
        [tracemalloc.DomainFilter(True, numpy.lib.tracemalloc_domain)]).traces if t.size > 100_000]
with_it = arrays()
del kept
without = arrays()
tracemalloc.stop()
kept = make()
print(repr((with_it, without)))
""",
    )
    assert told == ([(8_000_000, 5)], [])


BELOW_A_LIMIT = """
import gc, resource, warnings
from lowtide import tracemalloc
def limit(room):
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + room, resource.RLIM_INFINITY))
def keep():
    return [bytes(1000) for i in range(20_000)]
limit(8 << 20)
try:
    tracemalloc.start()
    refused = False
except MemoryError:
    refused = True
limit(200 << 20)
tracemalloc.start(3)
before = tracemalloc.get_traced_memory()[0]
def grown():
    return (tracemalloc.get_traced_memory()[0] - before) / (20_000 * 1041)
kept = keep()
first, filled = grown(), []
try:
    while True: filled.append(bytes(3000))
except MemoryError:
    some = len(filled)
filled.clear()
del filled
gc.collect()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of blocks that were not traced
    told = sum(trace.size >= 1033 for trace in tracemalloc.take_snapshot().traces)
again = keep()
print([refused, first, some, told, grown()])
"""


def test_a_limit_on_address_space_harms_neither_the_program_nor_what_is_told(target_python: Python, ask: Ask) -> None:
    refused, first, some, told, both = ask(target_python, "-c", BELOW_A_LIMIT)
    assert refused and some > 5000
    assert (first, both) == (pytest.approx(1, rel=0.01), pytest.approx(2, rel=0.01))
    assert told == pytest.approx(20_000, rel=0.01)


# What C code tells of its own memory, as NumPy does; and a thread that looks functions up all the time, as loading others does.
TRACKS = """
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
int PyTraceMalloc_Track(unsigned domain, uintptr_t at, size_t bytes);
int PyTraceMalloc_Untrack(unsigned domain, uintptr_t at);
int track(void) {
    int status = PyTraceMalloc_Track(77, 4096, 100);
    PyTraceMalloc_Untrack(77, 4096);
    return status;
}
static volatile int over;
static pthread_t thread;
static void *look(void *unused) {
    while (!over) dlsym(RTLD_DEFAULT, "malloc");
    return unused;
}
int begin(void) { return pthread_create(&thread, 0, look, 0); }
int end(void) { over = 1; return pthread_join(thread, 0); }
"""


def test_a_library_is_seen_that_is_loaded_while_another_thread_looks_something_up(
    local_python: Python, ask: Ask, cc: str, tmp_path: Path
) -> None:
    libraries = 300
    (tmp_path / "tracks.c").write_text(TRACKS)
    subprocess.run([cc, "-shared", "-fPIC", "-o", tmp_path / "0.so", tmp_path / "tracks.c"], check=True)
    for i in range(1, libraries):
        shutil.copy(tmp_path / "0.so", tmp_path / f"{i}.so")
    code = f"""
import ctypes, time
from lowtide import tracemalloc
def seen(library):  # at once, or when the thread that is at it looks again
    end = time.monotonic() + 5
    while library.track():
        if time.monotonic() > end: return False
        time.sleep(0.001)
    return True
looker = ctypes.CDLL("./0.so")
tracemalloc.start()
looker.begin()
told = all(seen(ctypes.CDLL(f"./{{i}}.so")) for i in range(1, {libraries}))
looker.end()
print(told)
"""
    assert ask(local_python, "-c", code) is True


LOADS = """
#include <dlfcn.h>
#include <pthread.h>
static void *load(void *library) {
    for (;;) {
        void *handle = dlopen(library, RTLD_NOW);
        dlsym(handle, "track");
        dlclose(handle);
    }
    return 0;
}
int begin(char *library) {
    pthread_t thread;
    return pthread_create(&thread, 0, load, library);
}
"""


def test_a_forked_child_stops_tracing_whatever_another_thread_was_loading(
    local_python: Python, ask: Ask, cc: str, tmp_path: Path
) -> None:
    for name, source in (("tracks", TRACKS), ("loads", LOADS)):
        (tmp_path / f"{name}.c").write_text(source)
        flags = ["-shared", "-fPIC", "-o", tmp_path / f"{name}.so"]
        subprocess.run([cc, *flags, tmp_path / f"{name}.c"], check=True)
    code = f"""
import ctypes, os, time
from lowtide import tracemalloc
tracemalloc.start()
ctypes.CDLL("./loads.so").begin(b"./tracks.so")
def ends(child):
    end = time.monotonic() + {PATIENCE_S / 4}
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > end:
            os.kill(child, 9)
            return False
        time.sleep(0.001)
    return True
for i in range(100):
    child = os.fork()
    if not child:
        tracemalloc.stop()
        os._exit(0)
    ended = ends(child)
    if not ended: break
print(ended, flush=True)
os._exit(0)
"""
    assert ask(local_python, "-W", "ignore", "-c", code) is True
