"""What is explained, held against the program itself: paths are evaluated there, garbage is collected there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, Lowtide, Python, Spawn, Target

PROBE = Path(os.environ.get("LOWTIDE_HEAP_PROBE", REPOSITORY / "build/tests/heap_probe.so"))

# In front of each program: walk() records its heap and says so; then the program waits for a line.
WALK = """
import ctypes, sys
probe = ctypes.PyDLL(sys.argv[1])
probe.probe_heap.restype = ctypes.c_char_p
probe.probe_heap.argtypes = [ctypes.c_char_p, ctypes.c_int]
def walk(flags=0):
    error = probe.probe_heap(sys.argv[2].encode(), flags)
    print(error.decode() if error else "ready", flush=True)
    return sys.stdin.readline()
"""

# All that a path may pass: odd keys and names, properties in the way, modules behind other names.
WORLD = """
import collections, dataclasses, email.message, enum, functools, http.client, logging.config, types
import xml.dom.minidom
class Slots:
    __slots__ = ("left", "__hidden")
    def __init__(self):
        self.left, self.__hidden = [object()], [object()]
class Shadow:
    def __init__(self):
        self.__dict__["x"] = [object()]
        self.y = {"k": [object()]}
    x = property(lambda self: 5)
class Opaque:
    def __init__(self):
        self.data = [object()]
    def __getattribute__(self, name):
        return 7 if name == "data" else object.__getattribute__(self, name)
class Liar(dict):
    def __getitem__(self, key):
        return "no"
class Color(enum.Enum):
    RED = [1]
    BLUE = (2, [3])
@dataclasses.dataclass
class Row:
    items: list
    registry = {}
    @classmethod
    def made(cls): pass
    @property
    def size(self): return 1
    def method(self, default=[1, 2]): return default
def outer():
    kept = [object() for _ in range(5)]
    return lambda: kept
class Static:
    @staticmethod
    def work(): pass
closure = outer()
data = {"s": Slots(), "it's": Shadow(), "o": Opaque(), (1, "a"): [object()], 1.5: [object()], None: [object()],
        b"\\x00\\xff": [object()], "x" * 500: [object()], -3: Liar(a=[object()]), "é\\n\\"": [object()],
        10**30: [object()], Color.RED: [object()], frozenset([1]): [object()], (): [object()], True: [object()],
        ("t", (1, (2,))): [object()], float("inf"): [object()], 1e300: [object()], 3 + 4j: [object()],
        "\\ud800": [object()]}
Row.registry["z"] = [Row([object()]) for _ in range(50)]
ordered = collections.OrderedDict(a=[object()])
default = collections.defaultdict(list, b=[object()])
queue = collections.deque([object()] for _ in range(10))
partial = functools.partial(print, [object()], k=[object()])
space = types.SimpleNamespace(a=[object()], **{"class": [object()], "no name": [object()]})
globals()["not a name"] = [object()]
logging = {"hides": ["a module"]}
bound = Row.registry["z"][0].method
nested = [[object(), (object(), [object()])] for _ in range(300)]
path_file = walk().strip()
import builtins, collections, json
names = collections.ChainMap(globals(), {k: v for k, v in sys.modules.items() if "." not in k}, vars(builtins))
good, bad = 0, []
for address, path in json.load(open(path_file)):
    try:
        found = id(eval(path, {"__builtins__": {}}, names))
    except BaseException as error:
        found = repr(error)
    if found == address:
        good += 1
    else:
        bad.append([path, str(found), hex(address)])
print(json.dumps([good, bad[:20]]))
"""

# SAVEALL: what the collector finds is put into gc.garbage in place of being freed.
GARBAGE = """
import gc, json
gc.collect()
gc.disable()
class Node:
    def __init__(self, parent):
        self.parent, self.children, self.payload = parent, [], bytearray(1000)
        if parent: parent.children.append(self)
def make():
    for i in range(200):
        root = Node(None)
        for j in range(i % 7):
            Node(Node(root))
    a = []; a.append(a)
    b, c = [a], {}
    b.append(c); c["b"] = b; c["kept"] = kept
    f = lambda: f
    try:
        raise ValueError
    except ValueError as e:
        own = e
