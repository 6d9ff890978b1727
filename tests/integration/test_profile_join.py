"""For what is retained, the line that made it: also where it is no object but a block that an object owns."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Lowtide, Python

CODE = """
import array
def items():
    return [None] * 3_000_000
def table():
    made = {}
    for i in range(300_000):
        made[i] = None
    return made
def members(): return set(range(300_000))
def text(): return bytearray(20_000_000)
def numbers(): return array.array("d", bytes(16_000_000))
def plain(): return b"x" * 12_000_000
class Kept: pass
kept = Kept()
kept.items, kept.table, kept.members = items(), table(), members()
kept.text, kept.numbers, kept.plain = text(), numbers(), plain()
"""
OWNERS = {"list", "dict", "set", "bytearray", "array.array", "bytes"}


def test_every_kind_of_block_leads_from_its_line_to_what_holds_it(
    local_python: Python, lowtide: Lowtide, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(CODE)
    out = tmp_path / "t.tide"
    words = ["--no-report", "-o", out, "--python", local_python.executable, tmp_path / "app.py"]
    done = lowtide("run", *words, cwd=tmp_path)
    assert done.status == 0, done.stderr
    report = json.loads(lowtide("report", out, "--json").stdout)
    held = {site["function"]: site["held_by"] for site in report["allocations"]["sites"]}
    made = ("items", "table", "members", "numbers", "plain", "text")
    for function in made:
        assert held[function] and held[function].startswith(f"kept.{function}"), (function, held[function])
    made_at = {d["path"]: [made["function"] for made in d["made_at"]] for d in report["heap"]["dominators"]}
    for function in made:
        assert set(made_at[f"kept.{function}"]) == {function}, made_at
    assert "made by app.py:4  items, 2" in lowtide("report", out, cwd=tmp_path).stdout.split("HOLDERS")[1]
    (finding, *_) = report["findings"]
    assert finding["site"]["file"] == str(tmp_path / "app.py")
    query = (
        "select distinct o.type from samples s join objects o on o.id = s.object "
        "join sites t on t.id = s.site where t.file like '%app.py' and s.bytes > 5000000"
    )
    rows = json.loads(lowtide("sql", out, query, "--json").stdout)["rows"]
    assert {row[0] for row in rows} <= OWNERS
    assert {row[0] for row in rows} >= OWNERS - {"bytearray"}


@pytest.mark.parametrize("mode", [[], ["--exact"]])
def test_small_blocks_lead_to_the_objects_that_own_them(mode: list[str], lowtide: Lowtide, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("kept = [{i: i} for i in range(100_000)]\n")
    out = tmp_path / "t.tide"
    done = lowtide("run", *mode, "--no-report", "-o", out, "--python", sys.executable, tmp_path / "app.py")
    assert done.status == 0, done.stderr
    # A dict's table is a block of its own, of more bytes than the dict.
    query = (
        "select count(*), count(s.object) from samples s join sites t on t.id = s.site "
        "where t.file like '%app.py' and s.bytes between 80 and 1000"
    )
    ((samples, joined),) = json.loads(lowtide("sql", out, query, "--json").stdout)["rows"]
    assert samples > 0 and joined >= samples * 0.9


def test_why_names_the_lines_that_made_what_is_asked_for(lowtide: Lowtide, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(CODE)
    out = tmp_path / "t.tide"
    assert lowtide("run", "--no-report", "-o", out, tmp_path / "app.py", cwd=tmp_path).status == 0
    (made,) = json.loads(lowtide("why", out, "kept.plain", "--json").stdout)["made_at"]
    assert (made["file"], made["line"], made["function"]) == (str(tmp_path / "app.py"), 13, "plain")
    assert abs(made["bytes"] - 12_000_000) <= made["error_bytes"]
    assert "\nmade by app.py:13  plain, 11.4 MiB " in lowtide("why", out, "kept.plain", cwd=tmp_path).stdout
    whole = json.loads(lowtide("why", out, "kept", "--json").stdout)["made_at"]
    assert len(whole) == 3 and {made["function"] for made in whole} <= {"items", "text", "table", "members", "numbers"}
    assert whole == sorted(whole, key=lambda made: -made["bytes"])
    # Of a type: what its instances retain, each once, also where one has another.
    types = json.loads(lowtide("why", out, "Kept", "--json").stdout)["made_at"]
    assert types == whole


PEAK = """
import time
def build(): return [bytes(1000) for _ in range(90_000)]
def work():
    rows = build()
    time.sleep(1.5)
    total = sum(map(len, rows))
    del rows
    return total
