"""``lowtide.Pool``: a ``concurrent.futures.Executor`` over processes that are watched, and replaced before they grow."""

from __future__ import annotations

import functools
import itertools
import operator
import os
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future
from typing import Any, ParamSpec, SupportsFloat, SupportsIndex, TypeVar

from lowtide import _keep, _pool_child, _pool_worker
from lowtide._pool_errors import WorkerDied

_P = ParamSpec("_P")
_T = TypeVar("_T")

_Task = tuple["Future[Any]", Callable[..., Any], tuple[Any, ...], dict[str, Any]]


class _State:
    """What the keepers, one thread to each child, share. The Pool owns it; no keeper keeps the Pool alive."""

    def __init__(self, limit: int, setup: _pool_worker.Setup, start_method: str | None) -> None:
        self.limit, self.setup, self.start_method = limit, setup, start_method
        self.timeout: float | None = None
        self.max_growth: int | None = None
        self.max_tasks: int | None = None
        self.max_age: float | None = None
        self.modules: list[str] = []  # that children shall have, beside those of the functions called
        self.tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self.idle = threading.Semaphore(0)
        self.lock = threading.Lock()
        self.keepers: list[threading.Thread] = []
        self.children: dict[int, _pool_child.Child] = {}
        self.closed = False
        self.broken: BaseException | None = None
        self.source: _pool_child.Source | None = None
        self.owner = os.getpid()

    def close(self, kill: bool = False) -> None:
        with self.lock:
            self.closed = True
            children = list(self.children.values()) if kill else []
        self.tasks.put(None)
        for child in children:
            child.kill()

    def cancel_pending(self) -> None:
        for task in self._drain():
            task[0].cancel()

    def fail_pending(self) -> None:
        for task in self._drain():
            if task[0].set_running_or_notify_cancel():
                task[0].set_exception(self._broken_error())

    def _broken_error(self) -> BrokenExecutor:
        error = BrokenExecutor(f"the pool's initializer failed: {self.broken!r}")
        error.__cause__ = self.broken
        return error

    def _drain(self) -> Iterator[_Task]:
        while True:
            try:
                task = self.tasks.get_nowait()
            except queue.Empty:
                return
            if task is not None:
                yield task

    def add_keeper(self) -> None:
        """One more, unless there is an idle one or there are enough."""
        if self.idle.acquire(blocking=False) or len(self.keepers) >= self.limit:
            return
        with self.lock:
            if len(self.keepers) >= self.limit:
                return
            keeper = threading.Thread(target=self.keep, name=f"lowtide-pool-{len(self.keepers)}")
            self.keepers.append(keeper)
        keeper.start()

    def keep(self) -> None:
        """The body of a keeper."""
        child: _pool_child.Child | None = None
        tasks = 0
        try:
            while True:
                try:
                    task = self.tasks.get_nowait()
                except queue.Empty:
                    self.idle.release()
                    task = self.tasks.get()
                if task is None:
                    if self.closed and self.tasks.empty():
                        return
                    continue
                if not task[0].set_running_or_notify_cancel():
                    continue
                child = self.run(task, child)
                tasks += 1
                del task
                if child is not None and (self.is_over(child, tasks) or not child.is_alive()):
                    self.drop(child)
                    child = None
                if child is None:
                    tasks = 0
        finally:
            if child is not None:
                self.drop(child)
            self.tasks.put(None)  # the next keeper shall end, too

    def is_over(self, child: _pool_child.Child, tasks: int) -> bool:
        """Whether a child has had its time."""
        return (
            (self.max_tasks is not None and tasks >= self.max_tasks)
            or self.is_old(child)
            or (self.max_growth is not None and child.own_bytes() - child.ready_bytes > self.max_growth)
        )

    def is_old(self, child: _pool_child.Child) -> bool:
        return self.max_age is not None and time.monotonic() - child.born >= self.max_age

    def drop(self, child: _pool_child.Child) -> None:
        """Ends a child that has no call."""
        with self.lock:
            self.children.pop(child.pid, None)
        child.close()

    def child(self, modules: list[str]) -> _pool_child.Child:
        """A fresh child. One that is killed before it is ready has cost nobody a call: another is tried."""
        for last in (False, False, False, True):
            try:
                child = _pool_child.Child(self.start_method, self.setup, modules, self.source)
                break
            except WorkerDied:
                if last or self.source is not None:
                    raise
            except Exception as error:
                if self.setup.initializer is not None:
                    self.broken = error
                raise
        with self.lock:
            self.children[child.pid] = child
        return child

    def run(self, task: _Task, child: _pool_child.Child | None) -> _pool_child.Child | None:
        """Resolves the task's future; returns the child if it can go on."""
        future, function, args, kwargs = task
        what = _pool_worker.describe(function)
        done, value = False, None
        try:
            if self.broken is not None:
                raise self._broken_error()
            if child is not None and (not child.is_alive() or self.is_old(child)):  # since its last call
                self.drop(child)
                child = None
            message = _pool_child.pack_call(function, args, kwargs, self.start_method)
            for last in (*(False,) * 7, True):
                if child is None:
                    child = self.child([*self.modules, getattr(function, "__module__", None) or "builtins"])
                try:
                    done, value = child.call(message, what, self.timeout)
                    break
                except (BrokenPipeError, ConnectionResetError):
                    self.drop(child)
                    child = None
                    if last:
                        raise WorkerDied(f"each process that was to have {what} ended before it") from None
        except BaseException as error:
            value = self._broken_error() if self.broken is error else error
        if done:
            future.set_result(value)
        else:
            future.set_exception(value)
            if child is not None and (child.killed or child.status is not None):
                self.drop(child)
                child = None
            if self.broken is not None:
                self.fail_pending()
        return child