kept = [Node(None)]
kept[0].parent = kept[0]
make()
walk()
gc.set_debug(gc.DEBUG_SAVEALL)
gc.collect()
print(json.dumps([id(x) for x in gc.garbage]))
"""

Recorded = tuple[Target, Path]
Record = Callable[..., Recorded]


@pytest.fixture
def record(spawn: Spawn, tmp_path: Path) -> Record:
    """record(python, program): a target that has walked its heap and waits, and the recording."""
    if not PROBE.exists():
        pytest.fail(f"{PROBE} is not there: run make build")
    shutil.copy(PROBE, tmp_path)

    def run(python: Python, program: str, *args: str) -> Recorded:
        tide = tmp_path / "heap.tide"
        target = spawn(python, WALK + program, str(tmp_path / PROBE.name), str(tide), *args, ready=False)
        target.wait_for("ready")
        return target, tide

    return run


def rows(lowtide: Lowtide, tide: Path, query: str) -> list[list[Any]]:
    done = lowtide("sql", tide, query, "--json")
    assert done.status == 0, done.stderr
    return list(json.loads(done.stdout)["rows"])


def findings(lowtide: Lowtide, tide: Path) -> list[dict[str, Any]]:
    done = lowtide("report", tide, "--json")
    assert done.status == 0, done.stderr
    return list(json.loads(done.stdout)["findings"])


def test_paths_evaluate_in_the_target_to_that_very_object(
    record: Record, lowtide: Lowtide, target_python: Python, tmp_path: Path
) -> None:
    target, tide = record(target_python, WORLD)
    paths = rows(lowtide, tide, "select address, path from paths join objects using (id) where expression")
    said = {path for _, path in paths}
    assert {"data['s'].left[0]", "data[(1, 'a')][0]", "closure.__closure__[0].cell_contents[3]"} <= said
    assert {"data[\"it's\"].__dict__['x'][0]", "__main__.__dict__['not a name'][0]", "space.a[0]"} <= said
    assert {"sys.modules['logging'].Logger", "Static.work", "Static.__dict__['work']"} <= said
    assert not any(p.startswith(("data['o'].data", "data[-3]['a']", "data[10000")) for p in said)
    # Some strings that are no valid UTF-8 cannot be said, so the answer is read back as it was written.
    file = tmp_path / "paths.json"
    file.write_text(json.dumps(paths), encoding="utf-8", errors="surrogateescape")
    target.say(str(file))
    status, out = target.finish(300)
    assert status == 0, target.stderr()
    good, bad = json.loads(out.splitlines()[-1])
    assert not bad
    assert good == len(paths) > 20000


def test_the_fields_of_extension_types_that_are_known_have_their_names(
    record: Record, lowtide: Lowtide, this_python: Python, tmp_path: Path
) -> None:
    pytest.importorskip("pandas")
    program = """
import pandas
frame = pandas.DataFrame({"a": range(50_000), "b": [1.5] * 50_000, "c": list("xyz12") * 10_000})
frame["c"] = frame["c"].astype("category")
frame["d"] = pandas.date_range("2020", periods=50_000)
frame.columns.get_loc("c")
file = open("/proc/self/status")
"""
    target, tide = record(this_python, program + WORLD[WORLD.index("path_file = walk()") :])
    query = """select address, path from paths join objects using (id)
        where expression and (path like 'frame.%' or path like 'file.%')"""
    paths = rows(lowtide, tide, query)
    said = {path for _, path in paths}
    assert {"frame._mgr.blocks", "frame._mgr.axes", "file.buffer.raw"} <= said
    assert {f"frame._mgr.blocks[{i}].values" for i in range(4)} <= said
    values = next(address for address, path in paths if path == "frame._mgr.blocks[1].values")
    why = json.loads(lowtide("why", tide, "frame._mgr.blocks[1].values", "--json").stdout)
    assert int(why["address"], 16) == values
    file = tmp_path / "paths.json"
    file.write_text(json.dumps(paths))
    target.say(str(file))
    status, out = target.finish(300)
    assert status == 0, target.stderr()
    assert json.loads(out.splitlines()[-1]) == [len(paths), []]


def test_what_a_function_and_a_library_both_hold_is_the_functions(
    record: Record, lowtide: Lowtide, local_python: Python
) -> None:
    program = """
