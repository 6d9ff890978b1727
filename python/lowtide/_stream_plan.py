"""What the parts of a stream hand to each other: what is to be done, where a chunk lies, what became of it."""

from __future__ import annotations

import os
import pickle
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lowtide._origin import is_library
from lowtide._stream_memory import StreamError

NOT_UTF8 = "convert the file first, such as by iconv -f latin1 -t utf-8"

_BUFFERS = ("Buffer", "ResizableBuffer")


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
    out_delimiter: str = ","
    fields: tuple[str, ...] | None = None  # of CSV written from dicts
    initial: Any = None  # of fold

    @property
    def tables(self) -> bool:
        """Whether pyarrow has a part in it."""
        return self.kind == "table" or self.writes_tables

    @property
    def takes_tables(self) -> bool:
        """Whether the first function gets them, and no records are made of them."""
        return self.kind == "table" and bool(self.ops) and self.ops[0][0] == "chunks"

    @property
    def writes_tables(self) -> bool:
        return self.out in ("parquet", "arrow")


@dataclass(frozen=True)
class Head:
    """What a chunk of CSV is read by: its file's delimiter, and the names of the fields, if the file says them."""

    delimiter: str
    names: tuple[str, ...] | None = None


class Handle:
    """A file that is open as long as somebody has this."""

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            os.close(self.fd)


class Span:
    """Whole records of a file: where they lie, and not what they say. Whoever works on them reads them.

    Another process reads through this one's descriptor, so that it is the same file whatever its name means by then.
    """

    def __init__(self, handle: Handle, name: str, start: int, bytes: int) -> None:
        self.handle, self.name, self.start, self.bytes = handle, name, start, bytes

    def __len__(self) -> int:
        return self.bytes

    def __reduce__(self) -> tuple[Any, ...]:
        return FarSpan, (f"/proc/{os.getpid()}/fd/{self.handle.fd}", self.name, self.start, self.bytes)

    def part(self, start: int, end: int) -> Span:
        return Span(self.handle, self.name, self.start + start, end - start)

    def read(self) -> bytes:
        return read_span(self.handle.fd, self.name, self.start, self.bytes)


class FarSpan:
    """A Span in another process."""

    def __init__(self, path: str, name: str, start: int, bytes: int) -> None:
        self.path, self.name, self.start, self.bytes = path, name, start, bytes

    def read(self) -> bytes:
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # /proc is not for everybody everywhere
            fd = os.open(self.name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return read_span(fd, self.name, self.start, self.bytes)
        finally:
            os.close(fd)


def read_span(fd: int, name: str, start: int, size: int) -> bytes:
    try:
        data = os.pread(fd, size, start)
        while len(data) < size and (more := os.pread(fd, size - len(data), start + len(data))):
            data += more
    except OSError as error:
        raise StreamError(f"cannot read {name}: {error.strerror}") from None
    if len(data) < size:
        raise StreamError(f"{name} was changed while it was read; begin again once it stands still")
    return data


@dataclass
class Done:
    """What became of a chunk."""

    data: Any
    records_in: int
    records_out: int
    bad: list[tuple[int, str]] = field(default_factory=list)  # index in the chunk, and the error
    fields: tuple[str, ...] | None = None
    pid: int = 0
    grown: int = 0  # bytes that the process had more at the most than before
    seconds: float = 0.0

    def held_bytes(self) -> int:
        if isinstance(self.data, (bytes, bytearray, memoryview)):
            return len(self.data)
        kind = type(self.data)
        return len(self.data) if kind.__module__ == "pyarrow.lib" and kind.__name__ in _BUFFERS else 0


class Held:
    """A large result on its way out of a worker of lowtide.Pool: arrives as a view, not as a copy."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return memoryview, (pickle.PickleBuffer(self.data),)


def told_error(error: BaseException) -> str:
    """The error in one line, with the last line of the user's own that led to it."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not is_library(frame.filename)]
    text = " ".join(traceback.format_exception_only(error)[-1].split())
    return f"{text} ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else text
