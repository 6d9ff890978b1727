"""What is done to one chunk, here or in a worker: decode its records, run the functions, encode what comes out.

Records of text are made, used and written in slices that the processor's cache holds: of a whole chunk there is only what is
read and what is to be written.
"""

from __future__ import annotations

import functools
import inspect
import operator
import os
import pickle
import resource
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from lowtide import _pool_worker
from lowtide._keep import stream_cut, stream_pipe
from lowtide._stream_arrow import Kept, Rows
from lowtide._stream_codec import Encoder, Steps, dumps, slices
from lowtide._stream_memory import data_bytes, own_bytes, peak_bytes, rss_bytes
from lowtide._stream_plan import ChunkFailed, Done, FarSpan, Head, Held, Plan, Span, told_error
from lowtide._stream_tables import frame_table, ipc_buffer, lean, table_of

_HELD_BYTES = 64 << 10  # from here on a result stays outside of its pickle


def _chain(records: Iterator[Any], ops: Iterable[tuple[str, Any]]) -> Iterator[Any]:
    """All of it in C iterators, which take one record of their source at a time."""
    for name, f in ops:
        if name == "filter":
            records = filter(f, records)
        elif name == "pipe" or inspect.isgeneratorfunction(f):
            records = stream_pipe(f, records)
        else:
            records = map(f, records)
    return records


class Wall:
    """What a process may take while it does chunks. Left, the process is as free as before.

    own_limit: of memory that is no file's, looked at between slices. data_limit: of all private memory that can be written to, as RLIMIT_DATA, so that
        one call that would take more gets a MemoryError. Not where other threads would meet it. 0: none.
    """

    def __init__(self, own_limit: int = 0, data_limit: int = 0) -> None:
        self.own_limit = own_limit
        self.most = 0  # that was seen
        alone = threading.active_count() == 1
        self.data_limit = data_limit if alone or _pool_worker.is_worker else 0
        self._before: tuple[int, int] | None = None

    def __enter__(self) -> Wall:
        if self.data_limit:
            soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
            if all(limit == resource.RLIM_INFINITY or limit > self.data_limit for limit in (soft, hard)):
                resource.setrlimit(resource.RLIMIT_DATA, (self.data_limit, hard))
                self._before = soft, hard
        return self

    def __exit__(self, *_: object) -> None:
        if self._before:
            resource.setrlimit(resource.RLIMIT_DATA, self._before)
            self._before = None

    def look(self) -> None:
        own = own_bytes()
        self.most = max(self.most, own)
        if self.own_limit and own > self.own_limit:
            raise ChunkFailed("it takes more memory than the ceiling leaves", memory=True)


_first: dict[int, tuple[int, int]] = {}  # this process: what it held before its first chunk


def _wall_of_worker(room: int) -> Wall:
    own, data = _first.setdefault(os.getpid(), (own_bytes(), data_bytes()))
    return Wall(own + room, data + room) if room else Wall()


def _run(raw: list[Any], ops: Steps, first: int, bad: dict[int, str]) -> list[Any]:
    """Each record through `ops`; one that raises yields nothing and stands in `bad`."""
    out: list[Any] = []
    source = iter(raw)
    while True:
        try:
            out.extend(_chain(source, ops))
            return out
        except ChunkFailed:
            raise
        except (Exception, SystemExit) as error:
            if isinstance(error, MemoryError):
                raise ChunkFailed("MemoryError", memory=True) from None
            # The next round goes on behind the record.
            bad[first + len(raw) - operator.length_hint(source) - 1] = told_error(error)


def _call_chunks(f: Callable[[Any], Any], records: Any) -> Any:
    try:
        result = f(records)
        if isinstance(result, (str, bytes, dict)) or result is None:
            raise TypeError(f"a function of chunks gives a list of records, not {type(result).__name__}")
        if hasattr(result, "__dataframe__") and not hasattr(result, "to_pylist"):
            return frame_table(result)
        return result if hasattr(result, "to_pylist") else list(result)
    except (Exception, SystemExit) as error:
        raise ChunkFailed(told_error(error), memory=isinstance(error, MemoryError)) from None


def _segments(ops: Iterable[tuple[str, Any]]) -> list[tuple[Steps, Any]]:
    """Runs of record functions, each with the chunk function behind it (None behind the last)."""
    found: list[tuple[Steps, Any]] = []
    run: Steps = []
    for name, f in ops:
        if name == "chunks":
            found.append((run, f))
            run = []
        elif name != "fold":
            run.append((name, f))
    return [*found, (run, None)]


