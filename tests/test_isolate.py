"""lowtide.isolate and lowtide.Pool: results, errors, bounds, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import copyreg
import dataclasses
import email.message
import gc
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.error
from concurrent.futures import BrokenExecutor, as_completed
from pathlib import Path
from typing import Any

import lowtide
import pytest
from lowtide import _pool_wire

np: Any = pytest.importorskip("numpy")


def add(a: Any, b: Any) -> Any:
    return a + b


def echo(value: Any) -> Any:
    return value


def ones(count: int) -> Any:
    return np.ones(count)


def fill(count: int) -> int:
    """Takes that many bytes and writes to all of them, piece by piece."""
    pieces = []
    for _ in range(count >> 20):
        pieces.append(b"x" * (1 << 20))
    return len(pieces)


def reserve(count: int) -> int:
    return len(bytearray(count))


def stand_still() -> None:
    time.sleep(600)


class Refused(OSError):
    """As many programs write them: made of other things than the message that it hands on."""

    def __init__(self, code: int, *, item: str) -> None:
        super().__init__(code, f"no {item}")
        self.item = item


class Unsold(Exception):
    def __init__(self, item: str, price: float) -> None:
        super().__init__(f"{item} for {price}")
        self.item, self.price = item, price


class Answered(Exception):
    """Its one argument fits its message, too: called with that it would say "HTTP HTTP 404"."""

    __slots__ = ("code",)

    def __init__(self, code: int) -> None:
        super().__init__(f"HTTP {code}")
        self.code = code


class Unread(OSError):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.tries = 3


class Made(Exception):
    """Which says itself how it is pickled."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__("made")
        self.parts = one, two

    def __reduce__(self) -> Any:
        return Made, self.parts


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    code: int


def raise_at(number: int) -> None:
    if number == 0:
        raise Answered(404)
    if number == 1:
        raise Unread(2, "No such file", "a.txt", None, "b.txt")
    if number == 2:
        raise Made(1, 2)
    if number == 3:
        raise Frozen(7)
    if number == 4:
        json.loads("{")
    if number == 5:
        raise subprocess.CalledProcessError(3, "make", output=b"half")
    if number == 6:
        b"\xff".decode()
    if number == 7:
        raise urllib.error.HTTPError("file:a", 404, "Not Found", email.message.Message(), None)
    raise ExceptionGroup("some", [Answered(500), Unread(2, "No such file", "a.txt")])


def raise_own(of: str) -> None:
    error = Unsold("salt", 2.5)
    error.add_note("on Monday")
    if of == "group":
        raise ExceptionGroup("two", [error, ValueError(1)])
    raise Refused(2, item="pepper") if of == "system" else error


def kill_self(number: int) -> None:
    os.kill(os.getpid(), number)


def pid(_: Any = None) -> int:
    return os.getpid()


def generator() -> Any:
    return (i for i in range(3))


class Stubborn(Exception):
    def __init__(self) -> None:
        super().__init__("stubborn")
        self.lock = threading.Lock()


def raise_stubborn() -> None:
    raise Stubborn


def raise_key_error() -> None:
    raise KeyError("lost")


def unpicklable() -> Any:
    return threading.Lock()


def nested(value: int) -> int:
    with lowtide.Pool(1) as pool:
        return pool.submit(add, value, 1).result()


def leak(count: int, kept: list[bytes] = []) -> int:  # noqa: B006
    kept.append(b"x" * count)
    return os.getpid()


def fail_to_begin() -> None:
    raise ValueError("no licence")


@lowtide.isolate
def isolated_pid() -> int:
    return os.getpid()


@lowtide.isolate(memory="200MiB", timeout=60)
def isolated_fill(count: int) -> int:
    return fill(count)


@lowtide.isolate
async def isolated_double(value: int) -> int:
    await asyncio.sleep(0)
    return 2 * value


@lowtide.isolate
async def isolated_forever() -> None:
    await asyncio.sleep(600)


class Account:
    def __init__(self, sum: int) -> None:
        self.sum = sum

    @lowtide.isolate
    def plus(self, more: int) -> tuple[int, int]:
        return self.sum + more, os.getpid()


def is_gone(pid: int) -> bool:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.01)
    return False


def test_a_pool_gives_results_in_order_and_refuses_calls_after_its_end() -> None:
    with lowtide.Pool(2) as pool:
        assert list(pool.map(add, range(20), range(20), chunksize=3)) == [2 * i for i in range(20)]
        assert list(pool.map(add, range(5), range(5))) == [2 * i for i in range(5)]
        assert set(pool._rss_bytes().values()) and all(pool._rss_bytes().values())
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(add, 1, 2)


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_each_start_method_runs_calls_in_another_process(method: str) -> None:
    with lowtide.Pool(1, start_method=method) as pool:
        assert pool.submit(pid).result() not in (os.getpid(), os.getppid())


