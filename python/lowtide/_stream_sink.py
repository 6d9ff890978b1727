"""Where a stream's output goes: beside its name until it is whole, then under it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import os
import stat
import struct
import weakref
from collections.abc import Iterator
from typing import IO, Any

from lowtide._keep import stream_write_back
from lowtide._stream_memory import StreamError, trim_libc
from lowtide._stream_source import write_beside
from lowtide._stream_tables import arrow, ipc_buffer, lean, read_tables, table_of

_FRAME = struct.Struct("<Q")
_GROUP_BYTES = 4 << 20
_WRITE_BACK_BYTES = 8 << 20
_TAIL_BYTES = 4 << 10


def _cannot(path: str, error: OSError) -> StreamError:
    return StreamError(f"cannot write {path}: {error.strerror or error}")


_open: weakref.WeakSet[io.FileIO] = weakref.WeakSet()


def _let_go() -> None:
    for file in list(_open):
        file.close()


os.register_at_fork(after_in_child=_let_go)  # or a child that lives on would keep the lock of one that was killed


def _opened(part: str, flags: int = 0) -> io.FileIO:
    descriptor = os.open(part, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o666)
    file = io.FileIO(descriptor, "r+")
    _open.add(file)
    return file


def _has_name(file: io.FileIO, part: str) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.lstat(part), os.fstat(file.fileno()))
    return False


def _lock(file: io.FileIO, part: str, wait: bool = False) -> bool:
    """False: the file has that name no more. Raises BlockingIOError while another run has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise
    except OSError:
        pass  # a file system without locks: who is taken out is told at its end
    return _has_name(file, part)


def left_part(part: str, path: str, wait: bool = False) -> io.FileIO | None:
    """The unfinished file that an earlier run for `path` has left, locked while it is open; None where there is none.

    Another run's that is under way is waited for, or StreamError is raised.
    """
    with contextlib.suppress(FileNotFoundError):
        while stat.S_ISREG(os.lstat(part).st_mode) and os.access(part, os.R_OK | os.W_OK):
            left = _opened(part)
            try:
                if _lock(left, part, wait):
                    return left
            except BlockingIOError:
                left.close()
                raise StreamError(f"another run is writing {path}; let it end") from None
            left.close()
    return None


def open_part(part: str, path: str, wait: bool = False, left: io.FileIO | None = None) -> io.FileIO:
    """A new unfinished file in the place of left_part's: one of its own, never what a link of that name leads to."""
    for _ in range(100):
        left = left or left_part(part, path, wait)
        with left or contextlib.nullcontext(), contextlib.suppress(FileExistsError):
            another_user_s = os.path.exists(part) and not os.access(part, os.R_OK | os.W_OK)
            if (left and _has_name(left, part)) or os.path.islink(part) or another_user_s:
                os.remove(part)
            file = _opened(part, os.O_CREAT | os.O_EXCL)
            with contextlib.suppress(BlockingIOError):  # who took it for one that was left
                if _lock(file, part):
                    return file
            file.close()
        left = None
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))


def tail_of(descriptor: int, end: int) -> str:
    """By what an unfinished file is known again: its last bytes before `end`."""
    start = max(0, end - _TAIL_BYTES)
    return hashlib.sha256(os.pread(descriptor, end - start, start)).hexdigest()[:16]


