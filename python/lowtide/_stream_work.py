"""What is done to one chunk, here or in a worker: decode its records, run the functions, encode what comes out."""

from __future__ import annotations

import csv
import functools
import inspect
import io
import itertools
import json
import multiprocessing
import operator
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from lowtide._stream_memory import peak_bytes, rss_bytes

_SLICE = 512  # records between two looks at the memory
_SLICE_BYTES = 32 << 10
_DUMPS = json.JSONEncoder(ensure_ascii=False).encode


class ChunkFailed(Exception):
    """The chunk cannot be done as a whole, for memory or for one of its records: half of it may do."""

    def __init__(self, why: str, memory: bool = False) -> None:
        super().__init__(why, memory)
        self.why, self.memory = why, memory


@dataclass(frozen=True)
class Plan:
    """What to do with a chunk; travels to workers."""

    kind: str  # of the source: lines, bytes, csv, jsonl, table, records
    ops: tuple[tuple[str, Callable[..., Any]], ...]
    out: str  # text, bytes, csv, jsonl, parquet, arrow, records, fold
    compression: str = ""
    delimiter: str = ","
    out_delimiter: str = ","
    fields: tuple[str, ...] | None = None  # of CSV written from dicts
    initial: Any = None  # of fold


@dataclass
class Done:
    """What became of a chunk."""

    data: Any
    records_in: int
    records_out: int
    bad: list[tuple[int, str]] = field(default_factory=list)  # index in the chunk, and the error
    fields: tuple[str, ...] | None = None
    pid: int = 0
    peak: int = 0
    after: int = 0

    def held_bytes(self) -> int:
        return len(self.data) if isinstance(self.data, bytes) else 0


def _split(text: Any, newline: Any, both: Any) -> list[Any]:
    if both in text:
        text = text.replace(both, newline)
    records: list[Any] = text.split(newline)
    if not records[-1]:
        records.pop()
    return records


def _make_row(header: tuple[str, ...], row: list[str]) -> dict[str, str]:
    if len(row) != len(header):
        raise ValueError(f"the row has {len(row)} fields, the header {len(header)}")
    return dict(zip(header, row))


def _table(payload: Any) -> Any:
    if not isinstance(payload, bytes):
        return payload
    import pyarrow as pa

    return pa.ipc.open_stream(payload).read_all()


def decode(plan: Plan, payload: Any, header: tuple[str, ...] | None) -> tuple[list[Any], list[tuple[str, Any]]]:
    """The raw records of a chunk, and what makes records of them, one by one."""
    if plan.kind == "records":
        return payload, []
    if plan.kind == "table":
        return _table(payload).to_pylist(), []
    if plan.kind == "bytes":
        return _split(payload, b"\n", b"\r\n"), []
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        steps: list[tuple[str, Any]] = [("map", bytes.decode)]
        if plan.kind == "csv":
            raise ChunkFailed("the text is not UTF-8") from None
        if plan.kind == "jsonl":
            steps.append(("map", json.loads))
        return _split(payload, b"\n", b"\r\n"), steps
    if plan.kind == "csv":
        csv.field_size_limit(sys.maxsize)
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=plan.delimiter))
        make = [("map", functools.partial(_make_row, header))] if header is not None else []
        return rows, [("filter", None), *make]
    lines = _split(text, "\n", "\r\n")
    return lines, [("filter", str.strip), ("map", json.loads)] if plan.kind == "jsonl" else []


def _results(f: Callable[[Any], Any], record: Any) -> list[Any]:
    return list(f(record))


def _dropping(f: Callable[[Any], Any], record: Any) -> Iterable[Any]:
    """One for one, None for none, many by a generator: the contract of ``lowtide pipe``."""
    result = f(record)
    if result is None:
        return ()
    return list(result) if inspect.isgenerator(result) else (result,)


def _chain(records: Iterator[Any], ops: Iterable[tuple[str, Any]]) -> Iterator[Any]:
    """All of it in C iterators, which take one record of their source at a time."""
    for name, f in ops:
        if name == "filter":
            records = filter(f, records)
        elif name == "pipe" and not inspect.isgeneratorfunction(f):
            records = itertools.chain.from_iterable(map(functools.partial(_dropping, f), records))
        elif inspect.isgeneratorfunction(f):
            records = itertools.chain.from_iterable(map(functools.partial(_results, f), records))
        else:
            records = map(f, records)
    return records


