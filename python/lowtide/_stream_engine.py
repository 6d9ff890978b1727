"""Drives a stream: reads chunks, has them done here or by an executor, and commits what comes back in the source's order."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import multiprocessing
import os
import pickle
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future
from dataclasses import dataclass
from typing import Any

from lowtide._stream_memory import Sizer, StreamError, peak_bytes, text_bytes, tree_bytes, trim
from lowtide._stream_source import Chunk, Source
from lowtide._stream_state import State
from lowtide._stream_work import ChunkFailed, Done, Plan, child_begin, halves, run_chunk

_LOOK_EVERY_S = 0.1


@dataclass(frozen=True)
class Progress:
    """How far a stream is; what ``progress=`` is called with, about ten times a second."""

    position_bytes: int  #: of the source, as it lies on the disk
    total_bytes: int  #: 0: not known
    records_in: int
    records_out: int
    aside: int
    memory_bytes: int  #: of the whole process tree, now
    peak_bytes: int  #: the most seen
    ceiling_bytes: int
    seconds: float  #: of this run


@dataclass
class _Task:
    chunk: Chunk
    future: Future[Done]
    generation: int


@dataclass
class Result:
    """A chunk that is done, whole or in parts, with what was set aside from it."""

    chunk: Chunk
    parts: list[Done]
    bad: list[tuple[int, str]]  # record's number in its file, and the error


class Workers:
    """The executor that chunks go to, made anew when one of its processes was killed and it breaks by that."""

    def __init__(self, make: Callable[[], Executor], own: bool) -> None:
        self._make, self._own = make, own
        self.executor = make()
        self.generation = 0

    def submit(self, *args: Any) -> Future[Done]:
        return self.executor.submit(run_chunk, *args)

    def renew(self, generation: int) -> bool:
        """Whether there is a working executor again; False where it is the caller's own and broke."""
        if generation != self.generation:
            return True
        if not self._own:
            return False
        self.executor.shutdown(wait=False, cancel_futures=True)
        self.executor = self._make()
        self.generation += 1
        return True

    def close(self, now: bool) -> None:
        if not self._own:
            return
        if now:
            # A function that never ends would hold up the interpreter's end, which waits for workers.
            for process in list((getattr(self.executor, "_processes", None) or {}).values()):
                process.kill()
        self.executor.shutdown(wait=not now, cancel_futures=True)


