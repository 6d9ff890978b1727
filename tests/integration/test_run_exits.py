"""`lowtide run` and the program's exit functions (atexit): what they clear was there at its end, and they run as without."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from conftest import Lowtide, Python
from tide_decoder import Recording, read_recording

# As matplotlib does: open figures are closed by an exit function.
FIGURES = """
import atexit
class Figure:
    pass
def draw():
    for i in range(20_000): figures.append(Figure())
figures = []
draw()
atexit.register(figures.clear)
"""


def run(lowtide: Lowtide, tmp_path: Path, code: str, *options: object, status: int = 0) -> dict[str, Any]:
    """The report of a program, which may be of several lines more than FIGURES."""
    (tmp_path / "app.py").write_text(textwrap.dedent(code))
    done = lowtide("run", "--no-report", "-o", tmp_path / "t.tide", *options, tmp_path / "app.py", cwd=tmp_path)
    assert done.status == status, done.stderr
    report: dict[str, Any] = json.loads(lowtide("report", "--json", tmp_path / "t.tide").stdout)
    return report


def recorded(tmp_path: Path) -> Recording:
    return read_recording((tmp_path / "t.tide").read_bytes())


def count(report: dict[str, Any], name: str) -> int:
    return sum(row["count"] for row in report["heap"]["types"] if row["type"].endswith(name))


@pytest.mark.parametrize(
    "end, status",
    [
        ("", 0),
        ("import sys; sys.exit(3)", 3),
        ("raise KeyError(5)", 1),
        ("import threading; threading.Thread(target=lambda: atexit.register(print)).start()", 0),
        ("from atexit import register; register(register, print)", 0),
        ("import os; atexit.register(os._exit, 4)", 4),
    ],
)
def test_what_exit_functions_clear_is_in_the_heap(end: str, status: int, lowtide: Lowtide, tmp_path: Path) -> None:
    report = run(lowtide, tmp_path, FIGURES + end, status=status)
    assert count(report, "Figure") == 20_000


def test_so_it_is_on_each_python(local_python: Python, lowtide: Lowtide, tmp_path: Path) -> None:
    report = run(lowtide, tmp_path, FIGURES, "--exact", "--python", local_python.executable)
    assert count(report, "Figure") == 20_000
    (site,) = (row for row in report["allocations"]["sites"] if row["function"] == "draw")
    assert site["live_blocks"] >= 20_000
    assert site["held_by"] == "figures"


def test_what_exit_functions_allocate_is_in_the_peak_and_not_alive_at_the_end(lowtide: Lowtide, tmp_path: Path) -> None:
    code = """
        import atexit
        kept = []
        @atexit.register
        def write():
            kept.append(b"x" * 30_000_000)
    """
    report = run(lowtide, tmp_path, code, "--exact")
    (site,) = (row for row in report["allocations"]["sites"] if row["function"] == "write")
    assert site["peak_bytes"] >= 30_000_000 <= site["total_bytes"]
    assert site["live_bytes"] == 0


ORDER = """
import atexit, sys, threading
def say(*words, **more): print(*words, more, flush=True)
class Picky:
    def __call__(self): say("picky")
    def __eq__(self, other): raise ValueError("compared")
    __hash__ = None
assert atexit.register(say, 1, a=2) is say
@atexit.register
def last(): say("second"); atexit.register(say, "too late")
atexit.register(Picky())
def gone(): say("gone")
for i in range(3): atexit.register(gone)
try: atexit.register(5)
except TypeError as e: say(e)
try: atexit.register()
except TypeError as e: say(e)
f = atexit.register
say(repr(f), f.__name__, f.__qualname__, f.__module__, f.__self__ is atexit, f.__doc__, f.__text_signature__, type(f))
say([name for name in dir(atexit)])
def late():
    threading.main_thread().join()
    atexit.register(say, "from a thread")
