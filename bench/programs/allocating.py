"""Programs that allocate, for alloc.py and accuracy.py: short ones of our own, and pyperformance's benchmarks as it ships them.

A script prints `seconds N`, the processor time of its work, and `peak N`, the most bytes that were resident. What its last round made
stays alive to its end. BENCH_CORE=N: runs on that core; BENCH_SECONDS=N: goes on for so long; BENCH_KILL=1: ends by SIGKILL, so
that nothing is captured at an end.
"""

from __future__ import annotations

from pathlib import Path

OWN = {
    "records": """
for _ in range(4):
    rows = [{"id": i, "name": str(i), "values": [i, i + 1, float(i)]} for i in range(60_000)]
""",
    "json": """
import json
rows = [{"id": i, "name": str(i), "values": [i, i + 1, float(i)]} for i in range(20_000)]
for _ in range(6):
    back = json.loads(json.dumps(rows))
""",
    "calls": """
class P:
    def __init__(self, a): self.a = a
    def step(self): return P(self.a + 1.5)
def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
fib(25)
p = P(0)
for i in range(600_000): p = p.step()
""",
    "web": """
import io, json
from wsgiref.handlers import SimpleHandler
from wsgiref.util import setup_testing_defaults
def app(environ, start):
    body = json.dumps({"path": environ["PATH_INFO"], "rows": [{"n": n, "name": f"row {n}"} for n in range(40)]})
    start("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body.encode()]
for number in range(4500):
    environ = {"PATH_INFO": f"/items/{number}"}
    setup_testing_defaults(environ)
    SimpleHandler(io.BytesIO(), io.BytesIO(), io.StringIO(), environ).run(app)
""",
    "regex": """
import re
pattern = re.compile(r"(\\w+)@(\\w+)\\.(com|org)")
text = "someone@example.com and no one at all, " * 500
for _ in range(300): found = [m.groups() for m in pattern.finditer(text)]
""",
    "numpy": """
import numpy
a = numpy.arange(200_000.0)
for _ in range(200): b = numpy.sqrt(a * 2 + 1).sum()
many = [numpy.arange(n * 1000.0) for n in range(100)]
""",
    "level": """
def name(i): return str(i) * 30
def row(i): return {"n": i, "f": float(i)}
def pair(i): return [i, (i, i + 1)]
cache = [None] * 60_000
for i in range(250_000): cache[i * 7919 % 60_000] = name(i), row(i), pair(i)
""",
    "objects": """
class Node:
    def __init__(self, i): self.i, self.next, self.pair = i, None, (i,)
class Point:
    __slots__ = ("x", "y")
    def __init__(self, i): self.x, self.y = i * 1.5, [i]
nodes = [Node(i) for i in range(60_000)]
points = [Point(i) for i in range(60_000)]
waiting = [(x for x in range(i)) for i in range(8_000)]
sets = {str(i): frozenset([i, i + 1]) for i in range(25_000)}
grown, table, text = [], {}, bytearray()
for i in range(400_000):
    grown.append(i)
    if i % 4 == 0: table[i] = i
    if i % 16 == 0: text.extend(b"0123456789abcdef" * 4)
joined = b"".join([text] * 4)
""",
}
# Each of some thirty libraries of C is loaded and looked up in anew.
OWN["imports"] = """
import sys
before = set(sys.modules)
import array, asyncio, bz2, csv, ctypes, curses, decimal, fractions, hashlib, http.server, json, lzma, multiprocessing.pool
import pickle, random, select, socketserver, sqlite3, ssl, statistics, struct, unicodedata, unittest.mock, uuid, zlib, zoneinfo
import concurrent.futures.process, difflib, email.mime.text, logging.config, pdb, pydoc, tarfile, xml.etree.ElementTree, xmlrpc.client
for name in set(sys.modules) - before: del sys.modules[name]
"""
# Where many lines keep little, samples are few: the hardest case for the error that is told with a figure.
OWN["lines"] = "".join(
    f"kept{n} = [bytes({size}) for i in range({max(1, round(2**20 * (1 + n % 7 / 2) / (size + 41)))})]\n"
    for n in range(120)
    for size in [(16, 40, 100, 500, 3000, 20_000, 200_000, 1_500_000)[n * 5 % 8]]
)
# name: the benchmark's folder, loops for about a second, its arguments
PYPERFORMANCE = {
    "json_loads": ("json_loads", 1800),
    "regex_compile": ("regex_compile", 6),
    "pidigits": ("pidigits", 5),
    "richards": ("richards", 20),
    "deltablue": ("deltablue", 260),
    "hexiom": ("hexiom", 140),
    "logging": ("logging", 9000, "format"),
    "pickle_pure_python": ("pickle", 140, "--pure-python", "pickle"),
    "sqlglot_optimize": ("sqlglot_v2", 20, "optimize"),
    "tomli_loads": ("tomli_loads", 1),
    "async_tree": ("async_tree", 1, "memoization"),
    "gc_traversal": ("gc_traversal", 60),
    "html5lib": ("html5lib", 15),
    "django_template": ("django_template", 18),
}

FRAME = """
import os, signal, sys, time
if "BENCH_CORE" in os.environ:
    os.sched_setaffinity(0, {{int(os.environ["BENCH_CORE"])}})
{before}
def rounds(n):
    end = time.monotonic() + float(os.environ.get("BENCH_SECONDS", 0))
    while n > 0 or time.monotonic() < end:
        n -= 1
        yield n
begun = time.process_time()
{work}
print("\\nseconds", time.process_time() - begun)
with open("/proc/self/status") as status:
    print("peak", next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM")), flush=True)
if "BENCH_KILL" in os.environ:
    os.kill(os.getpid(), signal.SIGKILL)
"""
OURS = (
    "code = compile({code!r}, {name!r}, 'exec')",
    "for _ in rounds({times}):\n    space = {{}}\n    exec(code, space)",
)
THEIRS = (
    """
import importlib.util, runpy, pyperf
folder = os.path.dirname(importlib.util.find_spec("pyperformance").origin) + "/data-files/benchmarks/bm_{folder}"
script = folder + "/run_benchmark.py"
sys.argv = [script, "--worker", "--loops={loops}", "--warmups=0", "--values=1", *{arguments!r}]
sys.path[0] = folder
""",
    "for _ in rounds(1):\n    space = runpy.run_path(script, run_name='__main__')",
)


def names() -> list[str]:
    return [*OWN, *PYPERFORMANCE]


def write_script(name: str, folder: Path, times: int = 5) -> Path:
    """The script of a program; one of our own does its work so many times."""
    path = folder / f"program_{name}.py"
    if name in OWN:
        before, work = (part.format(code=OWN[name], name=f"{name}.py", times=times) for part in OURS)
    else:
        bench, loops, *arguments = PYPERFORMANCE[name]
        before, work = (part.format(folder=bench, loops=loops, arguments=arguments) for part in THEIRS)
    path.write_text(FRAME.format(before=before, work=work))
    return path