def _do(plan: Plan, payload: Any, head: Head | None, wall: Wall, here: bool, held: bool) -> Done:
    bad: dict[int, str] = {}
    encoder = Encoder(plan, here, held)
    (ops, chunk_function), *more = _segments(plan.ops)
    if isinstance(payload, (Span, FarSpan, Rows)):
        payload = payload.read()
    count = 0
    if plan.kind == "table" and chunk_function and not ops:
        records = table_of(payload)
        count = len(records)
    else:
        records = []
        ending: Steps = [("map", dumps())] if plan.out == "jsonl" and not chunk_function else []
        for raw, steps in slices(plan, payload, head):
            steps = [*steps, *ops, *ending]
            out = _run(raw, steps, count, bad) if steps else raw
            count += len(raw)
            if chunk_function:
                records += out
            else:
                encoder.add(out)
            wall.look()
    if chunk_function:
        encoder.add(_chunks(plan, records, chunk_function, more, wall))
        wall.look()
    return Done(encoder.data(), count, encoder.count, sorted(bad.items()), encoder.fields)


def _chunks(plan: Plan, records: Any, chunk_function: Any, more: list[tuple[Steps, Any]], wall: Wall) -> Any:
    """What the first function of chunks and all behind it make of the records."""
    records = _call_chunks(chunk_function, records)
    for ops, chunk_function in more:
        wall.look()
        if hasattr(records, "to_pylist") and (ops or (not chunk_function and plan.out == "jsonl")):
            records = records.to_pylist()
        if not chunk_function and plan.out == "jsonl":
            ops = [*ops, ("map", dumps())]
        if ops:
            seen: dict[int, str] = {}
            records = _run(records, ops, 0, seen)
            if seen:
                raise ChunkFailed(next(iter(seen.values())))  # whose record of the source it was, halving finds out
        if chunk_function:
            records = _call_chunks(chunk_function, records)
    return records


class PlanLost(Exception):
    """The functions cannot be had in the process that is to run them."""


@functools.lru_cache(4)
def _plan_of(packed: bytes) -> Plan:
    try:
        plan: Plan = pickle.loads(packed)
        return plan
    except BaseException as error:
        raise PlanLost(" ".join(f"{type(error).__name__}: {error}".split())) from None


def run_chunk(
    plan: Plan | bytes, payload: Any, head: Head | None, room: int, wall: Wall | None = None, held: bool = False
) -> Done:
    """Does one chunk. `room`: bytes by which this process may grow beyond its first chunk; 0 for any number.
    `held`: for a lowtide.Pool, whose results may arrive as views.

    Raises ChunkFailed where it cannot be done as a whole; what single records raise is told in the result.
    """
    if isinstance(plan, bytes):
        plan = _plan_of(plan)
    before, rss, peak, began = own_bytes(), rss_bytes(), peak_bytes(), time.monotonic()
    try:
        with lean(plan.tables), wall or _wall_of_worker(room) as limits:
            done = _do(plan, payload, head, limits, wall is not None, held)
    except MemoryError:
        raise ChunkFailed("MemoryError", memory=True) from None
    done.pid, done.grown, done.seconds = os.getpid(), max(0, limits.most - before), time.monotonic() - began
    if (higher := peak_bytes()) > peak:  # within a call, where nobody looked
        done.grown = max(done.grown, higher - rss)
    if held and done.held_bytes() >= _HELD_BYTES:
        done.data = Held(done.data)
    return done


def halves(plan: Plan, payload: Any, head: Head | None) -> tuple[Any, Any] | None:
    """A chunk's first and second half; None where it is one record."""
    if plan.kind in ("records", "table"):
        if plan.kind == "table":  # of rows read here: its worker may have had no room for their batch
            payload = payload.read(Kept()) if isinstance(payload, Rows) else table_of(payload)
        count = len(payload)
        if count < 2:
            return None
        first, second = payload[: count // 2], payload[count // 2 :]
        return (first, second) if plan.kind == "records" else (ipc_buffer(first), ipc_buffer(second))
    text = payload.read() if isinstance(payload, Span) else payload
    delimiter = head.delimiter.encode() if head else None
    end, _ = stream_cut(text, len(text) // 2, delimiter)
    if not end or end >= len(text):
        return None
    if isinstance(payload, Span):
        return payload.part(0, end), payload.part(end, len(payload))
    return text[:end], text[end:]