class Engine:
    def __init__(
        self,
        source: Source,
        plan: Plan,
        ceiling: int,
        workers: int,
        executor: Callable[[], Executor] | None,
        own: bool,
        local: bool,
        stop_at_bad: bool,
        progress: Callable[[Progress], object] | None,
    ) -> None:
        self.source, self.plan, self.ceiling = source, plan, ceiling
        self.local = local  # the workers' memory counts against the ceiling
        self.lanes = workers if executor else 0
        self.sizer = Sizer(ceiling, self.lanes)
        self.make, self.own = executor, own
        self.workers: Workers | None = None
        self.stop_at_bad, self.progress = stop_at_bad, progress
        self.peak = self.memory = 0
        self.begun = time.monotonic()
        self._looked = 0.0
        self._held = 0
        self._hwm_before = peak_bytes()

    def results(self, state: State) -> Generator[Result, None, None]:
        """Chunks in the source's order, from where `state` stands. Close the iterator to let the workers go."""
        self.state = state
        self.look(force=True)
        self.sizer.begin(self.memory)
        chunks = self.source.chunks(state.token, lambda: (self.sizer.target, self.sizer.record_max()))
        done = False
        try:
            if self.make is None:
                yield from self._here(chunks)
            else:
                self._check_pickle()
                self.workers = Workers(self.make, self.own)
                yield from self._elsewhere(chunks)
            done = True
        finally:
            chunks.close()  # type: ignore[attr-defined]
            if self.workers:
                self.workers.close(now=not done)
            self.look(force=True)

    def _here(self, chunks: Iterator[Chunk]) -> Iterator[Result]:
        for chunk in chunks:
            result = self._try(chunk, lambda c: run_chunk(self.plan, c.payload, c.header, self._room()))
            yield result
            self.look()

    def _room(self) -> int:
        """By how much the process that does a chunk may grow; a number that is surely too low still lets it try."""
        if self.make is not None:
            return self.sizer.worker_room() if self.local else 0
        return max(1 << 20, int(self.ceiling * 0.97) - tree_bytes())

    def _elsewhere(self, chunks: Iterator[Chunk]) -> Iterator[Result]:
        waiting: deque[_Task] = deque()
        ended = False
        while True:
            while not ended and self._may_submit(waiting):
                chunk = next(chunks, None)
                if chunk is None:
                    ended = True
                    break
                waiting.append(self._submit(chunk))
                self._held += chunk.bytes
            if not waiting:
                return
            task = waiting.popleft()
            self._wait(task.future)
            result = self._try(task.chunk, lambda c, t=task: self._collect(c, t))  # type: ignore[misc]
            yield result
            self._held -= task.chunk.bytes

    def _may_submit(self, waiting: deque[_Task]) -> bool:
        if not waiting:
            return True
        if self.plan.out == "csv" and self.plan.fields is None:
            return False  # the first chunk says what fields there are
        if self.state.chunks < 1 and self.local:
            return len(waiting) < self.lanes  # until it is known what a chunk costs
        held = self._held + sum(task.future.result().held_bytes() for task in waiting if _is_well(task.future))
        return len(waiting) < 2 * self.lanes and held < self.sizer.held_max()

    def _submit(self, chunk: Chunk) -> _Task:
        assert self.workers
        for _ in range(2):
            generation = self.workers.generation
            try:
                return _Task(
                    chunk, self.workers.submit(self.plan, chunk.payload, chunk.header, self._room()), generation
                )
            except BrokenExecutor:
                self.workers.renew(generation)
        raise StreamError("the executor takes no work any more; a worker of it was killed")

    def _wait(self, future: Future[Done]) -> None:
        while not future.done():
            concurrent.futures.wait([future], timeout=_LOOK_EVERY_S)
            self.look()

    def _collect(self, chunk: Chunk, first: _Task) -> Done:
        """The result of a chunk: of its task at first, of a new one alone where that broke or it is a part."""
        assert self.workers
        task = first if chunk is first.chunk and first.generation >= 0 else self._submit(chunk)
        alone = task is not first
        first.generation = first.generation if task is not first else -1
        for _ in range(3):
            self._wait(task.future)
            try:
                return task.future.result()
            except BrokenExecutor as error:
                generation = self.workers.generation if task is first else task.generation
                if not self.workers.renew(generation):
                    raise StreamError(f"the executor broke: {_line(error)}") from None
                if alone:
                    raise ChunkFailed("it killed its worker") from None
                task, alone = self._submit(chunk), True
            except ChunkFailed:
                raise
            except MemoryError as error:
                raise ChunkFailed(_line(error), memory=True) from None
            except (pickle.PicklingError, AttributeError, TypeError) as error:
                raise StreamError(f"cannot take what the function gives back from a worker: {_line(error)}") from None
            except Exception as error:
                if type(error).__module__.startswith("lowtide"):
                    raise ChunkFailed(_line(error), memory="memory" in _line(error).lower()) from None
                raise StreamError(f"the executor failed: {_line(error)}") from None
        raise ChunkFailed("it killed its worker")

    def _try(self, chunk: Chunk, do: Callable[[Chunk], Done]) -> Result:
        """The chunk, or its halves, down to the record that cannot be done."""
        try:
            done = do(chunk)
        except ChunkFailed as failure:
            return self._halve(chunk, do, failure)
        self.sizer.learn(done.pid, chunk.bytes, done.peak, done.after)
        return Result(chunk, [done], [(chunk.first + index, error) for index, error in done.bad])

    def _halve(self, chunk: Chunk, do: Callable[[Chunk], Done], failure: ChunkFailed) -> Result:
        if failure.memory:
            self.sizer.shrink()
            trim()
        split = halves(self.plan, chunk.payload)
        if split is None:
            why = failure.why
            if failure.memory:
                why = f"{why}: the record alone needs more than the {text_bytes(self.ceiling)} of the ceiling leave"
            return Result(chunk, [Done(b"" if self.plan.out != "records" else [], 1, 0)], [(chunk.first, why)])
        first, second, count = split
        half = chunk.bytes // 2
        left = self._try(dataclasses.replace(chunk, payload=first, bytes=half), do)
        if left.bad and self.stop_at_bad:
            return Result(chunk, left.parts, left.bad)  # nothing behind it will be committed
        if self.plan.out == "csv" and self.plan.fields is None:
            self.learn_fields(left.parts)
        right = self._try(dataclasses.replace(chunk, payload=second, bytes=half, first=chunk.first + count), do)
        return Result(chunk, left.parts + right.parts, left.bad + right.bad)

    def learn_fields(self, parts: list[Done]) -> None:
        """CSV has the fields of its first record, and every chunk from then on is held to them."""
        if self.plan.out != "csv" or self.plan.fields is not None:
            return
        for part in parts:
            if part.records_out:
                self.plan = dataclasses.replace(self.plan, fields=part.fields or ())
                return

    def _check_pickle(self) -> None:
        if not self.own:
            return  # a cluster's client has its own way
        for _, f in self.plan.ops:
            try:
                pickle.dumps(f)
            except Exception as error:
                raise StreamError(
                    f"cannot send {getattr(f, '__qualname__', f)} to a worker: {_line(error)}; define it at the top of a "
                    "module, or use workers=0"
                ) from None

    def look(self, force: bool = False) -> None:
        """Measures the tree, and tells who watches; at most ten times a second."""
        now = time.monotonic()
        if not force and now - self._looked < _LOOK_EVERY_S:
            return
        self._looked = now
        self.memory = tree_bytes()
        self.peak = max(self.peak, self.memory)
        if self.lanes == 0:
            hwm = peak_bytes()
            if hwm > self._hwm_before:
                self.peak = max(self.peak, hwm)
        if self.memory > self.ceiling * 0.9 and self.sizer.room:
            self.sizer.shrink()
            trim()
        if self.progress:
            self.progress(self.report())

    def report(self) -> Progress:
        state = self.state
        return Progress(
            state.position,
            self.source.total,
            state.records_in,
            state.records_out,
            state.aside,
            self.memory,
            self.peak,
            self.ceiling,
            time.monotonic() - self.begun,
        )


