"""The allocation hooks beside others that change how a program allocates, switches stacks, or traces: the program does as it does
alone, and its own lines are told."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TESTS, Lowtide, Python, Spawn
from test_attach import attach_until, functions
from tide_decoder import Recording, read_recording

ALLOCATORS = {"jemalloc": "libjemalloc.so.2", "mimalloc": "libmimalloc.so.2"}

KEEP = """
def keep():
    return [bytes(1000) for i in range(20_000)]
"""
KEPT = pytest.approx(20_000 * 1041, rel=0.02)


def how(mode: str, interval: str) -> list[str]:
    """A mode's options: where every allocation counts there is no interval."""
    return [mode] if mode == "--exact" else [f"--interval={interval}", *filter(None, [mode])]


def rows_below(function: str, recording: Recording) -> list[dict[str, int | str]]:
    """What was allocated in the function and what it called."""
    frames, stacks = list(recording.table_rows("frames")), list(recording.table_rows("stacks"))
    mine: set[int] = set()  # parents stand first
    for i, stack in enumerate(stacks):
        if function in str(frames[int(stack["frame"])]["function"]) or int(stack["parent"]) - 1 in mine:
            mine.add(i)
    return [row for row in recording.table_rows("allocations") if int(row["stack"]) in mine]


def kept_by(
    lowtide: Lowtide, folder: Path, code: str, *options: object, python: str, env: dict[str, str] | None = None
) -> tuple[float, str]:
    """Runs code after KEEP: live bytes of what keep() made, and what was printed."""
    folder.joinpath("app.py").write_text(KEEP + code)
    out = folder / "t.tide"
    done = lowtide(
        "run", "--no-report", "-o", out, *options, "--python", python, folder / "app.py", cwd=folder, env=env
    )
    assert done.status == 0, done.stderr
    recording = read_recording(out.read_bytes())
    live = sum(int(row["live_bytes"]) for row in rows_below("keep", recording))
    return live, done.stdout


@pytest.mark.parametrize("name", sorted(ALLOCATORS))
@pytest.mark.parametrize("mode", [["--interval=16K"], ["--interval=16K", "--native"], ["--exact"]], ids=" ".join)
def test_a_preloaded_allocator_stays_the_programs(
    name: str, mode: list[str], lowtide: Lowtide, this_python: Python, tmp_path: Path
) -> None:
    folders = [os.environ.get("LOWTIDE_ALLOCATORS", ""), "/usr/lib/x86_64-linux-gnu"]
    found = [path for folder in folders if (path := Path(folder) / ALLOCATORS[name]).is_file()]
    if not found:
        pytest.skip(f"{name} is not installed here")
    code = f"""
kept = keep()
import ctypes, threading
libc = ctypes.CDLL(None)
libc.calloc.restype = libc.malloc.restype = libc.realloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
libc.realloc.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
def churn():
    for i in range(300):
        bytearray(100_000)
        tiny = [libc.malloc(n % 9) for n in range(40)] + [libc.calloc(n % 3, 3) for n in range(40)]
        for at in tiny: libc.free(libc.realloc(at, 5))
threads = [threading.Thread(target=churn) for i in range(4)]
for t in threads: t.start()
for t in threads: t.join()
print(any({name!r} in line for line in open("/proc/self/maps")))
"""
    live, said = kept_by(
        lowtide, tmp_path, code, *mode, python=this_python.executable,
        env={**os.environ, "LD_PRELOAD": str(found[0])},
    )  # fmt: skip
    assert said == "True\n"
    assert live == (KEPT if mode == ["--exact"] else pytest.approx(20_000 * 1041, rel=0.2))