time.sleep(1)
work()
time.sleep(3)
"""


def test_the_peak_of_a_program_is_told_with_who_held_it_and_what_to_del(lowtide: Lowtide, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(PEAK)
    out = tmp_path / "t.tide"
    done = lowtide("run", "--no-report", "-o", out, tmp_path / "app.py", cwd=tmp_path)
    assert done.status == 0, done.stderr
    report = json.loads(lowtide("report", out, "--json").stdout)
    (finding,) = [f for f in report["findings"] if f["kind"] == "temporary-peak"]
    assert (finding["site"]["line"], finding["site"]["function"].split(".")[0]) == (3, "build")
    assert 50e6 < finding["bytes"] < 140e6  # of 94 ± 42: six standard deviations of a sample in 512 KiB
    # A busy machine may have looked only while the list was being put together, or long after.
    if report["peak"] is not None and finding["held_at_peak"] == "thread MainThread > work() > rows":
        assert "`del rows` in work()" in finding["fix"]
        assert report["peak"]["dominators"][0]["retained_bytes"] > 60e6


# A line, what its fix makes of it, and what stands before both; and behind them, where another line's peak stands highest then.
FIXES = {
    "a list for sum": (
        "n = sum([i * 0.5 for i in range(2_500_000)])",
        "n = sum(i * 0.5 for i in range(2_500_000))",
        "",
    ),
    "lines of a text": (
        "for line in open('data.txt').read().splitlines(): n += len(line)",
        "for line in open('data.txt'): n += len(line)",
        "open('data.txt', 'w').writelines('line %d %s\\n' % (i, 'x' * 40) for i in range(800_000))",
    ),
    "copies of a frame": (
        "n = float(frame.copy().add(1).copy().iloc[0, 0])",
        "n = float(frame.iloc[0, 0] + 1)",
        "import numpy, pandas; frame = pandas.DataFrame(numpy.ones((3_000_000, 3)), copy=False)",
    ),
    "matches of a text": (
        "n = len(re.findall('(w)([0-9]+)', text))",
        "n = sum(1 for _ in re.finditer('(w)([0-9]+)', text))",
        "import re; text = ' '.join('w%d' % (i * 7919 % 1_000_003) for i in range(1_000_000))",
        "n += len(text.upper().split(' '))",
    ),
    "an array beside one that is filled later": (
        "other = numpy.ones(20_000_000); n = other[0]; del other",
        "n = 0",
        "import numpy; first = numpy.zeros(12_000_000)",
        "for i in range(0, 12_000_000, 500_000): first[i:i + 500_000] = 1; time.sleep(0.02)",
    ),
}
# However busy the machine is, the peak is but a small part of the time.
AROUND = """
import time
n, begin = 0, time.monotonic()
{before}
time.sleep(1)
{line}
{after}
time.sleep(1 + 2 * (time.monotonic() - begin))
print([line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")][0])
"""


@pytest.mark.parametrize("what", FIXES)
def test_the_fix_of_a_temporary_peak_returns_what_was_said(what: str, lowtide: Lowtide, tmp_path: Path) -> None:
    line, fixed, before, after = (*FIXES[what], "")[:4]
    for name in ("numpy", "pandas"):
        if name in before:
            pytest.importorskip(name)
    app, out = tmp_path / "app.py", tmp_path / "t.tide"
    peaks = []
    for text in (line, fixed):
        app.write_text(AROUND.format(before=before, line=text, after=after).replace("time.sleep", "id"))
        done = subprocess.run([sys.executable, app], cwd=tmp_path, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout) << 10)
    app.write_text(AROUND.format(before=before, line=line, after=after))
    done = lowtide("run", "--exact", "--no-report", "-o", out, "--python", sys.executable, app, cwd=tmp_path)
    assert done.status == 0, done.stderr
    found = [
        f for f in json.loads(lowtide("report", out, "--json").stdout)["findings"] if f["kind"] == "temporary-peak"
    ]
    assert [f["site"]["line"] for f in found] == [6]
    assert found[0]["bytes"] == pytest.approx(peaks[0] - peaks[1], rel=0.2)
    made = "app.py:4, " if "first" in after else "app.py:7, "
    assert ("; the peak falls by " in found[0]["title"] and f"to that of {made}" in found[0]["title"]) == bool(after)


# What a pool's own thread unpickles.
RESULTS = {
    "pool": (
        "rows = pool.map(rows_of, [4_000] * 20, 1)",
        "pool = multiprocessing.get_context('fork').Pool(2)",
    ),
    "executor": (
        "rows = []; rows.extend(pool.map(rows_of, [4_000] * 20))",
        "import concurrent.futures\npool = concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context('fork'))",
    ),
}
ROWS_OF = """import multiprocessing, time
def rows_of(n):
    time.sleep(0.1)
    return [b"x" * 1000 + b"%d" % i for i in range(n)]
{pool}
time.sleep(2)
{line}
time.sleep(2)
del rows
"""


@pytest.mark.parametrize("how", RESULTS)
def test_results_that_workers_sent_are_told_as_such_with_who_held_them_and_what_taking_each_returns(
    how: str, lowtide: Lowtide, tmp_path: Path
) -> None:
    line, pool = RESULTS[how]
    app, out = tmp_path / "app.py", tmp_path / "t.tide"
    app.write_text(ROWS_OF.format(pool=pool, line=line))
    done = lowtide("run", "--exact", "--no-report", "-o", out, "--python", sys.executable, app, cwd=tmp_path)
    assert done.status == 0, done.stderr
    report = json.loads(lowtide("report", out, "--json").stdout)
    (found,) = (f for f in report["findings"] if f["kind"] == "temporary-peak")
    assert found["site"]["file"].endswith("multiprocessing/connection.py")
    assert found["fix"].startswith(
        "take what workers send piece by piece: take each result when it comes (imap_unordered"
    )
    assert found["title"].startswith("workers sent ") and "what workers have at a time, " in found["title"]
    # Of twenty results what each of two workers has under way is there anyway. (Not what such a run takes: how far it
    # lags behind the workers is up to the scheduler.)
    assert found["bytes"] == pytest.approx((20 - 2) * 4_000 * (1_037 + 8), rel=0.1)
    # A busy machine may have looked at no peak, or at one with few of them, when each may be on its way from a thread to another.
    holder = found["held_at_peak"]
    if report["peak"] is None:
        assert holder is None
    elif report["peak"]["shallow_bytes"] > 25e6:
        assert holder and found["fix"].endswith(f"; at the peak {holder} held it")
        # The pool itself, until all are there.
        assert holder in ("rows", "pool._cache") or holder.startswith(("thread ", "pool.")), holder


# The line that makes it, with what comes before it, and a word of what is advised.
INSTEAD = {
    "n = len([[i] for i in range(500_000)])": ("", "generator"),
    "n = b'x' * 60_000_000; n = 0": ("", "in place"),
    "n = len(b'x' * 60_000_000) + len([str(i) for i in range(20_000)])": ("", "in place"),
    "n = len(copy.deepcopy(rows))": ("import copy; rows = [[i] for i in range(200_000)]", "what changes alone"),
    "n = len(db.execute('select * from t').fetchall())": (
        "import sqlite3; db = sqlite3.connect('t.db'); db.execute('create table t (x, y)'); "
        "db.executemany('insert into t values (?, ?)', ((i, 'x' * 50) for i in range(200_000)))",
        "over the cursor",
    ),
    "n = sum(map(len, pool.map(range_of, [600_000] * 2)))": (
        "import multiprocessing\ndef range_of(n): return list(range(n))\n"
        "pool = multiprocessing.get_context('fork').Pool(2)",
        "imap_unordered",
    ),
    "n = sum(pool.map(len, [rows, rows], 1))": (
        "import multiprocessing\nrows = [b'x' * 1000 + b'%d' % i for i in range(30_000)]\n"
        "pool = multiprocessing.get_context('fork').Pool(2)",
        "send less at a time",
    ),
}


@pytest.mark.parametrize("line", INSTEAD)
def test_what_to_write_instead_fits_what_was_made(line: str, lowtide: Lowtide, tmp_path: Path) -> None:
    before, advice = INSTEAD[line]
    (tmp_path / "app.py").write_text(AROUND.format(before=before, line=line, after=""))
    words = ["--exact", "--no-report", "-o", tmp_path / "t.tide", "--python", sys.executable, tmp_path / "app.py"]
    done = lowtide("run", *words, cwd=tmp_path)
    assert done.status == 0, done.stderr
    findings = json.loads(lowtide("report", tmp_path / "t.tide", "--json").stdout)["findings"]
    fixes = [f["fix"] for f in findings if f["kind"] == "temporary-peak"]
    assert fixes and all(advice in fix for fix in fixes), fixes


# Workers in groups, one after the other: each does its part and ends.
WORKERS = """
import multiprocessing, time
def work(step):
    global rows
{work}
if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    for group in {groups}:
        step = context.Barrier(group)
        workers = [context.Process(target=work, args=(step,)) for _ in range(group)]
        for worker in workers: worker.start()
        for worker in workers: worker.join()
"""
TOGETHER, ONE_BY_ONE = [3], [1, 1, 1]
# A list that is freed before the end, or is kept until then as a model of it would be.
KEEPS = """\
    rows = [bytes(100_000) for _ in range(800)]
    time.sleep(1.5)
    if {freed}:
        del rows
        time.sleep(2)"""
# Workers that have what they make until they end, all at once or one after the other: it grows as long as they live, or is there from
# their begin on.
GROWS = """\
    rows, began = [], time.monotonic()
    for part in range({parts}):
        rows += [bytes({size}) for _ in range(40_000_000 // {size} // {parts})]
        step.wait()
        time.sleep(1 / {parts} if {parts} > 1 else max(1, 10 * (time.monotonic() - began)))"""


def report_of_workers(lowtide: Lowtide, home: Path, work: str, groups: list[int]) -> dict[str, Any]:
    (home / "app.py").write_text(WORKERS.format(work=work, groups=groups))
    words = ["--exact", "--no-report", "--no-peak-snapshot", "-o", home / "t.tide", "--python", sys.executable]
    assert lowtide("run", *words, "app.py", cwd=home).status == 0
    report: dict[str, Any] = json.loads(lowtide("report", home / "t.tide", "--json").stdout)
    return report


@pytest.mark.parametrize("freed", [True, False])
def test_what_a_worker_keeps_until_its_end_is_no_temporary_peak(freed: bool, lowtide: Lowtide, tmp_path: Path) -> None:
    report = report_of_workers(lowtide, tmp_path, KEEPS.format(freed=freed), [1])
    assert any(s["line"] == 5 and s["peak_bytes"] > 75e6 for s in report["allocations"]["sites"])
    told = [f["site"]["line"] for f in report["findings"] if f["kind"] == "temporary-peak"]
    assert told == ([5] if freed else [])


SHORT = """
import time
time.sleep(2)
len(b"x" * 60_000_000)
time.sleep(1)
print([line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")][0])
"""


def test_a_peak_shorter_than_the_time_between_two_looks_is_told(lowtide: Lowtide, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(SHORT)
    out = tmp_path / "t.tide"
    done = lowtide("run", "--no-report", "-o", out, tmp_path / "app.py")
    report = json.loads(lowtide("report", out, "--json").stdout)
    assert report["memory"]["peak_rss_bytes"] == pytest.approx(int(done.stdout) << 10, rel=0.02)
    (site,) = [s for s in report["allocations"]["sites"] if s["line"] == 4]
    assert site["peak_bytes"] == pytest.approx(60e6, rel=0.1)


TWO = """
import time
begin = time.monotonic()
def hold(rows):
    time.sleep(1)
def lower():
    hold([bytes(1000) for _ in range(60_000)])
def higher():
    hold([bytes(1000) for _ in range(90_000)])
time.sleep(1)
lower()
time.sleep(1)
higher()
time.sleep(1 + 2 * (time.monotonic() - begin))
"""


def test_a_second_peak_limits_what_the_fix_of_the_first_returns(lowtide: Lowtide, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(TWO)
    out = tmp_path / "t.tide"
    assert lowtide("run", "--exact", "--no-report", "-o", out, tmp_path / "app.py", cwd=tmp_path).status == 0
    report = json.loads(lowtide("report", out, "--json").stdout)
    (finding,) = [f for f in report["findings"] if f["kind"] == "temporary-peak"]
    assert finding["site"]["line"] == 9
    assert 27e6 < finding["bytes"] < 50e6  # of 93e6, less what was alive before; growing a list counts again
    assert "; the peak falls by " in finding["title"] and ", to that of app.py:7, " in finding["title"]


def test_two_peaks_that_are_as_high_are_told_together(lowtide: Lowtide, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(TWO.replace("60_000", "90_000"))
    out = tmp_path / "t.tide"
    assert lowtide("run", "--exact", "--no-report", "-o", out, tmp_path / "app.py", cwd=tmp_path).status == 0
    (finding,) = json.loads(lowtide("report", out, "--json").stdout)["findings"]
    assert finding["kind"] == "temporary-peak"
    first = finding["site"]["line"]
    other = {7: 9, 9: 7}[first]
    assert f"ake what app.py:{first} makes, and what app.py:{other} makes, piece by piece: " in finding["fix"]
    assert finding["bytes"] == pytest.approx(90_000 * 1040, rel=0.1)
    assert f"; the peak of app.py:{other} is about as high: without both the highest falls by " in finding["title"]


# A ramp over all of its time, which is usual and gone all the same.
RAMP = """
import time
def load():
    rows = []
    for i in range(400):
        rows.append(["x" * 1000 + str(i * n) for n in range(200)])
        time.sleep(0.002)
    return len(rows)
print(load())
"""


def test_what_is_built_up_over_most_of_the_run_is_told_in_full(lowtide: Lowtide, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(RAMP)
    out = tmp_path / "t.tide"
    assert lowtide("run", "--exact", "--no-report", "-o", out, tmp_path / "app.py", cwd=tmp_path).status == 0
    (finding,) = json.loads(lowtide("report", out, "--json").stdout)["findings"]
    assert (finding["kind"], finding["site"]["line"]) == ("temporary-peak", 6)
    assert finding["bytes"] == pytest.approx(400 * 200 * 1070, rel=0.1) and "falls" not in finding["title"]


def test_functions_that_stand_in_one_line_are_one_finding(lowtide: Lowtide, tmp_path: Path) -> None:
    """A line of `load` and of its generator was told twice, the second time with bytes that the first fix returns."""
    (tmp_path / "app.py").write_text("""
import time
def load():
    rows = b"".join(b"%d,some text here" % i for i in range(2_000_000))
    time.sleep(1)
    return len(rows)
print(load())
time.sleep(2)
""")
    out = tmp_path / "t.tide"
    assert lowtide("run", "--exact", "--no-report", "-o", out, tmp_path / "app.py", cwd=tmp_path).status == 0
    report = json.loads(lowtide("report", out, "--json").stdout)
    assert len({s["function"] for s in report["allocations"]["sites"] if s["line"] == 4}) == 2
    (finding,) = report["findings"]
    assert (finding["kind"], finding["site"]["line"]) == ("temporary-peak", 4)
    # No site is said to have been called from the line that it stands in.
    assert not [s for s in report["allocations"]["sites"] if s["line"] == 4 and s["from"]]


def test_the_line_that_made_most_of_the_garbage_is_told(lowtide: Lowtide, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("""
import gc
gc.disable()
class Node: pass
def pair():
    a, b = Node(), Node()
    a.child, b.parent, a.data = b, a, bytearray(2_000_000)
for i in range(10): pair()
""")
    out = tmp_path / "t.tide"
    assert lowtide("run", "--no-report", "-o", out, tmp_path / "app.py", cwd=tmp_path).status == 0
    finding = json.loads(lowtide("report", out, "--json").stdout)["findings"][0]
    assert finding["kind"] == "garbage-cycle"
    assert (finding["site"]["line"], finding["site"]["function"]) == (7, "pair")


def test_memory_that_c_code_took_is_told_by_the_line_that_had_it_take_it(lowtide: Lowtide, tmp_path: Path) -> None:
    """Of a database in memory the heap knows a connection of some hundred bytes; closing it returns what was said."""
    (tmp_path / "app.py").write_text("""
import sqlite3, sys
def fill():
    db = sqlite3.connect(":memory:")
    db.execute("create table t(x)")
    db.executemany("insert into t values (zeroblob(?))", ((100_000,) for i in range(400)))
    return db
db = fill()
if sys.argv[1:]: db.close()
""")
    reports = []
    for fixed in [], ["fixed"]:
        out = tmp_path / "t.tide"
        words = ["--no-report", "--interval", "16K", "-o", out, "--python", sys.executable, tmp_path / "app.py", *fixed]
        assert lowtide("run", *words, cwd=tmp_path).status == 0
        reports.append(json.loads(lowtide("report", out, "--json").stdout))
    before, after = reports
    (finding,) = (f for f in before["findings"] if f["kind"] == "native-memory")
    assert finding["site"]["line"] == 6 and finding["site"]["function"] == "fill"
    assert "close the connection" in finding["fix"]
    assert finding["confidence"] == "medium", "guessed by the line's text"
    assert before["findings"][0] == finding
    returned = before["memory"]["rss_bytes"] - after["memory"]["rss_bytes"]
    assert 0.8 < finding["bytes"] / 40_000_000 < 1.2 and finding["bytes"] == pytest.approx(returned, rel=0.2)
    assert not [f for f in after["findings"] if f["kind"] == "native-memory"]


THREADS_OF_C = """
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
void *kept[40];
static void *fill(void *arg) {
    for (int i = 0; i < 40; i++) memset(kept[i] = malloc(1 << 20), 1, 1 << 20);
    return arg;
}
int begin(void) {
    pthread_t thread;
    return pthread_create(&thread, NULL, fill, NULL) || pthread_join(thread, NULL);
}
"""


@pytest.mark.parametrize("options, place", [([], "threads of C code"), (["--native"], "threads.so")])
def test_memory_that_threads_of_c_took_is_told_without_a_line(
    options: list[str], place: str, lowtide: Lowtide, tmp_path: Path
) -> None:
    (tmp_path / "threads.c").write_text(THREADS_OF_C)
    cc = shutil.which("cc") or shutil.which("gcc") or pytest.skip("no compiler")
    library = ["-shared", "-fPIC", "-pthread", "-o", tmp_path / "threads.so", tmp_path / "threads.c"]
    subprocess.run([cc, *library], check=True)
    (tmp_path / "app.py").write_text("import ctypes\nassert ctypes.CDLL('./threads.so').begin() == 0\n")
    out = tmp_path / "t.tide"
    words = ["--no-report", *options, "-o", out, "--python", sys.executable, tmp_path / "app.py"]
    done = lowtide("run", *words, cwd=tmp_path)
    assert done.status == 0, done.stderr
    report = json.loads(lowtide("report", out, "--json").stdout)
    (finding,) = (f for f in report["findings"] if f["kind"] == "native-memory")
    assert finding["title"].startswith(f"{place} made "), finding
    assert ("--native" in finding["fix"]) == (not options)
    assert bool(finding["site"]) == bool(options)
    if not options:  # nor where no heap was captured
        with (tmp_path / "app.py").open("a") as app:
            app.write("import os; os.kill(os.getpid(), 15)\n")
        lowtide("run", *words, cwd=tmp_path)
        report = json.loads(lowtide("report", out, "--json").stdout)
        assert " lines that made it (threads of C code most: " in report["capture"]["missing_note"]


def test_threads_of_c_beside_polars_without_data_are_not_polars(lowtide: Lowtide, tmp_path: Path) -> None:
    pytest.importorskip("polars")
    (tmp_path / "threads.c").write_text(THREADS_OF_C)
    cc = shutil.which("cc") or shutil.which("gcc") or pytest.skip("no compiler")
    library = ["-shared", "-fPIC", "-pthread", "-o", tmp_path / "threads.so", tmp_path / "threads.c"]
    subprocess.run([cc, *library], check=True)
    (tmp_path / "app.py").write_text("import ctypes, polars\nassert not ctypes.CDLL('./threads.so').begin()\n")
    done = lowtide("run", "--json", "--python", sys.executable, tmp_path / "app.py", cwd=tmp_path)
    assert done.status == 0, done.stderr
    (finding,) = (f for f in json.loads(done.stdout)["findings"] if f["kind"] == "native-memory")
    assert "polars" not in finding["fix"] and "--native" in finding["fix"], finding


def test_what_threads_of_polars_keep_is_told_as_what_to_write_in_its_words(lowtide: Lowtide, tmp_path: Path) -> None:
    pytest.importorskip("polars")
    (tmp_path / "app.py").write_text("""
import polars as pl
with open("t.csv", "w") as f: f.writelines(f"{i},some text of row {i}\\n" for i in range(1_200_000))
kept = [pl.read_csv("t.csv", has_header=False)]
""")
    out = tmp_path / "t.tide"
    words = ["--no-report", "-o", out, "--python", sys.executable, tmp_path / "app.py"]
    done = lowtide("run", *words, cwd=tmp_path)
    assert done.status == 0, done.stderr
    report = json.loads(lowtide("report", out, "--json").stdout)
    (finding,) = (f for f in report["findings"] if f["kind"] == "native-memory")
    assert "scan_" in finding["fix"] and "--native" not in finding["fix"], finding
    assert (finding["type"], finding["objects"], finding["path"]) == ("polars.dataframe.frame.DataFrame", 1, "kept")


def test_the_script_that_starts_a_command_is_no_line_that_made_anything(lowtide: Lowtide, tmp_path: Path) -> None:
    """All that a server's libraries do is below it."""
    library = tmp_path / "lib" / "site-packages"
    library.mkdir(parents=True)
    (library / "server.py").write_text(
        "def main():\n    import app\n    app.LOG.extend(str(i) * 9 for i in range(300_000))\n"
    )
    (library / "app.py").write_text("LOG = []\n")
    (tmp_path / "serve").write_text(
        "#!/usr/bin/env python3\nimport sys\nsys.path.insert(0, 'lib/site-packages')\nfrom server import main\nsys.exit(main())\n"
    )
    done = lowtide("run", "--json", "--python", sys.executable, tmp_path / "serve", cwd=tmp_path)
    assert done.status == 0, done.stderr
    (finding,) = (f for f in json.loads(done.stdout)["findings"] if f["kind"] == "leak-suspect")
    assert finding["path"] == "app.LOG" and finding["site"]["file"].endswith("server.py"), finding


# A command of an installed package, whose script pip has written, and a program that it serves. All that the server makes is below both's
# first lines.
COMMAND = """#!/usr/bin/env python3
import sys; sys.path[:0] = ["lib/site-packages", "."]
from server import main
if __name__ == "__main__":
    sys.exit(main())
"""
SERVER = """
import os, signal, time
def head(i):
    return b"h" * 600 + b"%d" % i
def main():
    import app
    time.sleep(3)
    for i in range(30_000):
        request = {{}}
        request["head"] = head(i)
        request["tail"] = b"t" * 700 + b"%d" % i
        app.log(i, request)
    time.sleep(1)
    {then}
"""
SERVED = """
LOG = []
def log(i, request):
    request["body"] = b"b" * 400 + b"%d" % i
    LOG.append(request)
"""


def report_of_a_command(lowtide: Lowtide, home: Path, then: str) -> dict[str, Any]:
    library = home / "lib" / "site-packages"
    library.mkdir(parents=True)
    (library / "server.py").write_text(SERVER.format(then=then))
    (home / "app.py").write_text(SERVED)
    (home / "serve").write_text(COMMAND)
    out = home / "t.tide"
    words = ["--exact", "--no-report", "-o", out, "--python", sys.executable, home / "serve"]
    lowtide("run", *words, cwd=home)
    report: dict[str, Any] = json.loads(lowtide("report", out, "--json").stdout)
    return report


def test_what_lines_of_a_server_and_its_program_made_of_what_one_holds_is_one_finding(
    lowtide: Lowtide, tmp_path: Path
) -> None:
    report = report_of_a_command(lowtide, tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")
    assert {finding["kind"] for finding in report["findings"]} == {"kept-memory"}
    if report["peak"] is None:  # a busy machine may have captured none
        told = [(Path(f["site"]["file"]).name, f["site"]["line"], f["held_at_peak"]) for f in report["findings"]]
        assert told == [("server.py", 11, None), ("server.py", 4, None)]
        return
    (finding,) = report["findings"]
    assert finding["held_at_peak"] == "app.LOG"
    # The program's own line, though one of the server's made more.
    assert (Path(finding["site"]["file"]).name, finding["site"]["line"]) == ("app.py", 4)
    assert finding["site"]["share"] == pytest.approx((400 + 38) / (1700 + 3 * 38 + 184), rel=0.1)
    assert finding["fix"].startswith("let go of what app.py:4 and ") and "app.LOG held it" in finding["fix"]
    assert " lines more made " in finding["title"] and "half of it in the last " in finding["title"]
    # Three texts, each with 33 bytes and some digits of its own, and a dict (as large as CPython makes it, of which a part may be missing).
    assert finding["bytes"] == pytest.approx(30_000 * (1700 + 3 * 38 + 184), rel=0.1)


def test_what_a_server_had_for_a_while_is_told_by_its_line_and_not_by_the_script_that_starts_it(
    lowtide: Lowtide, tmp_path: Path
) -> None:
    """Recorder and report agree which line it is: else nobody would know how far the peak falls."""
    report = report_of_a_command(lowtide, tmp_path, "app.LOG.clear(); del request; time.sleep(3)")
    told = [f for f in report["findings"] if f["kind"] == "temporary-peak"]
    places = {(Path(f["site"]["file"]).name, f["site"]["line"]): f["bytes"] for f in told}
    assert places == {
        ("server.py", 4): pytest.approx(30_000 * 638, rel=0.1),
        ("server.py", 11): pytest.approx(30_000 * 738, rel=0.1),
    }, told


PAIRS_OF_BLOCKS = """
#include <stdlib.h>
#include <string.h>
int grow(void) {
    return memset(malloc(40000), 1, 40000) && memset(malloc(60000), 1, 60000);
}
"""


def test_objects_that_own_two_blocks_each_are_named_with_what_holds_them(lowtide: Lowtide, tmp_path: Path) -> None:
    """The model of a forest has a tree's nodes and its values apart."""
    package = tmp_path / "site-packages" / "woods"
    package.mkdir(parents=True)
    (package / "grow.c").write_text(PAIRS_OF_BLOCKS)
    cc = shutil.which("cc") or shutil.which("gcc") or pytest.skip("no compiler")
    subprocess.run([cc, "-shared", "-fPIC", "-o", package / "grow.so", package / "grow.c"], check=True)
    (package / "__init__.py").write_text("""
import ctypes, pathlib
library = ctypes.CDLL(str(pathlib.Path(__file__).with_name("grow.so")))
class Tree:
    def __init__(self): assert library.grow()
""")
    (tmp_path / "app.py").write_text("""
import sys; sys.path.insert(0, "site-packages")
import woods
models = {}
for name in range(4): models[name] = [woods.Tree() for _ in range(250)]
""")
    out = tmp_path / "t.tide"
    words = ["--no-report", "-o", out, "--python", sys.executable, tmp_path / "app.py"]
    done = lowtide("run", *words, cwd=tmp_path)
    assert done.status == 0, done.stderr
    report = json.loads(lowtide("report", out, "--json").stdout)
    (finding,) = (f for f in report["findings"] if f["kind"] == "native-memory")
    assert (finding["type"], finding["path"], finding["objects"]) == ("woods.Tree", "models", 1000), finding


@pytest.mark.parametrize("options", [[], ["--exact"]])
def test_objects_that_are_as_many_as_blocks_by_chance_do_not_own_them(
    options: list[str], lowtide: Lowtide, tmp_path: Path
) -> None:
    package = tmp_path / "site-packages" / "woods"
    package.mkdir(parents=True)
    (package / "grow.c").write_text(PAIRS_OF_BLOCKS.replace("40000", "500000").replace("60000", "500000"))
    cc = shutil.which("cc") or shutil.which("gcc") or pytest.skip("no compiler")
    subprocess.run([cc, "-shared", "-fPIC", "-o", package / "grow.so", package / "grow.c"], check=True)
    (package / "__init__.py").write_text("""
import ctypes, pathlib
library = ctypes.CDLL(str(pathlib.Path(__file__).with_name("grow.so")))
class Option:
    def __init__(self, name): self.name = name
OPTIONS = [Option(str(i)) for i in range(120)]
def leak():
    for i in range(60): library.grow()
""")
    (tmp_path / "app.py").write_text("import sys; sys.path.insert(0, 'site-packages')\nimport woods\nwoods.leak()\n")
    done = lowtide("run", "--json", *options, "--python", sys.executable, tmp_path / "app.py", cwd=tmp_path)
    assert done.status == 0, done.stderr
    (finding,) = (f for f in json.loads(done.stdout)["findings"] if f["kind"] == "native-memory")
    assert not finding["type"] and "woods" not in finding["title"], finding


@pytest.mark.parametrize("directory, word", [("json", "JSON"), ("django/db", "queryset"), ("multiprocessing", "send")])
def test_a_directory_of_the_programs_own_is_no_library_by_its_name(
    directory: str, word: str, lowtide: Lowtide, tmp_path: Path
) -> None:
    app = tmp_path / directory / "app.py"
    app.parent.mkdir(parents=True)
    app.write_text(
        "def build():\n    rows = []\n    for i in range(600_000): rows.append([i])\n    return rows\nn = len(build())\n"
    )
    done = lowtide("run", "--json", "--python", sys.executable, app, cwd=tmp_path)
    assert done.status == 0, done.stderr
    (finding,) = (f for f in json.loads(done.stdout)["findings"] if f["kind"] == "temporary-peak")
    assert word not in finding["fix"] and "a generator" in finding["fix"], finding


def test_modules_are_nothing_that_gathers(lowtide: Lowtide, tmp_path: Path) -> None:
    """One is told to bound what grows; `sys.modules` does not, and nobody takes entries out of it."""
    (tmp_path / "app.py").write_text("""
import sys, types
for i in range(300):
    module = sys.modules[f"part{i}"] = types.ModuleType(f"part{i}")
    module.table = [str(k) * 20 for k in range(800)]
del module
""")
    done = lowtide("run", "--json", "--python", sys.executable, tmp_path / "app.py")
    assert done.status == 0, done.stderr
    assert not json.loads(done.stdout)["findings"]


def test_what_was_mapped_and_never_touched_is_no_memory_of_c_code(lowtide: Lowtide, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("""
import mmap
kept = mmap.mmap(-1, 4 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
""")
    out = tmp_path / "t.tide"
    done = lowtide("run", "--no-report", "-o", out, "--python", sys.executable, tmp_path / "app.py")
    assert done.status == 0, done.stderr
    report = json.loads(lowtide("report", out, "--json").stdout)
    assert not [f for f in report["findings"] if f["kind"] == "native-memory"]


def test_a_snapshot_says_that_most_of_the_memory_is_of_c_code(lowtide: Lowtide, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("""
import sqlite3
db = sqlite3.connect(":memory:")
db.execute("create table t(x)")
db.executemany("insert into t values (zeroblob(?))", ((100_000,) for i in range(600)))
""")
    done = lowtide("run", "--no-profile", "--python", sys.executable, tmp_path / "app.py", cwd=tmp_path)
    first, _, second, *_ = done.stdout.splitlines()
    amount = r"(5[5-9]|6\d)\.\d MiB is memory of C code, of no Python object: "
    assert re.match(amount + r"`lowtide attach \d+ --for", first), done.stdout
    assert second.startswith("There is no finding in ")
    # In JSON, and so in the page, too.
    out = tmp_path / "t.tide"
    words = ["--no-profile", "--no-report", "-o", out, "--python", sys.executable]
    assert lowtide("run", *words, tmp_path / "app.py", cwd=tmp_path).status == 0
    memory = json.loads(lowtide("report", out, "--json").stdout)["memory"]
    assert 55 << 20 < memory["native_bytes"] < 70 << 20
    assert re.match(amount, memory["native_note"])


@pytest.mark.parametrize("groups", [TOGETHER, ONE_BY_ONE])
def test_what_grew_in_workers_until_their_end_is_told_by_the_line_that_made_it(
    groups: list[int], lowtide: Lowtide, tmp_path: Path
) -> None:
    report = report_of_workers(lowtide, tmp_path, GROWS.format(parts=10, size=1000), groups)
    (finding,) = report["findings"]
    assert (finding["kind"], finding["site"]["line"]) == ("kept-memory", 7)
    # Of those that came one after the other no more can be returned than one had.
    together = groups == TOGETHER
    assert finding["bytes"] == pytest.approx(groups[0] * 40_000 * 1040, rel=0.1)
    pids = [str(one["pid"]) for one in report["processes"][1:]]
    who = f"3 processes ({', '.join(pids)}) had together at their end" if together else " had at its end"
    assert who in finding["title"] and ", half of it in the last " in finding["title"]
    shown = " ".join(lowtide("report", tmp_path / "t.tide", cwd=tmp_path).stdout.split())
    lead = " in 3 processes: their heaps were not" if together else ": the heap of that process was not"
    assert re.match(rf"\d+\.\d MiB Let go of what app\.py:7 makes{lead} captured", shown), shown
    # They are no more: what looks at a running process comes too late.
    assert "run it again, and `lowtide dump` such a process before it ends" in finding["fix"]
    pid = report["process"]["pid"]
    assert f"That is the heap of process {pid} alone; there are 4." in shown
    assert report["capture"]["whose_note"].startswith(f"That is the heap of process {pid} alone; there are 4.")


def test_what_each_worker_makes_at_its_begin_and_needs_is_to_be_shared_and_one_copy_stays(
    lowtide: Lowtide, tmp_path: Path
) -> None:
    (finding,) = report_of_workers(lowtide, tmp_path, GROWS.format(parts=1, size=1000), TOGETHER)["findings"]
    assert (finding["kind"], finding["site"]["line"], finding["confidence"]) == ("kept-memory", 7, "low")
    assert finding["bytes"] == pytest.approx(2 * 40_000 * 1040, rel=0.1)
    assert finding["fix"].startswith("share what app.py:7 makes between the 3 processes, if it is the same in each: ")
    # A fork would share nothing of small objects that are used.
    assert ": lay it as arrays or bytes in a file that all map" in finding["fix"]
    assert "small objects stay shared only as long as they are not used" in finding["fix"]
    assert ", in each level since " in finding["title"]
    # A burst of work at the begin would look the same.
    assert ". Else let go of it: their heaps were not captured, so who held it is not known; " in finding["fix"]


IMPORTS = """\
    began = time.monotonic()
    import model
    step.wait()
    time.sleep(max(1, 10 * (time.monotonic() - began)))"""
BURST = """\
    began = time.monotonic()
    tasks = 20_000 * (1 + step.wait())
    rows = [bytes(1000) for _ in range(tasks)]
    time.sleep(max(1, 10 * (time.monotonic() - began)))"""


def test_what_each_worker_made_by_an_import_is_to_be_shared(lowtide: Lowtide, tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("ROWS = [bytes(1000) for _ in range(40_000)]\n")
    (finding,) = report_of_workers(lowtide, tmp_path, IMPORTS, TOGETHER)["findings"]
    assert (finding["kind"], finding["site"]["file"].endswith("model.py")) == ("kept-memory", True)
    assert finding["fix"].startswith("share what model.py:1 makes between the 3 processes, should each need the same: ")
    assert "let go" not in finding["fix"]


def test_what_a_burst_of_work_left_in_workers_in_unlike_amounts_is_to_be_let_go_of(
    lowtide: Lowtide, tmp_path: Path
) -> None:
    (finding,) = report_of_workers(lowtide, tmp_path, BURST, TOGETHER)["findings"]
    assert (finding["kind"], finding["site"]["line"], finding["confidence"]) == ("kept-memory", 7, "low")
    assert finding["bytes"] == pytest.approx(6 * 20_000 * 1040, rel=0.1)
    assert finding["fix"].startswith("let go of what app.py:7 makes in 3 processes: their heaps were not captured")
    assert ", but more in one than in another" in finding["title"]


def test_what_is_large_in_each_worker_is_to_be_made_before_they_are_forked(lowtide: Lowtide, tmp_path: Path) -> None:
    (finding,) = report_of_workers(lowtide, tmp_path, GROWS.format(parts=1, size=100_000), TOGETHER)["findings"]
    assert finding["bytes"] == pytest.approx(2 * 40e6, rel=0.1)
    assert ": make it before they are forked (gunicorn: preload_app), or lay it as arrays" in finding["fix"]
    assert "small objects" not in finding["fix"]


def test_what_a_process_alone_makes_at_its_begin_and_needs_until_its_end_is_no_finding(
    lowtide: Lowtide, tmp_path: Path
) -> None:
    assert report_of_workers(lowtide, tmp_path, GROWS.format(parts=1, size=1000), ONE_BY_ONE)["findings"] == []


def test_who_held_the_memory_of_a_killed_program_is_told_where_the_peak_knows_it(
    lowtide: Lowtide, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text("""
import os, signal, time
CACHE = {}
def load():
    for i in range(100_000):
        CACHE[i] = "x" * 1000 + str(i)
time.sleep(3)
load()
time.sleep(1)
os.kill(os.getpid(), signal.SIGKILL)
""")
    out = tmp_path / "t.tide"
    lowtide("run", "--no-report", "-o", out, "--python", sys.executable, "app.py", cwd=tmp_path)
    report = json.loads(lowtide("report", out, "--json").stdout)
    finding = report["findings"][0]
    assert (finding["kind"], finding["site"]["line"]) == ("kept-memory", 6)
    assert finding["bytes"] == pytest.approx(110e6, rel=0.4)  # of samples
    # A busy machine may not have captured the heap in time.
    if report["peak"] is not None and report["peak"]["dominators"][0]["path"] == "CACHE":
        assert finding["held_at_peak"] == "CACHE" and ": at the peak CACHE held it; " in finding["fix"]
    else:
        assert "no heap was captured, so who held it is not known" in finding["fix"]
        assert "`lowtide run --limit 80% --dump-near-limit`" in finding["fix"]


def test_of_what_was_killed_the_bytes_are_what_the_holder_had_of_it(lowtide: Lowtide, tmp_path: Path) -> None:
    """To let go of three quarters does not return all."""
    (tmp_path / "app.py").write_text("""
import os, signal, time
LOG, OTHER = [], []
def text(i): return "x" * 1000 + str(i)
time.sleep(3)
for i in range(80_000): (OTHER if i % 4 == 0 else LOG).append(text(i))
time.sleep(1)
os.kill(os.getpid(), signal.SIGKILL)
""")
    out = tmp_path / "t.tide"
    words = ["--interval", "32K", "--no-report", "-o", out, "--python", sys.executable, "app.py"]
    lowtide("run", *words, cwd=tmp_path)
    report = json.loads(lowtide("report", out, "--json").stdout)
    (finding,) = report["findings"]
    assert (finding["kind"], finding["site"]["line"]) == ("kept-memory", 4)
    part = 0.75 if report["peak"] else 1  # a busy machine may have captured none
    assert finding["held_at_peak"] == ("LOG" if report["peak"] else None)
    assert finding["bytes"] == pytest.approx(part * 80_000 * 1054, rel=0.2)
    assert finding["objects"] == pytest.approx(part * 80_000, rel=0.2)
    assert (" % of it at the peak, " in finding["title"]) == bool(report["peak"])
    assert re.match(r"app\.py:4 made (7[1-9]|8\d)\.\d MiB \(± ", finding["title"])  # all of it


def test_a_program_that_a_signal_ended_is_not_told_that_there_is_nothing_to_change(
    lowtide: Lowtide, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text("""
import os, signal
rows = [bytes(1000) for _ in range(60_000)]
os.kill(os.getpid(), signal.SIGTERM)
""")
    out = tmp_path / "t.tide"
    lowtide("run", "--exact", "--no-report", "-o", out, "--python", sys.executable, "app.py", cwd=tmp_path)
    shown = " ".join(lowtide("report", out, cwd=tmp_path).stdout.split())
    assert re.match(r"5\d\.\d MiB Let go of what app\.py:3 makes: no heap was captured, so who held it", shown), shown
    assert "No heap was captured: app.py was ended by SIGTERM. What was alive then, " in shown
    assert "is known by the lines that made it (app.py:3 most: 5" in shown and "Nothing to change" not in shown
    report = json.loads(lowtide("report", out, "--json").stdout)
    assert report["capture"]["missing"] == "app.py was ended by SIGTERM"
    assert report["capture"]["missing_note"].startswith("No heap was captured: app.py was ended by SIGTERM. ")


@pytest.mark.parametrize("lines", [1, 5, 300])
def test_a_line_is_told_to_have_made_it_where_it_made_a_clear_part_with_its_share(
    lines: int, lowtide: Lowtide, tmp_path: Path
) -> None:
    body = "".join(f"def f{i}(): return bytes(60_000)\n" for i in range(lines))
    body += f"K = []\nfor i in range(1500): K.append(globals()[f'f{{i % {lines}}}']())\n"
    (tmp_path / "app.py").write_text(body)
    out = tmp_path / "t.tide"
    done = lowtide("run", "--no-report", "--interval", "64K", "-o", out, tmp_path / "app.py", cwd=tmp_path)
    assert done.status == 0, done.stderr
    (finding,) = [x for x in json.loads(lowtide("report", out, "--json").stdout)["findings"] if x["path"] == "K"]
    shown = lowtide("report", out, cwd=tmp_path).stdout
    if lines == 1:
        assert finding["site"]["line"] == 1 and "share" not in finding["site"]
        assert re.search(r"^ +made by \S*app\.py:1  f0", shown, re.M)
    elif lines == 5:
        assert 0.15 < finding["site"]["share"] < 0.35  # the largest of five, by samples
        assert re.search(r"^ +[23]?\d % of it made by \S*app\.py:[1-5]  f[0-4]", shown, re.M)
    else:
        assert finding["site"] is None
        assert "made by" not in shown.split("TIMELINE")[0]
