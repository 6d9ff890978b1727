"""Runs in each Python: what the runtime room says of it (by ctypes) against what it says of itself.

python runtime_target.py PROBE.so CHECK        prints nothing and ends with 0 when they agree
"""

from __future__ import annotations

import atexit
import contextlib
import contextvars
import ctypes
import gc
import inspect
import linecache
import signal
import sys
import threading
import time
import types

lib = ctypes.PyDLL(sys.argv[1])  # calls keep the GIL
for name in "open facts interps threads frames generator frame_object roots corrupt all_tables heights generator_height adapt".split():
    getattr(lib, f"probe_{name}").restype = ctypes.c_char_p
for name in "refcount pre_header type_dict gc slot traverse_of".split():
    getattr(lib, f"probe_{name}").restype = ctypes.c_uint64
U = ctypes.c_uint64
MINOR = sys.version_info[1]
DEBUG = hasattr(sys, "gettotalrefcount")


def ask(name: str, *args: object) -> list[str]:
    return getattr(lib, f"probe_{name}")(*args).decode().splitlines()


def addresses(which: int, interp: int = 0) -> set[int]:
    most = 2_000_000
    out = (U * most)()
    n = lib.probe_gc(ctypes.c_int64(interp), which, out, ctypes.c_int64(most))
    return set(out[:n])


def frames_told(lines: list[str]) -> list[dict]:
    frames: list[dict] = []
    for line in lines:
        word, *rest = line.split()
        if word == "frame":
            code, line_, owner, stack, complete, locals_ = map(int, rest)
            frames.append(
                dict(
                    code=code,
                    line=line_,
                    owner=owner,
                    stack=stack,
                    dict=locals_,
                    locals={},
                    values=[],
                    complete=complete,
                )
            )
        elif word == "local":
            frames[-1]["locals"][rest[0]] = int(rest[1])
        elif word == "stack":
            frames[-1]["values"].append(int(rest[0]))
    return frames


def compare_frame(told: dict, frame: types.FrameType) -> None:
    assert told["code"] == id(frame.f_code), frame
    assert told["line"] == frame.f_lineno, (frame, told)
    if frame.f_code.co_flags & inspect.CO_OPTIMIZED:
        expected = {name: id(value) for name, value in frame.f_locals.items()}
        assert told["locals"] == expected, (frame, told["locals"], expected)
    else:
        assert told["dict"] == id(frame.f_locals), frame


class Waiter:
    """A thread that stands in a few frames and waits."""

    def __init__(self) -> None:
        self.arrived, self.go = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self.outer, args=(["argument"],), name="waiter", daemon=True)
        self.thread.start()
        self.arrived.wait()

    def outer(self, argument: list) -> None:
        text, number = "outer's text", 12345678901234
        captured = [text]

        def inner(first: int, *rest: int, **named: int) -> int:
            unbound: int
            both = captured + argument
            for held in {"only the evaluation stack": "holds this dict"}:
                assert held
                self.arrived.set()
                self.go.wait()
                unbound = first
            return len(both) + len(held) + unbound

        class Body:
            in_class = inner(number, 2, 3, four=4)

        assert Body

    def stands(self) -> types.FrameType:
        """Its innermost frame, once it has come to where it waits."""
        while True:
            frame = sys._current_frames()[self.thread.ident or 0]
            lines = [linecache.getline(frame.f_code.co_filename, frame.f_lineno - n).strip() for n in (1, 0)]
            if lines == ["if timeout is None:", "waiter.acquire()"]:
                return frame
            time.sleep(0.001)

    def finish(self) -> None:
        self.go.set()
        self.thread.join()


def check_facts() -> None:
    label, version, *rest = ask("facts")[0].replace(" (debug)", "").split()
    debug, proven, huge = map(int, rest)
    assert version == sys.version.split()[0]
    assert label.startswith(f"3.{MINOR}.")
    assert (bool(debug), proven, huge) == (DEBUG, 1, 0)


