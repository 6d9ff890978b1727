"""A program with something of everything, that has its own heap walked and then counts it by itself.

    heap_world.py PROBE RECORDING COUNTS

The walk is done by heap_probe.so, called with the GIL held; COUNTS gets, as JSON, what Python itself
says of the same objects: sizes, reference counts, referents.
"""

import array
import asyncio
import builtins
import collections
import contextvars
import ctypes
import datetime
import decimal
import enum
import functools
import gc
import io
import itertools
import json
import mmap
import operator
import re
import struct
import sys
import threading
import types
import weakref
import xml.etree.ElementTree

try:
    import sqlite3
except ImportError:  # a Python may be built without it
    sqlite3 = None

probe = ctypes.PyDLL(sys.argv[1])
probe.probe_heap.restype = probe.probe_figures.restype = ctypes.c_char_p
probe.probe_heap.argtypes = [ctypes.c_char_p, ctypes.c_int]


def walk(flags=0):
    error = probe.probe_heap(sys.argv[2].encode(), flags)
    if error:
        sys.exit(error.decode())
    return json.loads(probe.probe_figures())


class Plain:
    def __init__(self, i):
        self.name = f"plain {i}"
        self.items = [i] * i
        self.number = i * 1.5


class WithDict(Plain):
    def __init__(self, i):
        super().__init__(i)
        self.seen = self.__dict__


class Slots:
    __slots__ = ("left", "right", "never_set")

    def __init__(self, i):
        self.left = i
        self.right = f"right {i}"


class SlotsAndDict(Slots):
    def __init__(self, i):
        super().__init__(i)
        self.extra = [i]


class List(list):
    def __init__(self, items, note):
        super().__init__(items)
        self.note = note


class Tuple(tuple):
    note = None


class Int(int):
    note = None


class Str(str):
    note = None


class Dict(dict):
    __slots__ = ("note",)


class Set(set):
    pass


class Error(Exception):
    def __init__(self, message, detail):
        super().__init__(message)
        self.detail = detail


class Colour(enum.Enum):
    RED = 1
    BLUE = "blue"


class Meta(type):
    def __new__(mcls, name, bases, ns):
        cls = super().__new__(mcls, name, bases, ns)
        cls.made_by = mcls
        return cls


class Made(metaclass=Meta):
    pass


Point = collections.namedtuple("Point", "x y")


def closure(n):
    kept = [n]

    def inner():
        return kept, n

    return inner


def generator(n):
    local = [n]
    yield local
    yield n


async def coroutine(n):
    held = {"n": n}
    await asyncio.sleep(n)
    return held


async def async_generator(n):
    held = [n]
    yield held


@functools.lru_cache(maxsize=32)
def bounded(n):
    return [n]


@functools.cache
def unbounded(n):
    return [n]


@functools.singledispatch
def dispatched(x):
    return x


class Described:
    @property
    def p(self):
        "doc"
        return 1

    @staticmethod
    def s():
        return 1

    @classmethod
    def c(cls):
        return cls

    @functools.cached_property
    def lazy(self):
        return [1]


def caught():
    try:
        deep(3)
    except Error as e:
        return e


def deep(n):
    local = [n]
    if n:
        return deep(n - 1) + local
    raise Error("deep", {"n": n})


variable = contextvars.ContextVar("variable", default=(1,))