def _remove_link(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        mode = os.lstat(path).st_mode
        if stat.S_ISREG(mode) or stat.S_ISLNK(mode):
            os.remove(path)


def _check_folder(path: str, folder: str) -> None:
    """Raises StreamError where no file can be made beside `path`: before a chunk is done for nothing."""
    if os.access(folder, os.W_OK | os.X_OK):
        return
    code = errno.EACCES
    if not os.path.isdir(folder):
        code = errno.ENOENT
    elif os.statvfs(folder).f_flag & os.ST_RDONLY:
        code = errno.EROFS
    raise _cannot(path, OSError(code, os.strerror(code)))


class _WriteBack:
    """Has the kernel write what a file has so far while it gets the rest: so the sync at its end waits for little."""

    def __init__(self, start: int) -> None:
        self.done = start

    def until(self, descriptor: int, end: int) -> None:
        if end - self.done >= 2 * _WRITE_BACK_BYTES:  # not the pages that are written to next
            bytes = end - self.done - _WRITE_BACK_BYTES
            stream_write_back(descriptor, self.done, bytes)
            self.done += bytes


class Sink:
    """An open stream, or what is no regular file: written as it comes, never gone on with."""

    resumable = False

    def __init__(self, path: str, file: IO[bytes]) -> None:
        self.path, self.file, self.written = path, file, 0

    def begin(self) -> None:
        """Before the first write: what an earlier run has left gives way."""

    def write(self, data: bytes) -> None:
        try:
            self.file.write(data)
            self.file.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise _cannot(self.path, error) from None
        self.written += len(data)

    def sync(self) -> str:
        """All that was written is on the disk; gives by what it is known again."""
        return ""

    def finish(self) -> None:
        pass

    def abandon(self, keep: bool) -> None:
        pass


class FileSink(Sink):
    """`path`.part, cut to what the checkpoint says is done, and renamed in the end."""

    resumable = True

    def __init__(self, path: str, start: int, tail: str = "") -> None:
        self.path, self.written = path, start
        self.file: Any = None  # from the first chunk on that is done
        self._checked: Any = None  # until then: the file that is gone on with, or gives way
        self.part = write_beside(path)
        self.back = _WriteBack(start)
        _check_folder(path, os.path.dirname(self.part))
        try:
            self._checked = left_part(self.part, path)
            if not start or self._is_same(start, tail):
                return
        except OSError as error:
            raise _cannot(path, error) from None
        self._leave_checked()
        raise self._changed()

    def _is_same(self, start: int, tail: str) -> bool:
        if self._checked is None:
            return False
        descriptor = self._checked.fileno()
        return os.fstat(descriptor).st_size >= start and tail in ("", tail_of(descriptor, start))

    def _changed(self) -> StreamError:
        return StreamError(f"{self.part} is not what the stopped run had written to it; begin anew without resume")

    def _leave_checked(self) -> None:
        if self._checked is not None:
            self._checked.close()
            self._checked = None

    def begin(self) -> None:
        try:
            left, self._checked = self._checked, None
            if self.written:
                self.file = left
                if not self._is_ours():
                    raise self._changed()
            else:
                self.file = open_part(self.part, self.path, left=left)
            os.ftruncate(self.file.fileno(), self.written)
            os.lseek(self.file.fileno(), self.written, os.SEEK_SET)
        except OSError as error:
            raise _cannot(self.path, error) from None

    def write(self, data: bytes) -> None:
        left = memoryview(data)
        try:
            while left:
                left = left[self.file.write(left) :]
        except OSError as error:
            raise _cannot(self.path, error) from None
        self.written += len(data)
        self.back.until(self.file.fileno(), self.written)

    def sync(self) -> str:
        try:
            os.fsync(self.file.fileno())
            return tail_of(self.file.fileno(), self.written)
        except OSError as error:
            raise _cannot(self.path, error) from None

    def finish(self) -> None:
        self.sync()
        self._check_ours()
        publish(self.part, self.path)
        self.file.close()  # until then nobody else has a file of that name

    def _check_ours(self) -> None:
        if not self._is_ours():
            raise StreamError(f"another run has written {self.path} meanwhile; let one at a time write it")

    def _is_ours(self) -> bool:
        return _has_name(self.file, self.part)

    def abandon(self, keep: bool) -> None:
        self._leave_checked()
        if self.file is None or self.file.closed:
            return
        if not keep and self._is_ours():
            with contextlib.suppress(OSError):
                os.remove(self.part)
        self.file.close()


def publish(part: str, path: str) -> None:
    """Puts a whole file under its name, with the rights of the one it replaces."""
    real = os.path.realpath(path)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.chmod(part, os.stat(real).st_mode & 0o7777)
        os.replace(part, real)
        folder = os.open(os.path.dirname(real), os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise _cannot(path, error) from None


class TableSink(FileSink):
    """Parquet and Arrow: tables one behind the other until the schema of all is known, then the file in one pass.

    A Parquet file cannot be gone on with in its middle, and a column that begins with nulls or whole numbers may
    turn out to hold something else.
    """

    def __init__(self, path: str, start: int, tail: str, format: str) -> None:
        super().__init__(path, start, tail)
        self.format = format
        self.schema: Any = None  # of a file without records
        self.whole_path = self.part + ".whole"

    def write(self, data: Any) -> None:
        """A table, or one as it travels."""
        if hasattr(data, "num_rows"):
            data = memoryview(ipc_buffer(data))
        if data:
            super().write(_FRAME.pack(len(data)))
            super().write(data)

    def _frames(self, until: int) -> Iterator[bytes]:
        at, descriptor = 0, self.file.fileno()
        while at < until:
            (size,) = _FRAME.unpack(os.pread(descriptor, _FRAME.size, at))
            yield os.pread(descriptor, size, at + _FRAME.size)
            at += _FRAME.size + size

    def finish(self) -> None:
        with lean():
            self._finish(arrow(self.path))

    def _finish(self, pa: Any) -> None:
        self._check_ours()
        try:
            schema = None
            for frame in self._frames(self.written):
                with pa.ipc.open_stream(frame) as reader:
                    here = reader.schema
                if schema is None:
                    schema = here
                elif schema != here:
                    schema = pa.unify_schemas([schema, here], promote_options="permissive")
            _remove_link(self.whole_path)
            with pa.OSFile(self.whole_path, "wb") as file:
                self._write_all(pa, schema or self.schema or pa.schema([]), file)
        except pa.ArrowException as error:
            raise StreamError(f"cannot write {self.path}: {' '.join(str(error).split())}") from None
        except OSError as error:
            raise _cannot(self.path, error) from None
        self._publish_whole()

    def _publish_whole(self) -> None:
        self._check_ours()  # or what lies there is the other run's
        try:
            with open(self.whole_path, "rb") as written:
                os.fsync(written.fileno())
        except OSError as error:
            raise _cannot(self.path, error) from None
        publish(self.whole_path, self.path)
        self.abandon(keep=False)

    def _open_writer(self, pa: Any, schema: Any, file: Any) -> Any:
        if self.format == "parquet":
            import pyarrow.parquet as pq

            return pq.ParquetWriter(file, schema)
        return pa.ipc.new_file(file, schema)

    def _write_all(self, pa: Any, schema: Any, file: Any) -> None:
        with self._open_writer(pa, schema, file) as writer:
            back = _WriteBack(0)
            for table in self._grouped(pa, schema):
                writer.write_table(table)
                back.until(file.fileno(), file.tell())

    def _grouped(self, pa: Any, schema: Any) -> Iterator[Any]:
        """Tables of some megabytes: a row group each."""
        held: list[Any] = []
        size = 0
        for frame in self._frames(self.written):
            table = table_of(frame)
            for field in schema:
                if field.name not in table.column_names:
                    table = table.append_column(field, pa.nulls(table.num_rows, field.type))
            held.append(table.select(schema.names).cast(schema))
            size += table.nbytes
            if size >= _GROUP_BYTES:
                yield pa.concat_tables(held)
                held, size = [], 0
        if held:
            yield pa.concat_tables(held)

    def abandon(self, keep: bool) -> None:
        if self.file is not None and not self.file.closed and self._is_ours():
            with contextlib.suppress(OSError):
                os.remove(self.whole_path)
        super().abandon(keep)


class DirectTableSink(TableSink):
    """The same for what nobody will go on with: in one pass, as long as all tables have the schema of the first."""

    def __init__(self, path: str, format: str) -> None:
        super().__init__(path, 0, "", format)
        self._schema: Any = None
        self._writer: Any = None
        self._file: Any = None
        self._held: list[Any] = []
        self._held_bytes = 0
        self._empty: Any = None

    def write(self, data: Any) -> None:
        if self._schema is not None and self._writer is None:
            return super().write(data)
        pa = arrow(self.path)
        table = table_of(data)
        if not table.num_rows:  # it may have less to say than what comes
            self._empty = self._empty or table.schema
            return None
        try:
            if self._writer is None:
                self._schema = table.schema
                _remove_link(self.whole_path)
                self._file = pa.OSFile(self.whole_path, "wb")
                self._writer = self._open_writer(pa, self._schema, self._file)
            if table.schema.equals(self._schema, check_metadata=True):
                self._write_table(pa, table)
                return
            self._close_writer(pa)
            self.back = _WriteBack(0)
            for part, _ in read_tables(self.whole_path, self.format, 0, None, lambda: (_GROUP_BYTES, _GROUP_BYTES)):
                super().write(part)
        except pa.ArrowException as error:
            raise StreamError(f"cannot write {self.path}: {' '.join(str(error).split())}") from None
        except OSError as error:
            raise _cannot(self.path, error) from None
        super().write(data)

    def _write_table(self, pa: Any, table: Any) -> None:
        if self.format == "arrow":  # a batch of it may have any size, and goes from where it lies
            self._writer.write_table(table)
            self.back.until(self._file.fileno(), self._file.tell())
            return
        self._held.append(table)
        self._held_bytes += table.nbytes
        if self._held_bytes >= _GROUP_BYTES:
            self._write_held(pa)

    def _write_held(self, pa: Any) -> None:
        self._writer.write_table(pa.concat_tables(self._held))
        self.back.until(self._file.fileno(), self._file.tell())
        self._held, self._held_bytes = [], 0
        trim_libc()

    def _close_writer(self, pa: Any) -> None:
        if self._held:
            self._write_held(pa)
        self._writer.close()
        self._file.close()
        self._writer = None

    def _finish(self, pa: Any) -> None:
        if self._writer is None:
            self.schema = self._empty or self.schema
            return super()._finish(pa)
        try:
            self._close_writer(pa)
        except pa.ArrowException as error:
            raise StreamError(f"cannot write {self.path}: {' '.join(str(error).split())}") from None
        except OSError as error:
            raise _cannot(self.path, error) from None
        self._publish_whole()

    def abandon(self, keep: bool) -> None:
        if self._writer is not None:
            with contextlib.suppress(Exception):
                self._writer.close()
            self._file.close()
        super().abandon(keep)