def check_threads() -> None:
    waiters = [Waiter() for _ in range(3)]
    told = {int(line.split()[0]): line.split() for line in ask("threads", ctypes.c_int64(0))}
    assert {int(w[0]): int(w[1]) for w in told.values()} == {t.ident: t.native_id for t in threading.enumerate()}
    assert [i for i, w in told.items() if w[2] == "1"] == [threading.main_thread().ident]
    for w in waiters:
        w.finish()


def check_frames() -> None:
    waiter = Waiter()
    ident = waiter.thread.ident
    assert ident is not None
    frame: types.FrameType | None = waiter.stands()
    before = sys.getrefcount(waiter)
    told = frames_told(ask("frames", ctypes.c_int64(0), U(ident)))
    assert sys.getrefcount(waiter) == before
    for one in told:
        assert frame is not None
        compare_frame(one, frame)
        frame = frame.f_back
    assert frame is None
    names = [one["locals"].keys() for one in told]
    assert any({"captured", "argument", "both", "held"} <= keys for keys in names), names
    waiter.finish()


class Constructed:
    def __init__(self, ready: threading.Event, go: threading.Event) -> None:
        ready.set()
        go.wait()


def check_constructors() -> None:
    """A class is being called: 3.13 and later put a frame without a function below __init__."""
    passed, ready, end = threading.Event(), threading.Event(), threading.Event()
    passed.set()

    def construct() -> None:
        for last in [*[False] * 200, True]:  # the call is specialised on the way
            Constructed(ready if last else passed, end if last else passed)

    thread = threading.Thread(target=construct, daemon=True)
    thread.start()
    ready.wait()
    told = frames_told(ask("frames", ctypes.c_int64(0), U(thread.ident or 0)))
    shims = [one for one in told if not one["complete"]]
    assert len(shims) == (MINOR >= 13), told
    assert ask("open") == []
    here = {one["locals"].get("self") for one in told}
    assert all(set(one["values"]) & here for one in shims), told
    end.set()
    thread.join()


def check_stacks() -> None:
    """What only the evaluation stack of a frame that calls C holds: the iterator of the loop."""
    waiter = Waiter()
    assert waiter.thread.ident is not None
    told = frames_told(ask("frames", ctypes.c_int64(0), U(waiter.thread.ident)))
    for one in told:
        assert one["stack"] >= 0, one
    inner = next(one for one in told if "both" in one["locals"])
    iterators = [o for o in gc.get_objects() if type(o) is type(iter({}))]
    assert set(inner["values"]) & {id(o) for o in iterators}, inner
    waiter.finish()


def busy(stop: threading.Event) -> None:
    """All sorts of Python code, with calls below most kinds of instructions."""
    import argparse
    import ast
    import json
    import re
    import textwrap

    class Box:
        def __init__(self, value: int) -> None:
            self.value = value

        @property
        def doubled(self) -> int:
            return sum(n for n in [self.value, self.value])

        def __getitem__(self, key: int) -> int:
            return self.doubled + key

        def __enter__(self) -> Box:
            return self

        def __exit__(self, *error: object) -> bool:
            return True

        def __add__(self, other: Box) -> Box:
            return Box(self.value + other.doubled)

    def deep(n: int, *rest: int, **named: int) -> int:
        return n + deep(n - 1, *rest, **named) if n else sum(rest) + Box(n)[named["key"]]

    def chain(n: int):  # noqa: ANN202
        if n:
            yield from (m + 1 for m in chain(n - 1))
        yield n

    while not stop.is_set():
        for number in range(20):
            with Box(number) as box:
                text = f"{box.doubled!r:>{deep(3, 1, 2, key=4)}} {[Box(i)[i] for i in range(5)]}"
                try:
                    re.compile(f"(a|b)*{number}[{text[-2]}-z]", re.VERBOSE)
                    raise ValueError({"key": list(chain(5)), "box": (box + Box(1)).doubled})
                except (ValueError, re.error) as e:
                    json.dumps([str(e), sorted([3, 1, 2], key=lambda n: Box(n)[n])], indent=2)
                finally:
                    deep(5, key=number)
        re.purge()
        ast.dump(ast.parse(textwrap.dedent("    def f(x): return [x for x in x if x]\n") * 3))
        argparse.ArgumentParser().add_argument("--level", type=int)


