"""Arrow files batch by batch: whoever works on one reads it, into memory that the next one is read into again.

pyarrow reads a batch into memory that it asks for anew; with libc's that is a fault for each of its pages, and took as long
as all the rest. It does not say where a batch lies either, so that only who opened the file could read it.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
from typing import Any, NamedTuple

from lowtide._stream_memory import StreamError
from lowtide._stream_plan import Handle

_MAGIC = b"ARROW1"
_BLOCK = struct.Struct("<qi4xq")
_RECORD_BATCH = 3
_LINE = 64  # bytes that pyarrow's own buffers are aligned to
_ROUND = 1 << 20


class Batch(NamedTuple):
    """Where a record batch lies: its message's head and body, one behind the other."""

    at: int
    head: int
    body: int
    rows: int
    packed: bool  # its buffers are compressed

    @property
    def bytes(self) -> int:
        return self.head + self.body


class _Odd(Exception):
    """Not as we know it: pyarrow reads it, or says what is wrong."""


def _word(data: bytes, at: int, form: str = "i") -> int:
    if at < 0:
        raise _Odd
    word: int = struct.unpack_from("<" + form, data, at)[0]
    return word


def _field(data: bytes, table: int, number: int) -> int:
    """Where a table of a flatbuffer has a field; 0: nowhere."""
    names = table - _word(data, table)
    at = 4 + 2 * number
    offset = _word(data, names + at, "H") if at < _word(data, names, "H") else 0
    return table + offset if offset else 0


def _follow(data: bytes, at: int) -> int:
    return at + _word(data, at, "I")


class BatchFile(Handle):
    """With what its process keeps of it: goes with the stream that has opened it, whose threads may not."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.kept = Kept()


class Places:
    """Where the batches of an Arrow file lie; of no batch, where that is not to be had."""

    def __init__(self, path: str) -> None:
        self.handle, self._blocks = BatchFile(path), b""
        size = os.fstat(self.handle.fd).st_size
        try:
            self._blocks = self._footer(size)
            for at, head, body in _BLOCK.iter_unpack(self._blocks):
                if at < len(_MAGIC) or head < 12 or head % 8 or body < 0 or at + head + body > size:
                    raise _Odd
        except (_Odd, struct.error):
            self._blocks = b""

    def _footer(self, size: int) -> bytes:
        end = 4 + len(_MAGIC)
        tail = os.pread(self.handle.fd, end, max(0, size - end))
        length = _word(tail, 0)
        if tail[4:] != _MAGIC or not 0 < length <= size - end:
            raise _Odd
        footer = os.pread(self.handle.fd, length, size - end - length)
        root = _word(footer, 0, "I")
        schema, dictionaries, batches = (_field(footer, root, number) for number in (1, 2, 3))
        if dictionaries and _word(footer, _follow(footer, dictionaries), "I"):
            raise _Odd
        order = _field(footer, _follow(footer, schema), 0) if schema else 0
        if not batches or (order and _word(footer, order, "H")):  # big-endian
            raise _Odd
        start = _follow(footer, batches)
        blocks = footer[start + 4 : start + 4 + _word(footer, start, "I") * _BLOCK.size]
        return blocks[: len(blocks) // _BLOCK.size * _BLOCK.size]

    def __len__(self) -> int:
        return len(self._blocks) // _BLOCK.size

    def batch(self, number: int) -> Batch | None:
        """None where pyarrow has to say what that is."""
        at, length, body = _BLOCK.unpack_from(self._blocks, number * _BLOCK.size)
        try:
            head = os.pread(self.handle.fd, length, at)
            if _word(head, 0) != -1:
                return None  # of before 2019
            head = head[8:]
            root = _word(head, 0, "I")
            kind, batch = _field(head, root, 1), _field(head, root, 2)
            if not kind or not batch or head[kind] != _RECORD_BATCH:
                return None
            batch = _follow(head, batch)
            rows = _field(head, batch, 0)
            count = _word(head, rows, "q") if rows else 0
            return Batch(at, length, body, count, bool(_field(head, batch, 3))) if count >= 0 else None
        except (_Odd, struct.error, IndexError):
            return None


class Kept(threading.local):
    """A thread's memory for batches, and the batch whose last rows it has not read yet."""

    def __init__(self) -> None:
        self.regions = Regions()
        self.key: Any = None
        self.table: Any = None