def test_fork_is_refused_to_a_program_with_threads() -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        with pytest.raises(RuntimeError, match="needs a program with one thread"):
            lowtide.Pool(1, start_method="fork")
    finally:
        stop.set()
        thread.join()


def test_large_values_come_back_as_what_they_were_and_arrays_can_be_written_to() -> None:
    frozen = np.arange(300_000)
    frozen.flags.writeable = False
    both = np.zeros(500_000)
    values: list[Any] = [
        b"x" * 3_000_000,
        bytearray(b"y" * 2_000_000),
        {"deep": [b"z" * 100_000, "text" * 400_000]},
        memoryview(b"m" * 2_000_000),
        [np.arange(20_000.0)] * 3,
        np.asfortranarray(np.arange(400_000.0).reshape(400, 1000)),
        frozen,
        [both, both],
        np.arange(400_000)[::2],
        list(range(300_000)),
    ]
    with lowtide.Pool(1) as pool:
        for value in values:
            back = pool.submit(echo, value).result()
            assert type(back) is type(value)
            np.testing.assert_equal(
                bytes(back) if isinstance(back, memoryview) else back,
                bytes(value) if isinstance(value, memoryview) else value,
            )
        assert not pool.submit(echo, frozen).result().flags.writeable
        one, two = pool.submit(echo, [both, both]).result()
        assert one is two
        mine = pool.submit(ones, 1 << 20).result()
        mine += 1
        assert mine.sum() == 2 << 20