_states: weakref.WeakSet[_State] = weakref.WeakSet()


def _end_all() -> None:
    """At the interpreter's end: what was submitted is finished first, as concurrent.futures does."""
    for state in list(_states):
        if state.owner == os.getpid():
            state.close()
            for keeper in state.keepers:
                keeper.join()


threading._register_atexit(_end_all)  # type: ignore[attr-defined]


def _run_chunk(function: Callable[..., Any], chunk: list[tuple[Any, ...]]) -> list[Any]:
    return [function(*args) for args in chunk]


def _chunks(iterables: tuple[Iterable[Any], ...], chunksize: int) -> Iterator[list[tuple[Any, ...]]]:
    rows = zip(*iterables)
    while chunk := list(itertools.islice(rows, chunksize)):
        yield chunk


class Pool(Executor):
    """Processes that take calls, each watched over: a ``concurrent.futures.Executor``.

    max_workers: processes at most; as many as there are processors for this process unless given.
    memory: bytes that a worker may have resident, an int or text like ``"2GiB"``. A call that goes over it fails with
        IsolatedMemoryError, and its worker is replaced.
    timeout: seconds that a call may take; past them its worker is killed and the call fails with IsolatedTimeout.
    max_growth: bytes by which a worker's current resident memory, without pages of files, may lie above what it was when
        it was ready; past them it is replaced, between two calls. None: never.
    max_tasks, max_age: calls, and seconds, after which a worker is replaced.
    initializer, initargs: called in each worker before its first call.
    start_method: "forkserver" (forks of a clean process, as if None), "spawn" (a fresh interpreter each) or "fork" (forks
        of this process as it is now; refused when it has threads).

    A worker that dies costs the call that it was at work on, which fails with WorkerDied, and nothing else.

    >>> with Pool(max_workers=2, memory="1GiB") as pool:        # doctest: +SKIP
    ...     total = sum(pool.map(count_words, files))
    """

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        memory: int | str | None = None,
        timeout: float | None = None,
        max_growth: int | str | None = "256MiB",
        max_tasks: int | None = None,
        max_age: float | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        start_method: str | None = None,
    ) -> None:
        _pool_child.refuse_while_importing()
        _pool_child.main_module()  # while it can be known
        if max_workers is None:
            max_workers = len(os.sched_getaffinity(0))
        _check_count("max_workers", max_workers)
        if max_tasks is not None:
            _check_count("max_tasks", max_tasks)
        if max_age is not None:
            max_age = _seconds("max_age", max_age)
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be callable")
        limit, seconds = check_options(memory, timeout, start_method)
        self._state = _State(max_workers, _pool_worker.Setup(limit, initializer, tuple(initargs)), start_method)
        self._state.timeout = seconds
        self._state.max_growth = None if max_growth is None else _keep.parse_bytes(max_growth, "max_growth")
        self._state.max_tasks, self._state.max_age = max_tasks, max_age
        if start_method == "fork":
            self._state.source = _pool_child.Source(fork=True)
            weakref.finalize(self._state, self._state.source.close)
        _states.add(self._state)
        self._finalize = weakref.finalize(self, self._state.close)

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """As Executor's. The arguments are pickled when a worker takes the call; till then they are the caller's."""
        state = self._state
        if state.owner != os.getpid():
            raise RuntimeError("this pool belongs to the process that forked this one: make one here")
        future: Future[_T] = Future()
        with state.lock:
            if state.broken is not None:
                raise state._broken_error()
            if state.closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            state.tasks.put((future, fn, args, kwargs))
        state.add_keeper()
        return future

    def map(
        self,
        fn: Callable[..., _T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        **options: Any,
    ) -> Iterator[_T]:
        """As Executor's: results in the order of the arguments. chunksize: that many go to a worker in one call."""
        _check_count("chunksize", chunksize)
        if chunksize == 1:
            return super().map(fn, *iterables, timeout=timeout, **options)
        results = super().map(
            functools.partial(_run_chunk, fn), _chunks(iterables, chunksize), timeout=timeout, **options
        )
        return itertools.chain.from_iterable(results)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As Executor's: no more calls; those submitted are finished, or cancelled if they have not begun."""
        if self._state.owner != os.getpid():
            return
        if cancel_futures:
            self._state.cancel_pending()
        self._finalize()
        if wait:
            for keeper in self._state.keepers:
                keeper.join()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        """Waits for what was submitted. After Ctrl-C or SystemExit it waits for nothing: workers are killed."""
        if kind is not None and not issubclass(kind, Exception) and self._state.owner == os.getpid():
            self._state.cancel_pending()
            self._state.close(kill=True)
        self.shutdown(wait=True)

    def _rss_bytes(self) -> dict[int, int]:
        """What each live worker has resident now: its pid to bytes. For lowtide's own rooms; any thread may ask."""
        with self._state.lock:
            children = list(self._state.children.values())
        return {child.pid: bytes for child in children if (bytes := child.rss_bytes())}


def _check_count(name: str, given: object) -> None:
    if not isinstance(given, SupportsIndex):
        raise TypeError(f"{name} must be an int of at least 1, not {given!r}")
    if operator.index(given) < 1:
        raise ValueError(f"{name} must be at least 1, not {given!r}")


def _seconds(name: str, given: object) -> float:
    if not isinstance(given, SupportsFloat):
        raise TypeError(f"{name} must be a number of seconds, not {given!r}")
    if not (seconds := float(given)) > 0:
        raise ValueError(f"{name} must be more than 0 seconds, not {given!r}")
    return seconds


def check_options(
    memory: int | str | None, timeout: float | None, start_method: str | None
) -> tuple[int | None, float | None]:
    """The bytes that memory means, and the seconds that timeout does."""
    limit = None if memory is None else _keep.parse_bytes(memory, "memory")
    if limit == 0:
        raise ValueError(f"memory must be more than 0 bytes, not {memory!r}")
    seconds = None if timeout is None else _seconds("timeout", timeout)
    if start_method is not None and start_method not in _pool_child.START:
        raise ValueError(f"start_method must be one of {', '.join(_pool_child.START)}, not {start_method!r}")
    return limit, seconds