import heapq
def main():
    rows = [bytearray(100) for i in range(5000)]
    heapq.nsmallest(3, rows, key=lambda row: walk())
main()
"""
    target, tide = record(local_python, program)
    target.kill()
    found = rows(lowtide, tide, "select path from paths join objects using (id) where type = 'list' and size > 40000")
    assert found == [["thread MainThread > main() > rows"]]


def test_paths_lead_back_to_the_object(record: Record, lowtide: Lowtide, local_python: Python) -> None:
    target, tide = record(local_python, WORLD)
    query = "select printf('0x%x', address), path from paths join objects using (id) where expression and type = 'list'"
    for address, path in rows(lowtide, tide, query)[::97]:
        by_path, by_address = (json.loads(lowtide("why", tide, what, "--json").stdout) for what in (path, address))
        assert by_path == by_address, path
    target.kill()


def test_what_is_called_garbage_is_what_the_collector_finds(
    record: Record, lowtide: Lowtide, target_python: Python
) -> None:
    target, tide = record(target_python, GARBAGE)
    garbage = {a for (a,) in rows(lowtide, tide, "select address from objects where garbage and tracked")}
    target.say("go on")
    status, out = target.finish()
    assert status == 0, target.stderr()
    collected = set(json.loads(out.splitlines()[-1]))
    assert len(collected) > 1000
    # What the program did between the walk and the collection may have added a frame or a line that was read.
    assert not garbage - collected
    assert len(collected - garbage) <= 3


# What goes when a name goes, in shapes that make it hard to say. After each line that is read, one name goes.
GRAPHS = """
import gc, random
class Node: pass
random.seed(7)
nodes = [Node() for _ in range(3000)]
for n in nodes:
    n.a, n.b = random.choice(nodes), random.choice(nodes)
    n.text = [str(random.random())]
held = nodes[::7]
shared = [[i] * 3 + [str(i) * 9] for i in range(20000)]
left, right = shared[:15000], shared[10000:]
links = None
for i in range(50000): links = (links, [i + 1000])
del shared, n, i
gc.collect()
while name := walk().strip():
    while name == "links" and links: links = links[0]
    del globals()[name]
    gc.collect()
"""


def test_retained_bytes_are_what_goes_when_the_name_goes(
    record: Record, lowtide: Lowtide, target_python: Python
) -> None:
    """Each name is dropped in turn; what the heap has lost is what the name retained just before."""
    target, tide = record(target_python, GRAPHS)
    total = "select sum(size + buffers) from objects"
    for name in ("left", "nodes", "links", "held", "right"):
        retained = json.loads(lowtide("why", tide, name, "--json").stdout)["retained_bytes"]
        ((before,),) = rows(lowtide, tide, total)
        target.say(name)
        target.wait_for("ready")
        ((after,),) = rows(lowtide, tide, total)
        assert abs(before - after - retained) < 3000, name
        assert retained > (3000 if name == "nodes" else 50000)
    target.kill()


LEAKS = {
    "leak-suspect": (
        "cache = {}\nfor i in range(60000): cache[i] = [str(i) * 20]\nwalk()",
        "cache",
        "del cache",
    ),
    "held-traceback": (
        """
errors = []
def work():
    rows = [str(i) for i in range(50000)]
    raise ValueError
try: work()
except ValueError as e: errors.append(e)
walk()""",
        "errors[0]",
        "",
    ),
    "garbage-cycle": (
        """
import gc
gc.disable()
class Node: pass
for i in range(3000):
    a, b = Node(), Node()
    a.child, b.parent, a.data = b, a, bytearray(1000)
del a, b
walk()""",
        "__main__.Node.child.parent",
        "",
    ),
    "native-reference": (
        """
