"""What a stream asks of pyarrow: tables from files, on their way to workers, and as files, in little memory."""

from __future__ import annotations

import contextlib
import functools
import operator
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from lowtide import _pool_worker
from lowtide._keep import region
from lowtide._stream_arrow import Places, Regions, Rows
from lowtide._stream_memory import StreamError
from lowtide._stream_plan import Held, Plan

Want = Callable[[], tuple[int, int]]  # bytes of the next chunk, and the longest record that can be
Far = Callable[[], int]  # bytes of the largest batch that whoever works on it reads

_AT_ONCE_BYTES = 1 << 20  # that are read; of four times as much libc keeps 40 MiB more in its heap
_FILE_BYTES = 64 << 10

_lock = threading.Lock()
_lean = 0
_before: Any = None


def arrow(what: str) -> Any:
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet  # all that there is to it at once, so that it counts with what the program takes
    except ImportError:
        raise StreamError(f"{what} needs the package pyarrow; pip install 'lowtide[stream]'") from None
    return pyarrow


@contextlib.contextmanager
def lean(needed: bool = True) -> Iterator[None]:
    """Meanwhile pyarrow takes its memory from libc.

    Its own allocators reserve a gigabyte at their first use, which no limit of a worker allows, and keep what was freed.
    A worker has one thread for each library's own work, too: the stream's workers are what runs side by side.
    """
    global _lean, _before
    if not needed:
        yield
        return
    import pyarrow as pa

    with _lock:
        if not _lean:
            _before = pa.default_memory_pool()
            pa.set_memory_pool(pa.system_memory_pool())
            if _pool_worker.is_worker:
                pa.set_cpu_count(1)
                # Some of its C++ asks nobody: the reserve, before the limit.
                pa.allocate_buffer(64, memory_pool=_before)
        _lean += 1
    try:
        yield
    finally:
        with _lock:
            _lean -= 1
            if not _lean:
                pa.set_memory_pool(_before)


def warm(plan: Plan) -> None:
    """What a process takes for good once it works with tables: before it is measured for the first time."""
    import pyarrow as pa

    with lean():
        buffer = ipc_buffer(pa.table({"a": [1, 2], "b": ["", "x"]} if plan.writes_tables else {"a": pa.nulls(2)}))
        table_of(buffer).to_pylist()


def table_of(payload: Any) -> Any:
    import pyarrow as pa

    return payload if isinstance(payload, pa.Table) else pa.ipc.open_stream(payload).read_all()


def frame_table(frame: Any) -> Any:
    """Of a data frame of pandas, without its index, of polars or another library."""
    pa = arrow("what a data frame is written by")
    if hasattr(frame, "iloc"):
        return pa.Table.from_pandas(frame, preserve_index=False)
    return frame.to_arrow() if hasattr(frame, "to_arrow") else pa.table(frame)


def ipc_buffer(table: Any) -> Any:
    """A table as it travels: a pyarrow.Buffer of exactly its bytes, which a pickle need not copy."""
    import pyarrow as pa

    counted = pa.MockOutputStream()
    _write_stream(counted, table)
    buffer = pa.allocate_buffer(counted.size())
    _write_stream(pa.FixedSizeBufferWriter(buffer), table)
    return buffer


def _write_stream(sink: Any, table: Any) -> None:
    import pyarrow as pa

    with sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


def sent_table(table: Any, held: bool) -> Any:
    """A table on its way out of a worker. held: of lowtide.Pool, as a file in memory, written once; else as ipc_buffer."""
    import pyarrow as pa

    if not held or table.nbytes < _FILE_BYTES:
        return ipc_buffer(table)
    descriptor = os.memfd_create("lowtide", os.MFD_CLOEXEC)
    try:
        _write_stream(pa.OSFile(f"/proc/self/fd/{descriptor}", "wb"), table)
        return Held(region(descriptor))
    finally:
        os.close(descriptor)


def table_to_write(out: Any) -> Any:
    """Of a table, a batch, or a list of dicts: a table; None where there is nothing to it."""
    import pyarrow as pa

    if not hasattr(out, "to_pylist"):
        out = pa.table(_columns(out)) if out else None
    elif not hasattr(out, "from_batches"):
        out = pa.Table.from_batches([out])
    return out if out is not None and (out.num_rows or out.num_columns) else None


def _columns(records: list[dict[str, Any]]) -> dict[str, Any]:
    names = tuple(records[0])
    if len(names) > 1 and set(map(len, records)) == {len(names)}:
        with contextlib.suppress(KeyError):  # all have the same, in C
            return dict(zip(names, zip(*map(operator.itemgetter(*names), records))))
    every = dict.fromkeys(name for record in records for name in record)
    return {name: [record.get(name) for record in records] for name in every}