@pytest.mark.parametrize(
    "asked", ["PYTHONMALLOC=" + a for a in ("malloc", "debug", "malloc_debug", "mimalloc")] + ["PYTHONDEVMODE=1"]
)
def test_python_may_be_asked_for_any_of_its_allocators(
    asked: str, lowtide: Lowtide, local_python: Python, tmp_path: Path
) -> None:
    """The debug ones look at each block's edges, when it ends and where it was made: also at the block of our audit hook."""
    if "mimalloc" in asked and local_python.minor < 13:
        pytest.skip("this Python has no mimalloc")
    live, said = kept_by(
        lowtide, tmp_path, "kept = keep()\nprint('done')\n", "--exact", python=local_python.executable,
        env=os.environ | dict([asked.split("=")]),
    )  # fmt: skip
    assert said == "done\n"
    assert live == KEPT


# Refuses process_vm_readv, as older containers do, and becomes what its arguments say.
REFUSES = """
import ctypes, os, platform, struct, sys
call = {"x86_64": 310, "aarch64": 270}[platform.machine()]
rules = b"".join(
    struct.pack("<HBBI", *rule)
    for rule in [(0x20, 0, 0, 0), (0x15, 0, 1, call), (6, 0, 0, 0x00050001), (6, 0, 0, 0x7FFF0000)]
)
kept = ctypes.create_string_buffer(rules)
program = ctypes.create_string_buffer(struct.pack("@HP", len(rules) // 8, ctypes.addressof(kept)))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program, 0, 0) == 0
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_debug_allocators_find_our_audit_hook_gone_where_a_container_filters_calls(
    lowtide_exe: Path, this_python: Python, tmp_path: Path
) -> None:
    app = tmp_path / "app.py"
    app.write_text("print('done')")
    words = [lowtide_exe, "run", "-o", tmp_path / "a.tide", "--no-report", "--python", this_python.executable, app]
    done = subprocess.run(
        [sys.executable, "-c", REFUSES, *words],
        env=os.environ | {"PYTHONMALLOC": "debug"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_a_process_with_debug_allocators_is_watched_and_its_heap_captured(
    lowtide: Lowtide, target_python: Python, spawn: Spawn, tmp_path: Path
) -> None:
    """They abort a process whose thread holds the GIL without a thread state: the child that walks the heap would be one."""
    target = spawn(target_python, KEEP + "kept = keep()\n", env={"PYTHONDEVMODE": "1"})
    done = lowtide("attach", target.pid, "--for", "200ms", "--exact", "-o", tmp_path / "a.tide")
    assert (done.status, done.stderr) == (0, "")
    assert len(list(read_recording((tmp_path / "a.tide").read_bytes()).objects)) > 20_000
    assert target.finish()[0] == 0
    assert target.stderr() == ""


def test_a_program_may_put_allocators_of_its_own_over_ours_and_take_them_out(
    lowtide: Lowtide, cc: str, this_python: Python, tmp_path: Path
) -> None:
    source = TESTS / "integration" / "own_allocator.c"
    subprocess.run([cc, "-shared", "-fPIC", "-O1", "-o", str(tmp_path / "own.so"), str(source)], check=True)
    code = """
import ctypes
own = ctypes.PyDLL("./own.so")
own.own_count.restype = ctypes.c_long
own.own_put()
kept = keep()
print(own.own_count(500))
own.own_take()
again = keep()
own.own_put()  # and never out again
"""
    live, said = kept_by(lowtide, tmp_path, code, "--exact", python=this_python.executable)
    assert said == "500\n"
    assert live == pytest.approx(40_000 * 1041, rel=0.02)


def test_tracemalloc_counts_the_same_beside_us(lowtide: Lowtide, local_python: Python, tmp_path: Path) -> None:
    code = """