lost = [[str(i)] for i in range(100000)]
for x in lost: ctypes.pythonapi.Py_IncRef(ctypes.py_object(x))
del lost, x
walk()""",
        "C code > list",
        "",
    ),
}


@pytest.mark.parametrize("kind", LEAKS)
def test_a_leak_is_found_and_named(kind: str, record: Record, lowtide: Lowtide, local_python: Python) -> None:
    program, path, _ = LEAKS[kind]
    target, tide = record(local_python, program)
    target.kill()
    found = findings(lowtide, tide)
    assert [f["kind"] for f in found] == [kind]
    assert found[0]["path"] == path
    assert found[0]["bytes"] > 2 << 20
    assert found[0]["fix"] and found[0]["title"]


ADVICE = {
    "a few that are large": ("images = [bytearray(3 << 20) for i in range(12)]", "images", "Bound images"),
    "a cached method": (
        """
import functools
class Parser:
    def __init__(self, n): self.words = ["w" * n] * 20000
    @functools.lru_cache(maxsize=None)
    def count(self): return len(self.words)
for n in range(150): Parser(n).count()""",
        "Parser.__dict__['count']'s lru_cache",
        'Put @lowtide.cache(max_bytes="64MiB") in the place of Parser.count\'s lru_cache',
    ),
    "a cached static method": (
        """
import functools
class Parser:
    @staticmethod
    @functools.lru_cache(maxsize=None)
    def words(n): return ["w" * 20] * 20000
for n in range(150): Parser.words(n)""",
        "Parser.words's lru_cache",
        "Give Parser.words a bound, or a lower one: @functools.lru_cache(maxsize=1000)",
    ),
    "what threads keep": (
        """
import threading
own, ready, end = threading.local(), threading.Barrier(9), threading.Event()
def work():
    own.rows = [str(i) * 9 for i in range(40000)]
    ready.wait()
    end.wait()
for i in range(8): threading.Thread(target=work, daemon=True).start()
ready.wait()""",
        "own",
        "Bound what own has in each thread",
    ),
    "texts that keep their document": (
        """
NavigableString = type("NavigableString", (str,), {"__module__": "bs4.element"})
titles = []
for n in range(24):
    titles.append(NavigableString(n))
    titles[-1].parent = bytearray(1 << 20)""",
        "titles",
        "Keep str(x) in titles in place of each bs4.element.NavigableString",
    ),
}


@pytest.mark.parametrize("what", ADVICE)
def test_the_first_line_says_what_to_write(what: str, record: Record, lowtide: Lowtide, local_python: Python) -> None:
    program, path, fix = ADVICE[what]
    target, tide = record(local_python, program + "\nwalk()")
    target.kill()
    first = findings(lowtide, tide)[0]
    assert first["path"] == path
    assert first["fix"].startswith(fix[0].lower() + fix[1:]), first["fix"]
    if path.endswith("'s lru_cache"):
        why = lowtide("why", tide, path.removesuffix("'s lru_cache"), "--json")
        assert json.loads(why.stdout)["type"] == "functools._lru_cache_wrapper", why.stderr


# Exceptions that a list keeps, whose tracebacks keep what their frames had.
NESTED = """
import gc
class Job: pass
errors, jobs, shared = [], [], []
def work():
    rows = [str(i) for i in range(1000)]
    raise ValueError
def fail():
    try: work()
    except ValueError as e: return e
for i in range(400): errors.append(fail())
{more}
gc.collect()
walk()
del errors, jobs, shared
gc.collect()
walk()"""
# Some of them are in another list as well, some in none.
SHARED = """
shared += [fail() for i in range(300)]
errors += shared
for i in range(100):
    jobs.append(Job())
    jobs[i].error = fail()
