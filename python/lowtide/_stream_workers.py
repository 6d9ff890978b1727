"""The processes that do a stream's chunks: a lowtide.Pool of its own, or whatever executor the caller hands over."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import pickle
import threading
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

from lowtide import _pool_wire
from lowtide._pool import Pool
from lowtide._pool_child import main_module
from lowtide._pool_errors import WorkerDied
from lowtide._stream_memory import StreamError, parent_of, tree_bytes
from lowtide._stream_plan import Done, Head, Plan
from lowtide._stream_tables import warm
from lowtide._stream_work import run_chunk

_LIBRARIES = {"parquet": "pyarrow.ipc", "arrow": "pyarrow.ipc", "table": "pyarrow.ipc", "zst": "zstandard"}


def _nothing() -> None:
    """A worker's first call: it has started once this is done."""


class Workers:
    """Takes chunks. `lanes` of them at a time; `local`: their memory counts against the ceiling."""

    def __init__(self, executor: Executor, lanes: int, own: bool) -> None:
        self.executor, self.lanes, self.own = executor, lanes, own
        self.local = is_local(executor)
        self.threads = isinstance(executor, ThreadPoolExecutor)
        self._packed: tuple[Plan, bytes] | None = None

    def begin(self, plan: Plan) -> None:
        """Starts those of our own, so that what they take is known."""
        if self.own:
            calls = [
                self.executor.submit(warm, dataclasses.replace(plan, ops=()))
                if plan.tables
                else self.executor.submit(_nothing)
                for _ in range(self.lanes)
            ]
            for started in calls:
                with contextlib.suppress(WorkerDied):  # the next call starts another
                    started.result()

    def submit(self, plan: Plan, payload: Any, head: Head | None, room: int) -> Future[Done]:
        given: Plan | bytes = plan
        if isinstance(self.executor, (Pool, ProcessPoolExecutor)):
            given = self.pack(plan)
        if self.threads:
            room = 0  # what one thread may take cannot be told from what the others do
        return self.executor.submit(run_chunk, given, payload, head, room, None, isinstance(self.executor, Pool))

    def pack(self, plan: Plan) -> bytes:
        """The plan as it travels, made once. Raises StreamError for a function that cannot travel."""
        if self._packed is None or self._packed[0] is not plan:
            self._packed = plan, _pickled(plan)
        return self._packed[1]

    def grow_max(self, most: int) -> None:
        """A worker of our own that has grown by more than that is replaced, between two chunks."""
        if isinstance(self.executor, Pool) and self.own:
            self.executor._state.max_growth = max(1 << 20, most)

    def tree_bytes(self) -> int:
        """Of this process, its children and the pool's: those come from a process that is no child of this one."""
        pids = self.executor._rss_bytes() if isinstance(self.executor, Pool) else ()
        return tree_bytes({*map(parent_of, pids), *pids})

    def close(self, now: bool) -> None:
        """now: without waiting for functions that may never end."""
        if not self.own:
            return
        assert isinstance(self.executor, Pool)
        if now:
            self.executor.__exit__(KeyboardInterrupt, None, None)
        else:
            self.executor.shutdown()


def _pickled(plan: Plan) -> bytes:
    """By name where that leads to the functions; else whole, where cloudpickle is installed."""
    cloud = _pool_wire.cloudpickle()
    tried = [pickle] if cloud is None else [cloud] if main_module() is None else [pickle, cloud]
    for pickler in tried:
        with contextlib.suppress(Exception):
            packed: bytes = pickler.dumps(plan, 5)
            return packed
    for _, f in plan.ops:
        try:
            tried[-1].dumps(f, 5)
        except Exception as error:
            raise StreamError(
                f"cannot send {getattr(f, '__qualname__', f)} to a worker: {told(error)}; define it at the top of a "
                "module, or use workers=0"
            ) from None
    raise StreamError("cannot send what reduce begins with to a worker: it cannot be pickled; use workers=0")


def told(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def own_workers(count: int, plan: Plan) -> Workers:
    """A pool whose clean process has imported what the functions need: their workers share it."""
    interactive = main_module() is None and _pool_wire.cloudpickle() is None and threading.active_count() == 1
    pool = Pool(count, start_method="fork" if interactive else None)
    modules = {getattr(getattr(f, "func", f), "__module__", None) for _, f in plan.ops}
    modules |= {_LIBRARIES.get(word) for word in (plan.kind, plan.out, plan.compression)}
    if plan.writes_tables and importlib.util.find_spec("pandas"):
        modules.add("pandas")  # which pyarrow imports when it makes a column of a list
    pool._state.modules = sorted(name for name in modules if name and name != "__main__")
    return Workers(pool, count, own=True)


def given_workers(given: Any, workers: int) -> Workers:
    executor = as_executor(given)
    return Workers(executor, lanes_of(executor, workers), own=False)


def is_local(executor: Any) -> bool:
    """Whether an executor's workers are processes of this machine, whose memory counts."""
    return not type(executor).__module__.startswith(("distributed", "dask"))


def reads_our_files(given: Any) -> bool:
    """Whether an executor's workers surely see the files that this process has open."""
    return given is None or isinstance(given, (Pool, ThreadPoolExecutor, ProcessPoolExecutor))


def check_executor(given: Any) -> None:
    if not isinstance(given, Executor) and not hasattr(given, "get_executor"):
        raise TypeError(f"executor takes a concurrent.futures.Executor or a Dask client, not {type(given).__name__}")


def as_executor(given: Any) -> Executor:
    """A concurrent.futures.Executor of what a caller hands over: one, or a Dask client."""
    check_executor(given)
    executor: Executor = given if isinstance(given, Executor) else given.get_executor(pure=False)
    return executor


def lanes_of(executor: Any, workers: int) -> int:
    """How many chunks it can do at a time."""
    if workers:
        return workers
    if isinstance(executor, Pool):
        return executor._state.limit
    client = getattr(executor, "_client", None)
    if client is not None and hasattr(client, "nthreads"):
        return max(1, sum(int(n) for n in client.nthreads().values()))
    return int(getattr(executor, "_max_workers", 0) or os.cpu_count() or 1)