import tracemalloc
tracemalloc.start()
before = tracemalloc.get_traced_memory()[0]
kept = keep()
print(tracemalloc.get_traced_memory()[0] - before)
tracemalloc.stop()
"""
    live, said = kept_by(lowtide, tmp_path, code, "--exact", python=local_python.executable)
    assert live == KEPT
    assert int(said) == pytest.approx(live, rel=0.01)


TRACERS = {
    "settrace": "import sys\nseen = []\ndef trace(frame, event, arg):\n    seen.append(event)\n    return trace\nsys.settrace(trace)\n",
    "setprofile": "import sys\nsys.setprofile(lambda frame, event, arg: None)\n",
    "monitoring": "import sys\nif hasattr(sys, 'monitoring'):\n    m = sys.monitoring\n    m.use_tool_id(3, 'test')\n"
    "    m.register_callback(3, m.events.LINE, lambda code, line: None)\n    m.set_events(3, m.events.LINE)\n",
    "coverage": "import coverage\ncoverage.Coverage(data_file=None).start()\n",
}


@pytest.mark.parametrize("tracer", sorted(TRACERS))
def test_tracers_and_we_leave_each_other_alone(
    tracer: str, lowtide: Lowtide, local_python: Python, tmp_path: Path
) -> None:
    if tracer == "coverage" and subprocess.run([local_python.executable, "-c", "import coverage"]).returncode:
        pytest.skip("coverage is not installed in this Python")
    live, _ = kept_by(lowtide, tmp_path, TRACERS[tracer] + "kept = keep()\n", "--exact", python=local_python.executable)
    assert live == KEPT


GREEN = {
    "greenlet": """
import greenlet
main = greenlet.getcurrent()
def deep(n):
    if n:
        deep(n - 1)
    else:
        main.switch()
        kept.append(keep())
kept = []
many = [greenlet.greenlet(lambda: deep(30)) for i in range(4)]
for g in many: g.switch()
for g in many: g.switch()
""",
    "gevent": """
import gevent.monkey
gevent.monkey.patch_all()
import gevent, threading
kept = []
def work():
    gevent.sleep(0.001)
    kept.append(keep())
    gevent.sleep(0.001)
gevent.joinall([gevent.spawn(work) for i in range(4)])
""",
}


@pytest.mark.parametrize("mode", ["--exact", "--native"])
@pytest.mark.parametrize("name", sorted(GREEN))
def test_stacks_that_are_switched_do_not_confuse_us(
    name: str, mode: str, lowtide: Lowtide, this_python: Python, tmp_path: Path
) -> None:
    pytest.importorskip(name)
    live, _ = kept_by(lowtide, tmp_path, GREEN[name], *how(mode, "16K"), python=this_python.executable)
    assert live == pytest.approx(80_000 * 1041, rel=0.02 if mode == "--exact" else 0.1)


# Does its work until its standard input says something, a little at a time, and keeps the last.
ON_AND_ON = """
import select, sys
def asked(): return bool(select.select([sys.stdin], [], [], 0.002)[0])
kept = []
print("ready", flush=True)
{work}
print("done", len(kept[-1]))
"""
MEANWHILE = {
    "greenlet": """
import greenlet
def deep(n):
    if n: return deep(n - 1)
    while True:
        main.switch()
        kept[:] = [keep()[:500]]
main = greenlet.getcurrent()
many = [greenlet.greenlet(lambda n=n: deep(10 * n)) for n in range(6)]
while not asked():
    for g in many: g.switch()
""",
    "gevent": """
import gevent
going = True
def work():
    while going:
        kept[:] = [keep()[:500]]
        gevent.sleep(0)
many = [gevent.spawn(work) for n in range(6)]
while not asked(): gevent.sleep(0.002)
going = False
gevent.joinall(many)
""",
    "threads of pdb": """
import io, pdb, threading
going = True
def work():
    while going: kept[:] = [keep()[:500]]
def traced():
    while going: pdb.Pdb(stdin=io.StringIO("step\\n" * 40 + "continue\\n"), stdout=io.StringIO(), nosigint=True).runcall(keep)