threading.Thread(target=late).start()
atexit.register(lambda: 1 / 0)
atexit.register(sys.exit, 5)
"""


def plain(said: str) -> str:
    return re.sub("0x[0-9a-f]+", "0x", said)


def test_exit_functions_run_as_they_would_without(local_python: Python, lowtide: Lowtide, tmp_path: Path) -> None:
    """In their order, each once, with what it returns and raises."""
    (tmp_path / "app.py").write_text(ORDER)
    alone = subprocess.run([local_python.executable, tmp_path / "app.py"], capture_output=True, text=True)
    done = lowtide("run", "--no-report", "--python", local_python.executable, tmp_path / "app.py")
    assert (done.status, plain(done.stdout), plain(done.stderr)) == (
        alone.returncode,
        plain(alone.stdout),
        plain(alone.stderr),
    )
    assert "from a thread" in done.stdout


COUNTED = """
import atexit, os
def say(*words): print(atexit._ncallbacks(), *words, flush=True)
say("at first")
for i in range(3): atexit.register(say, i)
say("registered")
def other(): say("other")
atexit.register(other)
atexit.unregister(other)
say("taken out")
child = os.fork()
if not child:
    atexit.register(other)
    say("in a child")
    atexit._clear()
    say("cleared")
    atexit.register(other)
    say("one more")
    atexit._run_exitfuncs()
    say("run")
    os._exit(0)
os.waitpid(child, 0)
atexit._clear()
say("cleared")
atexit.register(say, "at the end")
say(repr(atexit._ncallbacks).split(" at ")[0], atexit._clear.__doc__, atexit._run_exitfuncs.__name__)
"""


def test_a_program_counts_its_own_exit_functions(local_python: Python, lowtide: Lowtide, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(COUNTED)
    alone = subprocess.run([local_python.executable, tmp_path / "app.py"], capture_output=True, text=True)
    done = lowtide("run", "--no-report", "--python", local_python.executable, tmp_path / "app.py")
    assert (done.status, plain(done.stdout)) == (0, plain(alone.stdout)), done.stderr
    assert " at the end" in done.stdout


def test_a_program_that_clears_the_list_has_its_heap_captured(
    local_python: Python, lowtide: Lowtide, tmp_path: Path
) -> None:
    code = FIGURES + "atexit._clear()\nassert atexit._ncallbacks() == 0\n"
    report = run(lowtide, tmp_path, code, "--python", local_python.executable)
    assert count(report, "Figure") == 20_000


def test_what_was_unregistered_does_not_run(lowtide: Lowtide, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "import atexit\n"
        "for i in range(20_000): atexit.register(print, i)\n"
        "atexit.unregister(print)\n"
        "kept = [object() for i in range(1000)]\n"
        "atexit.register(kept.clear)\n"
    )
    done = lowtide("run", "--no-report", "-o", tmp_path / "t.tide", tmp_path / "app.py")
    assert (done.status, done.stdout, done.stderr) == (0, "", "")
    assert recorded(tmp_path).objects


def test_forked_children_run_those_that_they_register(lowtide: Lowtide, tmp_path: Path) -> None:
    code = """
        import atexit, multiprocessing, os, sys
        figures = [bytes(1000) for i in range(1000)]
        atexit.register(figures.clear)
        if os.fork() == 0:
            atexit.register(os.write, 1, b"child\\n")
            sys.exit(0)
        os.wait()
        multiprocessing.get_context("fork").Process(target=atexit.register, args=(print, "process")).start()
    """
    (tmp_path / "app.py").write_text(textwrap.dedent(code))
    alone = subprocess.run([sys.executable, tmp_path / "app.py"], capture_output=True, text=True)
    done = lowtide("run", "--no-report", "-o", tmp_path / "t.tide", tmp_path / "app.py")
    assert (done.status, done.stdout, done.stderr) == (alone.returncode, alone.stdout, alone.stderr)
    assert "child\n" in done.stdout
    assert len(list(recorded(tmp_path).table_rows("processes"))) == 3


def test_a_program_that_waits_in_an_exit_function_is_on_the_timeline_the_while(
    lowtide: Lowtide, tmp_path: Path
) -> None:
    """Processes that were not joined are by multiprocessing's exit function: that may be most of the program."""
    code = """
        import multiprocessing, time
        multiprocessing.get_context("fork").Process(target=time.sleep, args=(1.5,)).start()
    """
    run(lowtide, tmp_path, code)
    recording = recorded(tmp_path)
    main, child = recording.table_rows("processes")
    points = [int(row["t_us"]) for row in recording.table_rows("timeline") if int(row["process"]) == 0]
    assert max(points) > int(child["begin_us"]) + 1_000_000
    assert int(main["end_us"]) >= int(child["end_us"])


