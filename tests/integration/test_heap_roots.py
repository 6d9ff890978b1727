"""Where the walk begins: interpreters, threads, frames, and what hangs from them."""

from __future__ import annotations

from conftest import Python
from heap import FRAME, FROZEN, INTERPRETER, LOCAL, ROOT, RUNTIME, STACK, THREAD, Walk, walk

__all__ = ["walk"]

# A recording is about the thread that walks too: its own locals are among the frames'.
THREADS = """
import threading
started = threading.Barrier(3)
done = threading.Event()
def wait(own):
    inner = [own, own]
    started.wait()
    done.wait()
for i in range(2):
    threading.Thread(target=wait, args=({"thread": i},), name=f"worker {i}", daemon=True).start()
started.wait()
def outer(given):
    kept = {"given": given}
    def nested():
        return kept, walk()
    nested()
outer([1, 2, 3])
done.set()
"""


def test_every_thread_hangs_from_its_interpreter_with_its_name_and_its_frames(
    walk: Walk, target_python: Python
) -> None:
    heap = walk(target_python, THREADS)
    runtime = heap.rec.objects[0]
    assert heap.kind(runtime) == RUNTIME
    interpreter = heap.follow(runtime, "main interpreter")
    assert heap.kind(interpreter) == INTERPRETER
    threads = [t for t in heap.items(interpreter) if heap.kind(t) == THREAD]
    assert {t["value"][1] for t in threads} == {"MainThread", "worker 0", "worker 1"}
    for t in threads:
        frames = heap.items(t)
        assert all(heap.kind(f) == FRAME for f in frames)
        functions = [f["value"][1].split("\x1f")[0] for f in frames]
        if t["value"][1] == "MainThread":
            assert functions[-4:] == ["walk", "outer.<locals>.nested", "outer", "<module>"]
        else:
            assert "wait" in functions
            own = frames[functions.index("wait")]
            assert heap.items(heap.follow(own, "inner"))[0] is heap.follow(own, "own")


def test_locals_are_named_and_cells_stand_between_a_frame_and_what_it_shares(walk: Walk, target_python: Python) -> None:
    heap = walk(target_python, THREADS)
    outer = heap.frame("outer")
    file, line = outer["value"][1].split("\x1f")[1:]
    assert file == "<string>"
    assert int(line) > 10
    types = {name: heap.name(t) for name, t in heap.named(outer, LOCAL).items() if t}
    assert types == {"given": "list", "kept": "cell", "nested": "function"}
    kept = heap.follow(outer, "kept", "")
    assert heap.follow(heap.frame("outer.<locals>.nested"), "kept", "") is kept
    assert heap.get(kept, "given") is heap.follow(outer, "given")


def test_what_only_the_evaluation_stack_holds_is_found_there(walk: Walk, target_python: Python) -> None:
    heap = walk(
        target_python,
        """
class Held: pass
def pairs():
    return [[Held(), i] for i in range(3)]
def loop():
    for held, i in pairs():
        use(held, Held(), len([Held()]))
        break
def use(*args):
    walk()
loop()
""",
    )
    frame = heap.frame("loop")
    stack = [t for label, t in heap.edges(frame) if label[0] == STACK and t]
    # 3.15 keeps the list itself and the place in it.
    assert {heap.name(t) for t in stack} & {"list_iterator", "list"}
    held = heap.of_type("Held")
    assert len(held) == 4
    assert all(o["id"] < heap.rec.reached for o in held)
    surplus = heap.surplus()
    assert not [o for o in held if o["id"] in surplus]


def test_suspended_generators_and_coroutines_show_their_locals(walk: Walk, target_python: Python) -> None:
    heap = walk(
        target_python,
        """
import asyncio
def numbers(limit):
    held = {"limit": limit}
    yield held
    yield limit
async def agen(kept):
    inside = [kept]
    yield inside
async def sleeper(what):
    box = (what,)
    await asyncio.sleep(100)
async def main():
    tasks.append(asyncio.create_task(sleeper("cup"), name="napping"))
    await asyncio.sleep(0)
    agens.append(a := agen("saucer"))
    await a.__anext__()
    walk()
    tasks[0].cancel()
tasks, agens = [], []
generator = numbers(7)
next(generator)
finished = numbers(8)
list(finished)
asyncio.run(main())
""",
    )
    generator = heap.main("generator")
    assert heap.follow(generator, "limit")["value"] == [3, 7]
    assert heap.get(heap.follow(generator, "held"), "limit")["value"] == [3, 7]
    assert not heap.named(heap.main("finished"), LOCAL)
    (sleeper,) = (c for c in heap.of_type("coroutine") if "what" in heap.named(c, LOCAL))
    assert heap.items(heap.follow(sleeper, "box"))[0]["value"] == [1, 3, "cup"]
    (agen,) = heap.of_type("async_generator")
    assert heap.items(heap.follow(agen, "inside"))[0]["value"] == [1, 6, "saucer"]
    running = [c for c in heap.of_type("coroutine") if c["id"] < heap.rec.reached]
    assert len(running) >= 2
    surplus = heap.surplus()
    watched = heap.of_type("coroutine") + heap.of_type("async_generator") + [generator, heap.follow(generator, "held")]
    assert not [heap.name(o) for o in watched if surplus.get(o["id"], 0) < 0]
    assert not surplus.get(generator["id"])
    assert not surplus.get(agen["id"])