"""


@pytest.mark.parametrize("more", ["", SHARED], ids=["within", "in part"])
def test_bytes_that_several_findings_name_are_told_as_such_and_the_rest_adds_up_to_what_all_fixes_return(
    more: str, record: Record, lowtide: Lowtide, local_python: Python
) -> None:
    target, tide = record(local_python, NESTED.format(more=more))
    found = findings(lowtide, tide)
    shown = lowtide("report", tide).stdout
    total = "select sum(size + buffers) from objects"
    ((before,),) = rows(lowtide, tide, total)
    target.say("go")
    target.wait_for("ready")
    ((after,),) = rows(lowtide, tide, total)
    target.kill()
    kinds = [(f["kind"], f["path"]) for f in found]
    suspect, traceback = ("leak-suspect", "errors"), ("held-traceback", "errors[…]")
    # What another list keeps as well is none of the list's alone, but goes with its tracebacks.
    assert kinds == ([traceback, suspect, ("held-traceback", "jobs[…].error")] if more else [suspect, traceback])
    assert [f["within"] for f in found] == [None, 0, None][: len(found)]
    assert found[1]["within_bytes"] == pytest.approx(found[1]["bytes"], rel=0.01)
    assert shown.count("part of the first: their bytes do not add up\n") == 1
    returned = sum(f["bytes"] - f["within_bytes"] for f in found)
    assert returned == pytest.approx(before - after, rel=0.02) and sum(f["bytes"] for f in found) > 1.4 * returned


def test_a_view_that_keeps_an_array_is_to_be_copied(record: Record, lowtide: Lowtide, this_python: Python) -> None:
    pytest.importorskip("numpy")
    target, tide = record(this_python, "import numpy\nF = numpy.ones((1000, 9000))[:, :60]\nwalk()")
    target.kill()
    (found,) = findings(lowtide, tide)
    assert found["path"] == "F.base" and found["bytes"] == pytest.approx(72e6, rel=0.01)
    assert found["fix"].startswith(
        "drop F, or keep a copy of the part that is used in its place, F.copy(): it is a view"
    )


def test_cycles_of_a_library_are_for_the_collector(record: Record, lowtide: Lowtide, local_python: Python) -> None:
    program = """
import gc, optparse
gc.disable()
for i in range(3000):
    p = optparse.OptionParser(); p.add_option("-x", default=bytearray(2000))
del p
walk()"""
    target, tide = record(local_python, program)
    target.kill()
    (found,) = findings(lowtide, tide)
    assert found["kind"] == "garbage-cycle"
    assert found["fix"].startswith("call gc.collect() when what made them is done: optparse.")
    assert not found["title"].startswith("1 cycle closed by dict[")


HEALTHY = {
    "bare": "",
    "many imports": "import asyncio, ctypes, email, http.server, json, logging, multiprocessing, sqlite3, ssl, "
    "unittest, urllib.request, xml.dom.minidom, concurrent.futures, decimal, pydoc",
    "server": "import http.server, threading\ns = http.server.ThreadingHTTPServer(('127.0.0.1', 0), "
    "http.server.SimpleHTTPRequestHandler)\nthreading.Thread(target=s.serve_forever, daemon=True).start()",
    "tasks": "import asyncio\nasync def main():\n    ts = [asyncio.create_task(asyncio.sleep(9)) for _ in range(500)]\n"
    "    await asyncio.sleep(0)\n    walk()\n    sys.exit()\nasyncio.run(main())",
}


@pytest.mark.parametrize("what", HEALTHY)
def test_healthy_programs_have_no_findings(what: str, record: Record, lowtide: Lowtide, target_python: Python) -> None:
    target, tide = record(target_python, HEALTHY[what] + "\nwalk()")
    target.kill()
    assert findings(lowtide, tide) == []


def test_numpy_and_pandas_imported_are_healthy(record: Record, lowtide: Lowtide, this_python: Python) -> None:
    target, tide = record(this_python, "import numpy, pandas\nx = numpy.ones(10**6)\nwalk()")
    target.kill()
    assert findings(lowtide, tide) == []


def test_a_big_frame_of_pandas_is_told_by_its_name(record: Record, lowtide: Lowtide, this_python: Python) -> None:
    pytest.importorskip("pandas")
    program = "import numpy, pandas\nframe = pandas.DataFrame(numpy.ones((4_000_000, 3)), copy=False)\nwalk()"
    target, tide = record(this_python, program)
    target.kill()
    (found,) = findings(lowtide, tide)
    assert (found["path"], found["type"]) == ("frame", "pandas.DataFrame")
    assert found["fix"].startswith("drop frame once")
    assert found["bytes"] >= 96_000_000


def test_a_container_that_grows_is_found_between_recordings(
    record: Record, lowtide: Lowtide, local_python: Python, tmp_path: Path
) -> None:
    program = """
cache = {}
for k in range(3):
    for i in range(10000): cache[k, i] = bytearray(200)
    walk()