def _told(error: BaseException) -> str:
    """The error in one line, with the line of the function that raised it."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    text = " ".join(traceback.format_exception_only(error)[-1].split())
    return f"{text} ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else text


class _Watch:
    """Looks at the memory between slices of a chunk."""

    def __init__(self, room: int) -> None:
        self.limit = rss_bytes() + room if room else 0

    def look(self) -> None:
        if self.limit and rss_bytes() > self.limit:
            raise ChunkFailed("it takes more memory than the ceiling leaves", memory=True)


def _run(raw: list[Any], ops: list[tuple[str, Any]], bad: dict[int, str], watch: _Watch, step: int) -> list[Any]:
    """Each record through `ops`; one that raises yields nothing and stands in `bad`."""
    out: list[Any] = []
    source = iter(raw)
    records = _chain(source, ops)
    while True:
        before = operator.length_hint(source)
        try:
            got = len(out)
            out.extend(itertools.islice(records, step))
            watch.look()
            if len(out) == got and operator.length_hint(source) in (0, before):
                return out
        except ChunkFailed:
            raise
        except (Exception, SystemExit) as error:
            if isinstance(error, MemoryError):
                raise ChunkFailed("MemoryError", memory=True) from None
            bad[len(raw) - operator.length_hint(source) - 1] = _told(error)
            records = _chain(source, ops)  # an itertools.chain ends for good at the first error


def _call_chunks(f: Callable[[Any], Any], records: Any) -> Any:
    try:
        result = f(records)
        if isinstance(result, (str, bytes, dict)) or result is None:
            raise TypeError(f"a function of chunks gives a list of records, not {type(result).__name__}")
        return result if hasattr(result, "to_pylist") else list(result)
    except (Exception, SystemExit) as error:
        raise ChunkFailed(_told(error), memory=isinstance(error, MemoryError)) from None


def _row(fields: tuple[str, ...] | None, record: Any) -> list[Any]:
    if isinstance(record, dict):
        if fields is None:
            raise TypeError("the record is a dict, the first was none")
        if len(record) > len(fields) or not record.keys() <= set(fields):
            extra = next(name for name in record if name not in fields)
            raise ValueError(f"the field {extra!r} is not among those of the first record")
        return [record.get(name, "") for name in fields]
    if isinstance(record, (list, tuple)):
        if fields:
            raise TypeError(f"CSV that began with dicts takes dicts, not {type(record).__name__}")
        return list(record)
    raise TypeError(f"CSV takes dicts or lists, not {type(record).__name__}")


def _as_text(record: Any) -> str:
    if not isinstance(record, str):
        raise TypeError(f"text takes str, not {type(record).__name__}; write to a .jsonl or .csv, or return str")
    record.encode()
    return record


def _as_json(record: Any) -> str:
    text = _DUMPS(record)
    text.encode()
    return text


def _as_bytes(record: Any) -> bytes:
    if not isinstance(record, (bytes, bytearray, memoryview)):
        raise TypeError(f"format bytes takes bytes, not {type(record).__name__}")
    return bytes(record)


def _as_record(record: Any) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise TypeError(f"Parquet and Arrow take dicts, not {type(record).__name__}")
    return record


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "text": _as_text,
    "bytes": _as_bytes,
    "jsonl": _as_json,
    "parquet": _as_record,
    "arrow": _as_record,
}


def compress(data: bytes, how: str) -> bytes:
    """A member (frame, stream) of its own; a file of several of them reads as one."""
    if not how or not data:
        return data
    if how == "gz":
        import gzip

        return gzip.compress(data, 6, mtime=0)
    if how == "bz2":
        import bz2

        return bz2.compress(data)
    if how == "xz":
        import lzma

        return lzma.compress(data)
    import zstandard

    return zstandard.ZstdCompressor().compress(data)


def write_rows(rows: Iterable[Any], delimiter: str) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def ipc_bytes(table: Any) -> bytes:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _encode(plan: Plan, out: Any) -> Any:
    if plan.out == "records":
        return out
    if plan.out == "fold":
        f = plan.ops[-1][1]
        return functools.reduce(f, out, plan.initial)
    if plan.out in ("parquet", "arrow"):
        if not hasattr(out, "to_pylist"):
            import pyarrow as pa

            names = dict.fromkeys(name for record in out for name in record)
            out = pa.table({name: [record.get(name) for record in out] for name in names}) if out else None
        elif hasattr(out, "from_batches") is False:
            import pyarrow as pa

            out = pa.Table.from_batches([out])
        return ipc_bytes(out) if out is not None and out.num_rows else b""
    if not out:
        return b""
    if plan.out == "csv":
        return compress(write_rows(out, plan.out_delimiter), plan.compression)
    if plan.out == "bytes":
        return compress(b"\n".join(out) + b"\n", plan.compression)
    return compress("\n".join([*out, ""]).encode(), plan.compression)


def _fields(plan: Plan, out: Any) -> tuple[str, ...] | None:
    if plan.out != "csv" or plan.fields is not None or not out or not isinstance(out[0], dict):
        return plan.fields
    return tuple(map(str, out[0]))


def _segments(ops: Iterable[tuple[str, Any]]) -> Iterator[tuple[list[tuple[str, Any]], Any]]:
    """Runs of record functions, each with the chunk function behind it (None behind the last)."""
    run: list[tuple[str, Any]] = []
    for name, f in ops:
        if name == "chunks":
            yield run, f
            run = []
        elif name != "fold":
            run.append((name, f))
    yield run, None


def _do(plan: Plan, payload: Any, header: tuple[str, ...] | None, watch: _Watch) -> Done:
    bad: dict[int, str] = {}
    whole = plan.kind == "table" and bool(plan.ops) and plan.ops[0][0] == "chunks"
    raw, before = (_table(payload), []) if whole else decode(plan, payload, header)
    watch.look()
    count = len(raw)
    step = _SLICE
    if isinstance(payload, bytes) and count:
        step = max(1, min(_SLICE, _SLICE_BYTES * count // (len(payload) + 1)))
    records: Any = raw
    parts = list(_segments(plan.ops))
    for number, (ops, chunk_function) in enumerate(parts):
        ops = before + ops
        before = []
        if hasattr(records, "to_pylist") and ops:
            records = records.to_pylist()
        if number + 1 == len(parts) and plan.out == "jsonl" and not hasattr(records, "to_pylist"):
            ops = [*ops, ("map", _as_json)]
        if ops:
            seen: dict[int, str] = {}
            records = _run(records, ops, seen, watch, step)
            if seen and number:
                raise ChunkFailed(next(iter(seen.values())))  # whose record of the source it was, halving finds out
            bad |= seen
        if chunk_function:
            records = _call_chunks(chunk_function, records)
            watch.look()
    return _finish(plan, records, count, bad, watch, step, len(parts) > 1)


def _finish(plan: Plan, out: Any, count: int, bad: dict[int, str], watch: _Watch, step: int, mixed: bool) -> Done:
    if hasattr(out, "to_pylist") and plan.out not in ("parquet", "arrow"):
        out = out.to_pylist()
        if plan.out == "jsonl":
            out = [_as_json(record) for record in out]
    fields = _fields(plan, out)
    produced = len(out)
    if plan.out == "csv":
        rows: dict[int, str] = {}
        out = _run(out, [("map", functools.partial(_row, fields))], rows, watch, step)
        if rows:
            raise ChunkFailed(next(iter(rows.values())))
    try:
        data = _encode(plan, out)
    except MemoryError:
        raise ChunkFailed("MemoryError", memory=True) from None
    except Exception as error:
        check = _CHECKS.get(plan.out)
        if check and plan.out != "jsonl":
            for record in out[:produced]:
                try:
                    check(record)
                except Exception as cause:
                    raise ChunkFailed(_told(cause)) from None
        raise ChunkFailed(_told(error)) from None
    watch.look()
    told = sorted(bad.items())
    return Done(data, count, produced, told, fields)


def run_chunk(plan: Plan, payload: Any, header: tuple[str, ...] | None, room: int) -> Done:
    """Does one chunk. `room`: bytes by which this process may grow meanwhile; 0 for any number.

    Raises ChunkFailed where it cannot be done as a whole; what single records raise is told in the result.
    """
    try:
        done = _do(plan, payload, header, _Watch(room))
    except MemoryError:
        raise ChunkFailed("MemoryError", memory=True) from None
    done.pid, done.peak, done.after = os.getpid(), peak_bytes(), rss_bytes()
    return done


def halves(plan: Plan, payload: Any) -> tuple[Any, Any, int] | None:
    """A chunk's first and second half and the records of the first; None where it is one record."""
    if plan.kind in ("records", "table"):
        if plan.kind == "table":
            payload = _table(payload)
        count = len(payload)
        if count < 2:
            return None
        first, second = payload[: count // 2], payload[count // 2 :]
        return (
            (first, second, count // 2) if plan.kind == "records" else (ipc_bytes(first), ipc_bytes(second), count // 2)
        )
    from lowtide._keep import stream_cut

    delimiter = plan.delimiter.encode() if plan.kind == "csv" else None
    end, records = stream_cut(payload, len(payload) // 2, delimiter)
    if not end or end >= len(payload):
        return None
    return payload[:end], payload[end:], records


def child_begin() -> None:
    """In a worker: Ctrl-C is the parent's to handle, and without its parent it ends."""
    import ctypes

    if multiprocessing.parent_process() is None:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
