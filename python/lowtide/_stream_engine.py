"""Drives a stream: reads chunks, has them done here or by workers, and commits what comes back in the source's order."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import pickle
import re
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import BrokenExecutor, Future
from dataclasses import dataclass

from lowtide._pool_errors import IsolatedMemoryError, WorkerDied, signal_name
from lowtide._stream_arrow import Rows
from lowtide._stream_memory import (
    CHUNK_MAX,
    CHUNK_MAX_TABLES,
    CHUNK_MIN,
    Sizer,
    StreamError,
    data_bytes,
    is_alone,
    own_bytes,
    peak_bytes,
    rss_bytes,
    text_bytes,
    tree_bytes,
    trim,
    trim_libc,
)
from lowtide._stream_plan import ChunkFailed, Done, Plan
from lowtide._stream_source import Chunk, Source
from lowtide._stream_state import State
from lowtide._stream_tables import lean, warm
from lowtide._stream_work import PlanLost, Wall, halves, run_chunk
from lowtide._stream_workers import Workers, told

_LOOK_EVERY_S = 0.15
_LOOSE_BYTES = 8 << 20


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
class Result:
    """A chunk that is done, whole or in parts, with what was set aside from it."""

    chunk: Chunk
    parts: list[Done]
    bad: list[tuple[int, str]]  # record's number in its file, and the error


class Engine:
    def __init__(
        self,
        source: Source,
        plan: Plan,
        ceiling: int,
        make: Callable[[], Workers] | None,
        stop_at_bad: bool,
        progress: Callable[[Progress], object] | None,
    ) -> None:
        self.source, self.plan, self.ceiling = source, plan, ceiling
        self.make = make  # the workers; None: it is done here
        self.workers: Workers | None = None
        self.sizer = Sizer(ceiling, CHUNK_MAX_TABLES if plan.takes_tables else CHUNK_MAX)
        self.stop_at_bad, self.progress = stop_at_bad, progress
        self.peak = self.memory = 0
        self.begun = time.monotonic()
        self._looked = 0.0
        self._alone = False  # when it was last looked
        self._held = 0
        self._left = 0  # below the ceiling, before the chunk that is done here
        self._own_trimmed = self._own_begun = own_bytes()
        self._hwm_before = peak_bytes()

    def results(self, state: State) -> Generator[Result, None, None]:
        """Chunks in the source's order, from where `state` stands. Close the iterator to let the workers go."""
        with lean(self.plan.tables):
            yield from self._results(state)

    def _results(self, state: State) -> Iterator[Result]:
        self.state = state
        self.sizer.target = state.begin_bytes or self.sizer.target
        if self.make is None:
            if self.plan.tables:
                warm(self.plan)
            self.look(force=True)
            self.sizer.begin(self.memory, 0, self.plan.tables, self.plan.out == "parquet")
        # C++ that is refused memory may abort, and here that would be the program's end: no limit for pyarrow.
        self._data_limit = 0 if self.plan.tables else data_bytes() + int(self.sizer.room * 0.97)
        chunks = self.source.chunks(state.token, lambda: (self.sizer.next_bytes(), self.sizer.record_max()))
        done = False
        try:
            if self.make is None:
                yield from self._numbered(self._here(chunks))
            else:
                self._start_workers()
                yield from self._numbered(self._elsewhere(chunks))
            done = True
        finally:
            chunks.close()  # type: ignore[attr-defined]
            if self.workers:
                self.workers.close(now=not done)
            self.look(force=True)

    def _start_workers(self) -> None:
        assert self.make
        self.workers = workers = self.make()
        if workers.own:
            workers.pack(self.plan)
        try:
            workers.begin(self.plan)
        except Exception as error:
            raise StreamError(f"cannot start workers: {told(error)}") from None
        self.look(force=True)
        self._own_begun = own_bytes()
        taken = self.memory if workers.local else 0
        self.sizer.begin(taken, workers.lanes, self.plan.tables, self.plan.out == "parquet")
        workers.grow_max(self.sizer.worker_room() * (3 if self.plan.takes_tables else 2) // 4)
        if workers.threads:
            self.sizer.target = CHUNK_MIN  # what a chunk costs shows in small ones: no limit holds back a call

    def _numbered(self, results: Iterator[Result]) -> Iterator[Result]:
        """Each with the numbers of its records, which only now are known."""
        file, number = self.state.token.get("file", 0), self.state.token.get("record", 1)
        for result in results:
            chunk = result.chunk
            if chunk.file != file:
                file, number = chunk.file, 1
            result.bad = [(number + index, error) for index, error in result.bad]
            number += sum(part.records_in for part in result.parts)
            chunk.token["record"] = number
            yield result

    def _here(self, chunks: Iterator[Chunk]) -> Iterator[Result]:
        def do(chunk: Chunk) -> Done:
            self._left = self.ceiling - self._check_outgrown()
            room = self._left - int(self.ceiling * 0.03)
            wall = Wall(own_bytes() + max(1 << 20, room), self._data_limit)
            return run_chunk(self.plan, chunk.payload, chunk.head, 0, wall)

        for chunk in chunks:
            yield from self._try(chunk, do)
            self.look()

    def _check_outgrown(self) -> int:
        """The memory of the tree. Raises StreamError where what was kept since the begin leaves no record its room."""
        margin = min((1 << 20) + int(self.ceiling * 0.03), self.sizer.room // 4)
        memory = rss_bytes() if self._alone else tree_bytes()
        if memory > self.ceiling - margin:
            trim()
            memory = tree_bytes()
        if memory > self.ceiling - margin:
            raise self._outgrown(memory)
        return memory

    def _outgrown(self, memory: int) -> StreamError:
        self.state.begin_bytes = CHUNK_MIN  # or the next run would come no further
        return StreamError(
            f"the program itself takes {text_bytes(memory)} of the {text_bytes(self.ceiling)} between two records, "
            f"{text_bytes(self.sizer.taken)} when it began: what its functions keep counts; keep less, or raise memory"
        )

    def _elsewhere(self, chunks: Iterator[Chunk]) -> Iterator[Result]:
        waiting: deque[tuple[Chunk, Future[Done]]] = deque()
        ended = False
        while True:
            while not ended and self._may_submit(waiting):
                chunk = next(chunks, None)
                if chunk is None:
                    ended = True
                    break
                waiting.append((chunk, self._submit(chunk)))
                self._held += chunk.bytes
            if not waiting:
                return
            chunk, future = waiting.popleft()
            first: list[Future[Done]] = [future]
            del future
            yield from self._try(chunk, lambda c, f=first: self._collect(c, f))  # type: ignore[misc]
            self._held -= chunk.bytes
            self._check_kept()

    def _check_kept(self) -> None:
        """Raises StreamError where this process alone has taken what was left for all of them."""
        most = self._own_begun + 0.9 * (self.ceiling - self.sizer.taken)
        if self.workers and own_bytes() > most:
            trim()
            if own_bytes() > most:
                raise self._outgrown(self.workers.tree_bytes())

    def _may_submit(self, waiting: deque[tuple[Chunk, Future[Done]]]) -> bool:
        assert self.workers
        if not waiting:
            return True
        if self.plan.out == "csv" and self.plan.fields is None:
            return False  # the first chunk says what fields there are
        if self.state.chunks < 1 and self.workers.local:
            return len(waiting) < self.workers.lanes  # until it is known what a chunk costs
        held = self._held + sum(future.result().held_bytes() for _, future in waiting if _is_well(future))
        return len(waiting) < 2 * self.workers.lanes and held < self.sizer.held_max()

    def _submit(self, chunk: Chunk) -> Future[Done]:
        assert self.workers
        room = self.sizer.worker_room() if self.workers.local else 0
        try:
            return self.workers.submit(self.plan, chunk.payload, chunk.head, room)
        except (BrokenExecutor, RuntimeError) as error:
            raise StreamError(f"the executor takes no work: {told(error)}") from None

    def _collect(self, chunk: Chunk, given: list[Future[Done]]) -> Done:
        """The result of a chunk: of its future at first, of a new call where it is a part, or its worker died once."""
        for last in (False, True):
            future = given.pop() if given else self._submit(chunk)
            while not future.done():
                concurrent.futures.wait([future], timeout=_LOOK_EVERY_S)
                self.look()
            try:
                return future.result()
            except WorkerDied as error:
                if last:  # the first time it may have been anybody's doing
                    raise ChunkFailed(f"it killed its worker: {_how(error)}") from None
            except (ChunkFailed, StreamError):
                raise
            except PlanLost as error:
                raise StreamError(f"cannot have the functions in a worker: {error}") from None
            except MemoryError as error:
                why = "it takes more memory than the ceiling leaves" if isinstance(error, IsolatedMemoryError) else ""
                raise ChunkFailed(why or told(error), memory=True) from None
            except BrokenExecutor as error:
                raise StreamError(f"the executor broke: {told(error)}") from None
            except (pickle.PicklingError, AttributeError, TypeError) as error:
                raise StreamError(f"cannot take what the function gives back from a worker: {told(error)}") from None
            except Exception as error:
                raise StreamError(f"the executor failed: {told(error)}") from None
        raise AssertionError

    def _try(self, chunk: Chunk, do: Callable[[Chunk], Done]) -> Iterator[Result]:
        """What becomes of the chunk, or of its halves one by one, down to the record that cannot be done."""
        failure = None
        try:
            done = do(chunk)
        except ChunkFailed as error:
            failure = error.with_traceback(None)  # which would hold all that the chunk took
            failure.__context__ = None
        if failure:
            yield from self._halve(chunk, do, failure)
            return
        self.sizer.light = isinstance(chunk.payload, Rows)
        self.sizer.learn(done.pid, chunk.bytes, done.grown, done.seconds)
        result = Result(chunk, [done], done.bad)
        del done
        chunk.payload = None
        yield result

    def _halve(self, chunk: Chunk, do: Callable[[Chunk], Done], failure: ChunkFailed) -> Iterator[Result]:
        if failure.memory:
            self.sizer.shrink()
            trim()
        split = halves(self.plan, chunk.payload, chunk.head)
        if split is None:
            why = failure.why
            if failure.memory:
                if self.make is None and (memory := tree_bytes()) - self.sizer.taken > self.sizer.room // 2:
                    raise self._outgrown(memory)
                room = self.sizer.worker_room() if self.workers else self._left
                why = f"{why}: the record alone needs more than the {text_bytes(room)} that are left for one"
            yield Result(chunk, [Done(b"" if self.plan.out != "records" else [], 1, 0)], [(0, why)])
            return
        first, second = split
        at = chunk.token["at"] - len(second) if chunk.token["at"] else 0  # records are counted where bytes are not
        left = dataclasses.replace(chunk, payload=first, bytes=chunk.bytes // 2, token={**chunk.token, "at": at})
        right = dataclasses.replace(chunk, payload=second, bytes=chunk.bytes // 2)
        del split, first, second
        chunk.payload = None
        if failure.memory:  # each has its own way out, or their results would lie here until all are done
            yield from self._try(left, do)
            yield from self._try(right, do)
            return
        whole = Result(chunk, [], [])
        for half in (left, right):
            for result in self._try(half, do):
                count = sum(part.records_in for part in whole.parts)
                whole.parts += result.parts
                whole.bad += [(count + index, error) for index, error in result.bad]
                self.learn_fields(result.parts)
            if whole.bad and self.stop_at_bad:
                break  # nothing of it will be committed
        yield whole

    def learn_fields(self, parts: list[Done]) -> None:
        """CSV has the fields of its first record, and every chunk from then on is held to them."""
        if self.plan.out != "csv" or self.plan.fields is not None:
            return
        for part in parts:
            if part.records_out:
                self.plan = dataclasses.replace(self.plan, fields=part.fields or ())
                return

    def look(self, force: bool = False) -> None:
        """Measures the tree, and tells who watches; at most ten times a second."""
        now = time.monotonic()
        if not force and now - self._looked < _LOOK_EVERY_S:
            return
        self._looked = now
        self.memory = self.workers.tree_bytes() if self.workers else tree_bytes()
        self.peak = max(self.peak, self.memory)
        if self.make is None:
            self._alone = is_alone()
            hwm = peak_bytes()
            if hwm > self._hwm_before:
                self.peak = max(self.peak, hwm)
        if self.memory > self.ceiling * 0.9 and self.sizer.room:
            self.sizer.shrink()
            trim()
        elif self.plan.tables and own_bytes() > self._own_trimmed + _LOOSE_BYTES:
            trim_libc()  # large blocks of odd sizes leave holes
            self._own_trimmed = own_bytes()
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


def _how(error: WorkerDied) -> str:
    if error.signal is not None:
        return signal_name(error.signal)
    return f"exit status {error.exitcode}" if error.exitcode is not None else "it ended"


def aside_line(name: str, record: int, error: str) -> str:
    """A record that was set aside, as a line of JSON; of what is no UTF-8, such as some names, as escapes."""
    line = {"file": name, "record": record, "error": error}
    text = json.dumps(line, ensure_ascii=False)
    return text if text.isascii() or not re.search("[\ud800-\udfff]", text) else json.dumps(line)