class Regions:
    """Memory for batches, again for others once nothing uses what was read into it."""

    def __init__(self) -> None:
        self._all: list[tuple[mmap.mmap, memoryview]] = []

    def table(self, file: Handle, name: str, schema: Any, columns: list[str] | None, batch: Batch) -> Any:
        import pyarrow as pa

        message = pa.ipc.read_message(pa.py_buffer(self._read(file.fd, name, batch)))
        table = pa.Table.from_batches([pa.ipc.read_record_batch(message, schema)])
        return table.select(columns) if columns else table

    def _read(self, fd: int, name: str, batch: Batch) -> memoryview:
        """The message of a batch, its body on a line of its own."""
        before, size = -batch.head % _LINE, batch.bytes
        region = self._take(before + size)
        view = memoryview(region)[before : before + size]
        done = 0
        try:
            while done < size and (more := os.preadv(fd, [view[done:]], batch.at + done)):
                done += more
        except OSError as error:
            raise StreamError(f"cannot read {name}: {error.strerror}") from None
        if done < size:
            raise StreamError(f"{name} was changed while it was read; begin again once it stands still")
        given = view.toreadonly()
        self._all.append((region, given))
        return given

    def _take(self, size: int) -> mmap.mmap:
        free, used = [], []
        for region, view in self._all:
            try:
                view.release()
                free.append(region)
            except BufferError:  # pyarrow has some of it
                used.append((region, view))
        self._all = used
        fitting = next((region for region in free if len(region) >= size), None)
        return fitting or mmap.mmap(-1, -(-size // _ROUND) * _ROUND, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


_of_worker = Kept()  # a process that reads through another one's descriptor


class Rows:
    """Some rows of a batch: where they lie, and not what they say; as a Span of text, but sliced as a table is.

    Another process reads through this one's descriptor. It keeps a batch until it has read the last of its rows.
    """

    def __init__(
        self,
        file: BatchFile | str,
        name: str,
        schema: Any,
        columns: list[str] | None,
        batch: Batch,
        start: int = 0,
        rows: int = -1,
    ) -> None:
        self.file, self.name, self.schema, self.columns, self.batch = file, name, schema, columns, batch
        self.start, self.num_rows = start, rows if rows >= 0 else batch.rows

    def __getstate__(self) -> dict[str, Any]:
        path = f"/proc/{os.getpid()}/fd/{self.file.fd}" if isinstance(self.file, BatchFile) else self.file
        return {**self.__dict__, "file": path}

    @property
    def nbytes(self) -> int:
        return self.batch.body * self.num_rows // max(1, self.batch.rows)

    def slice(self, start: int, count: int) -> Rows:
        return Rows(self.file, self.name, self.schema, self.columns, self.batch, self.start + start, count)

    def read(self, kept: Kept | None = None) -> Any:
        import pyarrow as pa

        try:
            return self._table(kept).slice(self.start, self.num_rows)
        except (pa.ArrowException, OSError) as error:
            raise StreamError(f"cannot read {self.name}: {' '.join(str(error).split())}") from None

    def _table(self, kept: Kept | None) -> Any:
        file = _opened(self.file, self.name) if isinstance(self.file, str) else self.file
        kept = kept or (file.kept if isinstance(file, BatchFile) else _of_worker)
        status = os.fstat(file.fd)
        key = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, self.batch, self.columns
        known, table = kept.key, kept.table
        kept.key = kept.table = None
        if known != key:
            table = None  # or its memory could not be used again
            table = kept.regions.table(file, self.name, self.schema, self.columns, self.batch)
        if self.start + self.num_rows < self.batch.rows:
            kept.key, kept.table = key, table
        return table


def _opened(path: str, name: str) -> Handle:
    try:
        return Handle(path)
    except OSError:  # /proc is not for everybody everywhere
        return Handle(name)