def make(n=30):
    world = {}
    world["plain"] = [Plain(i) for i in range(n)]
    world["with dict"] = [WithDict(i) for i in range(n)]
    world["slots"] = [Slots(i) for i in range(n)] + [SlotsAndDict(i) for i in range(n)]
    world["ad hoc"] = [Plain(i) for i in range(5)]
    for i, o in enumerate(world["ad hoc"]):
        for j in range(i * 10):
            setattr(o, f"a{j}", [j])
        if i == 3:
            del o.name
    world["ints"] = [0, 1, -1, 255, 256, 2**30, 2**31, -(2**63), 2**64, 10**50] + [Int(i) for i in range(n)]
    world["floats"] = [float(i) / 3 for i in range(n)] + [complex(i, 1) for i in range(n)]
    world["strings"] = ["x" * i for i in range(n)] + ["é" * i for i in range(n)] + ["€" * i for i in range(n)]
    world["strings"] += ["😀" * i for i in range(n)] + [Str("s" * i) for i in range(n)] + ["\udcff lone"]
    world["encoded"] = ["ß" * (i + 1) for i in range(n)]
    for s in world["encoded"]:
        ctypes.pythonapi.PyUnicode_AsUTF8(ctypes.py_object(s))
    world["bytes"] = [b"b" * i for i in range(n)] + [bytearray(b"x" * i) for i in range(n)]
    grown = bytearray()
    for i in range(100):
        grown.append(i)
    del grown[:10]
    world["bytes"].append(grown)
    world["lists"] = [list(range(i)) for i in range(n)] + [List(range(i), f"note {i}") for i in range(n)]
    appended = []
    for i in range(1000):
        appended.append(i)
    world["lists"].append(appended)
    world["tuples"] = [tuple(range(i)) for i in range(n)] + [Tuple(range(i)) for i in range(n)]
    for t in world["tuples"][n:]:
        t.note = [1]
    world["points"] = [Point(i, [i]) for i in range(n)]
    world["dicts"] = [{i: [i] for i in range(m)} for m in range(n)]
    world["dicts"] += [{f"k{i}": [i] for i in range(m)} for m in range(n)]
    world["dicts"] += [Dict({i: i for i in range(m)}) for m in range(n)]
    mixed = {f"k{i}": i for i in range(100)}
    for i in range(90):
        del mixed[f"k{i}"]
    mixed[1] = 2
    world["dicts"].append(mixed)
    world["dict views"] = [mixed.keys(), mixed.items(), mixed.values(), iter(mixed)]
    world["dict kinds"] = [collections.OrderedDict((i, [i]) for i in range(m)) for m in range(n)] + [
        collections.defaultdict(list, {i: [i] for i in range(m)}) for m in range(n)
    ]
    world["dict kinds"] += [collections.Counter("hello"), collections.ChainMap({}, mixed)]
    world["dict kinds"].append(types.MappingProxyType(mixed))
    world["sets"] = [set(range(i)) for i in range(n)] + [frozenset(range(i)) for i in range(n)]
    world["sets"] += [Set(range(i)) for i in range(n)]
    sparse = set(range(1000))
    for i in range(990):
        sparse.discard(i)
    world["sets"].append(sparse)
    world["deques"] = [collections.deque(range(i)) for i in (0, 1, 64, 1000)]
    world["functions"] = [closure(i) for i in range(n)] + [lambda x, y=[1], *, z={}: x for _ in range(n)]
    world["bound"] = [p.__init__ for p in world["plain"]] + [[].append, "x".join, Described.c]
    world["partial"] = [functools.partial(print, i, k=[i]) for i in range(n)]
    world["generators"] = [generator(i) for i in range(n)]
    for g in world["generators"][: n // 2]:
        next(g)
    world["coroutines"] = [coroutine(i) for i in range(n)]
    world["async generators"] = [async_generator(i) for i in range(n)]
    world["described"] = [Described() for i in range(n)]
    for d in world["described"]:
        assert d.lazy
    world["errors"] = [Error(f"e{i}", [i]) for i in range(n)] + [caught() for i in range(n)]
    world["errors"] += [OSError(2, "none", "file"), KeyError([1]), UnicodeDecodeError("utf-8", b"x", 0, 1, "why")]
    world["errors"] += [ExceptionGroup("group", [ValueError(i) for i in range(n)]), StopIteration([1])]
    world["enums"] = list(Colour)
    world["classes"] = [Made, Meta] + [type(f"C{i}", (Plain,), {"x": [i]}) for i in range(n)]
    world["instances"] = [c() if c is Made else c(1) for c in world["classes"] if c is not Meta]
    world["weak"] = [weakref.ref(p) for p in world["plain"]]
    world["weak"] += [weakref.ref(p, print) for p in world["plain"]] + [weakref.proxy(p) for p in world["plain"]]
    world["weak kinds"] = [weakref.WeakValueDictionary(enumerate(world["plain"])), weakref.WeakSet(world["plain"])]
    world["slices"] = [slice(i, [i], None) for i in range(n)] + [range(i, 2**70, 3) for i in range(n)]
    world["iterators"] = [iter([1, 2]), iter((1,)), iter("x"), iter({1}), enumerate([1]), zip([1], [2])]
    world["iterators"] += [reversed([1]), map(str, [1]), filter(None, [1]), itertools.chain([1], [2]), iter(range(3))]
    world["iterators"] += [itertools.count(2**70), itertools.cycle([1, 2]), *itertools.tee([1, 2, 3])]
    world["dates"] = [datetime.datetime(2020, 1, 1 + i % 28, tzinfo=datetime.UTC) for i in range(n)]
    world["dates"] += [datetime.timedelta(i) for i in range(n)] + [datetime.date(2020, 1, 1)]
    world["decimals"] = [decimal.Decimal(10) ** i for i in range(n)]
    world["arrays"] = [array.array("d", range(i)) for i in range(n)]
    world["views"] = [memoryview(bytes(i + 1)) for i in range(n)] + [memoryview(array.array("i", [1, 2]))[1:]]
    world["files"] = [io.BytesIO(b"x" * i) for i in range(n)] + [io.StringIO("x" * i) for i in range(n)]
    world["files"] += [io.BufferedReader(io.FileIO("/dev/null"))]
    world["patterns"] = [re.compile(f"a{i}(b)(?P<n>c)") for i in range(n)] + [re.match("(a)(b)", "ab")]
    world["operators"] = [operator.itemgetter(1, "x"), operator.attrgetter("a.b"), operator.methodcaller("f", 1, k=2)]
    world["structs"] = [struct.Struct("iihd"), mmap.mmap(-1, 8192)]
    # Its members that are exceptions are borrowed.
    world["databases"] = [sqlite3.connect(":memory:")] if sqlite3 else []
    world["trees"] = [xml.etree.ElementTree.fromstring("<a>" + "<b c='d'/>" * i + "</a>") for i in range(n)]
    frozendict = getattr(builtins, "frozendict", dict)  # 3.15
    world["frozen"] = [frozendict({"a": [1], "b": 2}), frozendict({1: 2})]
    world["threads"] = [threading.Lock(), threading.RLock(), threading.Event(), threading.local()]
    world["types"] = [list[int], int | str, type(None), types.SimpleNamespace(a=1, b=[2]), types.ModuleType("made")]
    world["contexts"] = [variable, contextvars.copy_context()]
    world["module"] = [sys, json, ctypes]
    world["ctypes"] = [ctypes.c_int(1), (ctypes.c_int * 10)(), ctypes.pointer(ctypes.c_int(3))]
    world["super"] = [super(List, world["lists"][n]), object(), Ellipsis, NotImplemented, None, True]
    for i in range(60):
        bounded(i)
        unbounded(i)
    world["caches"] = [bounded, unbounded, dispatched]
    return world


def count(world):
    """What Python says, after the walk: only of what lives in the world, which nothing changes."""
    counts = []
    seen = set()
    todo = list(world.values())
    while todo:
        o = todo.pop()
        if id(o) in seen or isinstance(o, (types.ModuleType, types.FrameType)) or o is globals():
            continue
        seen.add(id(o))
        size = sys.getsizeof(o)  # first: BytesIO leaves out a buffer that someone else refers to
        referents = gc.get_referents(o)
        if not isinstance(o, type):
            todo += referents
        counts.append([id(o), type(o).__qualname__, size, [id(r) for r in referents]])
    return counts


def main():
    world = make()
    gc.collect()
    figures = walk()
    counts = count(world)
    with open(sys.argv[3], "w") as out:
        json.dump({"counts": counts}, out)
    print("figures", json.dumps(figures))
    for c in world["coroutines"] + world["databases"]:
        c.close()


main()