@pytest.mark.parametrize("by_value", [False, True])
def test_a_view_stays_a_view_where_somebody_taught_pickle_to_make_bytes_of_them(
    by_value: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cloudpickle")
    monkeypatch.setitem(copyreg.dispatch_table, memoryview, lambda view: (bytes, (view.tobytes(),)))
    large = memoryview(b"m" * 300_000)
    for value in ([large], [large, lambda: 3]):
        body, buffers, kind = _pool_wire.dump(value, by_value)
        back = _pool_wire.load(kind, body, buffers)
        assert [type(part) for part in back] == [type(part) for part in value]


def test_pandas_and_arrow_tables_come_back_equal() -> None:
    pd: Any = pytest.importorskip("pandas")
    pa: Any = pytest.importorskip("pyarrow")
    frame = pd.DataFrame({"n": np.arange(200_000), "t": [f"word{i % 99}" for i in range(200_000)]})
    table = pa.table({"n": np.arange(200_000), "t": ["word"] * 200_000})
    with lowtide.Pool(1, memory="1GiB") as pool:
        assert pool.submit(echo, frame).result().equals(frame)
        assert pool.submit(echo, table).result().equals(table)


def test_the_memory_of_a_large_result_goes_with_its_last_view() -> None:
    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count("/memfd:lowtide (deleted)")

    with lowtide.Pool(1) as pool:
        gc.collect()
        before = mapped()
        array = pool.submit(ones, 1 << 20).result()
        view = array[5:]
        assert mapped() == before + 1
        del array
        assert mapped() == before + 1
        del view
        assert mapped() == before


def test_an_exception_brings_its_traceback_and_one_that_cannot_be_pickled_its_words() -> None:
    with lowtide.Pool(1) as pool:
        with pytest.raises(KeyError, match="lost") as told:
            pool.submit(raise_key_error).result()
        assert "in raise_key_error" in str(told.value.__cause__)
        assert "_pool_worker" not in str(told.value.__cause__)
        with pytest.raises(lowtide.RemoteError, match="Stubborn: stubborn"):
            pool.submit(raise_stubborn).result()
        with pytest.raises(pickle.PicklingError, match="the result of unpicklable, a lock, cannot be pickled"):
            pool.submit(unpicklable).result()
        with pytest.raises(pickle.PicklingError, match="argument 2 of add cannot be pickled"):
            pool.submit(add, 1, threading.Lock()).result()
        with pytest.raises(TypeError, match="gave a generator, which cannot leave its process"):
            pool.submit(generator).result()
        assert pool.submit(add, 1, 2).result() == 3


def test_an_exception_with_an_init_of_its_own_comes_as_itself_with_its_attributes() -> None:
    with lowtide.Pool(1) as pool:
        with pytest.raises(Unsold, match="^salt for 2.5") as told:
            pool.submit(raise_own, "own").result()
        assert (told.value.args, told.value.item, told.value.price) == (("salt for 2.5",), "salt", 2.5)
        assert told.value.__notes__ == ["on Monday"]
        assert "in raise_own" in str(told.value.__cause__)
        with pytest.raises(ExceptionGroup, match="two") as group:
            pool.submit(raise_own, "group").result()
        assert [type(error) for error in group.value.exceptions] == [Unsold, ValueError]
        with pytest.raises(Refused, match="no pepper") as system:
            pool.submit(raise_own, "system").result()
        assert (system.value.errno, system.value.item) == (2, "pepper")


def test_an_exception_comes_with_its_message_and_all_its_fields_whoever_made_it() -> None:
    got: list[Any] = []
    with lowtide.Pool(1) as pool:
        for number in range(9):
            here = there = None
            try:
                raise_at(number)
            except Exception as error:
                here = error
            try:
                pool.submit(raise_at, number).result()
            except Exception as error:
                there = error
            assert (type(there), str(there)) == (type(here), str(here))
            got.append(there)
    answered, unread, made, frozen, no_json, called, undecoded, http, group = got
    assert (str(answered), answered.args, answered.code) == ("HTTP 404", ("HTTP 404",), 404)
    assert (unread.errno, unread.filename, unread.filename2, unread.tries) == (2, "a.txt", "b.txt", 3)
    assert (made.parts, frozen.code, no_json.pos, called.output) == ((1, 2), 7, 1, b"half")
    assert (undecoded.object, undecoded.start, http.code, http.filename) == (b"\xff", 0, 404, "file:a")
    assert (str(group.exceptions[0]), group.exceptions[1].filename) == ("HTTP 500", "a.txt")


def test_a_call_over_its_memory_fails_alone_whether_it_fills_or_reserves_it() -> None:
    with lowtide.Pool(1, memory="200MiB") as pool:
        for call in (fill, reserve):
            with pytest.raises(lowtide.IsolatedMemoryError, match="200 MiB") as told:
                pool.submit(call, 1 << 30).result()
            assert told.value.limit_bytes == 200 << 20
            assert pool.submit(add, 1, 2).result() == 3
    with pytest.raises(lowtide.IsolatedMemoryError):
        isolated_fill(1 << 30)
    assert isolated_fill(1 << 20) == 1


def test_a_call_past_its_time_fails_alone_and_says_where_it_stood() -> None:
    with lowtide.Pool(1, timeout=2) as pool:
        with pytest.raises(lowtide.IsolatedTimeout, match="longer than its 2 s") as told:
            pool.submit(stand_still).result()
        assert "in stand_still" in str(told.value.__cause__)
        pool._state.timeout = None
        assert pool.submit(add, 1, 2).result() == 3


def test_a_killed_worker_costs_its_own_call_and_names_the_signal() -> None:
    with lowtide.Pool(1) as pool:
        with pytest.raises(lowtide.WorkerDied, match="SIGKILL") as told:
            pool.submit(kill_self, signal.SIGKILL).result()
        assert told.value.signal == signal.SIGKILL and isinstance(told.value, BrokenExecutor)
        with pytest.raises(lowtide.WorkerDied, match="crash in C code"):
            pool.submit(kill_self, signal.SIGSEGV).result()
        with pytest.raises(lowtide.WorkerDied, match="exit status 3"):
            pool.submit(os._exit, 3).result()
        assert pickle.loads(pickle.dumps(told.value)).signal == signal.SIGKILL
        assert pool.submit(add, 1, 2).result() == 3


def test_workers_are_replaced_by_growth_by_count_and_not_by_a_peak_that_has_passed() -> None:
    with lowtide.Pool(1, max_growth="50MiB") as pool:
        first = pool.submit(pid).result()
        assert pool.submit(fill, 200 << 20).result() == 200
        assert pool.submit(pid).result() == first
        assert pool.submit(leak, 100 << 20).result() == first
        assert pool.submit(pid).result() != first
    with lowtide.Pool(1, max_tasks=2) as pool:
        assert len({pool.submit(pid).result() for _ in range(6)}) == 3


def test_a_failing_initializer_breaks_the_pool_and_is_named() -> None:
    with lowtide.Pool(1, initializer=fail_to_begin) as pool:
        futures = [pool.submit(add, 1, 2)]
        with pytest.raises(BrokenExecutor, match="no licence"):
            futures[0].result()


def test_an_isolated_call_has_a_process_of_its_own_that_ends_with_it() -> None:
    first, second = isolated_pid(), isolated_pid()
    assert len({first, second, os.getpid()}) == 3
    assert is_gone(first) and is_gone(second)
    assert Account(5).plus(2)[0] == 7
    plain = lowtide.isolate(add, timeout=60)
    assert pickle.loads(pickle.dumps(plain))(2, 3) == 5
    assert pickle.loads(pickle.dumps(isolated_pid)) is isolated_pid
    with pytest.raises(TypeError, match="generator function"):

        @lowtide.isolate
        def numbers() -> Any:
            yield 1


def test_async_functions_are_awaited_and_a_cancelled_one_is_killed() -> None:
    async def body() -> None:
        assert asyncio.iscoroutinefunction(isolated_double)
        assert await asyncio.gather(isolated_double(2), isolated_double(3)) == [4, 6]
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(isolated_forever(), 1)

    asyncio.run(body())


def test_isolation_nests() -> None:
    with lowtide.Pool(1) as pool:
        assert pool.submit(nested, 4).result() == 5


def test_nothing_is_left_open_when_pools_and_calls_are_over() -> None:
    def round() -> None:
        with lowtide.Pool(2, memory="1GiB") as pool:
            array = pool.submit(ones, 1 << 18).result()
            del array
            with pytest.raises(lowtide.WorkerDied):
                pool.submit(kill_self, signal.SIGKILL).result()
            pids.extend(pool._rss_bytes())
        pids.append(isolated_pid())

    pids: list[int] = []
    round()
    gc.collect()
    fds, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    for _ in range(3):
        round()
    gc.collect()
    # Fewer: what other tests left may go meanwhile.
    assert len(os.listdir("/proc/self/fd")) <= fds
    assert threading.active_count() <= threads
    assert all(is_gone(pid) for pid in pids)


def test_random_kills_leave_every_future_resolved() -> None:
    random.seed(7)
    done, victims, good, span_s = threading.Event(), list[int](), 0, 0.05
    with lowtide.Pool(2) as pool:

        def killer() -> None:
            while not done.wait(random.random() * span_s):
                workers = list(pool._rss_bytes())
                for victim in random.sample(workers, k=min(1, len(workers))):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(victim, signal.SIGKILL)
                        victims.append(victim)

        thread = threading.Thread(target=killer)
        thread.start()
        try:
            while not good or not victims:  # a busy machine may start no worker in so short a time
                futures = {pool.submit(add, np.full(50_000, i), i): i for i in range(400)}
                for future in as_completed(futures, timeout=200):
                    error = future.exception()
                    if error is None:
                        assert future.result()[-1] == 2 * futures[future]
                        good += 1
                    else:
                        assert isinstance(error, lowtide.WorkerDied), error
                span_s *= 2
        finally:
            done.set()
            thread.join()
        assert all(map(is_gone, victims))
        assert pool.submit(add, 1, 2).result() == 3


PROGRAM = """
import os, sys, time, lowtide
def work(x):
    print("from the child", flush=True)
    return x * 2
def stand(path):
    open(path, "w").write(str(os.getpid()))
    time.sleep(600)
if __name__ == "__main__":
    what = sys.argv[1]
    if what == "exit":
        pool = lowtide.Pool(1)
        future = pool.submit(work, 4)
        future.add_done_callback(lambda f: print(f.result(), flush=True))
    else:
        with lowtide.Pool(1) as pool:
            pool.submit(stand, sys.argv[2]).result()
"""


def run(tmp_path: Path, text: str, *args: str) -> subprocess.Popen[str]:
    file = tmp_path / "program.py"
    file.write_text(text)
    command = [sys.executable, str(file), *args]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_pid(path: Path) -> int:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if path.exists() and (text := path.read_text()):
            return int(text)
        time.sleep(0.01)
    raise AssertionError("the child never began")


def test_work_submitted_is_finished_at_the_end_of_the_program_and_output_passes_through(tmp_path: Path) -> None:
    out, err = run(tmp_path, PROGRAM, "exit").communicate(timeout=120)
    assert (out.split("\n")[:2], err) == (["from the child", "8"], "")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_children_end_with_the_program(tmp_path: Path, number: signal.Signals) -> None:
    process = run(tmp_path, PROGRAM, "stand", str(tmp_path / "pid"))
    child = wait_for_pid(tmp_path / "pid")
    process.send_signal(number)
    process.communicate(timeout=120)
    assert is_gone(child)


def test_a_program_without_a_guard_is_told_what_to_do(tmp_path: Path) -> None:
    text = "import lowtide\ndef f(): return 1\nprint(lowtide.isolate(f)())\n"
    out, err = run(tmp_path, text).communicate(timeout=120)
    assert 'under `if __name__ == "__main__":`' in err and out == ""


def test_a_pool_is_not_for_a_forked_child_which_can_isolate_by_itself() -> None:
    with lowtide.Pool(1) as pool:
        assert pool.submit(add, 1, 1).result() == 2
        child = os.fork()
        if child == 0:
            try:
                try:
                    pool.submit(add, 1, 1)
                except RuntimeError as error:
                    good = "make one here" in str(error)
                os._exit(0 if good and isolated_pid() not in (os.getpid(), os.getppid()) else 1)
            finally:
                os._exit(2)
        assert os.waitpid(child, 0)[1] == 0
        assert pool.submit(add, 1, 1).result() == 2