threads = [threading.Thread(target=work), threading.Thread(target=traced)]
for t in threads: t.start()
while not asked(): pass
going = False
for t in threads: t.join()
""",
}


@pytest.mark.parametrize("mode", ["--exact", "--native"])
@pytest.mark.parametrize("name", sorted(MEANWHILE))
def test_stacks_that_are_switched_while_we_come_and_go_stay_whole(
    name: str, mode: str, lowtide: Lowtide, this_python: Python, spawn: Spawn, tmp_path: Path
) -> None:
    if "pdb" not in name:
        pytest.importorskip(name)
    small = KEEP.replace("20_000", "2000")
    target = spawn(this_python, small + ON_AND_ON.format(work=MEANWHILE[name]))

    def keeps(recording: Recording) -> bool:
        return any("keep" in name for name in functions(recording))

    attach_until(keeps, lowtide, target, tmp_path / "a.tide", *how(mode, "64K"))
    assert target.finish() == (0, "done 500\n")
    assert target.stderr() == ""


def test_a_program_ends_as_always_while_its_threads_still_allocate(
    lowtide: Lowtide, local_python: Python, tmp_path: Path
) -> None:
    """Daemon threads are stopped in the middle of what they do, without the GIL, while the interpreter is torn down."""
    code = """
import threading, zlib, json
def churn():
    while True:
        zlib.compress(bytes(50_000)); json.dumps([{"a": n} for n in range(100)]); bytearray(200_000)
for i in range(6): threading.Thread(target=churn, daemon=True).start()
kept = keep()
print("done")
"""
    for mode in "--exact", "--native":
        live, said = kept_by(lowtide, tmp_path, code, *how(mode, "4K"), python=local_python.executable)
        assert said == "done\n"
        assert live == pytest.approx(20_000 * 1041, rel=0.02 if mode == "--exact" else 0.1)


FORKS = """
import os, threading
stop = False
def churn():
    while not stop:
        [bytearray(n * 37 % 9000) for n in range(200)]
threads = [threading.Thread(target=churn) for i in range(4)]
for t in threads: t.start()
for i in range(40):
    pid = os.fork()
    if not pid:
        [bytearray(n * 37 % 9000) for n in range(2000)]
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
stop = True
for t in threads: t.join()
kept = keep()
"""


@pytest.mark.parametrize("mode", ["", "--exact", "--native"], ids=["sampled", "exact", "native"])
def test_forks_in_the_middle_of_allocations(mode: str, lowtide: Lowtide, this_python: Python, tmp_path: Path) -> None:
    live, _ = kept_by(lowtide, tmp_path, FORKS, *how(mode, "16K"), python=this_python.executable)
    assert live == (KEPT if mode == "--exact" else pytest.approx(20_000 * 1041, rel=0.2))


# The module of subinterpreters, or None, and code run in a new one.
ANOTHER = """
try:
    import _interpreters as interpreters
except ImportError:
    try:
        import _xxsubinterpreters as interpreters
    except ImportError:
        interpreters = None
import threading
def run_in_another(code):
    i = interpreters.create()
    interpreters.run_string(i, code)
    interpreters.destroy(i)
"""
INTERPRETERS = (
    ANOTHER
    + """
code = "import json; kept = [json.dumps([i] * 50) for i in range(3000)]"
if interpreters:
    threads = [threading.Thread(target=run_in_another, args=(code,)) for i in range(3)]
    for t in threads: t.start()
    for t in threads: t.join()
kept = keep()
"""
)


@pytest.mark.parametrize("mode", ["--exact", "--native"])
def test_subinterpreters_come_and_go(mode: str, lowtide: Lowtide, local_python: Python, tmp_path: Path) -> None:
    live, _ = kept_by(lowtide, tmp_path, INTERPRETERS, *how(mode, "16K"), python=local_python.executable)
    assert live == (KEPT if mode == "--exact" else pytest.approx(20_000 * 1041, rel=0.2))


OWN_GILS = (
    ANOTHER
    + """
