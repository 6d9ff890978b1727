"""What objects there are, of every kind so many that what lies around them does not matter. Tests run it before code of theirs."""

import array
import collections
import ctypes
import datetime
import decimal
import functools
import io
import itertools
import queue
import random
import threading
import types
import weakref
import xml.etree.ElementTree as tree

n = 100


class Plain:
    def __init__(self, i):
        self.a, self.b, self.c = i, None, [i]


class Many:
    def __init__(self, i):
        for j in range(40):
            setattr(self, f"x{j}", None)


class WithDict(Plain):
    def __init__(self, i):
        super().__init__(i)
        self.seen = len(self.__dict__)


class Slots:
    __slots__ = ("a", "b")

    def __init__(self, i):
        self.a = self.b = [i]


class File(io.BytesIO):
    pass


class Text(io.StringIO):
    pass


class Moment(datetime.datetime):
    pass


class Row(list):
    pass


Point = collections.namedtuple("Point", "x y")


def written(kind, part, times):
    f = kind()
    for i in range(times):
        f.write(part)
    return f


def read(f):
    f.seek(0)
    f.readline()
    return f


def holding(kind, items):
    q = kind()
    for i in items:
        q.put(None)
    return q


def used(d):
    for i in range(1500):
        d.popleft()
    return d


def ordered(i):
    return collections.OrderedDict((f"{i} {j}", None) for j in range(20))


def big(i):
    with decimal.localcontext() as c:
        c.prec = 2000
        return decimal.Decimal(i + 1) / 7


def element(i):
    e = tree.Element("a", x=str(i))
    for j in range(9):
        tree.SubElement(e, "b").text = f"text {i} {j}"
    return e


def cached():
    f = functools.lru_cache(maxsize=None)(lambda x: [x])
    for i in range(n):
        f(str(i))
    return f


def bounded():
    f = functools.lru_cache(maxsize=n)(lambda x: [x])
    for i in range(2 * n):
        f(str(i))
    return f


def generator(i):
    kept = [i] * 20
    yield kept


def started(i):
    g = generator(i)
    next(g)
    return g


KINDS = {
    "BytesIO": lambda: [io.BytesIO(random.randbytes(5000)) for i in range(n)],
    "BytesIO written": lambda: [written(io.BytesIO, b"x" * 700, 20) for i in range(n)],
    "BytesIO of its own kind": lambda: [File(random.randbytes(5000)) for i in range(n)],
    "BytesIO that is shared": lambda: [(b, io.BytesIO(b)) for b in (random.randbytes(5000) for i in range(n))],
    "StringIO": lambda: [io.StringIO("x" * 3000) for i in range(n)],
    "StringIO written": lambda: [written(io.StringIO, "xé" * 300, 20) for i in range(n)],
    "StringIO of its own kind": lambda: [written(Text, "xé" * 300, 20) for i in range(n)],
    "StringIO read": lambda: [read(written(io.StringIO, "line\n", 600)) for i in range(n)],
    "StringIO asked": lambda: [(f, f.getvalue()) for f in [written(io.StringIO, "x" * 600, 9) for i in range(n)]],
    "bytearray": lambda: [bytearray(3000) for i in range(n)],
    "array": lambda: [array.array("d", range(300)) for i in range(n)],
    "deque": lambda: [collections.deque([None] * 600) for i in range(n)],
    "deque used": lambda: [used(collections.deque([None] * 2000)) for i in range(n)],
    "SimpleQueue": lambda: [holding(queue.SimpleQueue, range(300)) for i in range(n)],
    "Queue": lambda: [holding(queue.Queue, range(300)) for i in range(n // 4)],
    "OrderedDict": lambda: [ordered(i) for i in range(n)],
    "dict": lambda: [{f"{i} {j}": None for j in range(30)} for i in range(n)],
    "defaultdict": lambda: [collections.defaultdict(list, {f"{i} {j}": None for j in range(30)}) for i in range(n)],
    "Counter": lambda: [collections.Counter(str(i) * 3) for i in range(n)],
    "set": lambda: [{f"{i} {j}" for j in range(30)} for i in range(n)],
    "frozenset": lambda: [frozenset(f"{i} {j}" for j in range(30)) for i in range(n)],
    "list": lambda: [[str(i + j) for j in range(30)] for i in range(n)],
    "list of its own kind": lambda: [Row([str(i + j) for j in range(30)]) for i in range(n)],
    "tuple": lambda: [tuple(str(i + j) for j in range(30)) for i in range(n)],
    "namedtuple": lambda: [Point(str(i), [str(i)]) for i in range(5 * n)],
    "str": lambda: ["é" * (i + 100) for i in range(n)],
    "int": lambda: [1 << (3000 + i) for i in range(n)],
    "Decimal": lambda: [big(i) for i in range(n)],
    "Decimal small": lambda: [decimal.Decimal(i) for i in range(10 * n)],
    "datetime": lambda: [datetime.datetime(2020, 1, 1, 1, i % 60, tzinfo=datetime.UTC) for i in range(10 * n)],
    "datetime naive": lambda: [datetime.datetime(2020, 1, 1, 1, i % 60) for i in range(10 * n)],
    "datetime of its own kind": lambda: [Moment(2020, 1, 1, 1, i % 60) for i in range(10 * n)],
    "time": lambda: [datetime.time(1, i % 60, tzinfo=datetime.UTC) for i in range(10 * n)],
    "time naive": lambda: [datetime.time(1, i % 60) for i in range(10 * n)],
    "instance": lambda: [Plain(i) for i in range(5 * n)],
    "instance of many attributes": lambda: [Many(i) for i in range(n)],
    "instance asked for its dict": lambda: [WithDict(i) for i in range(5 * n)],
    "slots": lambda: [Slots(i) for i in range(5 * n)],
    "Element": lambda: [element(i) for i in range(n)],
    "partial": lambda: [functools.partial(print, [i], k=[i]) for i in range(5 * n)],
    "function": lambda: [lambda x=[i]: x for i in range(5 * n)],
    "generator": lambda: [started(i) for i in range(n)],
    "lru_cache": lambda: [cached() for i in range(10)],
    "lru_cache bounded": lambda: [bounded() for i in range(10)],
    "ctypes": lambda: [(ctypes.c_char * 2000)() for i in range(n)],
    "memoryview": lambda: [memoryview(bytes(3000)) for i in range(n)],
    "exception": lambda: [ValueError([i]) for i in range(5 * n)],
    "lock": lambda: [threading.Lock() for i in range(10 * n)],
    "RLock": lambda: [threading.RLock() for i in range(10 * n)],
    "type": lambda: [type(f"T{i}", (), {}) for i in range(n)],
    "weak dict": lambda: [weakref.WeakValueDictionary() for i in range(n)],
    "SimpleNamespace": lambda: [types.SimpleNamespace(a=[i], b=None) for i in range(5 * n)],
    "iterator": lambda: [iter([i]) for i in range(5 * n)],
    "itertools": lambda: [itertools.chain([i], [i]) for i in range(5 * n)],
}