"""
    target, tide = record(local_python, program)
    shots = []
    for k in range(3):
        shots.append(tide.rename(tmp_path / f"{k}.tide"))
        if k < 2:
            target.say("go on")
            target.wait_for("ready")
    target.kill()
    done = lowtide("diff", *shots, "--json")
    assert done.status == 0, done.stderr
    (found,) = json.loads(done.stdout)["findings"]
    assert (found["kind"], found["path"], found["confidence"]) == ("growing-container", "cache", "high")


def test_without_values_everything_works_with_less_text(record: Record, lowtide: Lowtide, local_python: Python) -> None:
    target, tide = record(local_python, "cache = {'secret': [b'hidden']}\nwalk(2)")
    target.kill()
    said = {path for (path,) in rows(lowtide, tide, "select path from paths")}
    assert "cache" in said
    assert not any("secret" in path or "hidden" in path for path in said)
    assert lowtide("report", tide).status == 0


TASKS = """
import asyncio, functools, sys
@functools.lru_cache(maxsize=None)
def lookup(n):
    return [n] * 40
async def fetch():
    body = [str(i) * 9 for i in range(3000)]
    await asyncio.sleep(3600)
async def crawl(n):
    rows = [str(i) * 9 for i in range(3000)]
    await fetch()
async def main():
    seen = [str(i) * 9 for i in range(3000)]
    tasks = [asyncio.create_task(crawl(i), name=f"worker-{i}") for i in range(3)]
    tasks.append(asyncio.create_task(crawl(9)))
    for i in range(40_000): lookup(i)
    await asyncio.sleep(0.05)
    end = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    print("ready", flush=True)
    await end
    for task in tasks: task.cancel()
asyncio.run(main())
"""


def test_what_tasks_and_caches_hold_is_said_by_their_names(
    target_python: Python, spawn: Spawn, lowtide: Lowtide, tmp_path: Path
) -> None:
    target = spawn(target_python, TASKS)
    file = tmp_path / "t.tide"
    assert lowtide("dump", target.pid, "-o", file).status == 0
    paths = {
        "task 'worker-1' > crawl() > rows": "list",
        "task 'worker-1' > crawl() > fetch() > body": "list",
        "thread MainThread > main() > seen": "list",
        "lookup's lru_cache": "dict",
    }
    for path, kind in paths.items():
        why = json.loads(lowtide("why", file, path, "--json").stdout)
        assert (why["type"], why["paths"][0]["path"]) == (kind, path)
    assert "task … > crawl() > rows" in lowtide("why", file, "list", "--paths", "200").stdout
    # Of few objects: each path takes time.
    lists = "select path from paths join objects using (id) where type = 'list' and size > 20000"
    unnamed = lowtide("sql", file, f"{lists} and path like 'task ''Task-% > crawl() > rows'")
    assert len(unnamed.stdout.splitlines()) == 2
    finding = json.loads(lowtide("report", file, "--json").stdout)["findings"][0]
    assert (finding["kind"], finding["path"]) == ("leak-suspect", "lookup's lru_cache")
    assert "@functools.lru_cache(maxsize=" in finding["fix"]
    assert target.finish()[0] == 0


def test_a_name_that_is_not_there_is_answered_by_what_comes_near(
    this_python: Python, spawn: Spawn, lowtide: Lowtide, tmp_path: Path
) -> None:
    target = spawn(this_python, "import logging.handlers\nhandlers_by_name = {}")
    file = tmp_path / "t.tide"
    assert lowtide("dump", target.pid, "-o", file).status == 0
    for asked, near in {
        "handlers_by_nam": "handlers_by_name",
        "main.Handlers_By_Name['x']": "handlers_by_name",
        "MemoryHandlr": "logging.handlers.MemoryHandler",
        "app.MemoryHandler": "logging.handlers.MemoryHandler",
    }.items():
        done = lowtide("why", file, asked)
        assert (done.status, done.stderr.count("\n")) == (1, 1)
        assert done.stderr.endswith(f"what comes near: {near}\n")
    assert target.finish()[0] == 0


def test_what_an_ipython_session_keeps_of_its_outputs_is_named_as_that(
    this_python: Python, spawn: Spawn, lowtide: Lowtide, tmp_path: Path
) -> None:
    target = spawn(this_python, "_ = [[i] * 40 for i in range(60_000)]\n_oh = {3: _}")
    file = tmp_path / "t.tide"
    assert lowtide("dump", target.pid, "-o", file).status == 0
    finding = json.loads(lowtide("report", file, "--json").stdout)["findings"][0]
    assert (finding["kind"], finding["path"]) == ("leak-suspect", "_")
    assert "%reset -f out" in finding["fix"]
    assert target.finish()[0] == 0


def test_outputs_that_one_command_drops_are_one_finding_without_those_that_have_a_name(
    this_python: Python, spawn: Spawn, lowtide: Lowtide, tmp_path: Path
) -> None:
    made = "_ = __ = _5 = None; _2, _3, _4, rows = ([[i] * 40 for i in range(60_000)] for _ in range(4))\n"
    target = spawn(this_python, made + "_oh = {2: _2, 3: _3, 4: _4, 5: rows}; _ = __ = _5 = rows")
    file = tmp_path / "t.tide"
    assert lowtide("dump", target.pid, "-o", file).status == 0
    outputs, named = json.loads(lowtide("report", file, "--json").stdout)["findings"]
    assert outputs["path"] == "_oh" and "%reset -f out" in outputs["fix"]
    assert outputs["title"].startswith("3 values that cells ended with")
    assert outputs["bytes"] == pytest.approx(3 * named["bytes"], rel=0.1)
    assert named["path"] == "rows" and "%reset -f out" in named["fix"], named
    assert named["title"].startswith("rows (list)"), named
    assert target.finish()[0] == 0


def test_what_is_within_joined_outputs_says_so_of_each_of_them(
    this_python: Python, spawn: Spawn, lowtide: Lowtide, tmp_path: Path
) -> None:
    target = spawn(
        this_python,
        """