def read_tables(
    path: str, format: str, skip: int, columns: list[str] | None, want: Want, far: Far | None = None
) -> Iterator[tuple[Any, int]]:
    """Tables of about the wanted bytes of a file from its row `skip` on, with the bytes of the file done by then.

    far: up to how many bytes a batch may take that whoever works on it reads, where that can be: Rows are given then.
    """
    pa = arrow(path)
    try:
        batches = (
            _arrow_batches(pa, path, skip, columns, far) if format == "arrow" else _batches(path, skip, columns, want)
        )
        for table, position in batches:
            start, count = 0, table.num_rows
            while start < count:
                left = table.slice(start, count - start)
                parts = -(-left.nbytes // want()[0])  # as large as each other: no small one behind the last large one
                rows = -(-left.num_rows // max(1, parts))
                yield left.slice(0, rows), position
                start += rows
            table = left = None  # the next one may go where it lay
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from None


def read_schema(path: str, format: str, columns: Sequence[str] | None) -> Any:
    """Of the tables that read_tables gives."""
    pa = arrow(path)
    try:
        if format == "parquet":
            with pa.parquet.ParquetFile(path, memory_map=False) as file:
                return file.read_row_groups([], columns=columns and list(columns), use_threads=False).schema
        schema = _arrow_schema(pa, path)
        return pa.schema([schema.field(name) for name in columns]) if columns else schema
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from None


def _arrow_schema(pa: Any, path: str) -> Any:
    with pa.OSFile(path) as file:
        try:
            return pa.ipc.open_file(file).schema
        except pa.ArrowInvalid:
            file.seek(0)
            return pa.ipc.open_stream(file).schema


def check_columns(path: str, format: str, columns: Iterable[str]) -> None:
    """Raises StreamError where the file has not all of them."""
    pa = arrow(path)
    try:
        if format == "parquet":
            with pa.parquet.ParquetFile(path, memory_map=False) as file:
                names, leaves = file.schema_arrow.names, file.metadata.schema
                parts = [leaves.column(i).path.split(".") for i in range(len(leaves))]
                known = {".".join(words[:end]) for words in parts for end in range(1, len(words) + 1)}
        else:
            names = _arrow_schema(pa, path).names
            known = {name for name, count in Counter(names).items() if count == 1}
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from None
    for name in columns:
        if name not in known:
            lack = f"more than one column {name}" if name in names else f"no column {name}"
            raise StreamError(f"{path} has {lack}; it has {_listed(names)}")


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:20]) or "none"
    return shown if len(names) <= 20 else f"{shown} and {len(names) - 20} more"


def _unreadable(path: str, error: Exception) -> StreamError:
    return StreamError(f"cannot read {path}: {' '.join(str(error).split())}")


def _batches(path: str, skip: int, columns: list[str] | None, want: Want) -> Iterator[tuple[Any, int]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, memory_map=False, buffer_size=64 << 10, pre_buffer=False) as file:
        size = os.path.getsize(path)
        rows = max(1, file.metadata.num_rows)
        plain = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
        groups, start = [], 0
        for i in range(file.metadata.num_row_groups):
            here = file.metadata.row_group(i).num_rows
            if start + here <= skip:
                start += here
            else:
                groups.append(i)
        at_once = min(_AT_ONCE_BYTES, want()[1] // 4)
        batch_rows = max(1, min(65536, at_once * rows // max(1, plain)))
        for batch in file.iter_batches(batch_rows, row_groups=groups, columns=columns, use_threads=False):
            end = start + batch.num_rows
            if end > skip:
                yield pa.Table.from_batches([batch]).slice(max(0, skip - start)), size * end // rows
            start = end


def _arrow_batches(
    pa: Any, path: str, skip: int, columns: list[str] | None, far: Far | None
) -> Iterator[tuple[Any, int]]:
    start = 0
    for rows, make, position in _arrow_parts(pa, path, columns, far):
        end = start + rows
        if end > skip:
            table, first = make(), max(0, skip - start)
            yield table.slice(first, rows - first), position
            del table
        start = end


def _arrow_parts(
    pa: Any, path: str, columns: list[str] | None, far: Far | None
) -> Iterator[tuple[int, Callable[[], Any], int]]:
    """Of each batch, how many rows it has, what gives it, and where it ends."""

    def table_of_batch(batch: Any) -> Any:
        table = pa.Table.from_batches([batch])
        return table.select(columns) if columns else table

    places, regions = Places(path), Regions()
    with pa.OSFile(path) as file:
        try:
            reader = pa.ipc.open_file(file)
        except pa.ArrowInvalid:
            file.seek(0)
            for found in pa.ipc.open_stream(file):
                yield found.num_rows, functools.partial(table_of_batch, found), file.tell()
            return
        known, schema = len(places) == reader.num_record_batches, reader.schema
        for number in range(reader.num_record_batches):
            batch = places.batch(number) if known else None
            if batch is None:
                found = reader.get_batch(number)
                yield found.num_rows, functools.partial(table_of_batch, found), file.tell()
                continue
            make: Callable[[], Any] = functools.partial(regions.table, places.handle, path, schema, columns, batch)
            if far and not batch.packed and batch.bytes <= far():
                make = functools.partial(Rows, places.handle, path, schema, columns, batch)
            yield batch.rows, make, batch.at + batch.bytes