def check_heights() -> None:
    """Heights found in the bytecode are those that frames tell; all this while code runs."""
    stop = threading.Event()
    thread = threading.Thread(target=busy, args=(stop,), daemon=True)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    thread.start()
    compared, opcodes, derived = 0, set(), 0
    for _ in range(1500):
        frames = frames_told(ask("frames", ctypes.c_int64(0), U(thread.ident or 0)))
        assert all(f["stack"] >= 0 for f in frames), frames
        derived += sum(len(f["values"]) for f in frames)
        for line in ask("heights", U(thread.ident or 0)) if MINOR <= 13 else []:
            known, found, _, opcode, *_ = line.split()
            assert known == found, line
            compared += 1
            opcodes.add(opcode)
        stop.wait(1e-4)
    stop.set()
    thread.join()
    sys.setswitchinterval(interval)
    for g in suspended()[:3] if MINOR <= 13 else []:  # those that have begun
        for line in ask("generator_height", U(id(g))):
            known, found, *_ = line.split()
            assert known == found, (g, line)
    assert derived > 100
    assert MINOR > 13 or (compared > 500 and len(opcodes) >= 2), (compared, opcodes)


def suspended() -> list:
    cell = ["in a cell"]

    def generate(n: int):  # noqa: ANN202
        for i in [n, "only on the stack", cell]:
            assert i
            yield i

    async def wait(n: int):  # noqa: ANN202
        local = [n]
        await Forever()
        return local

    async def stream(n: int):  # noqa: ANN202
        local = [n]
        yield local

    class Forever:
        def __await__(self):  # noqa: ANN204
            inside = "awaitable"
            yield inside

    generator, coroutine, asynchronous = generate(1000), wait(2000), stream(3000)
    next(generator)
    coroutine.send(None)
    step = asynchronous.asend(None)
    with contextlib.suppress(StopIteration):
        step.send(None)
    return [generator, coroutine, asynchronous, generate(1), wait(2)]


def check_generators() -> None:
    objects = suspended()
    for g in objects:
        frame = next(getattr(g, a) for a in ("gi_frame", "cr_frame", "ag_frame") if hasattr(g, a))
        running, *rest = ask("generator", U(id(g)))
        assert running == "running 0"
        told = frames_told(rest)
        assert len(told) == 1
        compare_frame(told[0], frame)
        assert told[0]["stack"] >= 0
        assert told[0]["owner"] == 1
    assert frames_told(ask("generator", U(id(objects[0])))[1:])[0]["values"], "the loop's iterator is on its stack"
    for g in objects[3:]:
        g.close()
        assert ask("generator", U(id(g))) == []

    def running() -> object:
        yield ask("generator", U(id(me)))

    me = running()
    first, *rest = next(me)  # type: ignore[call-overload]
    assert first == "running 1"
    assert frames_told(rest)[0]["code"] == id(running.__code__)


def check_frame_objects() -> None:
    def leave(kept: list) -> types.FrameType:
        text = "kept by the frame object"
        assert text
        frame = sys._getframe()
        assert ask("frame_object", U(id(frame)))[0] == "owned 0"
        return frame

    frame = leave([1])
    owned, *rest = ask("frame_object", U(id(frame)))
    assert owned == "owned 1"
    compare_frame(frames_told(rest)[0], frame)


def check_gc() -> None:
    gc.collect()
    gc.disable()
    keep = [[i] for i in range(1000)]
    for generation in range(3):
        told = addresses(generation)
        known = {id(o) for o in gc.get_objects(generation=generation)}
        assert len(told ^ known) < 20, (generation, len(told), len(known), len(told - known))
    assert {id(o) for o in keep} <= addresses(0)
    assert len(addresses(3)) == gc.get_freeze_count()
    gc.freeze()
    assert {id(o) for o in keep} <= addresses(3)
    assert abs(len(addresses(3)) - gc.get_freeze_count()) < 5
    gc.unfreeze()
    assert len(addresses(3)) == gc.get_freeze_count()
    gc.enable()


