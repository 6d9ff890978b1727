"""lowtide.start, stop and mark: the allocation profile from inside a program."""

from __future__ import annotations

from pathlib import Path

from conftest import Python
from test_package_inside import inside, package

__all__ = ["package"]

MIB = 1 << 20
PROGRAM = """
import json, os, subprocess, lowtide

def make(n):
    return [{{"i": i, "s": str(i) * 10}} for i in range(n)]

lowtide.start({options})
lowtide.mark("begun")
kept = make(100_000)
gone = make(100_000)
del gone
block = bytearray(32 << 20)
lowtide.stop("inside.tide", heap={heap})
asked = "report", "inside.tide", "--json"
print(repr(json.loads(subprocess.run([os.environ["LOWTIDE_EXE"], *asked], capture_output=True, check=True).stdout)))
"""


def profile(python: Python, package: Path, exe: Path, where: Path, options: str = "", heap: bool = False) -> dict:
    found = inside(python, package, exe, PROGRAM.format(options=options, heap=heap), where)
    assert isinstance(found, dict)
    return found


def test_exact_figures_of_a_line_are_those_of_the_blocks_that_it_made(local_python, package, lowtide_exe, tmp_path):
    allocations = profile(local_python, package, lowtide_exe, tmp_path, "exact=True")["allocations"]
    assert allocations["mode"] == "exact"
    # The bytearray's data, itself, and the number of its size.
    [block] = [s for s in allocations["sites"] if 32 * MIB <= s["live_bytes"] < 32 * MIB + 1024]
    assert (block["line"], block["error_bytes"]) == (12, 0) and 1 <= block["live_blocks"] <= 3
    [made] = [s for s in allocations["sites"] if s["line"] == 5 and s["total_bytes"] > 30 * MIB]
    assert made["file"] == "<string>"
    assert made["total_bytes"] > 1.9 * made["live_bytes"] > 0
    assert made["live_blocks"] >= 300_000  # dict, its table, text and number of 100,000


def test_sampled_figures_lie_within_their_error_and_a_mark_is_kept(local_python, package, lowtide_exe, tmp_path):
    exact = profile(local_python, package, lowtide_exe, tmp_path, "exact=True")["allocations"]["sites"]
    report = profile(local_python, package, lowtide_exe, tmp_path, 'interval="16KiB"', heap=True)
    sampled = report["allocations"]
    assert (sampled["mode"], sampled["interval_bytes"]) == ("sampled", 16384)
    [true] = [s for s in exact if s["line"] == 5 and s["total_bytes"] > 30 * MIB]
    [told] = [s for s in sampled["sites"] if s["line"] == 5 and s["total_bytes"] > 20 * MIB]
    # Three times the half width of its 95 % interval: one run in a hundred million falls outside.
    assert abs(told["live_bytes"] - true["live_bytes"]) < 3 * told["error_bytes"]
    assert report["heap"]["objects"] > 200_000


def test_two_profiles_at_once_and_a_stop_without_a_start_are_refused(local_python, package, lowtide_exe, tmp_path):
    code = """
import lowtide
said = []
def attempt(f, *args, **more):
    try:
        f(*args, **more)
    except (RuntimeError, ValueError) as error:
        said.append(str(error))
attempt(lowtide.stop, "none.tide", heap=False)
attempt(lowtide.start, interval="never")
attempt(lowtide.start, interval=0)
lowtide.start()
attempt(lowtide.start)
lowtide.stop("one.tide", heap=False)
lowtide.start()
lowtide.stop("two.tide", heap=False)
import os
print(repr((said, sorted(os.listdir(".")))))
"""
    said, files = inside(local_python, package, lowtide_exe, code, tmp_path)
    assert said[0] == "no profile is being taken: start() begins one"
    assert "never" in said[1] and "positive" in said[2] and "already" in said[3]
    assert files == ["one.tide", "two.tide"]


def test_a_second_profile_that_nobody_named_leaves_the_first(local_python, package, lowtide_exe, tmp_path):
    program = """
import os, lowtide
names = []
for i in range(3):
    lowtide.start()
    names.append(lowtide.stop(heap=False).replace(str(os.getpid()), "PID"))
print(repr((names, sorted(name.replace(str(os.getpid()), "PID") for name in os.listdir(".") if "tide" in name))))
"""
    names, there = inside(local_python, package, lowtide_exe, program, tmp_path)
    assert names == ["lowtide-PID.tide", "lowtide-PID-2.tide", "lowtide-PID-3.tide"]
    assert there == sorted(names)


def test_processes_that_it_forked_are_said_not_to_be_in_it(local_python, package, lowtide_exe, tmp_path):
    program = """
import json, os, subprocess, warnings, lowtide
warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside the recorder's thread
lowtide.start()
for i in range(2):
    child = os.fork()
    if not child: os._exit(0)
    os.waitpid(child, 0)
lowtide.stop("inside.tide", heap=False)
asked = os.environ["LOWTIDE_EXE"], "report", "inside.tide"
text = subprocess.run(asked, capture_output=True, check=True, text=True).stdout
found = json.loads(subprocess.run([*asked, "--json"], capture_output=True, check=True).stdout)["not_followed"]
print(repr((found, text)))
"""
    found, text = inside(local_python, package, lowtide_exe, program, tmp_path)
    [line] = found
    assert line.startswith("2 processes that this one forked: lowtide.start() watches its own process alone")
    assert "not followed: 2 processes" in text


def test_an_interval_that_cannot_be_is_refused_by_its_name(local_python, package, lowtide_exe, tmp_path):
    program = """
import lowtide
said = []
for wrong in 0, 10**30, "2GiB", 1.5, None:
    try: lowtide.start(interval=wrong)
    except (TypeError, ValueError) as error: said.append((type(error).__name__, str(error)))
try: lowtide.start(exact=True, interval="64KiB")
except ValueError as error: said.append((type(error).__name__, str(error)))
try: lowtide.mark(3)
except TypeError as error: said.append(("TypeError", str(error)))
print(repr(said))
"""
    said = inside(local_python, package, lowtide_exe, program, tmp_path)
    assert [kind for kind, _ in said] == ["ValueError"] * 3 + ["TypeError"] * 2 + ["ValueError", "TypeError"]
    assert all(text.startswith("interval must be") for _, text in said[:6])
    assert said[6][1].startswith("mark()")


def test_a_limit_on_the_size_of_files_is_an_error_and_no_signal(local_python, package, lowtide_exe, tmp_path):
    """Memory that is shared counts as a file: to make it too large would end the program by SIGXFSZ."""
    program = """
import lowtide, resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
try: lowtide.start()
except RuntimeError as e: print([str(e), resource.getrlimit(resource.RLIMIT_FSIZE)[0]])
"""
    said, limit = inside(local_python, package, lowtide_exe, program, tmp_path)
    assert "raise that limit (ulimit -f)" in said
    assert limit == 1 << 20
