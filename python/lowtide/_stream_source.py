"""Where records come from: files by name or pattern, compressed or not, and iterables. Cuts them into chunks."""

from __future__ import annotations

import contextlib
import csv
import glob
import hashlib
import io
import itertools
import os
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from lowtide._keep import deep_size, stream_cut
from lowtide._stream_arrow import Rows
from lowtide._stream_files import BOM, Opened, Packed, Plain, too_long, why
from lowtide._stream_memory import CHUNK_MIN, StreamError
from lowtide._stream_plan import NOT_UTF8, Head, Span
from lowtide._stream_tables import Want, arrow, check_columns, ipc_buffer, read_schema, read_tables

_COMPRESSIONS = {"gz": "gz", "bz2": "bz2", "xz": "xz", "lzma": "xz", "zst": "zst", "zstd": "zst"}
_FORMATS = {
    "csv": "csv",
    "tsv": "csv",
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "parquet": "parquet",
    "pq": "parquet",
    "arrow": "arrow",
    "feather": "arrow",
    "ipc": "arrow",
}
FORMATS = ("text", "bytes", "csv", "jsonl", "parquet", "arrow")
_HEAD_BYTES = 64 << 10


def format_of(path: str) -> tuple[str, str]:
    """Format and compression that a file's name says; text and none where it says nothing."""
    suffix, compression = _suffixes(path)
    return _FORMATS.get(suffix, "text"), compression


def delimiter_of(path: str) -> str:
    return "\t" if _suffixes(path)[0] == "tsv" else ","


def _suffixes(path: str) -> tuple[str, str]:
    words = os.path.basename(path).lower().split(".")[1:]
    compression = _COMPRESSIONS.get(words[-1], "") if words else ""
    if compression:
        words.pop()
    return words[-1] if words else "", compression


@dataclass
class Chunk:
    """A run of records as they stand in the source, and where the next one begins.

    Nobody counts records before they are done: the token's "record" is filled in once it is the chunk's turn.
    """

    payload: Any
    bytes: int  # as the sizes of chunks count: of text, or of what a table takes
    file: int  # index in the source's files
    token: dict[str, int]  # where to go on behind it
    position: int  # bytes of all files together that are read so far
    head: Head | None = None


@dataclass(frozen=True)
class Mark:
    """By what a file is known again: a changed one is never gone on with."""

    path: str
    size: int
    mtime_ns: int
    head: str

    @staticmethod
    def of(path: str) -> Mark:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            head = hashlib.sha256(file.read(_HEAD_BYTES)).hexdigest()[:16]
        return Mark(os.path.abspath(path), status.st_size, status.st_mtime_ns, head)


def find_files(source: Any) -> list[str]:
    """The files that a path, a pattern, or a list of them names. Raises StreamError where one is missing."""
    names = [source] if isinstance(source, (str, os.PathLike)) else list(source)
    found: list[str] = []
    for given in names:
        name: str = os.fspath(given)
        if os.path.isfile(name):
            found.append(name)
        elif glob.has_magic(name):
            matches = sorted(path for path in glob.glob(name, recursive=True) if os.path.isfile(path))
            if not matches:
                raise StreamError(f"no file matches {name}")
            found += matches
        elif os.path.isdir(name):
            raise StreamError(f"{name} is a directory; name its files, such as {os.path.join(name, '*.csv')}")
        elif os.path.exists(name):
            raise StreamError(f"{name} is no regular file; hand it over open, or from the shell as standard input: -")
        else:
            records = ", or hand over iter(…) of a list that holds records" if isinstance(source, list) else ""
            raise StreamError(f"{name} is not there; look at its name{records}")
    if not found:
        raise StreamError("the source names no file")
    return found


def is_paths(source: Any) -> bool:
    if isinstance(source, (str, os.PathLike)):
        return True
    return isinstance(source, (list, tuple)) and bool(source) and all(isinstance(s, (str, os.PathLike)) for s in source)


@dataclass(frozen=True)
class Options:
    format: str | None = None
    delimiter: str | None = None
    header: bool = True
    columns: tuple[str, ...] | None = None
    travels: bool = False  # payloads go to other processes
    spans: bool = True  # whoever works can read this process's files


class Source:
    """What a stream reads. `kind` is what run_chunk's Plan wants to know."""

    kind = "records"
    total = 0  # bytes of all files, for progress; 0: nobody knows
    names: list[str]

    def marks(self) -> list[Mark]:
        return []

    def reads(self) -> list[Any]:
        """Files by their names, or open ones."""
        return []

    def fields(self) -> tuple[str, ...]:
        """The names of its fields, once it is read; none where it says none, or where records are no dicts."""
        return ()

    def schema(self) -> Any:
        """The fields as a pyarrow.Schema; those of text are text."""
        import pyarrow as pa

        return pa.schema([(name, pa.string()) for name in self.fields()])

    def chunks(self, token: dict[str, int], want: Want) -> Iterator[Chunk]:
        raise NotImplementedError