def test_the_heap_is_that_of_what_an_exit_function_executes(lowtide: Lowtide, tmp_path: Path) -> None:
    (tmp_path / "next.py").write_text("class Second: pass\nseconds = [Second() for i in range(100)]\n")
    code = f"""
        import atexit, os, sys
        class First: pass
        firsts = [First() for i in range(50_000)]
        atexit.register(os.execv, sys.executable, [sys.executable, {str(tmp_path / "next.py")!r}])
    """
    report = run(lowtide, tmp_path, code)
    assert (count(report, "First"), count(report, "Second")) == (0, 100)


WATCHDOG = """
#include <signal.h>
#include <sys/time.h>
#include <unistd.h>
void ends(int n) { (void)n; _exit(3); }
void in(int us) {
    struct itimerval t = {{0, 0}, {us / 1000000, us % 1000000}};
    signal(SIGALRM, ends);
    setitimer(ITIMER_REAL, &t, 0);
}
"""


@pytest.mark.parametrize("ms", [20, 60, 150])
def test_a_watchdog_of_c_ends_the_program_while_its_heap_is_captured(ms: int, lowtide: Lowtide, tmp_path: Path) -> None:
    """Its handler calls _exit in the thread that captures."""
    (tmp_path / "dog.c").write_text(WATCHDOG)
    cc = shutil.which("cc") or pytest.skip("no compiler")
    subprocess.run([cc, "-shared", "-fPIC", "-o", tmp_path / "dog.so", tmp_path / "dog.c"], check=True)
    run(
        lowtide,
        tmp_path,
        f"""
        import atexit, ctypes
        dog = ctypes.CDLL("./dog.so")
        kept = [[i] for i in range(600_000)]
        atexit.register(int)
        dog["in"]({ms * 1000})
        """,
        status=3,
    )


@pytest.mark.parametrize("how", ["handler", "call"])
def test_c_code_that_calls_exit_has_its_status_at_once(
    how: str, local_python: Python, lowtide: Lowtide, tmp_path: Path
) -> None:
    """It may be a handler that interrupted an allocation: no heap is captured there, and why is said."""
    (tmp_path / "dog.c").write_text(WATCHDOG)
    cc = shutil.which("cc") or pytest.skip("no compiler")
    subprocess.run([cc, "-shared", "-fPIC", "-o", tmp_path / "dog.so", tmp_path / "dog.c"], check=True)
    code = """
        import ctypes
        dog = ctypes.PyDLL("./dog.so")  # keeps the GIL
        kept = [[i] for i in range(20_000)]
    """
    ends = {"handler": "dog['in'](20_000)\nwhile True: kept[0] = [[]] * 100", "call": "dog.ends(3)"}[how]
    code = textwrap.dedent(code) + ends
    report = run(lowtide, tmp_path, code, "--exact", "--python", local_python.executable, status=3)
    assert report["heap"]["objects"] == 0 and "_exit of C code" in report["capture"]["missing"]
    assert report["allocations"]["sites"]


def test_os_exit_is_as_it_was(local_python: Python, lowtide: Lowtide, tmp_path: Path) -> None:
    code = """
        import os, posix, threading
        assert os._exit is posix._exit
        words = repr(os._exit).split(" at ")[0], os._exit.__text_signature__, os._exit.__doc__, os._exit.__module__
        print(*words, flush=True)
        for wrong in ["x"], [1, 2], [], [1 << 40]:
            try: os._exit(*wrong)
            except (TypeError, OverflowError) as e: print(e, flush=True)
        class First: pass
        firsts = [First() for i in range(1000)]
        class Status:
            def __index__(self): return 6
        threading.Thread(target=os._exit, kwargs={"status": Status()}).start()
        threading.Event().wait()
    """
    (tmp_path / "app.py").write_text(textwrap.dedent(code))
    alone = subprocess.run([local_python.executable, tmp_path / "app.py"], capture_output=True, text=True)
    done = lowtide(
        *("run", "--no-report", "-o", tmp_path / "t.tide", "--python", local_python.executable), tmp_path / "app.py"
    )
    assert (done.status, done.stdout, done.stderr) == (6, alone.stdout, alone.stderr)
    assert len(alone.stdout.splitlines()) >= 5
    assert count(json.loads(lowtide("report", "--json", tmp_path / "t.tide").stdout), "First") == 1000