class Plain:
    pass


class Slots:
    __slots__ = ("a",)


class WeakSlots:
    __slots__ = ("a", "__weakref__")


class Finalized:
    def __del__(self) -> None:
        kept.append(self)


kept: list = []


def check_objects() -> None:
    for o in [[], {"a": []}, (1, []), "text", 5, Plain(), Slots(), Plain, int, print, gc, None, {1}, b"x", 1.5]:
        told = lib.probe_object(U(id(o)))
        assert bool(told & 2) == gc.is_tracked(o), o
        count = lib.probe_refcount(U(id(o)))
        if count:
            assert count + 2 >= sys.getrefcount(o) >= count, (o, count, sys.getrefcount(o))
        else:
            assert MINOR >= 12, o
    assert lib.probe_object(U(id(int))) == 0
    assert lib.probe_object(U(id(Plain))) & 1
    assert bool(lib.probe_refcount(U(id(None)))) == (MINOR == 11)
    Finalized()
    assert lib.probe_object(U(id(kept[0]))) & 4
    managed = MINOR >= 12
    sizes = {Plain: 32, Slots: 16, WeakSlots: 32 if managed else 16, list: 16, int: 0}
    for cls, size in sizes.items():
        o = cls()
        assert lib.probe_pre_header(U(id(o))) == size, cls
    for cls in (int, dict, object, type, type(None), Plain, OSError):
        referents = [id(o) for o in gc.get_referents(cls.__dict__)]  # what a mapping proxy wraps
        assert lib.probe_type_dict(ctypes.c_int64(0), U(id(cls))) in referents, cls
    assert lib.probe_core(U(lib.probe_traverse_of(U(id(dict)))))
    assert not lib.probe_core(ctypes.cast(lib.probe_core, ctypes.c_void_p))
    assert lib.probe_static(U(id(int)))
    assert not lib.probe_static(U(id(kept)))


def roots(interp: int = 0) -> list[tuple[str, int, int, bool, str, str]]:
    found = []
    for line in ask("roots", ctypes.c_int64(interp)):
        where, index, address, borrowed, name, type_ = line.split("|")
        found.append((where, int(index), int(address), borrowed == "1", name, type_))
    return found


def goodbye(*args: object) -> None:
    """Registered with atexit."""


def check_roots() -> None:
    import builtins
    import codecs
    import os

    payload = ["an argument of atexit"]
    atexit.register(goodbye, payload)
    codecs.register_error("lowtide", lambda e: ("", e.end))
    os.register_at_fork(before=lambda: None)
    variable = contextvars.ContextVar("variable")
    variable.set(payload)
    signal.signal(signal.SIGUSR1, goodbye)
    told = roots()
    at = {(where, name): address for where, index, address, _, name, _ in told if index < 0}
    assert at["interp", "modules"] == id(sys.modules)
    assert at["interp", "sysdict"] == id(vars(sys))
    assert at["interp", "builtins"] == id(vars(builtins))
    assert at["interp", "gc.garbage"] == id(gc.garbage)
    assert at["interp", "gc.callbacks"] == id(gc.callbacks)
    names = {name for where, _, _, _, name, _ in told if where == "interp"}
    assert {"importlib", "codec_search_path", "codec_error_registry", "before_forkers", "ast"} <= names, names
    types_ = {name: type_ for where, _, _, _, name, type_ in told if where == "interp"}
    assert types_["importlib"] == "module"
    assert {types_[n] for n in types_ if n.startswith("type cache")} <= {"str", "NoneType"}
    reach = {a for _, _, a, _, name, _ in told if name.startswith("atexit")}
    for _ in range(3):  # a list of tuples that hold a tuple in 3.14
        reach |= {id(r) for o in gc.get_objects() if id(o) in reach for r in gc.get_referents(o)}
    assert {id(goodbye), id(payload)} <= reach
    context = contextvars.copy_context()
    assert context[variable] is payload
    assert "context" in {name for where, _, _, _, name, _ in told if where == "thread"}
    if MINOR >= 12:
        assert id(goodbye) in {a for where, _, a, _, name, _ in told if where == "runtime"}
        assert types_["interned strings"] == "dict"
        static = {a for where, _, a, _, _, _ in told if where == "types"}
        assert {id(int), id(type), id(OSError), id(type(print))} <= static
        assert not any(t for t in static if t == id(Plain))
    statics = {a for where, _, a, _, _, _ in told if where == "static"}
    assert {id(0), id(-5), id(256), id(b""), id(bytes([120])), id(()), id(chr(97)), id(chr(233))} <= statics
    atexit.unregister(goodbye)