class Files(Source):
    def __init__(self, source: Any, options: Options) -> None:
        self.names = find_files(source)
        kinds = {options.format or format_of(name)[0] for name in self.names}
        if len(kinds) > 1:
            raise StreamError(f"the files are of several formats: {', '.join(sorted(kinds))}; stream them one by one")
        self.format = kinds.pop()
        self.kind = {"text": "lines", "parquet": "table", "arrow": "table"}.get(self.format, self.format)
        if self.kind == "table":
            arrow(self.names[0])
        self.options = options
        self._marks: list[Mark] = []
        self._names: tuple[str, ...] = ()  # of the first header that was read
        try:
            self._marks = [Mark.of(name) for name in self.names]
        except OSError as error:
            raise StreamError(f"cannot read {error.filename}: {why(error)}") from None
        self.total = sum(mark.size for mark in self._marks)
        self._check_columns()

    def _check_columns(self) -> None:
        columns = self.options.columns
        if columns and self.kind != "table":
            raise StreamError(f"{self.names[0]} is {self.format}: columns are chosen of Parquet and Arrow alone")
        for name in self.names if columns else ():
            check_columns(name, self.format, columns or ())

    def marks(self) -> list[Mark]:
        return self._marks

    def reads(self) -> list[Any]:
        return list(self.names)

    def fields(self) -> tuple[str, ...]:
        if self.kind == "table":
            return tuple(self.schema().names)
        if self.kind == "csv" and self.options.header and not self._names:  # gone on with behind it
            for index in range(len(self.names)):
                with contextlib.closing(self._text_chunks(index, 0, lambda: (CHUNK_MIN, 1 << 20))) as chunks:
                    next(chunks, None)
                if self._names:
                    break
        return self._names

    def schema(self) -> Any:
        if self.kind != "table":
            return super().schema()
        return read_schema(self.names[0], self.format, self.options.columns)

    def chunks(self, token: dict[str, int], want: Want) -> Iterator[Chunk]:
        first = token.get("file", 0)
        before = sum(mark.size for mark in self._marks[:first])
        for index in range(first, len(self.names)):
            at, record = (token.get("at", 0), token.get("record", 1)) if index == first else (0, 1)
            for chunk in self._file_chunks(index, at, record, want):
                chunk.position = before + min(chunk.position, self._marks[index].size)
                yield chunk
            self._check_same(index)
            before += self._marks[index].size

    def _file_chunks(self, index: int, at: int, record: int, want: Want) -> Iterator[Chunk]:
        if self.kind == "table":
            return self._table_chunks(index, record, want)
        if self.options.spans and not format_of(self.names[index])[1]:
            return self._span_chunks(index, at, want)
        return self._text_chunks(index, at, want)

    def _check_same(self, index: int) -> None:
        mark = self._marks[index]
        try:
            status = os.stat(mark.path)
        except OSError:
            return  # gone, but read to its end
        if (status.st_size, status.st_mtime_ns) != (mark.size, mark.mtime_ns):
            raise StreamError(f"{self.names[index]} was changed while it was read; begin again once it stands still")

    def _delimiter(self, index: int) -> str | None:
        """Of CSV."""
        return (self.options.delimiter or delimiter_of(self.names[index])) if self.kind == "csv" else None

    def _head(self, name: str, delimiter: str, header: bytes) -> Head:
        try:
            text = header.decode()
        except UnicodeDecodeError:
            raise StreamError(f"cannot read {name}: its header is not UTF-8; {NOT_UTF8}") from None
        names = tuple(next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), ()))
        self._names = self._names or names
        return Head(delimiter, names)

    def _span_chunks(self, index: int, at: int, want: Want) -> Iterator[Chunk]:
        delimiter = self._delimiter(index)
        file = Plain(self.names[index], delimiter.encode() if delimiter else None)
        start, head = file.text_start(), Head(delimiter) if delimiter else None
        if delimiter and self.options.header and start < file.size:
            end = file.cut(start, 1, want()[1])
            head = self._head(self.names[index], delimiter, file.read(start, end - start))
            start = end
        start = max(start, at)
        while start < file.size:
            end = file.cut(start, *want())
            span = Span(file.handle, self.names[index], start, end - start)
            yield Chunk(span, end - start, index, {"file": index, "at": end}, end, head)
            start = end

    def _text_chunks(self, index: int, at: int, want: Want) -> Generator[Chunk, None, None]:
        file = self._open(index)
        delimiter = self._delimiter(index)
        separator = delimiter.encode() if delimiter else None
        head = Head(delimiter) if delimiter else None
        try:
            rest, start = file.read(3), 0
            if rest == BOM:
                rest, start = b"", 3
            if delimiter and self.options.header:
                rest, length = self._first_record(file, rest, want, delimiter.encode())
                head = self._head(self.names[index], delimiter, rest[:length])
                start += length
                rest = rest[length:]
            if at > start:
                file.skip(at)
                start, rest = at, b""
            while True:
                size, longest = want()
                rest, end = self._whole_records(file, rest, size, longest, separator, start)
                if not end:
                    return
                payload = rest[:end]
                rest = rest[end:]
                start += end
                yield Chunk(payload, end, index, {"file": index, "at": start}, file.position(), head)
        finally:
            file.close()

    def _open(self, index: int) -> Packed:
        return Packed(self.names[index], format_of(self.names[index])[1])

    def _first_record(self, file: Packed, rest: bytes, want: Want, separator: bytes) -> tuple[bytes, int]:
        size, longest = want()
        rest, end = self._whole_records(file, rest, min(size, CHUNK_MIN), longest, separator, 0)
        end, _ = stream_cut(rest, 1, separator) if end else (0, 0)
        return rest, end or len(rest)

    def _whole_records(
        self, file: Packed, rest: bytes, size: int, longest: int, delimiter: bytes | None, start: int
    ) -> tuple[bytes, int]:
        """What is read and not given out, and the end of the whole records in it."""
        while True:
            more = file.read(size - len(rest)) if size > len(rest) else b""
            ended = len(rest) + len(more) < size
            rest = rest + more if rest else more
            end, _ = stream_cut(rest, size, delimiter)
            if end:
                return rest, end
            if ended:
                file.check()
                return rest, len(rest)
            if size >= longest:
                raise too_long(file.path, start, longest)
            size = min(2 * size, longest)

    def _table_chunks(self, index: int, record: int, want: Want) -> Iterator[Chunk]:
        columns = list(self.options.columns) if self.options.columns else None
        travels = self.options.travels
        # A worker holds what it reads, beside what it makes of it; and others the same.
        far = (lambda: want()[1] * 2 // 3) if travels and self.options.spans else None
        for table, position in read_tables(self.names[index], self.format, record - 1, columns, want, far):
            payload = ipc_buffer(table) if travels and not isinstance(table, Rows) else table
            chunk = Chunk(payload, max(1, table.nbytes), index, {"file": index, "at": 0}, position)
            del table, payload  # the memory is for the next once the chunk is done
            yield chunk
            del chunk


class Items(Source):
    """Any iterable; to go on behind its Nth item, N are taken and dropped."""

    names = ["the iterable"]

    def __init__(self, items: Iterable[Any], options: Options) -> None:
        self.items, self.options = items, options

    def chunks(self, token: dict[str, int], want: Want) -> Iterator[Chunk]:
        record = token.get("record", 1)
        items = itertools.islice(iter(self.items), record - 1, None)
        each = 1024  # bytes an item, as the last chunk had them
        while True:
            size, _ = want()
            payload = list(itertools.islice(items, max(1, min(size // each, 100_000))))
            if not payload:
                return
            taken = max(1, deep_size(payload))
            each = max(1, taken // len(payload))
            yield Chunk(payload, taken, 0, {"file": 0, "at": 0}, 0)


class OpenFile(Files):
    """A binary file that is open, such as standard input: read once, from where it stands."""

    def __init__(self, file: IO[bytes], options: Options) -> None:
        self.names = [str(getattr(file, "name", "the open file"))]
        self.format = options.format or "text"
        if self.format in ("parquet", "arrow"):
            raise StreamError(f"{self.format} is read from a file by its name, not from one that is open")
        self.kind = "lines" if self.format == "text" else self.format
        self.options = options
        self.file = file
        self._marks, self._names = [], ()

    def reads(self) -> list[Any]:
        return [self.file]

    def chunks(self, token: dict[str, int], want: Want) -> Iterator[Chunk]:
        if token.get("at"):
            raise StreamError("an open file cannot be gone on with; name the file instead")
        yield from self._text_chunks(0, 0, want)

    def _open(self, index: int) -> Packed:
        return Opened(self.file, self.names[index])


class OpenText:
    """A text file that is open, in bytes."""

    def __init__(self, text: Any) -> None:
        self.text, self.rest = text, b""
        self.name = getattr(text, "name", "the open file")

    def fileno(self) -> int:
        number: int = self.text.fileno()
        return number

    def read(self, count: int) -> bytes:
        data = self.rest or self.text.read(count).encode()
        self.rest = data[count:]
        part: bytes = data[:count]
        return part


def _bytes_of(text: Any) -> Any:
    """What is below open text, if it is UTF-8 and nothing was read of it: a reader takes more than it gives."""
    try:
        if text.encoding.lower().replace("-", "") == "utf8" and text.tell() == text.buffer.tell():
            return text.buffer
    except (AttributeError, OSError, ValueError):
        pass
    return OpenText(text)


def source_of(source: Any, options: Options) -> Source:
    if isinstance(source, Source):
        return source
    if is_paths(source):
        return Files(source, options)
    if options.columns:
        raise StreamError("columns are chosen of Parquet and Arrow alone, which are read by their names")
    if isinstance(source, (io.BufferedIOBase, io.RawIOBase)):
        return OpenFile(source, options)  # type: ignore[arg-type]
    if isinstance(source, io.TextIOBase):
        return OpenFile(_bytes_of(source), options)
    if not isinstance(source, Iterable):
        raise TypeError(f"a stream reads paths or an iterable, not {type(source).__name__}")
    return Items(source, options)


def write_beside(path: str) -> str:
    """The name of the unfinished file of an output."""
    real = Path(os.path.realpath(path))
    return str(real.with_name(real.name + ".part"))