def test_another_interpreter_may_end_the_process(local_python: Python, lowtide: Lowtide, tmp_path: Path) -> None:
    """Each has an allocator of its own from 3.12 on: what one made another cannot give back."""
    code = """
        import sys
        if sys.version_info >= (3, 13):
            import _interpreters
            _interpreters.exec(_interpreters.create("isolated"), "import os; os._exit(7)")
        else:
            import _xxsubinterpreters
            _xxsubinterpreters.run_string(_xxsubinterpreters.create(isolated=True), "import os; os._exit(7)")
    """
    run(lowtide, tmp_path, code, "--python", local_python.executable, status=7)


def test_a_limit_holds_while_exit_functions_run(lowtide: Lowtide, tmp_path: Path) -> None:
    code = """
        import atexit, gc, time
        class Cycle:
            def __init__(self): self.me, self.body = self, bytearray(1 << 20)
        @atexit.register
        def work():
            gc.disable()
            end = time.monotonic() + 200
            made = 0
            while time.monotonic() < end and len(found := [o for o in gc.get_objects() if type(o) is Cycle]) == made:
                del found
                made += 1
                Cycle()
                time.sleep(0.01)
            print("collected" if time.monotonic() < end else "kept")
    """
    (tmp_path / "app.py").write_text(textwrap.dedent(code))
    done = lowtide("run", "--no-report", "--limit", "120M", tmp_path / "app.py")
    assert (done.status, done.stdout) == (0, "collected\n")


def test_children_of_another_interpreter_are_told_with_what_they_had_at_their_end(
    lowtide: Lowtide, tmp_path: Path
) -> None:
    (tmp_path / "child.py").write_text(FIGURES.replace("Figure()", "bytes(1000)"))
    code = f"import subprocess, sys; subprocess.run([sys.executable, {str(tmp_path / 'child.py')!r}], check=True)"
    report = run(lowtide, tmp_path, code, "--exact")
    (site,) = (row for row in report["allocations"]["sites"] if row["function"] == "draw")
    assert site["gone_bytes"] >= 20_000_000


def test_the_exit_status_is_that_of_what_the_program_executed(lowtide: Lowtide, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("""
import os, sys
if len(sys.argv) < 2: os.execv(sys.executable, [sys.executable, __file__, "x"])
sys.exit(3)
""")
    out = tmp_path / "t.tide"
    done = lowtide("run", "--no-report", "-o", out, "--python", sys.executable, tmp_path / "app.py", cwd=tmp_path)
    assert done.status == 3
    process = json.loads(lowtide("report", out, "--json").stdout)["process"]
    assert process["exit_status"] == 3
    told = json.loads(lowtide("report", out, "--json").stdout)["processes"]
    assert len(told) == 2
    assert process["duration_s"] == pytest.approx(told[1]["end_s"] - told[0]["begin_s"], abs=0.002)  # as recorded


def test_a_shells_exit_status_is_not_told_of_the_python_below_it(lowtide: Lowtide, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("kept = list(range(1000))")
    out = tmp_path / "t.tide"
    shell = f"{sys.executable} app.py; exit 3"
    done = lowtide("run", "--no-report", "-o", out, "--", "bash", "-c", shell, cwd=tmp_path)
    assert done.status == 3
    report = json.loads(lowtide("report", out, "--json").stdout)
    assert report["heap"]["objects"] and "app.py" in report["process"]["command"]
    assert report["process"]["exit_status"] in (0, None)
    assert 3 in {one["exit_status"] for one in report["processes"]}