def test_a_running_generator_is_told_once_on_its_thread(walk: Walk, target_python: Python) -> None:
    heap = walk(
        target_python,
        """
class Kept: pass
def running():
    mine = Kept()
    yield walk()
def drive(g):
    return next(g)
drive(running())
""",
    )
    frame = heap.frame("running")
    (kept,) = heap.of_type("Kept")
    assert heap.follow(frame, "mine") is kept
    generator = heap.follow(frame, "generator")
    assert heap.name(generator) == "generator"
    assert not heap.named(generator, LOCAL)
    assert kept["id"] not in heap.surplus()


def test_frozen_objects_are_found_and_marked(walk: Walk, target_python: Python) -> None:
    heap = walk(
        target_python,
        """
import gc
class Cold: pass
cold = [Cold() for _ in range(10)]
cycle = Cold()
cycle.self = cycle
gc.collect()
gc.freeze()
del cycle
class Warm: pass
warm = Warm()
walk()
gc.unfreeze()
""",
    )
    cold = heap.of_type("Cold")
    assert len(cold) == 11
    assert all(o["flags"] & FROZEN for o in cold)
    assert not any(o["flags"] & FROZEN for o in heap.of_type("Warm"))
    (lost,) = (o for o in cold if o["id"] >= heap.rec.reached)
    assert heap.follow(lost, "self") is lost


def test_unreachable_cycles_follow_what_was_reached(walk: Walk, target_python: Python) -> None:
    heap = walk(
        target_python,
        """
import gc
gc.disable()
class Node: pass
def ring(n):
    nodes = [Node() for _ in range(n)]
    for a, b in zip(nodes, nodes[1:] + nodes[:1]):
        a.next = b
        a.text = f"node {id(b)}"
ring(100)
kept = Node()
walk()
""",
    )
    nodes = heap.of_type("Node")
    lost = [o for o in nodes if o["id"] >= heap.rec.reached]
    assert len(nodes) == 101
    assert len(lost) == 100
    assert len(heap.reach(lost[0]) & {o["id"] for o in lost}) == 100
    surplus = heap.surplus()
    assert not [o for o in lost if o["id"] in surplus]


SUBINTERPRETER = """
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
other = interpreters.create()
code = "class There: pass\\nthere = [There() for _ in range(5)]\\nthere[0].x = ['deep']"
getattr(interpreters, "exec", getattr(interpreters, "run_string", None))(other, code)
class Here: pass
here = Here()
walk()
interpreters.destroy(other)
"""


def test_objects_of_other_interpreters_are_found(walk: Walk, target_python: Python) -> None:
    heap = walk(target_python, SUBINTERPRETER)
    runtime = heap.rec.objects[0]
    interpreters = [t for _, t in heap.edges(runtime) if t and heap.kind(t) == INTERPRETER]
    assert len(interpreters) == 2
    there = heap.of_type("There")
    assert len(there) == 5
    assert all(o["id"] < heap.rec.reached for o in there)
    other = heap.follow(runtime, "interpreter")
    assert {o["id"] for o in there} <= heap.reach(heap.follow(other, "modules"))
    negative = {heap.name(heap.rec.objects[i]) for i, n in heap.surplus().items() if n < 0}
    assert not negative


def test_roots_have_names(walk: Walk, target_python: Python) -> None:
    heap = walk(
        target_python,
        """
import atexit, contextvars, signal
class Held: pass
atexit.register(print, end=Held())
variable = contextvars.ContextVar("variable")
def inside():
    variable.set([Held()])
    walk()
contextvars.copy_context().run(inside)
""",
    )
    interpreter = heap.follow(heap.rec.objects[0], "main interpreter")
    names = {label[2] for label, _ in heap.edges(interpreter) if label[0] == ROOT}
    assert {"modules", "sysdict", "builtins", "thread"} <= names
    assert any(name.startswith("atexit") for name in names)
    held = heap.of_type("Held")
    assert len(held) == 2
    assert all(o["id"] < heap.rec.reached for o in held)
    (thread,) = (t for t in heap.items(interpreter) if heap.kind(t) == THREAD)
    in_context = heap.reach(heap.follow(thread, "context")) & {o["id"] for o in held}
    assert len(in_context) == 1