def check_handled_exception() -> None:
    try:
        raise ValueError(["held by the thread while it is handled"])
    except ValueError as e:
        told, handled = roots(), id(e)
    assert ("exception being handled", handled) in {(name, a) for _, _, a, _, name, _ in told}


def check_interpreters() -> None:
    try:
        import _interpreters as interpreters  # 3.13
    except ImportError:
        import _xxsubinterpreters as interpreters
    assert ask("interps")[0].split() == ["0"]
    created = [interpreters.create() for _ in range(2)]
    ids = {0, *(int(i[0] if isinstance(i, tuple) else i) for i in created)}
    assert {int(i) for i in ask("interps")[0].split()} == ids
    for one in ids - {0}:
        names = {name: type_ for where, _, _, _, name, type_ in roots(one) if where == "interp"}
        assert names["modules"] == "dict"
        assert not addresses(2, one) & addresses(2, 0)
        assert sum(len(addresses(g, one)) for g in range(4)) > 500
        dicts = {lib.probe_type_dict(ctypes.c_int64(i), U(id(int))) for i in (0, one)}
        assert len(dicts) == (2 if MINOR >= 12 else 1)
    for one in created:
        interpreters.destroy(one)
    assert ask("interps")[0].split() == ["0"]


# A walk that moved one of these would go astray far from the mistake.
PROVEN = """
object_type type_name type_basicsize type_flags gc_head_next gc_head_prev gc_head_size
gc_generation_0 gc_generation_1 gc_generation_2 gc_permanent runtime_interpreters_head interp_next interp_id
interp_threads_head interp_gc interp_modules interp_sysdict interp_builtins thread_next thread_interp
iframe_code iframe_previous iframe_function iframe_instruction iframe_localsplus gen_iframe
code_nlocalsplus code_localsplusnames code_localspluskinds code_linetable code_adaptive
dict_keys dict_used dict_keys_nentries dict_keys_indices dict_unicode_entry_key str_length
list_items set_table set_mask set_entry_key int_digits module_dict function_code function_globals
""".split()


def check_corrupted_tables() -> None:
    waiter = Waiter()
    unproven = dict.fromkeys(PROVEN)
    for line in ask("corrupt"):
        field, tried, refused, text = line.split("|")
        if int(refused):
            assert text.startswith("layout table 3.")
            assert "does not fit CPython" in text
        if field in unproven and int(refused) >= int(tried) - 2:  # some moves stay within what looks alike
            del unproven[field]
    assert not unproven, unproven
    waiter.finish()


def check_adapted_tables() -> None:
    assert ask("adapt")[0].split() == (["1", "1", "0"] if MINOR >= 13 else ["1"])


def check_other_tables() -> None:
    """Tables of other minor versions are refused."""
    assert {label.split(".")[1] for label in ask("all_tables")[0].split()} == {str(MINOR)}


refusal = ask("open")
assert refusal == [], refusal
for check in sys.argv[2:]:
    globals()[f"check_{check}"]()