code = '''
def bottom():
    return [bytes(5000) for i in range(20)]
def deep(n):
    return deep(n - 1) if n else bottom()
for i in range(100):
    deep(i * 37 % 700)
'''
threads = [threading.Thread(target=run_in_another, args=(code,)) for i in range(4)] if interpreters else []
for t in threads: t.start()
exec(code)
kept = keep()
exec(code)
for t in threads: t.join()
"""
)


@pytest.mark.parametrize("mode", [["--exact"], ["--exact", "--native"]], ids=" ".join)
def test_interpreters_with_gils_of_their_own_lose_no_count_to_each_other(
    mode: list[str], lowtide: Lowtide, local_python: Python, tmp_path: Path
) -> None:
    kept_by(lowtide, tmp_path, OWN_GILS, *mode, python=local_python.executable)
    recording = read_recording((tmp_path / "t.tide").read_bytes())
    kept = sum(int(row["total_bytes"]) for row in rows_below("keep", recording))
    assert 20_000 * 1041 < kept < 20_000 * 1200
    made = rows_below("bottom", recording)
    assert sum(int(row["live_blocks"]) for row in made) == 0
    blocks = sum(int(row["total_blocks"]) for row in made)
    assert blocks >= 2 * 100 * 20
    assert blocks % 100 == 0, "each round makes as many as any other"


ENTERED = (
    ANOTHER
    + """
code = '''
def bottom():
    return [bytes(5000) for i in range(20)]
for i in range(25):
    bottom()
'''
def one():
    run_in_another(code)
    kept_by_it.append(after())
def after(): return [bytes(3000) for i in range(100)]
kept_by_it = []
if interpreters:
    one()
    thread = threading.Thread(target=one)
    thread.start()
    thread.join()
kept = keep()
"""
)


@pytest.mark.parametrize("mode", [["--exact"], ["--exact", "--native"]], ids=" ".join)
def test_frames_are_those_of_the_interpreter_that_a_thread_is_in(
    mode: list[str], lowtide: Lowtide, local_python: Python, tmp_path: Path
) -> None:
    has = "import importlib.util as u, sys; sys.exit(not (u.find_spec('_interpreters') or u.find_spec('_xxsubinterpreters')))"
    if subprocess.run(local_python.command("-c", has)).returncode:
        pytest.skip("this Python has no module for subinterpreters")
    kept_by(lowtide, tmp_path, ENTERED, *mode, python=local_python.executable)
    recording = read_recording((tmp_path / "t.tide").read_bytes())
    for function, expected in (("bottom", 2 * 25 * 20 * 5033), ("after", 2 * 100 * 3033)):
        made = sum(int(row["total_bytes"]) for row in rows_below(function, recording))
        assert expected < made < expected * 1.2, function


def test_the_json_report_of_such_a_run_is_whole(lowtide: Lowtide, this_python: Python, tmp_path: Path) -> None:
    kept_by(lowtide, tmp_path, INTERPRETERS, "--native", python=this_python.executable)
    report = json.loads(lowtide("report", "--json", tmp_path / "t.tide").stdout)
    assert any("keep" in site["function"] for site in report["allocations"]["sites"])


def test_a_library_whose_code_is_relocated_is_left_as_it_is(
    lowtide: Lowtide, this_python: Python, tmp_path: Path
) -> None:
    """Its address of malloc lies in the middle of an instruction, in a page that is code again once it is loaded."""
    source, library = tmp_path / "relocated.c", tmp_path / "relocated.so"
    source.write_text("#include <stdlib.h>\nvoid *take(void) { return malloc(10); }\n")
    cc = shutil.which("gcc") or pytest.skip("no gcc")
    flags = ["-shared", "-fno-pic", "-mcmodel=large", "-fcf-protection=none", "-Wl,-z,notext"]
    subprocess.run([cc, *flags, "-o", library, source], check=True, capture_output=True)
    code = f"""
import ctypes
kept = keep()
relocated = ctypes.CDLL({str(library)!r})
relocated.take.restype = ctypes.c_void_p
print(relocated.take() is not None)
"""
    live, said = kept_by(lowtide, tmp_path, code, "--exact", python=this_python.executable)
    assert said == "True\n"
    assert live == KEPT