def work():
    rows = [str(i) for i in range(3000)]
    raise ValueError
def fail():
    try: work()
    except ValueError as e: return e
_2, _3 = [fail() for i in range(300)], [fail() for i in range(280)]
_oh = {2: _2, 3: _3}
""",
    )
    file = tmp_path / "t.tide"
    assert lowtide("dump", target.pid, "-o", file).status == 0
    outputs, *exceptions = json.loads(lowtide("report", file, "--json").stdout)["findings"]
    assert (outputs["path"], outputs["within"]) == ("_oh", None)
    assert [found["path"] for found in exceptions] == ["_2[…]", "_3[…]"]
    for found in exceptions:
        assert (found["kind"], found["within"], found["within_bytes"]) == ("held-traceback", 0, found["bytes"])
    assert target.finish()[0] == 0


SERVER = """
import socketserver, sys, threading, time
class App(socketserver.TCPServer):
    def __init__(self):
        super().__init__(("127.0.0.1", 0), socketserver.BaseRequestHandler)
        self.cache = {i: [i] * 40 for i in range(60_000)}
    def service_actions(self):
        self.serves = True
    serves = False
def in_its_loop():
    its = app()
    return its and its.serves and sys._current_frames()[main].f_code.co_name == "select"
def end():
    while not in_its_loop(): time.sleep(0.02)
    print("ready", flush=True)
    sys.stdin.read()
    app().shutdown()
import gc
main = threading.get_ident()
def app(): return next((o for o in gc.get_objects() if type(o) is App), None)
threading.Thread(target=end, daemon=True).start()
App().serve_forever()
"""


def test_what_the_loop_of_a_library_holds_is_said_by_the_program_s_own_class(
    target_python: Python, spawn: Spawn, lowtide: Lowtide, tmp_path: Path
) -> None:
    target = spawn(target_python, SERVER)
    file = tmp_path / "t.tide"
    assert lowtide("dump", target.pid, "-o", file).status == 0
    finding = json.loads(lowtide("report", file, "--json").stdout)["findings"][0]
    assert finding["path"].startswith("thread MainThread > BaseServer.serve_forever() > self.cache")
    assert finding["fix"].startswith("bound self.cache (of a __main__.App): delete entries")
    assert finding["confidence"] != "low"
    assert target.finish()[0] == 0