def _is_well(future: Future[Done]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def aside_line(name: str, record: int, error: str) -> str:
    """A record that was set aside, as a line of JSON."""
    return json.dumps({"file": name, "record": record, "error": error}, ensure_ascii=False)


def make_pool(workers: int) -> Executor:
    """Forks of this process: functions of ``__main__`` and unguarded scripts work in them as they are."""
    context = multiprocessing.get_context("fork")
    return concurrent.futures.ProcessPoolExecutor(workers, mp_context=context, initializer=child_begin)


def is_local(executor: Any) -> bool:
    """Whether an executor's workers are processes of this machine, whose memory counts."""
    return not type(executor).__module__.startswith(("distributed", "dask"))


def as_executor(given: Any) -> Executor:
    """A concurrent.futures.Executor of what a caller hands over: one, or a Dask client."""
    if isinstance(given, Executor):
        return given
    if hasattr(given, "get_executor"):
        executor: Executor = given.get_executor(pure=False)
        return executor
    raise TypeError(f"executor takes a concurrent.futures.Executor or a Dask client, not {type(given).__name__}")


def lanes_of(executor: Any, workers: int) -> int:
    """How many chunks it can do at a time."""
    if workers:
        return workers
    client = getattr(executor, "_client", None)
    if client is not None and hasattr(client, "nthreads"):
        return max(1, sum(int(n) for n in client.nthreads().values()))
    return int(getattr(executor, "_max_workers", 0) or os.cpu_count() or 1)
